"""What a budget counts for a passthrough submit: the highest price if the provider may read the body otherwise."""

import gzip
import json
from typing import Any

import pytest

from service import providers
from service.passthrough.pricing import highest, reads_one_way

OPERATION = providers.load("pixverse").operations["text_to_video"]
VIDEO = {"prompt": "a cat", "model": "v5", "duration": 5, "quality": "540p", "aspect_ratio": "16:9"}
JSON = {"content-type": "application/json"}
TEXT = json.dumps(VIDEO).encode()


def other(**changes: Any) -> bytes:
    return json.dumps({**VIDEO, **changes}).encode()


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (JSON, TEXT),
        ({"content-type": "Application/JSON; charset=utf-8"}, TEXT),
        ({"content-type": "application/vnd.x+json", "content-encoding": "identity"}, TEXT),
        (JSON, other(duration=5.0)),
        (JSON, other(model="v9", seed="7")),
        (JSON, b" " + TEXT),
    ],
)
def test_what_every_reader_reads_alike(headers: dict[str, str], body: bytes) -> None:
    assert reads_one_way(OPERATION, headers, body)


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({}, TEXT),
        ({"content-type": "text/plain"}, TEXT),
        ({"content-type": "application/x-www-form-urlencoded"}, b"quality=1080p"),
        ({**JSON, "content-encoding": "gzip"}, gzip.compress(TEXT)),
        ({**JSON, "content-encoding": "br"}, TEXT),
        (JSON, b"\xef\xbb\xbf" + TEXT),
        (JSON, TEXT.decode().encode("utf-16")),
        (JSON, b"[" + TEXT + b"]"),
        (JSON, b""),
        (JSON, b"{"),
        (JSON, b'"a text"'),
        (JSON, other(duration="5")),
        (JSON, other(duration=True)),
        (JSON, other(duration=None)),
        (JSON, json.dumps({("Quality" if name == "quality" else name): VIDEO[name] for name in VIDEO}).encode()),
        (JSON, TEXT[:-1] + b', "quality": "1080p"}'),
        (JSON, TEXT[:-1] + b', "QUALITY": "1080p"}'),
        (JSON, object()),
    ],
)
def test_what_may_be_read_otherwise(headers: dict[str, str], body: Any) -> None:
    assert not reads_one_way(OPERATION, headers, body)


def test_the_highest_price_is_of_the_whole_table() -> None:
    most = highest(OPERATION)
    assert most is not None and (most.amount, most.unit) == ("120", "credits")
    assert highest(providers.load("peakmv").operations["generate"]) is None
