"""Replies that no document foresees: recorded ones cut, changed, replaced, under any status."""

import json
from collections.abc import Iterator
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from service.providers import Reply

from .cases import a_reply, cases_of

SUCCESSES = (200, 200, 200, 200, 200, 201, 204)
STATUSES = (*SUCCESSES, 302, 303, 400, 401, 402, 403, 404, 408, 409, 418, 422, 424, 425, 429, 460, 500, 502, 503, 504)
NUMBERS = ("0", "-1", "1", "6", "7", "1.5", "1e300", "NaN", "1" + "0" * 30)
LEAVES = ("null", "true", "false", *NUMBERS, '""', '"x"', '"1"', '"../x"', "[]", "{}", "[[]]", '{"a": null}')
URLS = ('"https://evil.example/x"', '"http://127.0.0.1:9/prefix/x"', '"//evil.example"', '"file:///etc/passwd"')
PAGES = (
    b"",
    b" ",
    b"null",
    b"[]",
    b"{}",
    b'"ok"',
    b"0",
    b"NaN",
    b"\xff\xfe\x00",
    b"<!doctype html><title>502 Bad Gateway</title>",
    b"[" * 100_000,
    b'{"status":' * 100_000,
    b'{"id":' + b"9" * 5_000 + b"}",
)
# By number, because hypothesis would print the long ones.
pages = st.integers(0, len(PAGES) - 1).map(PAGES.__getitem__)
UNFORESEEN = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
FEWER = settings(UNFORESEEN, max_examples=120)


def recorded_bodies(name: str, verb: str) -> list[bytes]:
    exchanges = [case.get("exchange", []) for case in cases_of(name) if case["verb"] == verb]
    return [a_reply(step["reply"]).body for exchange in exchanges for step in exchange] or [b"{}"]


def replies_to(name: str, verb: str) -> st.SearchStrategy[Reply]:
    """The recorded replies, whole, cut, with changed members, in other pages' place and with other statuses."""
    recorded = recorded_bodies(name, verb)
    whole = st.sampled_from(recorded)
    cut = st.tuples(whole, st.integers(0, 40)).map(lambda pair: pair[0][: len(pair[0]) * pair[1] // 40])
    marked = whole.map(lambda body: b"\xef\xbb\xbf" + body)
    other = st.one_of(marked, pages, st.binary(max_size=9))
    bodies = st.one_of(changed(recorded), changed(recorded), whole, cut, other)
    waits = st.sampled_from(["", "3", "-1", "1e9", "9" * 40, "soon", "\u0663"])
    return st.builds(
        lambda status, body, wait: Reply(status=status, headers={"retry-after": wait}, body=body),
        st.sampled_from(STATUSES),
        bodies,
        waits,
    )


@st.composite
def changed(draw: st.DrawFn, recorded: list[bytes]) -> bytes:
    said = draw(st.sampled_from([body for body in recorded if body[:1] in (b"{", b"[")] or [b"{}"]))
    document = json.loads(said)
    for _ in range(draw(st.integers(1, 3))):
        places = list(places_in(document))
        if not places:
            break
        holder, key = draw(st.sampled_from(places))
        holder[key] = json.loads(draw(st.sampled_from((*LEAVES, *URLS))))
    return json.dumps(document).encode()


def places_in(value: Any) -> Iterator[tuple[Any, Any]]:
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield value, key
        yield from places_in(inner)


def single_changes(body: bytes) -> Iterator[bytes]:
    """The JSON body with each of its members left out, and in the place of each every leaf, one at a time."""
    for number in range(len(list(places_in(json.loads(body))))):
        for leaf in (None, *LEAVES, *URLS):
            document = json.loads(body)
            holder, key = list(places_in(document))[number]
            if leaf is None:
                del holder[key]
            else:
                holder[key] = json.loads(leaf)
            yield json.dumps(document).encode()
