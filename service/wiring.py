"""Wiring: the stages of one process, each given what it uses. The composition root makes what they stand on."""

from functools import cached_property
from typing import Any

from service.accepting import Accepting
from service.account_facts import AccountFacts
from service.adopting import Adopting
from service.callback_keys import CallbackKeys
from service.callbacks import Callbacks
from service.calling import Calling
from service.conversation import Conversations
from service.delivery import Delivery
from service.endpoints import Endpoints
from service.fetching import Fetching
from service.files import Files
from service.gates import Gates
from service.links import Links, stable_links
from service.loops import Loops
from service.metrics import Metrics
from service.offers import Offers
from service.outputs import Outputs
from service.own_requests import OwnRequests
from service.passthrough import Passthrough
from service.passthrough.jobs import PassthroughJobs
from service.passthrough.repeats import Repeats
from service.pausing import Pausing
from service.polling import Polling
from service.pruning import Pruning
from service.readiness import Readiness
from service.reconciling import Reconciling
from service.submission import Submission
from service.transitions import Transitions
from service.waiting import Waiting
from service.web.context import Context


class Parts:
    """The stages, wired."""

    def __init__(self, *parts: Any):
        (
            self.settings, self.clock, self.random, self.vault, self.sealed, self.known, self.store, self.accounts,
            self.policy, self.egress, self.fleet, self.lanes, owned, self.lease_ms,
        ) = parts  # fmt: skip
        self.metrics, self.waiting = Metrics(), Waiting(self.store)
        self.endpoints = Endpoints(store=self.store, sealed=self.sealed, policy=self.policy, clock=self.clock)
        self.delivery = self._delivery()
        self.transitions = Transitions(
            store=self.store, hand_over=self.delivery.hand_over, tell=self.waiting.tell, count=self.metrics.fact
        )
        self.gates = Gates(
            store=self.store, fleet=self.fleet, of=self.accounts.known, settings=self.settings.providers,
            clock=self.clock,
        )  # fmt: skip
        self.calling = Calling(
            settings=self.settings, provider_of=self.known.__getitem__, token_of=self.vault.callback_token
        )
        self.files = Files(
            store=self.store, vault=self.vault, settings=self.settings, clock=self.clock,
            reaches_us=self.calling.reaches_us,
        )  # fmt: skip
        self.conversations = Conversations(self.egress, self.files.form_body, self.accounts.beside)
        self.account_facts = AccountFacts(
            conversations=self.conversations, providers=self.known, settings=self.settings, clock=self.clock
        )
        self.looping: dict[str, Any] = {
            "store": self.store,
            "transitions": self.transitions,
            "conversations": self.conversations,
            "accounts": self.accounts,
            "providers": self.known,
            "settings": self.settings,
            "clock": self.clock,
        }
        self.submission = Submission(**self.looping, **self._sending(), lease_ms=self.lease_ms)
        self.polling = Polling(**self.looping, lease_ms=self.lease_ms)
        pruning = Pruning(store=self.store, settings=self.settings, clock=self.clock)
        self.loops = Loops((self.submission, self.polling, self.delivery, pruning), self.clock, owned, self.fleet)

    def _sending(self) -> dict[str, Any]:
        """What submission uses beyond what polling does."""
        self.pausing = Pausing(
            store=self.store, accounts=self.accounts, gates=self.gates, hand_over=self.delivery.hand_over,
            clock=self.clock,
        )  # fmt: skip
        return {
            "account_facts": self.account_facts,
            "calling": self.calling,
            "refs": self.files.refs,
            "gates": self.gates,
            "pausing": self.pausing,
        }

    def context(self) -> Context:
        return Context(
            settings=self.settings,
            clock=self.clock,
            store=self.store,
            accounts=self.accounts,
            endpoints=self.endpoints,
            providers=self.known,
            accepting=self._accepting(),
            adopting=self._adopting(),
            callbacks=self._callbacks(),
            transitions=self.transitions,
            gates=self.gates,
            offers=self._offers(),
            passthrough=self._passthrough(),
            files=self.files,
            outputs=self._outputs(),
            reconciling=Reconciling(**self.looping, calling=self.calling, wake=self.polling.wake.set),
            link=stable_links(self.vault, self.settings.public_url),
            delivery=self.delivery,
            waiting=self.waiting,
            readiness=Readiness(self.store, self.clock),
            loops=self.loops,
            metrics=self.metrics,
            own_requests=OwnRequests(self.vault),
        )

    def _delivery(self) -> Delivery:
        return Delivery(
            store=self.store,
            egress=self.egress,
            endpoints=self.endpoints,
            accounts=self.accounts,
            sealed=self.sealed,
            lanes=self.lanes,
            settings=self.settings,
            clock=self.clock,
            random=self.random,
            count=self.metrics.attempt,
            lease_ms=self.lease_ms,
        )

    @cached_property
    def _reading(self) -> dict[str, Any]:
        """What reads an output, or another piece of a job at its provider, needs."""
        return {
            "accounts": self.accounts, "providers": self.known, "conversations": self.conversations, "clock": self.clock
        }  # fmt: skip

    @cached_property
    def _links(self) -> Links:
        return Links(**self._reading, store=self.store, settings=self.settings)

    def _adopting(self) -> Adopting:
        return Adopting(**self._reading, links=self._links)

    def _outputs(self) -> Outputs:
        fetching = Fetching(self.egress)
        return Outputs(**self._reading, store=self.store, links=self._links, fetching=fetching, vault=self.vault)

    def _offers(self) -> Offers:
        return Offers(
            accounts=self.accounts,
            providers=self.known,
            conversations=self.conversations,
            settings=self.settings,
            clock=self.clock,
        )

    def _passthrough(self) -> Passthrough:
        shared = {name: self.looping[name] for name in ("store", "transitions", "accounts", "settings", "clock")}
        shared["egress"] = self.egress
        jobs = PassthroughJobs(**shared, conversations=self.conversations, gates=self.gates, pausing=self.pausing)
        repeats = Repeats(store=self.store, waiting=self.waiting, clock=self.clock)
        return Passthrough(**shared, jobs=jobs, repeats=repeats, providers=self.known)

    def _accepting(self) -> Accepting:
        return Accepting(
            store=self.store,
            accounts=self.accounts,
            sealed=self.sealed,
            providers=self.known,
            policy=self.policy,
            refs=self.files.refs,
            account_facts=self.account_facts,
            calling=self.calling,
            settings=self.settings,
            clock=self.clock,
            wake=self.submission.wake.set,
            hand_over=self.delivery.hand_over,
        )

    def _callbacks(self) -> Callbacks:
        return Callbacks(
            store=self.store,
            transitions=self.transitions,
            accounts=self.accounts,
            providers=self.known,
            vault=self.vault,
            keys=CallbackKeys(conversations=self.conversations, settings=self.settings, clock=self.clock),
            clock=self.clock,
            count=self.metrics.callback,
        )
