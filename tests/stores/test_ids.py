"""Ids: a numbered row's public id is computed, found again, and no other database's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.ids import decode_cursor, encode_cursor, new_id, row_id, row_number
from tests.stores.world import START

NUMBERS = st.integers(min_value=1, max_value=(1 << 63) - 1)
TIMES = st.integers(min_value=0, max_value=(1 << 48) - 1)
NONCES = st.integers(min_value=0, max_value=(1 << 16) - 1)


@given(now=TIMES, nonce=NONCES, num=NUMBERS)
def test_a_rows_number_is_found_in_its_id(now: int, nonce: int, num: int) -> None:
    text = row_id("evt", now, nonce, num)
    assert text.startswith("evt_") and len(text) == 30
    assert row_number("evt", text, nonce) == num


@given(now=TIMES, nonce=NONCES, other=NONCES, num=NUMBERS)
def test_another_databases_id_is_refused(now: int, nonce: int, other: int, num: int) -> None:
    found = row_number("evt", row_id("evt", now, nonce, num), other)
    assert found == (num if nonce == other else None)


@given(st.text(max_size=40))
def test_what_is_no_id_is_none(text: str) -> None:
    assert row_number("evt", text, 7) is None
    found = row_number("evt", f"evt_{text}", 7)
    assert found is None or row_number("evt", f"evt_{text}", 8) is None


@pytest.mark.parametrize("text", ["", "evt", "evt_", "evt_" + "i" * 26, "evt_" + "0" * 25, "evt_" + "z" * 26])
def test_texts_near_an_id_are_none(text: str) -> None:
    assert row_number("evt", text, 7) is None


def test_an_id_of_another_kind_is_refused() -> None:
    assert row_number("dlv", row_id("evt", START, 7, 1), 7) is None


@given(st.lists(st.tuples(TIMES, NUMBERS), min_size=2, max_size=20))
def test_ids_sort_by_time_then_number(rows: list[tuple[int, int]]) -> None:
    ids = [row_id("evt", now, 7, num) for now, num in sorted(rows)]
    assert ids == sorted(ids)


def test_random_ids_sort_by_time_and_differ() -> None:
    ids = [new_id("job", START + n) for n in range(100)]
    assert ids == sorted(ids)
    assert len({new_id("job", START) for _ in range(1_000)}) == 1_000


@given(st.integers(min_value=0, max_value=10**18 - 1))
def test_a_cursor_comes_back_as_its_number(num: int) -> None:
    assert decode_cursor(encode_cursor(num)) == num


@given(st.text(max_size=30))
def test_what_is_no_cursor_is_none(text: str) -> None:
    found = decode_cursor(text)
    assert found is None or decode_cursor(encode_cursor(found)) == found
