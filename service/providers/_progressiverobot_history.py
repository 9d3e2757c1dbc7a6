"""Progressive Robot's lists of past work, read page by page, and the row in them that a submit may have become.

A row's fields are not documented beyond "full metadata": `job_id`, `prompt`, `model`, `seed`, `status`, `filename`,
`created_at` are what its submits and statuses are made of.
"""

import hashlib
from collections.abc import Callable, Generator, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from service.facts import Candidates, Done, LookupVerdict, NotFound, NotNow
from service.providers import Call, HistoryRow, Operation, Reply, Request
from service.providers._progressiverobot_replies import CANCELED, COMPLETED, FAILED, answered, get, not_now, read_update
from service.providers._reading import id_text, read_json, text_of, whole
from service.states import TERMINAL, Json

PAGE = 200  # the most that one call gives
PAGES = 50
# Rows are not read further back than this before the submit: their times may be in the server's own time zone.
MARGIN_MS = 15 * 3_600_000
GENERATIONS = "/api/generations"
# Each list, and the operation whose results it holds.
LISTS = (
    (GENERATIONS, "generate"),
    ("/api/image-generations", "generate_image"),
    ("/api/audio-generations", "generate_audio"),
)

Rows = Generator[Request, Reply, list[Json] | NotNow]


def read(call: Call, path: str, since: int, found: Callable[[Json], bool] = lambda row: False) -> Rows:
    """Rows of a list, newest first, until one is `found`, they are older than `since` (ms), or there are no more."""
    rows: list[Json] = []
    for page in range(PAGES):
        reply = yield get(call, f"{path}?limit={PAGE}&offset={page * PAGE}")
        listed = rows_of(read_json(reply.body)) if answered(reply) else None
        if listed is None:
            return not_now(reply)
        rows += listed
        if len(listed) < PAGE or any(map(found, listed)) or _is_past(listed, since):
            break
    return rows


def rows_of(said: Any) -> list[Json] | None:
    """The objects of a list, bare or in the one field that holds a list; None where there is none."""
    if isinstance(said, dict):
        said = next((value for value in said.values() if isinstance(value, list)), None)
    return [row for row in said if isinstance(row, dict)] if isinstance(said, list) else None


def _is_past(rows: Sequence[Json], since: int) -> bool:
    times = [at for at in (time_of(row) for row in rows) if at is not None]
    return bool(times) and times[0] >= times[-1] and times[-1] < since - MARGIN_MS


# -- a submit whose reply was lost ----------------------------------------------------------------


def seed_of(call: Call, operation: Operation) -> int | None:
    """The seed that this submit carries because its client gave none; None where it gave one, or none is documented,
    or the submit went through unchanged.

    Unique to the intent, so that its row can be told from all others; the same for every reading of one intent.
    """
    drawn = "seed" in operation.input_schema["properties"] and call.input.get("seed") in (None, -1)
    if not drawn or not call.correlation or call.passthrough:
        return None
    return int.from_bytes(hashlib.sha256(call.correlation.encode()).digest()[:4], "big") >> 1


def look_up(call: Call, operation: Operation) -> Generator[Request, Reply, LookupVerdict]:
    """The row with our seed. Never conclusive: that a list shows every accepted submit is not documented."""
    seed = seed_of(call, operation)
    if seed is None:
        return NotFound(reason="without a seed of ours nothing tells its row in the history from others", hopeless=True)
    rows = yield from read(call, GENERATIONS, call.submitted_at or call.now, lambda row: _is_ours(row, call, seed))
    if isinstance(rows, NotNow):
        return rows
    ours = [row for row in rows if _is_ours(row, call, seed)]
    ids = tuple(dict.fromkeys(found for found in (id_text(row.get("job_id")) for row in ours) if found))
    if ids:
        return Candidates(provider_job_ids=ids, note="found in Progressive Robot's history by its seed")
    return _without_id(call, operation, ours)


def _without_id(call: Call, operation: Operation, ours: list[Json]) -> LookupVerdict:
    """A row's own `id` is a generation's, which no status call takes: such a row is believed once it has ended."""
    if not ours:
        return NotFound(reason="Progressive Robot's history shows no row with this submit's seed")
    update = read_update(call, operation, ours[0], str(ours[0].get("status", "")).strip().lower())
    if len(ours) == 1 and update.status in TERMINAL:
        return Done(update=update)
    return NotFound(reason="Progressive Robot's history shows this submit, without a job id")


def _is_ours(row: Json, call: Call, seed: int) -> bool:
    model, prompt = call.input.get("model"), call.input.get("prompt")
    same_prompt = isinstance(prompt, str) and text_of(row.get("prompt")) is not None
    return (
        whole(row.get("seed")) == seed
        and (model is None or row.get("model") == model)
        and same_prompt
        and str(row["prompt"]).strip() == str(prompt).strip()
    )


# -- for reconciling ------------------------------------------------------------------------------


def history_row(call: Call, name: str, operation: Operation, row: Json) -> HistoryRow | None:
    """A row in our words; None without a job id, by which alone it could be followed."""
    provider_job_id = id_text(row.get("job_id"))
    if provider_job_id is None:
        return None
    word = str(row.get("status") or COMPLETED).strip().lower()
    update = read_update(call, operation, row, word) if word in (COMPLETED, FAILED, *CANCELED) else None
    about = {field: row[field] for field in ("id", "model", "prompt", "seed", "filename") if row.get(field) is not None}
    return HistoryRow(
        provider_job_id=provider_job_id,
        at=time_of(row),
        operation=name,
        update=update,
        cost=None if update is None else update.cost,
        about=about or None,
    )


def time_of(row: Json) -> int | None:
    """When a row began, in milliseconds; None where its notation is unknown. Without a zone it is read as UTC."""
    value = row.get("created_at")
    if isinstance(value, str):
        at = _date(value)
        return None if at is None else int((at.replace(tzinfo=at.tzinfo or UTC) - EPOCH).total_seconds() * 1000)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < LATEST_MS:
        return None
    return int(value if value >= LATEST_S else value * 1000)


EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LATEST_S, LATEST_MS = 10**11, 10**14  # a larger number of seconds is one of milliseconds


def _date(value: str) -> datetime | None:
    for read_as in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            return read_as(value)
        except (ValueError, TypeError, IndexError, OverflowError):
            continue
    return None
