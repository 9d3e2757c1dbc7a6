"""outcomes, views and the fan-out: what is announced of a job, in which body, to whom."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from service.endpoints import CALLBACK_TYPES, EVENT_TYPES, OPERATOR, OPERATOR_TYPES, lane_of
from service.facts import Accepted
from service.models import Detail, Part, Target
from service.outcomes import announced, combined, ends, names_another, settled_cost, with_news
from service.states import TERMINAL, EndpointStatus, JobStatus
from service.views import MAX_EVENT_BYTES, event_body, instant, job_data
from tests.builders import (
    HOUR,
    NOW,
    a_cost,
    a_fan_out,
    a_job,
    an_announcement,
    an_arrival,
    an_endpoint,
    an_error,
    an_update,
    some_parts,
    some_rules,
)

# -- the body of an event

JOB_FIELDS = {
    "id", "status", "reason", "provider", "operation", "metadata", "provider_job_ids", "progress", "queue_position",
    "outputs", "error", "cost", "provider_data", "sequence", "created_at", "updated_at", "deadline_at", "overdue",
    "cancel_requested_at", "timeline_url",
}  # fmt: skip


def body_of(job, update, **named):
    decision = some_rules().decide(job, an_arrival(update, **named), NOW + 1_234)
    return json.loads(decision.announcements[0].body)


def test_an_event_is_its_type_its_time_and_the_job():
    body = body_of(a_job("processing", metadata={"team": "red"}), an_update("succeeded", cost=a_cost("2.50")))
    assert list(body) == ["type", "timestamp", "data"]
    assert (body["type"], body["timestamp"]) == ("job.succeeded", "2027-01-15T08:00:01.234Z")
    assert body["data"].items() >= {"id": "job_01", "status": "succeeded", "metadata": {"team": "red"}}.items()
    assert body["data"]["cost"] == {"amount": "2.50", "unit": "credits", "source": "reported"}
    assert body["data"]["outputs"][0]["url"] == "https://cdn.example/clip.mp4"


def test_the_data_of_an_event_has_every_field_of_a_job_but_its_input_and_callback_url():
    sealed = Detail(callback_url=b"sealed", callback_secret=b"sealed", callback_origin="https://client.example")
    data = body_of(a_job("submitting", detail=sealed), Accepted(provider_job_ids=("p1",)))["data"]
    assert set(data) >= JOB_FIELDS
    assert not set(data) & {"input", "callback_url", "callback_secret", "correlation", "tenant", "credential"}
    assert "client.example" not in json.dumps(data)


def test_what_filters_look_at_is_what_the_body_says():
    decision = some_rules().decide(a_job("processing"), an_arrival(an_update("failed")), NOW)
    said = decision.announcements[0]
    assert json.loads(said.body)["data"] == json.loads(json.dumps(said.data))


def test_ids_are_texts_and_errors_carry_the_providers_own_words():
    error = an_error("sorry", code="content_moderated")
    error = replace(error, provider_code="40003", provider_message="no")
    data = body_of(a_job("processing", ids=("9223372036854775808",)), an_update("failed", error=error))["data"]
    assert data["provider_job_ids"] == ["9223372036854775808"]
    assert data["error"] == {
        "code": "content_moderated", "message": "sorry", "retryable": False,
        "provider_code": "40003", "provider_message": "no",
    }  # fmt: skip


def test_an_open_job_past_its_deadline_is_overdue_and_an_ended_one_is_not():
    assert job_data(a_job("submitting"), NOW + HOUR + 1)["overdue"] is True
    assert job_data(a_job("submitting"), NOW + HOUR)["overdue"] is False
    assert job_data(a_job("failed"), NOW + 2 * HOUR)["overdue"] is False
    assert job_data(a_job("submitting", deadline_at=None), NOW + 2 * HOUR)["overdue"] is False


def padded(size: int) -> bytes:
    """An event body whose data has one text of that size."""
    data = {"id": "job_01", "status": "succeeded", "provider": "p", "operation": "o", "metadata": {"a": "b"}}
    return event_body("job.succeeded", NOW, {**data, "provider_data": {"text": "x" * size}})


def test_a_body_of_exactly_256_kib_is_whole_and_a_byte_more_makes_it_thin():
    room = MAX_EVENT_BYTES - len(padded(0))
    assert MAX_EVENT_BYTES == 256 * 1024
    assert len(padded(room)) == MAX_EVENT_BYTES
    assert json.loads(padded(room + 1))["data"] == {
        "id": "job_01", "status": "succeeded", "provider": "p", "operation": "o", "metadata": {"a": "b"}, "thin": True,
    }  # fmt: skip


def test_the_most_metadata_that_a_job_may_have_fits_into_a_thin_event():
    metadata = {f"{number:02}" + "\x01" * 62: "\x01" * 500 for number in range(50)}  # each becomes six bytes
    data = {"id": "j", "metadata": metadata, "provider_data": {"text": "x" * MAX_EVENT_BYTES}}
    body = event_body("job.failed", NOW, data)
    assert len(body) <= MAX_EVENT_BYTES
    assert json.loads(body)["data"]["metadata"] == metadata


@given(st.integers(0, 4_000_000_000_000))
def test_times_are_rfc_3339_in_utc_with_milliseconds(at):
    text = instant(at)
    assert text.endswith("Z")
    assert len(text) == 24


def test_each_announcement_raises_the_sequence_by_one():
    job, seen = a_job("processing", sequence=4), []
    for _ in range(3):
        decision = announced(job, NOW, "job.progress")
        job = decision.job
        seen.append(json.loads(decision.announcements[0].body)["data"]["sequence"])
    assert seen == [5, 6, 7]


# -- several ids into one outcome

WORDS = ("processing", "succeeded", "failed", "canceled")


def heard(*words: str) -> tuple[Part, ...]:
    return tuple(Part(provider_job_id=f"p{n}", update=an_update(word)) for n, word in enumerate(words))


@given(st.lists(st.sampled_from(WORDS), min_size=2, max_size=5))
def test_a_job_is_over_when_all_its_ids_are_and_succeeded_if_any_did(words):
    whole = combined(heard(*words), an_update())
    if "processing" in words:
        assert whole.status == "processing"
        assert whole.progress == pytest.approx(sum(word != "processing" for word in words) / len(words))
    else:
        assert whole.status in TERMINAL
        assert (whole.status == "succeeded") == ("succeeded" in words)
        assert len(whole.outputs) == words.count("succeeded")
        assert (whole.error is None) == ("succeeded" in words or "failed" not in words)


@given(st.lists(st.sampled_from((None, *WORDS)), min_size=2, max_size=4))
def test_an_id_that_nothing_was_heard_of_keeps_the_job_open(words):
    parts = tuple(
        Part(provider_job_id=str(n), update=an_update(word) if word else None) for n, word in enumerate(words)
    )
    if None in words:
        assert combined(parts, an_update()).status == "processing"


def test_of_one_id_the_latest_news_is_the_whole():
    update = an_update("failed")
    assert combined(some_parts("p1"), update) is update


@pytest.mark.parametrize(
    ("amounts", "total"),
    [(("0.1", "0.2"), "0.3"), (("10", None), "10"), ((None, None), None), (("1", "not a number"), None),
     (("9007199254740993", "0.01"), "9007199254740993.01")],
)  # fmt: skip
def test_costs_add_up_as_decimals(amounts, total):
    parts = tuple(
        Part(provider_job_id=str(n), update=an_update("succeeded", cost=a_cost(amount) if amount else None))
        for n, amount in enumerate(amounts)
    )
    cost = combined(parts, an_update()).cost
    assert (cost.amount if cost else None) == total


@pytest.mark.parametrize(
    ("quoted", "reported", "kept"), [(None, None, None), ("4", None, "4"), (None, "5", "5"), ("4", "5", "5")]
)
def test_a_cost_is_counted_once(quoted, reported, kept):
    cost = settled_cost(a_cost(quoted, "quoted") if quoted else None, a_cost(reported) if reported else None)
    assert (cost.amount if cost else None) == kept


@given(st.lists(st.sampled_from(WORDS), max_size=6))
def test_a_part_once_succeeded_keeps_its_first_result(words):
    parts, first = some_parts("a", "b"), None
    for n, word in enumerate(words):
        update = an_update(word, provider_status=str(n))
        first = first or (update if word == "succeeded" else None)
        parts = with_news(parts, "a", update)
    assert parts[1].update is None
    if first is not None:
        assert parts[0].update == first


@given(st.lists(st.sampled_from(WORDS), max_size=6))
def test_a_part_that_is_over_never_goes_on(words):
    parts, over = some_parts("a"), False
    for word in words:
        parts = with_news(parts, "a", an_update(word))
        over = over or word != "processing"
        assert bool(ends(parts)) == over


@pytest.mark.parametrize(
    ("ids", "named", "another"),
    [((), "p9", False), (("p1",), None, False), (("p1", "p2"), "p2", False), (("p1", "p2"), "p9", True)],
)
def test_news_must_name_one_of_the_ids_that_are_known(ids, named, another):
    job = a_job("processing", ids=ids)
    assert names_another(job, an_arrival(an_update(), provider_job_id=named)) is another


def test_failures_are_listed_only_where_there_are_several_ids():
    data = body_of(a_job("processing"), an_update("failed"))["data"]
    assert data["failures"] == []


# -- to whom it goes


def targets(said, *endpoints, job=None, operator=False):
    return a_fan_out(operator=operator).targets(said, job, endpoints)


def goes(said, **endpoint) -> bool:
    return bool(targets(said, an_endpoint(1, **endpoint)))


@pytest.mark.parametrize("kind", EVENT_TYPES)
def test_an_endpoint_without_types_gets_all_but_progress(kind):
    assert goes(an_announcement(kind)) == (kind != "job.progress")


@pytest.mark.parametrize("kind", EVENT_TYPES)
def test_an_endpoint_gets_the_types_that_it_names_and_no_others(kind):
    for named in EVENT_TYPES:
        assert goes(an_announcement(kind), event_types=(named,)) == (kind == named)


@pytest.mark.parametrize("kind", EVENT_TYPES)
@pytest.mark.parametrize("group", ["job", "endpoint", "delivery", "credential"])
def test_a_group_takes_every_type_that_begins_with_its_name_but_progress(group, kind):
    fits = kind.split(".")[0] == group and kind != "job.progress"
    assert goes(an_announcement(kind), event_types=(f"{group}.*",)) == fits


def test_a_group_is_a_whole_word():
    assert not goes(an_announcement("jobs.lost"), event_types=("job.*",))


DATA = {
    "status": JobStatus.SUCCEEDED,
    "overdue": False,
    "sequence": 1,
    "progress": 1.0,
    "metadata": {"team": "red", "a.b": "dotted", "a": "plain", "n": "1"},
    "error": {"code": "capacity"},
    "outputs": [{"kind": "video"}],
}


@pytest.mark.parametrize(
    ("wanted", "fits"),
    [
        ({}, True),
        ({"status": "succeeded"}, True),
        ({"status": "Succeeded"}, False),
        ({"metadata.team": "red"}, True),
        ({"metadata.team": "re"}, False),
        ({"metadata.a.b": "dotted"}, True),
        ({"metadata.a": "plain"}, True),
        ({"error.code": "capacity"}, True),
        ({"error.code": "capacity", "metadata.team": "blue"}, False),
        ({"metadata.none": "red"}, False),
        ({"none.team": "red"}, False),
        ({"outputs.kind": "video"}, False),
        ({"status.more": "x"}, False),
        ({"overdue": False}, True),
        ({"overdue": 0}, False),
        ({"sequence": True}, False),
        ({"sequence": 1}, True),
        ({"progress": 1}, True),
        ({"metadata.n": 1}, True),  # its values are texts, which a number in a filter stands for
        ({"metadata.n": 2}, False),
    ],
)
def test_filters_are_exact_values_by_dotted_path(wanted, fits):
    assert goes(an_announcement(data=DATA), filter=wanted) is fits


def test_an_event_never_goes_to_the_endpoint_that_it_is_about():
    said = an_announcement("endpoint.disabled", about_endpoint=1)
    assert [target.endpoint for target in targets(said, an_endpoint(1), an_endpoint(2))] == [2]


@pytest.mark.parametrize("status", EndpointStatus)
def test_what_an_endpoint_does_not_take_now_is_held_for_it(status):
    found = targets(an_announcement(), an_endpoint(3, status=status))
    assert found == [Target(endpoint=3, lane=3, held=status != "active")]


def called(status: str = "succeeded"):
    return a_job(status, detail=Detail(callback_url=b"sealed", callback_lane=-9))


@pytest.mark.parametrize("kind", EVENT_TYPES)
def test_a_jobs_callback_url_gets_its_end_and_its_unknown_and_nothing_else(kind):
    found = targets(an_announcement(kind), job=called())
    wanted = kind in ("job.succeeded", "job.failed", "job.canceled", "job.unknown")
    assert found == ([Target(endpoint=0, lane=-9)] if wanted else [])
    assert (kind in CALLBACK_TYPES) == wanted


def test_a_job_without_a_callback_url_owes_it_nothing():
    assert targets(an_announcement(), job=a_job("succeeded")) == []
    assert targets(an_announcement("job.unknown")) == []


@pytest.mark.parametrize("kind", EVENT_TYPES)
def test_the_operator_gets_what_concerns_all_tenants_if_there_is_one(kind):
    wanted = kind in ("endpoint.disabled", "job.unknown", "credential.paused")
    assert targets(an_announcement(kind), operator=True) == ([Target(endpoint=OPERATOR, lane=-1)] if wanted else [])
    assert targets(an_announcement(kind)) == []
    assert (kind in OPERATOR_TYPES) == wanted


def test_one_event_goes_to_everyone_who_asked_for_it_once():
    endpoints = [an_endpoint(n) for n in (1, 2, 3)]
    found = targets(an_announcement("job.unknown"), *endpoints, job=called(), operator=True)
    assert sorted(target.endpoint for target in found) == [OPERATOR, 0, 1, 2, 3]


@given(st.integers(1, 9), st.sampled_from(["https://a.example/x", "https://a.example/y?z", "https://b.example/x"]))
def test_callback_urls_of_one_origin_share_a_lane_that_is_no_endpoints(tenant, url):
    assert lane_of(tenant, url) < OPERATOR
    assert lane_of(tenant, url) == lane_of(tenant, url.rpartition("/")[0] + "/other")
    assert lane_of(tenant, url) != lane_of(tenant + 1, url)
