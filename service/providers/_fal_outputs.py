"""What fal's models give: files described by objects, bare URLs, or neither, anywhere in an output of any shape."""

import base64
import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from service.facts import Output
from service.providers._media import BY_EXTENSION, BY_MEDIA_TYPE, URL
from service.providers._reading import MAX_QUOTED_CHARS, number, seconds, text_of
from service.states import Json

# Members in which some models repeat what they were asked: the files in there are the client's own.
ECHOES = frozenset({"request", "input", "inputs", "arguments", "parameters"})


def outputs_of(content: Any) -> Iterator[Output]:
    """Every file in the model's output, described or a bare URL, in the order of the document; else the output itself
    as a text.
    """
    found = list(_files(content))
    own = [file for file, echoed in found if not echoed] or [file for file, _ in found]
    best: dict[str, Json] = {}
    for file in own:
        if file["url"] not in best or len(file) > len(best[file["url"]]):
            best[file["url"]] = file  # described rather than bare
    for file in best.values():
        yield _described(file)
    if not best:
        yield _as_text(content)


def _files(value: Any) -> Iterator[tuple[Json, bool]]:
    """Each description of a file, and each bare URL as one, and whether it stands in an echo of what was asked."""
    waiting = [(value, False)]
    while waiting:
        item, echoed = waiting.pop()
        if isinstance(item, dict):
            described = _is_url(item.get("url"))
            if described:
                yield item, echoed
            inner = [
                (value, echoed or name in ECHOES) for name, value in item.items() if not described or name != "url"
            ]
            waiting.extend(reversed(inner))
        elif isinstance(item, list):
            waiting.extend((value, echoed) for value in reversed(item))
        elif _is_url(item):
            yield {"url": item}, echoed


def _is_url(value: Any) -> bool:
    return isinstance(value, str) and URL.fullmatch(value) is not None


def _described(item: Json) -> Output:
    url, content_type = item["url"], text_of(item.get("content_type"))
    if content_type is None and url.startswith("data:"):
        content_type = re.split("[;,]", url[5 : 5 + MAX_QUOTED_CHARS], maxsplit=1)[0]
    file_name = text_of(item.get("file_name")) or _last_part(url)
    return Output(
        url=url,
        kind=_kind(content_type or "", file_name or _last_part(url) or ""),
        file_name=file_name,
        content_type=content_type,
        bytes=_size(item.get("file_size")),
        width=_size(item.get("width")),
        height=_size(item.get("height")),
        duration_s=seconds(item.get("duration")),
    )


def _kind(content_type: str, file_name: str) -> str:
    exact = content_type.partition(";")[0].strip().lower()
    known = BY_MEDIA_TYPE.get(exact) or BY_MEDIA_TYPE.get(exact.partition("/")[0])
    return known or BY_EXTENSION.get(file_name.rpartition(".")[2].lower(), "file")


def _last_part(url: str) -> str | None:
    try:
        return urlsplit(url).path.rpartition("/")[2] or None if not url.startswith("data:") else None
    except ValueError:
        return None


def _size(value: Any) -> int | None:
    found = number(value)
    return None if found is None or not found else int(found)


def _as_text(content: Any) -> Output:
    """A text that the model names as one, else the whole output as JSON."""
    named = content if isinstance(content, dict) else {"text": content}
    words = next((named[name] for name in ("output", "text") if isinstance(named.get(name), str)), None)
    content_type = "application/json" if words is None else "text/plain"
    raw = (json.dumps(content, ensure_ascii=False) if words is None else words).encode()
    url = f"data:{content_type};charset=utf-8;base64,{base64.b64encode(raw).decode()}"
    return Output(url=url, kind="text", content_type=content_type, bytes=len(raw))
