"""What came of a generation of AI/ML API, in our words: its files, its transcript, its price, why it failed. Pure."""

import base64
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from service.facts import Cost, JobError, Output
from service.providers._reading import decimal_text, number, seconds, text_of, whole
from service.states import ErrorCode, Json, Record

CREDITS, DOLLARS = "credits", "USD"
KEPT_BYTES = 1024 * 1024  # of media inside a reply: they become part of the job, which is always read as a whole
WHOLE_BYTES = 256 * 1024  # of a reply that is kept as it is: no event carries more

# Where the documents' samples, and public clients, have a result; beside these in `output.choices`. Some image models
# name the same one twice.
PLACES = ("video", "videos", "audio_file", "audio", "images", "image", "data")
BULKY = frozenset({*PLACES, "result", "output"})
SUBTITLES = frozenset({"text/vtt", "application/x-subrip"})
MODERATED_TYPES = frozenset({"content_policy_violation", "ModerationError"})  # of a problem, as vendors type it
VALIDATION_NAMES = frozenset({"validationerror", "validation_error"})
BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")
DATA_URI = re.compile(r"data:image/[\w.+-]{1,40};base64,", re.A)
BASE64_STARTS = {"iVBOR": "image/png", "/9j/": "image/jpeg", "UklGR": "image/webp", "R0lGOD": "image/gif"}
LIFE = re.compile(r"[0-9]{1,7}")
SIGNED_AT = re.compile(r"[0-9]{8}T[0-9]{6}Z")


class Found(Record, frozen=True, kw_only=True):
    """The outputs that a reply has. `left_out`: bytes of media in it that are more than a job keeps."""

    outputs: tuple[Output, ...] = ()
    left_out: int = 0


def found_in(said: Json, kind: str) -> Found:
    """Every result of a reply, each once; `kind` is the operation's."""
    outputs: dict[str, Output] = {}
    room, left_out = KEPT_BYTES, 0
    for output in [_transcript(said)] if kind == "text" else [_output(item, kind) for item in _items(said)]:
        if output is None or output.url in outputs:
            continue
        inside = _inside(output.url)
        if inside > room:
            left_out += inside
        else:
            room -= inside
            outputs[output.url] = output
    return Found(outputs=tuple(outputs.values()), left_out=left_out)


def raw_audio(body: bytes, content_type: str) -> Found:
    """A reply that is the sound itself."""
    if len(body) > KEPT_BYTES:
        return Found(left_out=len(body))
    kind = content_type if content_type.startswith("audio/") else "audio/mpeg"
    url = f"data:{kind};base64,{_encoded(body)}"
    return Found(outputs=(Output(url=url, kind="audio", content_type=kind, bytes=len(body)),))


def kept(said: Json, size: int) -> Json:
    """What a job keeps of a reply of so many bytes beside its outputs."""
    return said if size <= WHOLE_BYTES else {name: value for name, value in said.items() if name not in BULKY}


def expires_at(url: str) -> int | None:
    """When a signed link ends, in milliseconds, by the query strings of the samples; None where it does not say."""
    if url.startswith("data:"):
        return None
    try:
        query = {name.lower(): value for name, value in parse_qsl(urlsplit(url).query)}
        if re.fullmatch(r"[0-9]{9,11}", query.get("expires", "")):
            return int(query["expires"]) * 1000
        for vendor in ("amz", "tos", "goog"):
            at, life = query.get(f"x-{vendor}-date", ""), query.get(f"x-{vendor}-expires", "")
            if SIGNED_AT.fullmatch(at) and LIFE.fullmatch(life):
                began = datetime.strptime(at, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
                return (int(began.timestamp()) + int(life)) * 1000
    except ValueError:
        return None
    return None


def cost_of(said: Json, headers: Mapping[str, str], source: str) -> Cost | None:
    """Credits where the reply counts them (older samples call them tokens), else the dollars that it names."""
    meta = said.get("meta")
    usage = meta.get("usage") if isinstance(meta, dict) else None
    usage = usage if isinstance(usage, dict) else {}
    credits_used = (usage.get("credits_used"), usage.get("tokens_used"), headers.get("x-aimlapi-credits-used"))
    dollars = (usage.get("usd_spent"), headers.get("x-aimlapi-usd-spent"))
    for unit, said_amounts in ((CREDITS, credits_used), (DOLLARS, dollars)):
        for said_amount in said_amounts:
            amount = decimal_text(said_amount)
            if amount is not None:
                return Cost(amount=amount, unit=unit, source=source)
    return None


def failure(said: Json, word: str) -> JobError:
    """Why a generation failed. `error` is `{name, message}`, or a list of what is wrong with the fields."""
    error = said.get("error")
    problems = error.get("detail") if isinstance(error, dict) else error
    text = error_text(error)
    names = [error.get("name")] if isinstance(error, dict) else []
    names += [row.get("type") for row in problems if isinstance(row, dict)] if isinstance(problems, list) else []
    code = _category(error, names, about_fields=isinstance(problems, list))
    return JobError(
        code=code,
        message=f"AI/ML API could not make it: {text or 'it gives no reason'}",
        retryable=code == ErrorCode.PROVIDER_ERROR,
        provider_code=next((found for found in map(text_of, names) if found), word),
        provider_message=text,
    )


def error_text(error: Any) -> str | None:
    """The text of an error in any of its shapes."""
    if isinstance(error, dict):
        given = error.get("message") or error.get("detail")
        return error_text(given) if not isinstance(given, dict) else None
    if isinstance(error, list):
        return text_of("; ".join(filter(None, map(_problem, error))))
    return text_of(error)


def moderated(problems: Any) -> bool:
    """By the type of what is wrong; never by its text, which may quote the prompt."""
    rows = problems if isinstance(problems, list) else [problems]
    named = (row.get(field) for row in rows if isinstance(row, dict) for field in ("type", "name", "code"))
    return any(isinstance(name, str) and name in MODERATED_TYPES for name in named)


# -- details --------------------------------------------------------------------------------------


def _items(said: Json) -> Iterator[Json]:
    output = said.get("output")
    choices = output.get("choices") if isinstance(output, dict) else None
    for value in (*(said.get(place) for place in PLACES), choices):
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, dict):
                yield item
            elif isinstance(item, str) and item.startswith(("https://", "http://", "data:")):
                yield {"url": item}


def _output(item: Json, kind: str) -> Output | None:
    url, content_type = item.get("url"), text_of(item.get("content_type"))
    if not isinstance(url, str) or not url:
        url, content_type = _data_uri(item)
    if url is None:
        return None
    return Output(
        url=url,
        kind=_kind(content_type or "", kind),
        file_name=text_of(item.get("file_name")),
        content_type=content_type,
        bytes=_size(item.get("file_size")),
        width=_size(item.get("width")),
        height=_size(item.get("height")),
        duration_s=seconds(item.get("duration")),
        expires_at=expires_at(url),
    )


def _kind(content_type: str, otherwise: str) -> str:
    if content_type == "image/gif":
        return "gif"
    if content_type in SUBTITLES:
        return "subtitle"
    first = content_type.partition("/")[0]
    return first if first in ("video", "audio", "image") else otherwise


def _size(value: Any) -> int | None:
    found = number(value)
    return None if found is None else whole(float(found))


def _data_uri(item: Json) -> tuple[str | None, str | None]:
    """A result that stands in the reply: a picture in base64, or (music-01) sound in hexadecimal digits."""
    picture, sound = item.get("b64_json") or item.get("image_base64"), item.get("audio")
    if isinstance(picture, str) and (inner := DATA_URI.match(picture)):
        picture = picture[inner.end() :]
    if isinstance(picture, str) and picture and len(picture) % 4 == 0 and BASE64.fullmatch(picture):
        known = (kind for start, kind in BASE64_STARTS.items() if picture.startswith(start))
        kind = next(known, "image/png")
        return f"data:{kind};base64,{picture}", kind
    if isinstance(sound, str) and sound:
        try:
            return f"data:audio/mpeg;base64,{_encoded(bytes.fromhex(sound))}", "audio/mpeg"
        except ValueError:
            return None, None
    return None, None


def _encoded(body: bytes) -> str:
    return base64.b64encode(body).decode()


def _inside(url: str) -> int:
    """The bytes that a data URI carries, as good as; a link carries none."""
    return len(url) * 3 // 4 if url.startswith("data:") else 0


def _transcript(said: Json) -> Output | None:
    """The words of a recording: the URL that the result names, else the text itself."""
    result = said.get("result") or said.get("output")
    if isinstance(result, dict) and isinstance(result.get("url"), str) and result["url"]:
        return Output(url=result["url"], kind="text", expires_at=expires_at(result["url"]))
    text = result if isinstance(result, str) else _words(result) if isinstance(result, dict) else None
    if text is None:
        return None
    body = text.encode(errors="replace")
    kind = "text/plain;charset=utf-8"
    return Output(url=f"data:{kind};base64,{_encoded(body)}", kind="text", content_type=kind, bytes=len(body))


def _words(result: Json) -> str | None:
    """`text`, or one line for each channel's best alternative; a silent recording has the empty text."""
    if isinstance(result.get("text"), str):
        return str(result["text"])
    results = result.get("results")
    channels = results.get("channels") if isinstance(results, dict) else None
    lines = []
    for channel in channels if isinstance(channels, list) else [channels]:
        alternatives = channel.get("alternatives") if isinstance(channel, dict) else None
        best = alternatives[0] if isinstance(alternatives, list) and alternatives else None
        if isinstance(best, dict) and isinstance(best.get("transcript"), str):
            lines.append(best["transcript"])
    return "\n".join(lines) if lines else None


def _problem(row: Any) -> str:
    if not isinstance(row, dict):
        return row if isinstance(row, str) else ""
    place = row.get("loc")
    field = ".".join(str(step) for step in place if isinstance(step, str | int)) if isinstance(place, list) else ""
    text = text_of(row.get("msg")) or text_of(row.get("message")) or ""
    return f"{field}: {text}" if field and text else text or field


def _category(error: Any, names: list[Any], *, about_fields: bool) -> ErrorCode:
    problems = error.get("detail") if isinstance(error, dict) else error
    if moderated(problems) or moderated(error):
        return ErrorCode.CONTENT_MODERATED
    invalid = any(isinstance(name, str) and name.lower() in VALIDATION_NAMES for name in names)
    return ErrorCode.INVALID_INPUT if about_fields or invalid else ErrorCode.PROVIDER_ERROR
