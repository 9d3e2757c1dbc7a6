"""Progressive Robot's account and what is kept in it: files, histories, rows of every kind, credits spent."""

import itertools
import random
import re
import secrets
from collections import defaultdict
from typing import Any, ClassVar, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from service.sandbox.accounts import Account, Number
from service.sandbox.jobs import Job, Outcome, Submit
from service.sandbox.progressiverobot_calls import Refused
from service.sandbox.progressiverobot_prices import UNKNOWN_S, reaches
from service.sandbox.provider import Provider, plain, rfc3339

OWNER = "sandbox"
LARGEST_SEED = 2**32 - 1
ID = re.compile(r"[1-9][0-9]{0,17}")
HISTORIES = ("generations", "image-generations", "audio-generations")
Kept = dict[str, Any]


class StudioAccount(Account):
    """The account. Files that a submit names need not be there, so that each call can be tried by itself; with
    `require_files` they must, as do the clips of an export."""

    username: str = OWNER
    tier: Literal["free", "starter", "creator", "pro", "studio", "enterprise"] = "enterprise"
    require_files: bool = False


class File(msgspec.Struct, frozen=True, kw_only=True):
    """A file of the account; without `content` it is the sandbox's own of that kind."""

    kind: str
    seconds: float = UNKNOWN_S
    content: bytes | None = None


class Entry(msgspec.Struct, kw_only=True):
    """One row of a history."""

    id: int
    job: Job
    fields: dict[str, Any]
    is_favorite: bool = False
    is_public: bool = False


class Transaction(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the credit history; `amount` is what the balance rose by."""

    id: int
    type: str  # charge, refund, topup
    amount: Number
    balance: Number
    operation: str
    job_id: str | None
    created_at: str


class Studio(Provider):
    """What all calls work on."""

    name = "progressiverobot"
    account_type = StudioAccount
    account: StudioAccount
    refusals: ClassVar[frozenset[str]] = frozenset({"400", "401", "403", "429", "500"})

    def reset(self) -> None:
        """As at the start: an account with nothing in it."""
        super().reset()
        self.ids = itertools.count(1)
        self.files: dict[str, File] = {}
        self.histories: dict[str, dict[int, Entry]] = {name: {} for name in HISTORIES}
        self.shelves: defaultdict[str, dict[int, Kept]] = defaultdict(dict)  # rows by the path that lists them
        self.transactions: list[Transaction] = []
        self.shares: dict[str, int] = {}  # generation by share token
        self.tokens: dict[str, int] = {}  # row of /api/keys by API key
        self.invites: dict[str, Kept] = {}
        self.visits: dict[int, list[Kept]] = {}  # by hosted page
        self.passwords = {OWNER: "sandbox"}
        self.profile: Kept = {"display_name": "", "bio": "", "profile_public": False, "avatar": None}
        self.settings: Kept = {"email": "sandbox@example.com", "theme": "dark"}

    def refusal(self, code: str) -> Response:
        """The provider's error for a status code, as it comes without a reason of our own."""
        wait, tier = {"retry_after_seconds": self.account.retry_after_seconds}, {"required_tier": "creator"}
        refused = {
            "400": Refused(400, "Invalid parameters"),
            "401": Refused(401, "Invalid or missing API key"),
            "403": Refused(403, "This feature is not part of your plan", **tier),
            "429": Refused(429, "Rate limit exceeded", **wait),
            "500": Refused(500, "Internal server error"),
        }
        return refused[code].reply()

    # -- who may --

    def holds_key(self, request: Request) -> bool:
        """Whether a call carries the account's key, or one made by `POST /api/keys` and not revoked."""
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return False
        if secrets.compare_digest(key.encode(), self.account.api_key.encode()):
            return True
        row = self.shelves["/api/keys"].get(self.tokens.get(key, 0))
        if row is not None:
            row["last_used"] = self.time()
        return row is not None

    def need_tier(self, least: str) -> None:
        """403 below that tier."""
        if not reaches(self.account.tier, least):
            text = f"This feature requires the {least.capitalize()} tier or higher"
            raise Refused(403, text, required_tier=least)

    def need_credits(self, cost: Number) -> None:
        """403 that says that credits are out; the page lists no 402."""
        if self.account.credits < cost:
            raise Refused(403, "Insufficient credits", required=cost, available=self.account.credits)

    # -- credits --

    def charge(self, submit: Submit) -> Job:
        """Accept a submit: ledger, credit history and job."""
        job = self.accept(submit)
        self.note("charge", -submit.cost, operation=submit.operation, job_id=job.id)
        return job

    def finished(self, job: Job) -> None:
        """Keep the files of a success; give back what anything else had cost."""
        if job.outcome is Outcome.SUCCEEDED:
            kind, seconds = job.submit.details["kind"], job.submit.details["seconds"]
            self.files |= {name: File(kind=kind, seconds=seconds) for name in job.submit.details["filenames"]}
            return
        self.account.credits = plain(self.account.credits + job.submit.cost)
        self.note("refund", job.submit.cost, operation=job.submit.operation, job_id=job.id)

    def note(self, kind: str, amount: Number, *, operation: str, job_id: str | None = None) -> None:
        """Write a line of the credit history, unless nothing was moved."""
        if amount:
            line = Transaction(
                id=len(self.transactions) + 1,
                type=kind,
                amount=amount,
                balance=self.account.credits,
                operation=operation,
                job_id=job_id,
                created_at=self.time(),
            )
            self.transactions.append(line)

    # -- rows --

    def keep(self, shelf: str, fields: Kept) -> Kept:
        """A new row of a list."""
        row = {**fields, "id": next(self.ids), "created_at": self.time()}
        self.shelves[shelf][row["id"]] = row
        return row

    def find(self, shelf: str, row_id: str, *, word: str) -> Kept:
        """The row of a list; 404 where there is none."""
        row = self.shelves[shelf].get(number_of(row_id)) if shelf in self.shelves else None
        if row is None:
            raise Refused(404, f"{word.capitalize()} not found")
        return row

    def entry(self, history: str, entry_id: str) -> Entry:
        """The row of a history; 404 where there is none."""
        found = self.histories[history].get(number_of(entry_id))
        if found is None:
            raise Refused(404, "Generation not found")
        return found

    def file(self, name: str, *, word: str = "File") -> File:
        """The file of that name; 404 where there is none."""
        if name not in self.files:
            raise Refused(404, f"{word} not found")
        return self.files[name]

    def time(self) -> str:
        """Now, as the API writes it."""
        return rfc3339(self.now())


def number_of(text: str) -> int:
    """An id of a path; 0, which is no row's, where it is no number."""
    return int(text) if ID.fullmatch(text) else 0


def seed_of(fields: dict[str, Any]) -> int:
    """The seed given; a random one for -1 or none."""
    seed = fields.get("seed")
    return random.randint(0, LARGEST_SEED) if seed in (None, -1) else int(seed)  # noqa: S311 - a picture's seed
