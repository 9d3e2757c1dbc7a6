"""The database in the job's words: each verb is one whole transaction over a batch.

One conformance suite (`tests/stores`) runs over every store; there is no fake one.
"""

import importlib
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from service.clock import Clock, DueClock
from service.errors import CallsheetError, StoreUnavailable
from service.facts import Arrival, RawCallback
from service.models import (
    Announcement,
    ApiKey,
    Applied,
    Attempt,
    AttemptResult,
    Credential,
    CredentialRow,
    Decision,
    Delivery,
    Detail,
    DueDelivery,
    Endpoint,
    Event,
    File,
    Job,
    NewJob,
    Target,
    Tenant,
    Unanswered,
)
from service.spending import Budget, Tally
from service.states import JobStatus, Json, Record, Work

Room = Callable[[int], int]  # how many more of this lane or credential may start now
SEATS = 64  # what limits are divided by
COPIED_AT = "copied_at"  # of `meta`: when this copy was taken, until its open submits are settled; then empty
MOVED_AT = "moved_at"  # of `meta`: when all of it was copied into another database, to be served there; or empty
Offer = Callable[[int], bool]  # whether a sender here has a free slot for this lane; counts what it promised


class Plan(Protocol):
    """The policy that a store asks inside its transactions. Pure: no I/O, may be asked twice."""

    def decide(self, job: Job, arrival: Arrival, now: int) -> Decision: ...

    def targets(self, announcement: Announcement, job: Job | None, endpoints: Sequence[Endpoint]) -> list[Target]: ...

    def offer(self) -> Offer: ...


class Created(Record, frozen=True, kw_only=True):
    """`verdict`: created, replayed, key_reused (same key, other body), followed (`job` is the one that does),
    over_budget (nothing was kept; `budget` has no room for it).
    """

    verdict: str
    job: Job
    fresh: tuple[DueDelivery, ...] = ()
    budget: Budget | None = None


class Page(Record, frozen=True, kw_only=True):
    """A list request: newest first, rows with a number below `before`."""

    limit: int = 20
    before: int | None = None


class Booked(Record, frozen=True, kw_only=True):
    """What our books say of a job, to be compared with its provider's."""

    num: int
    id: str
    status: JobStatus
    operation: str
    correlation: str
    submitted_at: int | None
    accepted_at: int | None
    provider_job_ids: tuple[str, ...] = ()


class Gate(Record, frozen=True, kw_only=True):
    """What keeps a credential's submits back, as all nodes know it."""

    num: int
    paused: str | None = None  # why its provider refuses it
    resumed_at: int | None = None
    on_trial: bool = False  # one submit at a time tries whether it is taken again


class Held(Record, frozen=True, kw_only=True):
    """The seats that are a node's until its term ends, and how many nodes there are, this one among them."""

    seats: tuple[int, ...]
    nodes: int
    proven: int  # those that were still there long enough after they joined, and this one


def fair_part(nodes: int) -> int:
    """How many seats each of so many nodes may have: together at least all of them."""
    return -(-SEATS // nodes)


class Table(Record, frozen=True, kw_only=True):
    name: str
    rows: int  # exact on SQLite, an estimate where counting is dear
    bytes: int | None  # with its indexes; None where it was not measured


class Storage(Record, frozen=True, kw_only=True):
    """What the database is and holds, for `doctor`."""

    engine: str  # name and version
    schema: int
    durability: str  # the setting that decides
    durable: bool  # whether each commit survives a power cut
    tables: tuple[Table, ...]


class Store(Protocol):
    nonce: int  # 16 bits made with the database; part of every row id
    clock: DueClock  # by which its times are written: whoever compares with them, or writes more, asks this one

    # lifecycle
    async def close(self) -> None: ...
    def own_loops(self, who: str) -> None:
        """Raise `LockHeld` where another process runs this database's loops and only one may."""

    def release_loops(self) -> None: ...
    def listen(self, wake: Callable[[], None]) -> None:
        """Call `wake` when another process may have made work that is due now: a hint, no promise."""

    async def beat(self, node: int, giving: Sequence[int], term_ms: int, proving_ms: int) -> Held | None:
        """Renew the node's seats but for those that it gives, and take free ones up to its part of them all.

        None: there can be no other node.
        """

    async def leave(self, node: int) -> None: ...
    async def nodes(self, term_ms: int) -> int | None:
        """How many said within the term that they are there. None where the lock of the loops tells it."""

    async def check(self) -> None:
        """Raise `StoreUnavailable` where an accept could not be kept now."""

    # the hot verbs
    async def create_jobs(self, jobs: Sequence[NewJob]) -> list[Created]: ...
    async def apply(self, arrivals: Sequence[Arrival]) -> list[Applied]: ...
    async def claim_jobs(
        self, work: Work, *, room: Room, lease_ms: int, limit: int, trials: Collection[int] = ()
    ) -> list[tuple[Job, bytes | None]]:
        """No submits of a credential that is paused, nor of one on trial that is not among `trials`: whoever claims
        may have heard of neither yet.
        """

    async def renew_lease(self, job: Job, lease_ms: int) -> bool: ...
    async def overdue(self, limit: int) -> list[int]: ...
    async def claim_deliveries(self, *, room: Room, lease_ms: int, limit: int) -> list[DueDelivery]: ...
    async def record_attempts(self, results: Sequence[AttemptResult]) -> list[DueDelivery]: ...
    async def release_held(self, *, limit: int, spread_ms: int) -> int: ...
    async def recover_leases(self) -> int:
        """At start: make due at once what is leased to nobody that can be running; how many."""

    async def release_leases(self) -> int:
        """At a stop, with nothing under way: let others take at once what this process still holds; how many."""

    async def publish(
        self, tenant: int, announcement: Announcement, only_endpoint: int | None
    ) -> tuple[Event, list[DueDelivery]]: ...
    async def resend(self, tenant: int, *, event: int, endpoint: int | None, delivery: int | None) -> int: ...
    async def recover(self, endpoint: Endpoint, *, since: int, after: int, limit: int) -> tuple[int, int | None]: ...
    async def pause_credential(
        self, credential: Credential, reason: str, said: Announcement, sent_at: int
    ) -> list[DueDelivery] | None:
        """Pause it, for what was sent at that time was refused, and publish that it is.

        None where it is paused already, or was resumed since: that refusal is old.
        """

    async def record_rejected(self, callback: RawCallback, keep: int) -> None: ...
    async def erase_content(self, job: Job) -> None: ...
    async def prune(
        self, *, attempts_before: int, callbacks_before: int, held_before: int, jobs_before: int, limit: int
    ) -> int: ...

    # reads
    async def job(self, tenant: int, job_id: str) -> Job | None: ...
    async def job_by_id(self, job_id: str) -> Job | None: ...
    async def job_by_number(self, num: int) -> Job | None: ...
    async def job_by_key(self, tenant: int, idempotency_key: str, fingerprint: bytes) -> Job | None: ...
    async def job_by_provider_id(self, credential: int, provider_job_id: str) -> Job | None: ...
    async def job_input(self, num: int) -> bytes | None: ...
    async def jobs(self, tenant: int, page: Page, filters: Json) -> list[Job]: ...
    async def queued(self, tenant: int, at_most: int) -> int: ...
    async def timeline(self, job: Job) -> list[Json]: ...
    async def event(self, tenant: int, num: int) -> Event | None: ...
    async def events(self, tenant: int, page: Page, filters: Json) -> list[Event]: ...
    async def events_after(self, tenant: int, after: int, limit: int) -> list[Event]: ...
    async def delivery(self, tenant: int, num: int) -> Delivery | None: ...
    async def deliveries(self, tenant: int, page: Page, filters: Json) -> list[Delivery]: ...
    async def attempts(self, delivery: int) -> list[Attempt]: ...
    async def booked(self, credential: int, *, since: int, after: int, limit: int) -> list[Booked]: ...
    async def owners(self, credential: int, provider_job_ids: Sequence[str]) -> list[Booked]: ...
    async def rejected_callbacks(self, provider: str) -> list[RawCallback]: ...
    async def backlog(self) -> Json: ...
    async def storage(self) -> Storage: ...

    # settings rows
    async def tenant(self, name: str) -> Tenant | None: ...
    async def tenants(self) -> list[Tenant]: ...
    async def create_tenant(self, name: str, secrets: bytes) -> Tenant: ...
    async def set_tenant_secrets(self, num: int, secrets: bytes) -> None: ...
    async def delete_tenant(self, num: int) -> bool: ...
    async def create_key(self, key: ApiKey) -> ApiKey: ...
    async def find_key(self, lookup: str) -> ApiKey | None: ...
    async def keys(self, tenant: int | None) -> list[ApiKey]: ...
    async def revoke_key(self, key_id: str, tenant: int | None) -> bool: ...
    async def put_credential(self, credential: Credential, sealed: bytes) -> CredentialRow: ...
    async def credentials(self, changed_since: int = 0) -> list[CredentialRow]: ...
    async def credential(self, num: int) -> CredentialRow | None: ...
    async def drop_credential(self, num: int) -> bool: ...
    async def paused_credentials(self) -> dict[int, str]: ...
    async def gates(self) -> list[Gate]: ...
    async def resume_credential(self, num: int) -> None: ...
    async def prove_credential(self, num: int, sent_at: int) -> bool: ...
    async def running(self, credential: int) -> int: ...
    async def move_queued(self, before: int, after: int) -> int: ...
    async def create_endpoint(self, endpoint: Endpoint) -> Endpoint: ...
    async def endpoint(self, tenant: int, endpoint_id: str) -> Endpoint | None: ...
    async def endpoint_by_number(self, num: int) -> Endpoint | None: ...
    async def endpoints(self, tenant: int, page: Page) -> list[Endpoint]: ...
    async def update_endpoint(self, endpoint: Endpoint) -> Endpoint | None:
        """Write it if nobody else has since it was read (`version` is the one read); None where somebody has.

        With one that is deleted the first of what is pending and held for it is canceled, in the same transaction.
        """

    async def cancel_owed(self, endpoint: int) -> int:
        """Cancel more of what is pending or held for a deleted endpoint, and is not being sent; how many."""

    async def meta(self, key: str) -> str | None: ...
    async def set_meta(self, key: str, value: str) -> None: ...

    # submits by the provider's own API, until their reply is taken
    async def unanswered(self, tenant: int, digest: bytes, since: int) -> list[Unanswered]: ...
    async def hold_unanswered(self, before: Unanswered, holder: int | None) -> bool: ...
    async def take_unanswered(self, job: int, holder: int) -> None: ...
    async def see_unanswered(self, job: int, holder: int) -> None: ...
    async def let_go_unanswered(self, job: int, holder: int) -> None: ...
    async def answered(self, job: int, holder: int | None = None) -> None: ...

    # money
    async def usage(
        self, tenant: int, *, since: int, until: int, by: Collection[str] = (), provider: str | None = None
    ) -> list[Tally]: ...
    async def budgets(self, tenant: int) -> list[Budget]: ...
    async def put_budget(self, budget: Budget) -> Budget: ...
    async def delete_budget(self, tenant: int, provider: str) -> bool: ...

    # files, and outputs' links
    async def create_file(self, file: File) -> File: ...
    async def add_chunks(self, file: int, place: int, chunks: Sequence[bytes]) -> None: ...
    async def finish_file(self, file: File, *, size: int, expires_at: int) -> File: ...
    async def file(self, tenant: int | None, file_id: str) -> File | None: ...
    async def files(self, tenant: int, page: Page) -> list[File]: ...
    async def stored_bytes(self, tenant: int) -> int: ...
    async def file_chunk(self, file: int, place: int) -> bytes | None: ...
    async def delete_file(self, file: int) -> None: ...
    async def prune_files(self, chunks: int) -> int: ...
    async def refresh_outputs(self, job: Job, detail: Detail) -> bool: ...


DIALECTS = {"sqlite": "sqlite", "postgresql": "postgres", "postgres": "postgres"}  # by the URL's scheme
DRIVER = (
    "PostgreSQL needs a driver. In the clone: .venv/bin/pip install -e '.[postgres]'; elsewhere install asyncpg where"
    " callsheet is installed"
)
DUE_CLOCK = "due_clock"  # of SQLite's `meta`: how far its own time has come, and the wall clock's at that moment
UNFINISHED = "copying"  # the key in `meta` of a database that is not all there yet


class UnknownDatabase(CallsheetError):
    """The URL names no store that there is."""


async def open_store(url: str, *, plan: Plan, clock: Clock, create: bool = True) -> Store:
    """Open, and migrate where it is older. Raises `SchemaTooNew`, `StoreUnavailable`, `UnknownDatabase`."""
    scheme = url.split(":", 1)[0]
    if scheme not in DIALECTS:
        known = "sqlite:///file.db and postgresql://host/name"
        raise UnknownDatabase(f"CALLSHEET_DATABASE_URL begins with {scheme!r}; this version knows {known}")
    try:
        module = importlib.import_module(f"{__name__}.{DIALECTS[scheme]}")
    except ModuleNotFoundError as error:
        if error.name != "asyncpg":
            raise
        raise UnknownDatabase(DRIVER) from error
    store: Store = await module.open_store(url, plan=plan, clock=clock, create=create)
    if await store.meta(UNFINISHED) is not None:
        await store.close()
        raise StoreUnavailable("the copy into this database has not ended: run the same `callsheet copy` again")
    return store
