"""Request bodies: read with a byte cap and a deadline, decoded, checked, refused by name."""

import asyncio
import hashlib
import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import cache
from typing import Any

import msgspec
from starlette.types import Receive

from service.errors import BadRequest, Invalid, TooLarge
from service.states import Json
from service.web.problems import TooSlow, UnsupportedMedia

JOB_BYTES = 1024 * 1024
OTHER_BYTES = 64 * 1024
BODY_DEADLINE_S = 30.0  # from the first byte that we wait for to the last, on the wall clock
MAX_DEPTH = 64
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_AS_SQUARE = bytes.maketrans(b"{}", b"[]")
_NO_BRACKET = bytes(set(range(256)) - set(b"[]{}"))
_MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")
_WORDS = {
    "str": "a text", "int": "a whole number", "float": "a number", "bool": "true or false",
    "object": "an object", "array": "a list", "null": "null",
}  # fmt: skip


async def read_body(
    receive: Receive,
    headers: Mapping[str, str],
    most: int,
    within_s: float = BODY_DEADLINE_S,
    *,
    growing: Callable[[int], None] | None = None,
) -> bytes:
    """The body's bytes. Raises 413 beyond `most`, 408 where it does not arrive in time, 400 where it breaks off.

    `growing` is told how many there are so far; what it raises is raised.
    """
    length = headers.get("content-length", "")
    if length.isascii() and length.isdigit() and int(length[:18]) > most:
        raise _too_large(most)
    try:
        async with asyncio.timeout(within_s):
            return await _read(receive, most, growing)
    except TimeoutError:
        raise TooSlow(f"The body must arrive within {within_s:.0f} seconds: send it again.") from None


async def _read(receive: Receive, most: int, growing: Callable[[int], None] | None) -> bytes:
    chunks: list[bytes] = []
    total, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise BadRequest("The connection closed before the body ended.")
        chunk, more = message.get("body", b""), message.get("more_body", False)
        total += len(chunk)
        if total > most:
            raise _too_large(most)
        if growing is not None:
            growing(total)
        if not more and not chunks:
            return bytes(chunk)
        chunks.append(chunk)
    return b"".join(chunks)


def check_size(raw: bytes, most: int) -> None:
    """Raises 413 where a body that was read is larger than what it says may be."""
    if len(raw) > most:
        raise _too_large(most)


def _too_large(most: int) -> TooLarge:
    return TooLarge(f"The body may have at most {most} bytes here: send large media as a URL, or by POST /v1/files.")


def check_media(headers: Mapping[str, str]) -> None:
    """Raises 415 where the body is compressed or says that it is no JSON, 400 where it is JSON in another charset."""
    if headers.get("content-encoding", "identity").strip().lower() not in ("identity", ""):
        raise UnsupportedMedia("Send the body without a Content-Encoding.", param="Content-Encoding")
    kind, *parameters = (part.strip().lower() for part in headers.get("content-type", "application/json").split(";"))
    if kind != "application/json" and not re.fullmatch(r"application/[\w.-]+\+json", kind):
        raise UnsupportedMedia("Send JSON, with `Content-Type: application/json`.", param="Content-Type")
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name == "charset" and value.strip('"') not in ("utf-8", "utf8", "us-ascii"):
            raise BadRequest("JSON is sent as UTF-8: leave the charset out.", param="Content-Type")


def decode(raw: bytes) -> Any:
    """The JSON value; integers keep all their digits. Raises 400 where it is no JSON or too deep."""
    if raw.startswith(_MARKS) or b"\x00" in raw[:4]:
        raise BadRequest("Send JSON as UTF-8 without a byte order mark.")
    try:
        if _too_deep(raw):
            raise BadRequest(f"The body nests deeper than {MAX_DEPTH} levels: flatten it.", code="too_deep")
        return msgspec.json.decode(raw)
    except msgspec.ValidationError as refused:  # JSON, with a number that no double or 64-bit integer holds
        raise Invalid(f"The body has a number that is out of range ({_path(str(refused)) or 'at the top'}).") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadRequest("The body is not JSON in UTF-8.") from None


def _too_deep(raw: bytes) -> bool:
    """Whether brackets nest too deep: peeled one level at a time, at the speed of `bytes.replace`."""
    if raw.count(b"[") + raw.count(b"{") <= MAX_DEPTH:
        return False
    brackets = _STRING.sub(b"", raw).translate(_AS_SQUARE, _NO_BRACKET)
    for _ in range(MAX_DEPTH):
        if not brackets:
            return False
        brackets = brackets.replace(b"[]", b"")
    return bool(brackets) and brackets.count(b"[") == brackets.count(b"]")


def checked(value: Any, kind: type) -> Any:
    """The body as the struct that the route takes. Raises `Invalid` that names the field and the remedy."""
    if not isinstance(value, dict):
        raise Invalid("The body must be a JSON object.")
    known = rules_of(kind)
    for name in value:
        if name not in known:
            raise _unknown_field(name, known)
    # 18.0 is a whole number to JSON Schema, and not to msgspec.
    value = {name: int(v) if isinstance(v, float) and v.is_integer() else v for name, v in value.items()}
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as refused:
        raise _invalid(str(refused), known) from None


@cache
def rules_of(kind: type) -> Json:
    """The JSON Schema of each field of a struct."""
    _, components = msgspec.json.schema_components([kind])
    rules: Json = components[kind.__name__]["properties"]
    return rules


def _unknown_field(name: str, known: Json) -> Invalid:
    near = get_close_matches(name, known, 1)
    hint = f"did you mean `{near[0]}`?" if near else f"there are: {', '.join(known)}."
    shown = name[:64]
    return Invalid(f"`{shown}` is not known here: {hint}", code="unknown_field", param=shown)


def _invalid(said: str, known: Json) -> Invalid:
    """msgspec's sentence in ours: which field, what it takes, and what its description says."""
    missing = re.match(r"Object missing required field `(\w+)`", said)
    param = missing[1] if missing else _path(said)
    field = known.get(param.partition(".")[0], {})
    if missing:
        rule = "is required"
    elif "enum" in field:
        rule = f"must be one of: {', '.join(map(str, field['enum']))}"
    elif "enum value" in said:
        rule = "has a value that there is not"
    else:
        plain = said.partition(" - at `")[0].rstrip(".")
        rule = re.sub(r"`([\w| ]+)`", lambda found: _in_words(found[1]), plain[:1].lower() + plain[1:])
    remedy = f" {field['description']}" if "description" in field else ""
    return Invalid(f"`{param or 'body'}` {rule}.{remedy}".replace("` expected", "`: expected"), param=param or None)


def _path(said: str) -> str:
    """`$.filter[...]` or `key` in `$.metadata` as `filter`, `metadata`; `$.event_types[0]` as `event_types.0`."""
    found = re.search(r"`\$\.?([^`]*)`$", said)
    return re.sub(r"\[(\d+)\]", r".\1", found[1].replace("[...]", "")) if found else ""


def _in_words(kinds: str) -> str:
    return " or ".join(_WORDS.get(kind.strip(), kind.strip()) for kind in kinds.split("|"))


def fingerprint(method: str, path: str, value: Any, kind: type | None = None) -> bytes:
    """SHA-256 over method, path and the body in canonical form.

    Neither the order of its keys matters, nor how a number is written (RFC 8785: 5, 5.0 and 5e0 are one), nor whether
    a field of `kind` is left out or has its default.
    """
    defaults = _defaults(kind) if kind is not None else {}
    if defaults:
        value = {name: item for name, item in value.items() if name not in defaults or item != defaults[name]}
    canonical = msgspec.json.encode(_plain(value), order="sorted")
    return hashlib.sha256(b"%s %s\n%s" % (method.encode(), path.encode(), canonical)).digest()


@cache
def _defaults(kind: type) -> Json:
    """Of the fields that may be left out."""
    given = {field.name: field for field in msgspec.structs.fields(kind) if not field.required}
    return {
        name: field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
        for name, field in given.items()
    }


def _plain(value: Any) -> Any:
    """With every number that is whole as an integer."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    whole = isinstance(value, float) and abs(value) < 2**63 and value.is_integer()
    return int(value) if whole else value


class _Input(msgspec.Struct):
    input: msgspec.Raw = msgspec.Raw(b"")


_input = msgspec.json.Decoder(_Input)


def raw_input(raw: bytes) -> bytes:
    """The bytes of `input` as they were sent, so that numbers keep their digits."""
    return bytes(_input.decode(raw).input)
