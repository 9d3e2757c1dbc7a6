"""Reading a body: caps, deadlines, broken connections; and the two fast checks against slow ones."""

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import BadRequest, Invalid, TooLarge
from service.web.bodies import MAX_DEPTH, decode, fingerprint, raw_input, read_body
from service.web.problems import TooSlow
from service.web.schemas import CreateJob


def receiving(*messages: dict[str, Any]) -> Any:
    waiting = list(messages)

    async def receive() -> Any:
        if waiting:
            return waiting.pop(0)
        await asyncio.Event().wait()

    return receive


def part(body: bytes, *, more: bool = True) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


@pytest.mark.anyio
async def test_chunks_are_joined() -> None:
    assert await read_body(receiving(part(b"a"), part(b""), part(b"b", more=False)), {}, 2) == b"ab"
    assert await read_body(receiving(part(b"ab", more=False)), {}, 2) == b"ab"


@pytest.mark.anyio
@pytest.mark.parametrize("length", ["3", "99999999999999999999999"])
async def test_a_length_over_the_cap_is_refused_before_anything_is_read(length: str) -> None:
    with pytest.raises(TooLarge):
        await read_body(receiving(), {"content-length": length}, 2)


@pytest.mark.anyio
async def test_a_body_over_the_cap_is_refused_whatever_its_length_said() -> None:
    with pytest.raises(TooLarge):
        await read_body(receiving(part(b"ab"), part(b"c"), part(b"d")), {"content-length": "1"}, 2)


@pytest.mark.anyio
async def test_a_body_that_drips_is_ended_by_the_clock() -> None:
    with pytest.raises(TooSlow):
        await read_body(receiving(part(b"a")), {}, 2, within_s=0.05)


@pytest.mark.anyio
async def test_a_connection_that_closes_half_way_is_no_failure_of_ours() -> None:
    with pytest.raises(BadRequest):
        await read_body(receiving(part(b"a"), {"type": "http.disconnect"}), {}, 2)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text() | st.floats(-1e9, 1e9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=20,
)


@given(values, st.integers(0, 140))
def test_depth_is_counted_as_the_decoded_value_has_it(value: Any, wraps: int) -> None:
    text = b"[" * wraps + json.dumps(value).encode() + b"]" * wraps
    if wraps + depth(value) > MAX_DEPTH:
        with pytest.raises(BadRequest) as refused:
            decode(text)
        assert refused.value.code == "too_deep"
    else:
        assert json.dumps(decode(text)) == json.dumps(json.loads(text))


def depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max((depth(item) for item in inner), default=0)


@given(st.binary(max_size=40))
def test_any_bytes_are_decoded_or_refused(text: bytes) -> None:
    try:
        decode(text)
    except (BadRequest, Invalid) as refused:
        assert refused.detail


@given(st.dictionaries(st.text(max_size=5), values, max_size=5))
def test_the_fingerprint_does_not_depend_on_the_order_of_names(value: Any) -> None:
    other = dict(reversed(list(value.items())))
    assert fingerprint("POST", "/v1/jobs", value) == fingerprint("POST", "/v1/jobs", other)
    assert fingerprint("POST", "/v1/jobs", value) != fingerprint("POST", "/v1/jobs", {**value, "more": 1})


@pytest.mark.parametrize(
    "spellings",
    [
        ("5", "5.0", "5e0", "50e-1", "5.000"),
        ("0", "0.0", "-0", "-0.0", "0e7"),
        ("1000000000000000000", "1e18", "1.0E+18"),
        ('[1, {"a": 2.0}]', '[1.0, {"a": 2}]'),
        ('"\\u0061"', '"a"'),
    ],
)
def test_the_fingerprint_does_not_depend_on_how_a_value_is_written(spellings: tuple[str, ...]) -> None:
    found = {fingerprint("POST", "/v1/jobs", decode(f'{{"input": {text}}}'.encode())) for text in spellings}
    assert len(found) == 1


def test_the_fingerprint_does_not_depend_on_whether_a_default_is_written() -> None:
    plain = {"provider": "p", "operation": "o", "input": {"a": None}}
    written = {**plain, "metadata": {}, "callback_url": None, "deadline_seconds": None, "provider_job_id": None}
    assert fingerprint("POST", "/v1/jobs", plain, CreateJob) == fingerprint("POST", "/v1/jobs", written, CreateJob)
    others = ({**plain, "metadata": {"a": ""}}, {**plain, "input": {}}, {**plain, "deadline_seconds": 1})
    for other in others:
        assert fingerprint("POST", "/v1/jobs", plain, CreateJob) != fingerprint("POST", "/v1/jobs", other, CreateJob)


def test_the_fingerprint_tells_values_apart() -> None:
    texts = ("5", "6", "5.5", '"5"', "true", "1", "[5]", "9007199254740992", "9007199254740993", "1e300", "null")
    assert len({fingerprint("POST", "/v1/jobs", decode(f'{{"a": {text}}}'.encode())) for text in texts}) == len(texts)


def test_input_keeps_its_bytes() -> None:
    assert raw_input(b'{"a":[1], "input" :  {"id": 12345678901234567890123, "f":1.0}  }') == (
        b'{"id": 12345678901234567890123, "f":1.0}'
    )
    assert raw_input(b"{}") == b""
