"""What a file is: its media type, read from its first bytes and compared with what was declared. Pure."""

import codecs
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from urllib.parse import quote

HEAD_BYTES = 64 * 1024  # of a file, enough to know what it is

ANYTHING = "application/octet-stream"
PLAIN, SUBRIP, VTT = "text/plain", "application/x-subrip", "text/vtt"
_ALIASES = {
    "image/jpg": "image/jpeg", "image/pjpeg": "image/jpeg",
    "video/x-m4v": "video/mp4",
    "audio/mp3": "audio/mpeg", "audio/x-mp3": "audio/mpeg", "audio/mpeg3": "audio/mpeg",
    "audio/wave": "audio/wav", "audio/x-wav": "audio/wav", "audio/vnd.wave": "audio/wav",
    "audio/m4a": "audio/mp4", "audio/x-m4a": "audio/mp4",
    "audio/x-aac": "audio/aac", "audio/aacp": "audio/aac",
    "audio/x-flac": "audio/flac", "application/ogg": "audio/ogg",
    "text/srt": SUBRIP, "application/srt": SUBRIP, "text/x-srt": SUBRIP,
}  # fmt: skip
_TEXTS = {".srt": SUBRIP, ".vtt": VTT, ".txt": PLAIN}
_STARTS: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", "image/png"), (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"), (b"GIF89a", "image/gif"),
    (b"OggS", "audio/ogg"), (b"fLaC", "audio/flac"),
)  # fmt: skip
_RIFF = {b"WEBP": "image/webp", b"WAVE": "audio/wav"}
_QUICKTIME = frozenset({b"moov", b"mdat", b"wide", b"free", b"skip"})  # files older than the `ftyp` box


def canonical(declared: str) -> str:
    """A media type without parameters, in lower case, under its registered name."""
    kind = declared.partition(";")[0].strip().lower()
    return _ALIASES.get(kind, kind)


def known_types() -> list[str]:
    """Every type that is taken."""
    kinds = {kind for _, kind in _STARTS} | set(_RIFF.values()) | {PLAIN, SUBRIP, VTT}
    return sorted(kinds | {"video/mp4", "video/quicktime", "video/webm", "audio/mpeg", "audio/mp4", "audio/aac"})


def among(kind: str, types: Iterable[str]) -> bool:
    """Whether a rule's types take this one; no types take any."""
    allowed = {canonical(each) for each in types}
    return not allowed or canonical(kind) in allowed or f"{kind.partition('/')[0]}/*" in allowed


def shown_as(kind: str, name: str) -> tuple[tuple[str, str], ...]:
    """The headers that let a browser play what is played, save all else, and run nothing of it on our origin."""
    plays = canonical(kind) in _PLAYED or canonical(kind).startswith(("video/", "audio/"))
    cleaned = "".join(letter if letter.isprintable() else "_" for letter in name)
    plain = cleaned.encode("ascii", "replace").decode().replace("\\", "_").replace('"', "_").replace("?", "_")
    disposition = f'{"inline" if plays else "attachment"}; filename="{plain}"'
    if plain != cleaned:
        disposition += f"; filename*=UTF-8''{quote(cleaned, safe='')}"  # RFC 6266
    return ("content-disposition", disposition), ("content-security-policy", "sandbox; default-src 'none'")


_PLAYED = frozenset({"image/png", "image/jpeg", "image/webp", "image/gif"})


def media_type(declared: str, name: str, head: bytes) -> str:
    """The type of a file that begins with `head`. `declared` may be empty or `application/octet-stream`: no claim.

    Raises ValueError with a sentence where it is none that is taken, or not the declared one.
    """
    claim = canonical(declared)
    found = _read(head) or _texts(head, claim, name)
    if not found:
        raise ValueError(f"It is in no form that is taken: give one of {', '.join(known_types())}.")
    if claim in ("", ANYTHING):
        return found[0]
    if claim not in found:
        raise ValueError(f"It is declared as {claim[:64]!a}, and begins like {' or '.join(found)}: declare that.")
    return claim


def _read(head: bytes) -> tuple[str, ...]:
    """What the first bytes may be, the likeliest first; nothing where no magic number is known."""
    for start, kind in _STARTS:
        if head.startswith(start):
            return (kind,)
    if head[:4] == b"RIFF" and head[8:12] in _RIFF:
        return (_RIFF[head[8:12]],)
    if head[:4] == b"\x1a\x45\xdf\xa3" and b"webm" in head[:64]:
        return ("video/webm",)
    return _box(head) or _frame(head)


def _box(head: bytes) -> tuple[str, ...]:
    """ISO base media (14496-12): the brand says what it is meant as; most brands serve sound alone, too."""
    if head[4:8] == b"ftyp":
        brand = head[8:12]
        if brand == b"qt  ":
            return ("video/quicktime",)
        sound = brand in (b"M4A ", b"M4B ")
        return ("audio/mp4",) if sound else () if brand in _STILLS else ("video/mp4", "audio/mp4")
    return ("video/quicktime",) if head[4:8] in _QUICKTIME else ()


_STILLS = frozenset({b"heic", b"heix", b"mif1", b"msf1", b"avif", b"avis"})  # images that no provider takes


def _frame(head: bytes) -> tuple[str, ...]:
    """MPEG audio: eleven set bits begin a frame; the layer bits are 01 in MP3, 00 in AAC's ADTS."""
    if head[:3] == b"ID3":
        return ("audio/mpeg", "audio/aac")
    if len(head) < 2 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return ()
    layer = head[1] >> 1 & 3
    return ("audio/mpeg",) if layer == 1 else ("audio/aac",) if layer == 0 and head[1] & 0xF0 == 0xF0 else ()


def _texts(head: bytes, claim: str, name: str) -> tuple[str, ...]:
    """Text has no magic number: it is what it is declared or named to be, where it can be."""
    if not _is_text(head):
        return ()
    if head.removeprefix(codecs.BOM_UTF8)[:6] == b"WEBVTT":
        return (VTT, PLAIN)
    subtitles = (SUBRIP,) if b"-->" in head else ()
    named = _TEXTS.get(PurePosixPath(name).suffix.lower())
    if named is None and claim not in (PLAIN, SUBRIP):
        return ()
    return (*subtitles, PLAIN) if named == SUBRIP else (PLAIN, *subtitles)


def _is_text(head: bytes) -> bool:
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head, final=len(head) < HEAD_BYTES)  # else it may be cut
    except UnicodeDecodeError:
        return False
    return bool(text) and not any(ord(letter) < 32 and letter not in "\t\n\r\f" for letter in text)


ENDINGS: Mapping[str, str] = {
    "image/png": ".png", "image/jpeg": ".jpg", "image/webp": ".webp", "image/gif": ".gif",
    "video/mp4": ".mp4", "video/quicktime": ".mov", "video/webm": ".webm",
    "audio/mpeg": ".mp3", "audio/wav": ".wav", "audio/mp4": ".m4a", "audio/aac": ".aac",
    "audio/ogg": ".ogg", "audio/flac": ".flac", SUBRIP: ".srt", VTT: ".vtt", PLAIN: ".txt",
}  # fmt: skip
