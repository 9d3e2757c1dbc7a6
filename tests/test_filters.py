"""Filters of endpoints: what fits, what is refused, and that the known fields are those that events have."""

from typing import Any

import pytest

from service.errors import Invalid
from service.filters import FIELDS, checked_filter, matches
from service.views import job_data
from tests.builders import a_job

DATA = {
    "status": "failed",
    "progress": 0.5,
    "overdue": True,
    "error": {"code": "capacity", "retryable": True},
    "metadata": {"order": "1042", "a.b": "x", "paid": "true", "n": "5.0", "none": "null"},
    "provider_data": {"credits": 5, "deep": {"er": "y"}},
}


@pytest.mark.parametrize(
    ("wanted", "fits"),
    [
        ({"metadata.order": "1042"}, True),
        ({"metadata.order": 1042}, True),
        ({"metadata.paid": True}, True),
        ({"metadata.n": 5.0}, True),
        ({"metadata.n": 5}, False),
        ({"metadata.order": 1043}, False),
        ({"metadata.a.b": "x"}, True),
        ({"metadata.none": "null"}, True),
        ({"metadata.missing": "null"}, False),
        ({"status": "failed", "error.code": "capacity"}, True),
        ({"status": "failed", "error.code": "other"}, False),
        ({"error.retryable": True}, True),
        ({"error.retryable": 1}, False),
        ({"overdue": "true"}, False),
        ({"provider_data.credits": 5}, True),
        ({"provider_data.credits": "5"}, False),
        ({"provider_data.deep.er": "y"}, True),
        ({}, True),
    ],
)
def test_what_fits(wanted: dict[str, Any], fits: bool) -> None:
    assert matches(wanted, DATA) is fits
    assert matches(checked_filter(wanted), DATA) is fits


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("metadata", "metadata.<name>"),
        ("metadata.", "there are:"),
        ("Status", "`status`"),
        ("data.status", "there are:"),
        ("order", "there are:"),
        ("metdata.order", "there are:"),
        ("error.kod", "`error.code`"),
        ("cost", "`cost.amount`"),
        ("input.prompt", "there are:"),
        ("", "there are:"),
    ],
)
def test_a_field_that_no_event_has_is_refused_with_those_that_there_are(path: str, hint: str) -> None:
    with pytest.raises(Invalid) as refused:
        checked_filter({"status": "failed", path: "x"})
    assert refused.value.code == "unknown_filter"
    assert refused.value.param == f"filter.{path}"
    assert hint in refused.value.detail


def test_every_field_of_a_job_that_is_one_value_is_known() -> None:
    no_value = "metadata provider_data provider_job_ids outputs failures cost".split()
    assert set(job_data(a_job(), 0)) - set(no_value) <= set(FIELDS)
