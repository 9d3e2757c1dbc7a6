"""The README's operation table is what the code says."""

from service import providers

from .cases import ELSEWHERE, NAMES
from .operation_table import BEGIN, END, README, between_markers, table, written


def test_table_is_up_to_date() -> None:
    if ELSEWHERE:
        return  # a provider from another folder is in nobody's README
    stale = "make tables, or python -m tests.providers.operation_table --write"
    assert between_markers(README.read_text(encoding="utf-8")) == table(NAMES), stale


def test_table_has_a_row_for_every_operation() -> None:
    rows = table(NAMES).splitlines()[2:]
    assert len(rows) == sum(len(providers.load(name).operations) for name in NAMES)


def test_a_stale_table_is_seen_and_written_anew() -> None:
    text = f"before\n{BEGIN}\n| old |\n{END}\nafter\n"
    assert between_markers(text) == "| old |"
    assert written(text, "| new |") == f"before\n{BEGIN}\n| new |\n{END}\nafter\n"
