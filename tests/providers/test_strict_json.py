"""NaN and Infinity, as Python services write them, are no JSON: what is made of a reply that has them is."""

import base64
import json
from typing import Any

import pytest

from service.providers import _fal_outputs, replicate
from service.providers._reading import read_json


def strict(text: str | bytes) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        (b"[NaN, 0.5]", [None, 0.5]),
        (b'{"a": Infinity, "b": [-Infinity]}', {"a": None, "b": [None]}),
        (b'{"a": 1e999, "b": -1e999, "c": 1e-999}', {"a": None, "b": None, "c": 0.0}),
        (b"NaN", None),
        (b'{"n": 123456789012345678901234567890, "f": 0.1}', {"n": 123456789012345678901234567890, "f": 0.1}),
        (b'{"NaN": "Infinity"}', {"NaN": "Infinity"}),
    ],
)
def test_a_reply_with_numbers_that_json_has_not_is_read(text: bytes, read: Any) -> None:
    assert read_json(text) == read
    assert strict(json.dumps(read_json(text))) == read


SCORES = b'{"scores": [NaN, 0.5, Infinity, -Infinity, 1e999], "count": 3}'


@pytest.mark.parametrize("made", [_fal_outputs.outputs_of, lambda output: replicate._outputs(output, None)])
def test_a_result_that_is_shown_as_json_is_json(made: Any) -> None:
    (output,) = made(read_json(SCORES))
    assert output.content_type == "application/json"
    assert strict(base64.b64decode(output.url.partition("base64,")[2])) == {
        "scores": [None, 0.5, None, None, None],
        "count": 3,
    }
