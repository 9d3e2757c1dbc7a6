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


def outputs_of(content: Any) -> Iterator[Output]:
    """Every file that the model's output describes, else every bare URL in it, else the output itself as a text."""
    found = [item for item in _walk(content) if isinstance(item, dict)]
    urls = [item for item in _walk(content) if isinstance(item, str) and URL.fullmatch(item)]
    for item in found:
        yield _described(item)
    for url in dict.fromkeys(urls if not found else ()):
        yield _described({"url": url})
    if not found and not urls:
        yield _as_text(content)


def _walk(value: Any) -> Iterator[Any]:
    """Descriptions of files, and what is no object or list, in the order of the document."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict) and isinstance(item.get("url"), str) and URL.fullmatch(item["url"]):
            yield item
        elif isinstance(item, dict | list):
            waiting.extend(reversed(item.values() if isinstance(item, dict) else item))
        else:
            yield item


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
