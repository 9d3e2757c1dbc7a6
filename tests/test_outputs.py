"""What outputs are made of, without a socket: ranges, cuts, links made anew, headers, answers that are shared."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from service import media
from service.errors import Unsatisfiable
from service.facts import Output, Update
from service.links import with_links
from service.models import Detail, Part
from service.once import Once
from service.outcomes import linked
from service.ranges import Range, content_range, cut, read_content_range, read_range
from service.states import JobStatus
from tests.builders import NOW, HandClock, a_job, a_profile, an_arrival, an_update, some_rules

pytestmark = pytest.mark.anyio

NUMBERS = st.integers(0, 50)


# -- ranges


@given(length=st.integers(0, 40), first=st.none() | NUMBERS, last=st.none() | NUMBERS)
@a_profile()
def test_a_range_is_what_slicing_says(length: int, first: int | None, last: int | None) -> None:
    wanted = read_range(f"bytes={'' if first is None else first}-{'' if last is None else last}")
    if (first is None and last is None) or (first is not None and last is not None and last < first):
        assert wanted is None
        return
    assert wanted == Range(first=first, last=last) and read_range(str(wanted)) == wanted
    whole = list(range(length))
    if first is None:
        meant = whole[-last:] if last else []
    else:
        meant = whole[first:] if last is None else whole[first : last + 1]
    if not meant:
        with pytest.raises(Unsatisfiable) as refused:
            wanted.span(length)
        assert (refused.value.status, refused.value.length) == (416, length)
        return
    start, end = wanted.span(length)
    assert whole[start:end] == meant
    assert read_content_range(content_range(start, end, length)) == (start, end, length)
    assert read_content_range(content_range(start, end, None)) == (start, end, None)


@pytest.mark.parametrize(
    "header",
    [None, "", "bytes", "bytes=", "bytes=-", "bytes=x-y", "bytes=1-2,3-4", "bytes=2-1", "lines=1-2", "bytes=+1-2",
     "bytes=1--2", "bytes=٣-٤", "bytes=" + "9" * 19 + "-", "bytes=0x1-2"],
)  # fmt: skip
def test_what_is_no_range_asks_for_everything(header: str | None) -> None:
    assert read_range(header) is None


@pytest.mark.parametrize(
    "header", [None, "", "bytes */5", "bytes 5-4/9", "bytes 0-9/9", "bytes 0-1", "items 0-1/5", "bytes -1-2/5"]
)
def test_what_is_no_content_range(header: str | None) -> None:
    assert read_content_range(header) is None


def test_only_some_ranges_need_no_length() -> None:
    assert Range(first=0, last=None).everything
    assert not Range(first=1, last=None).everything and not Range(first=0, last=5).everything
    assert Range(first=3, last=5).closed == (3, 6)
    assert Range(first=3, last=None).closed is None and Range(first=None, last=5).closed is None


@given(pieces=st.lists(st.binary(max_size=9), max_size=9), start=st.integers(0, 60), size=st.integers(0, 60))
@a_profile()
def test_a_cut_is_a_slice_and_reads_no_further(pieces: list[bytes], start: int, size: int) -> None:
    taken = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal taken
        for piece in pieces:
            taken += len(piece)
            yield piece

    async def collected() -> bytes:
        return b"".join([piece async for piece in cut(chunks(), start, start + size)])

    assert asyncio.run(collected()) == b"".join(pieces)[start : start + size]
    longest = max(map(len, pieces), default=0)
    assert taken <= max(start + size + longest, 0)


# -- links


def an_output(name: str, **more: Any) -> Output:
    return Output(url=f"https://cdn.example/{name}.mp4", **more)


def a_detail(*parts: tuple[str, tuple[Output, ...]]) -> Detail:
    made = tuple(
        Part(provider_job_id=name, update=Update(status=JobStatus.SUCCEEDED, outputs=outputs))
        for name, outputs in parts
    )
    return Detail(parts=made, outputs=tuple(output for _, outputs in parts for output in outputs))


def test_newer_links_go_to_the_outputs_of_their_own_id() -> None:
    detail = a_detail(("a", (an_output("a1", width=1), an_output("a2"))), ("b", (an_output("b1"),)))
    newer = (an_output("n1", width=9, expires_at=5), an_output("n2", kind="image"))
    made = with_links(detail, "a", newer)
    expected = (an_output("n1", width=1, expires_at=5), an_output("n2"), an_output("b1"))
    assert made.outputs == expected  # where it can be had is new, what it is stays
    assert made.parts[0].update is not None and made.parts[0].update.outputs == expected[:2]
    assert made.parts[1] == detail.parts[1]


@pytest.mark.parametrize("newer", [(), (an_output("n1"),), (an_output("n1"), an_output("n2"), an_output("n3"))])
def test_no_output_comes_or_goes_with_newer_links(newer: tuple[Output, ...]) -> None:
    detail = a_detail(("a", (an_output("a1"), an_output("a2"))))
    made = with_links(detail, "a", newer)
    assert len(made.outputs) == 2
    assert [output.url for output in made.outputs[: len(newer)]] == [output.url for output in newer[:2]]
    assert with_links(detail, "another", newer) == detail


def test_outputs_in_another_order_than_their_parts_keep_their_places() -> None:
    detail = a_detail(("a", (an_output("a1"),)), ("b", (an_output("b1"),)))
    late = replace(detail, outputs=detail.outputs[::-1])
    assert with_links(late, "a", (an_output("n"),)).outputs == (an_output("b1"), an_output("n"))


def test_a_decision_without_outputs_is_left_alone() -> None:
    rules, asked = some_rules(), []
    decision = rules.decide(a_job("processing"), an_arrival(an_update(progress=0.5)), NOW)
    assert linked(decision, lambda job, place: str(asked.append(place)), NOW) is decision and asked == []


def test_the_event_names_the_stable_urls_and_so_do_its_bytes() -> None:
    rules = some_rules()
    update = an_update("succeeded", outputs=(an_output("1"), an_output("2")))
    job = a_job("processing")
    decision = linked(rules.decide(job, an_arrival(update), NOW), lambda job_id, place: f"{job_id}/{place}", NOW)
    said = decision.announcements[0]
    assert [output["stable_url"] for output in said.data["outputs"]] == ["job_01/0", "job_01/1"]
    assert b'"stable_url":"job_01/1"' in said.body and b"needs_key" not in said.body


# -- what a browser may do with it


@pytest.mark.parametrize(
    ("kind", "shown"),
    [("video/mp4", "inline"), ("audio/mpeg", "inline"), ("image/png", "inline"), ("IMAGE/JPG; q=1", "inline"),
     ("image/svg+xml", "attachment"), ("text/html", "attachment"), ("application/xhtml+xml", "attachment"),
     ("text/vtt", "attachment"), ("application/octet-stream", "attachment"), ("", "attachment"),
     ("application/pdf", "attachment"), ("model/gltf-binary", "attachment")],
)  # fmt: skip
def test_only_what_is_played_is_shown(kind: str, shown: str) -> None:
    headers = dict(media.shown_as(kind, "a.bin"))
    assert headers["content-disposition"] == f'{shown}; filename="a.bin"'
    assert headers["content-security-policy"] == "sandbox; default-src 'none'"


@given(name=st.text(max_size=40))
@a_profile()
def test_a_name_in_a_header_is_one_parameter(name: str) -> None:
    value = dict(media.shown_as("video/mp4", name))["content-disposition"]
    assert value.isascii() and value.isprintable()
    assert value.count('"') == 2 and "\\" not in value


# -- one question, many askers


async def test_many_askers_share_one_answer_for_a_while() -> None:
    clock, asked = HandClock(), []

    async def ask() -> int:
        asked.append(1)
        await asyncio.sleep(0.01)
        return len(asked)

    once: Once[str, int] = Once(clock, lambda answer: 10.0 * answer)
    assert set(await asyncio.gather(*(once.get("a", ask) for _ in range(9)))) == {1}
    clock.pass_ms(9_999)
    assert await once.get("a", ask) == 1
    clock.pass_ms(1)
    assert await once.get("a", ask) == 2  # holds twice as long
    clock.pass_ms(19_999)
    assert await once.get("a", ask) == 2 and await once.get("b", ask) == 3


async def test_a_failed_question_is_asked_again() -> None:
    clock, asked = HandClock(), []

    async def ask() -> int:
        asked.append(1)
        if len(asked) == 1:
            raise ValueError("no")
        return 7

    once: Once[int, int] = Once(clock, lambda answer: 10.0)
    results = await asyncio.gather(once.get(1, ask), once.get(1, ask), return_exceptions=True)
    assert [type(result) for result in results] == [ValueError, ValueError]
    assert await once.get(1, ask) == 7 and len(asked) == 2


async def test_who_leaves_takes_nothing_from_the_others() -> None:
    release = asyncio.Event()

    async def ask() -> int:
        await release.wait()
        return 7

    once: Once[int, int] = Once(HandClock(), lambda answer: 10.0)
    first, second = asyncio.create_task(once.get(1, ask)), asyncio.create_task(once.get(1, ask))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    release.set()
    assert await second == 7


async def test_no_more_answers_are_kept_than_there_is_room_for() -> None:
    asked: list[int] = []

    async def ask_for(number: int) -> int:
        asked.append(number)
        return number

    once: Once[int, int] = Once(HandClock(), lambda answer: 10.0, most=3)
    for number in (1, 2, 3, 4):
        await once.get(number, lambda number=number: ask_for(number))  # type: ignore[misc]
    for number in (4, 3, 2, 1):
        await once.get(number, lambda number=number: ask_for(number))  # type: ignore[misc]
    assert asked == [1, 2, 3, 4, 1]
