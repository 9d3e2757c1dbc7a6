"""Secrets of ours in what strangers say: found in every spelling and replaced by as many `*`. Pure.

Spellings: as it is, percent-encoded, JSON-escaped (both for any of its characters, once or several times over, the one
inside the other), and base64 at each of its three alignments in both alphabets (RFC 4648). A secret is a value of 16
characters or more: a shorter one may stand in any text by chance. Callback tokens are known by their shape.
"""

import asyncio
import base64
import re
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from functools import cached_property, lru_cache, partial
from typing import Any, TypeVar

import msgspec

SHORTEST = 16
PIECE_BYTES = 256 * 1024
DEEPEST = 100  # levels of what was said; nothing below them is kept
KNOWN = 1024  # secrets whose spellings are kept
OVERLAPPING = 256  # finds of one secret in one text that may overlap: one that repeats itself could take long
_ESCAPE = rb"(?:\\|%(?:25){0,2}5[cC]){1,7}"  # JSON in JSON in JSON has seven
_PERCENT = rb"(?:%|" + _ESCAPE + rb"u0025)(?:25){0,2}"
_UNIT_BYTES = 96  # more than one character takes, its escapes escaped again
_BEGUN = re.compile(rb"(?:[\\%][\\%0-9A-Fa-fu]{0,95}|[\x80-\xff]{1,3})\Z")  # what may become a character
_SIGNS = re.compile(rb"\\{1,7}(?=[\"/])")
_PERCENTS = re.compile(rb"%(?:25){0,2}([0-9A-Fa-f]{2})")
_UNITS = re.compile(rb"\\{1,7}u00([0-9A-Fa-f]{2})")
_PLAIN_RUN = re.compile(rb"[!-$&-\[\]-~]+")  # of letters that have one spelling but for escapes
_EATEN = 6  # letters at a needle's ends that what stands before or behind it may take into an escape: `\u0041`
_ANY = rb"(?:[0-9a-z]|" + _PERCENT + rb"[0-9A-Fa-f]{2}|" + _ESCAPE + rb"u00[0-9A-Fa-f]{2})"
_DIGIT = rb"(?:[0-9]|" + _PERCENT + rb"3[0-9]|" + _ESCAPE + rb"u003[0-9])"
_ID_LETTERS, _TAG_LETTERS = 26, 26  # of a job's id, and of a token's tag

V = TypeVar("V")
Span = tuple[int, int]


class Masks:
    """The secrets that may stand in what one stranger says, and callback tokens, whoever's they are."""

    def __init__(self, secrets: Iterable[str] = (), *, tokens: bool = True):
        self._tokens = TOKENS if tokens else ()
        self._secrets = sorted({secret for secret in secrets if len(secret) >= SHORTEST})

    def data(self, data: bytes) -> bytes:
        """The same number of bytes, each that belongs to a secret a `*`; `data` itself where there is none."""
        return _starred(data, self.spans(data))

    def head(self, data: bytes, size: int) -> bytes:
        """The first `size` bytes of it, masked as all of it would be."""
        return self.data(data[: size + self._longest])[:size] if len(data) >= SHORTEST else data[:size]

    def text(self, text: str) -> str:
        data = text.encode("utf-8", "surrogatepass")
        masked = self.data(data)
        return text if masked is data else masked.decode("utf-8", "surrogatepass")

    def finds(self, data: bytes) -> bool:
        """In pieces, so that a thread which searches much lets others go on."""
        ends = range(0, max(len(data), 1), PIECE_BYTES)
        return any(self.spans(data[at : at + PIECE_BYTES + self._longest]) for at in ends)

    def inside(self, value: V) -> V:
        """The same value, its texts masked: of records, objects (their names too), lists and tuples."""
        masked: V = self._inside(value, DEEPEST)
        return masked

    def stream(self) -> "Stream":
        return Stream(self)

    def spans(self, data: bytes) -> list[Span]:
        """Where secrets stand, in any order; they may overlap."""
        if len(data) < SHORTEST:
            return []
        unescaped = _unescaped(data)
        forms = [form for form in self._forms(len(data)) if form.may_stand_in(data, unescaped)]
        return [span for form in forms for span in form.spans(data)]

    def held_from(self, data: bytes) -> int:
        """The first place from which what is still to come may make a secret of it; the length where there is none."""
        return min((form.held_from(data) for form in self._forms(None)), default=len(data))

    @cached_property
    def _longest(self) -> int:
        """More than any spelling takes, in bytes."""
        characters = max(map(len, self._secrets), default=0)
        return max(_UNIT_BYTES * characters, *(form.longest for form in TOKENS))

    def _forms(self, size: int | None) -> "list[_Form]":
        """Of the secrets that so many bytes may hold: no spelling is shorter than its secret."""
        forms = [*self._tokens]
        for secret in self._secrets:
            if size is None or len(secret) <= size:
                forms += _forms_of(secret)
        return forms

    def _inside(self, value: Any, levels: int) -> Any:
        if type(value) is str:  # not the words of an enumeration
            return self.text(value)
        if type(value) is bytes:
            return self.data(value)
        inside = partial(self._inside, levels=levels - 1)
        if isinstance(value, dict):
            return {inside(name): inside(each) for name, each in value.items()} if levels else None
        if type(value) in (list, tuple):
            return type(value)(map(inside, value)) if levels else None
        if isinstance(value, msgspec.Struct):
            fields = {name: getattr(value, name) for name in value.__struct_fields__}
            return msgspec.structs.replace(value, **{name: inside(each) for name, each in fields.items()})
        return value


class Stream:
    """Bytes masked as they come: held back is only what may turn out to be the beginning of a secret."""

    def __init__(self, masks: Masks):
        self._masks, self._held, self._starred = masks, b"", 0

    def feed(self, piece: bytes) -> bytes:
        data = self._held + piece
        return self._passing(data, self._masks.held_from(data))

    def end(self) -> bytes:
        """What is left."""
        return self._passing(self._held, len(self._held))

    def _passing(self, data: bytes, until: int) -> bytes:
        """A secret that is found may reach into what is held back: the rest of it is masked when that passes."""
        found, before = self._masks.spans(data), (0, self._starred)
        reach = max([self._starred, *(end for start, end in found if start < until)])
        self._held, self._starred = data[until:], max(reach - until, 0)
        return _starred(data, [before, *found])[:until]


async def masked(pieces: AsyncIterator[bytes], masks: Masks) -> AsyncIterator[bytes]:
    """What passes of each piece. Others have their turn between pieces, which may all be there at once."""
    stream = masks.stream()
    async for piece in pieces:
        if passing := stream.feed(piece):
            yield passing
        await asyncio.sleep(0)
    if left := stream.end():
        yield left


class _Form:
    """One family of spellings: `units` gives a pattern for each character, `hints` are the spellings without escapes.

    Its pattern is made and run only where a hint stands in the data, or the core of one in the data without its
    escapes: almost nothing that is searched has a secret in it.
    """

    def __init__(self, units: Callable[[], list[bytes]], hints: Iterable[bytes], cores: Iterable[bytes] | None = None):
        self._made_by, self.hints, self._given_cores = units, tuple(hints), cores

    @cached_property
    def units(self) -> list[bytes]:
        return self._made_by()

    @cached_property
    def cores(self) -> tuple[bytes, ...]:
        return tuple(map(_core, self.hints) if self._given_cores is None else self._given_cores)

    @cached_property
    def longest(self) -> int:
        """More than any spelling takes, in bytes."""
        return sum(len(unit) if unit.isalnum() else _UNIT_BYTES for unit in self.units)

    @cached_property
    def _pattern(self) -> re.Pattern[bytes]:
        return re.compile(b"".join(self.units), re.DOTALL)

    @cached_property
    def _starts(self) -> re.Pattern[bytes]:
        return _compiled(b"[%b%%\\\\]" % b"".join(re.escape(hint[:1]) for hint in self.hints))

    def may_stand_in(self, data: bytes, unescaped: bytes | None) -> bool:
        hinted = any([hint in data for hint in self.hints])
        return hinted or (unescaped is not None and any([core in unescaped for core in self.cores]))

    def spans(self, data: bytes) -> Iterator[Span]:
        at = count = 0
        while found := self._pattern.search(data, at):
            yield found.span()
            count += 1
            at = found.start() + 1 if count < OVERLAPPING else found.end()

    def held_from(self, data: bytes) -> int:
        """See `Masks.held_from`."""
        at = max(0, len(data) - self.longest + 1)
        if data.find(b"%", at) < 0 and data.find(b"\\", at) < 0:  # UTF-8 has four bytes for a character
            at = max(at, len(data) - 4 * len(self.units))
        for start in self._starts.finditer(data, at):
            if self._may_begin(data, start.start()):
                return start.start()
        return len(data)

    def _may_begin(self, data: bytes, start: int) -> bool:
        reached, last = {start}, len(data) - _UNIT_BYTES
        for unit in self.units:
            if any(at == len(data) or (at >= last and _BEGUN.match(data, at)) for at in reached):
                return True
            reached = {end for at in reached for end in _ends(_compiled(unit), data, at)}
            if not reached:
                return False
        return False  # it is whole: found as it is


def _ends(unit: re.Pattern[bytes], data: bytes, at: int) -> list[int]:
    """Where the character may end that begins here: of a row of backslashes, some may be the next one's."""
    found = unit.match(data, at)
    if found is None or found.end() <= at + 1:
        return [found.end()] if found else []
    return [end for end in range(at + 1, found.end() + 1) if unit.fullmatch(data, at, end)]


def _unescaped(data: bytes) -> bytes | None:
    """The text behind all escapes, None where there are none: good enough to see that no secret is there."""
    if b"%" not in data and b"\\" not in data:
        return None
    text = _UNITS.sub(_meant, _PERCENTS.sub(_meant, data))
    return _SIGNS.sub(b"", _PERCENTS.sub(_meant, text) if b"u0025" in data else text)


def _meant(escape: re.Match[bytes]) -> bytes:
    return bytes.fromhex(escape[1].decode())


def _core(hint: bytes) -> bytes:
    """A part of it that stands in `_unescaped` data wherever it stands in the data; empty where there is none."""
    runs = _PLAIN_RUN.finditer(hint, 0, len(hint) - _EATEN // 2)
    return max((run[0][_EATEN:] for run in runs), key=len, default=b"")


@lru_cache(maxsize=4096)
def _compiled(unit: bytes) -> re.Pattern[bytes]:
    return re.compile(unit, re.DOTALL)


@lru_cache(maxsize=KNOWN)
def _forms_of(secret: str) -> tuple[_Form, ...]:
    raw = secret.encode("utf-8", "surrogatepass")
    plain = _Form(lambda: [_unit(letter) for letter in secret], {raw, raw.replace(b" ", b"+")})
    return (plain, *(_in_base64(raw, skipped) for skipped in range(3)))


@lru_cache(maxsize=4096)
def _unit(letter: str) -> bytes:
    """One character however it is spelled; the longer spellings first."""
    raw = letter.encode("utf-8", "surrogatepass")
    pairs = letter.encode("utf-16-be", "surrogatepass").hex()
    percents = b"".join(_PERCENT + _hex(f"{byte:02x}") for byte in raw)
    spellings = [
        percents,
        b"".join(_ESCAPE + b"u" + _hex(pairs[at : at + 4]) for at in range(0, len(pairs), 4)),
        re.escape(raw),
    ]
    if letter in '"/\\':
        spellings.insert(0, _ESCAPE + b"(?:" + percents + b"|" + re.escape(raw) + b")")
    if letter == " ":
        spellings.append(rb"\+")
    return b"(?:" + b"|".join(spellings) + b")"


def _hex(digits: str) -> bytes:
    """In capitals or not."""
    return "".join(f"[{digit}{digit.upper()}]" if digit.isalpha() else digit for digit in digits).encode()


_IN_BASE64 = {"+": _unit("+")[:-1] + b"|-)", "/": _unit("/")[:-1] + b"|_)"}


def _in_base64(raw: bytes, skipped: int) -> _Form:
    """The letters that the secret alone decides, behind so many bytes of something else (or three more, or six)."""
    letters = base64.b64encode(bytes(skipped) + raw)[(skipped * 8 + 5) // 6 : (skipped + len(raw)) * 8 // 6].decode()
    hints = {letters.encode(), letters.translate({ord("+"): "-", ord("/"): "_"}).encode()}
    return _Form(lambda: [_IN_BASE64.get(letter, letter.encode()) for letter in letters], hints)


def _tokens() -> tuple[_Form, ...]:
    """Of callback URLs: a job's id or a credential's number, and the tag that nobody can guess."""
    tag = [_unit("-"), *[_ANY] * _TAG_LETTERS]
    job = [*map(_unit, "job_"), *[_ANY] * _ID_LETTERS]
    credential = [*map(_unit, "credential-"), _DIGIT, *[_DIGIT + b"?"] * 11]
    starts = (([*job, *tag], b"job_"), ([*credential, *tag], b"credential-"))
    return tuple(_Form(partial(list, units), (start,), (start,)) for units, start in starts)


TOKENS = _tokens()


def _starred(data: bytes, spans: Iterable[Span]) -> bytes:
    found = [(start, end) for start, end in spans if end > start]
    if not found:
        return data
    masked = bytearray(data)
    for start, end in found:
        masked[start:end] = b"*" * (min(end, len(data)) - start)
    return bytes(masked)
