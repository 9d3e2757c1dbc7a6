"""Everything that a request may use, put together once by the composition root."""

from collections.abc import Mapping
from dataclasses import dataclass

from service.accepting import Accepting
from service.accounts import Accounts
from service.adopting import Adopting
from service.callbacks import Callbacks
from service.clock import Clock
from service.delivery import Delivery
from service.endpoints import Endpoints
from service.files import Files
from service.gates import Gates
from service.loops import Loops
from service.metrics import Metrics
from service.offers import Offers
from service.outputs import Outputs
from service.own_requests import OwnRequests
from service.passthrough import Passthrough
from service.providers import Provider
from service.readiness import Readiness
from service.reconciling import Reconciling
from service.settings import Settings
from service.stores import Store
from service.transitions import Transitions
from service.views import Link
from service.waiting import Waiting


@dataclass(frozen=True, kw_only=True)
class Context:
    settings: Settings
    clock: Clock
    store: Store
    accounts: Accounts
    endpoints: Endpoints
    providers: Mapping[str, Provider]
    accepting: Accepting
    adopting: Adopting
    callbacks: Callbacks
    transitions: Transitions
    gates: Gates
    offers: Offers
    passthrough: Passthrough
    files: Files
    outputs: Outputs
    reconciling: Reconciling
    link: Link
    delivery: Delivery
    waiting: Waiting
    readiness: Readiness
    loops: Loops
    metrics: Metrics
    own_requests: OwnRequests
