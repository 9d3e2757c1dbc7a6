"""Progressive Robot beyond the contract: exact money, tiers, the seed that finds a lost submit; and all of it against
the sandbox over real sockets.
"""

import json
import math
import re
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import Invalid
from service.facts import Accepted, Candidates, Done, NotFound, Refused, Unknown, Update
from service.providers import Call, Reply, Request
from service.providers.progressiverobot import provider
from service.states import JobStatus

HERE = Path(__file__).parent
PICTURE = HERE.parents[1] / "service" / "sandbox" / "media" / "picture.png"
NOW = 1_800_000_000_000
FILE = "file_01jz000000000000000000000"
OTHER_FILE = "file_01jz000000000000000000001"
GENERATE = {"prompt": "a cat in the rain", "model": "wan-t2v", "frames": 41, "steps": 4}


def a_call(operation: str = "generate", given: dict[str, Any] | None = None, **more: Any) -> Call:
    known = {"api_key": "sandbox", "base_url": provider.base_url, "correlation": "intent-1", "now": NOW}
    return Call(**{**known, "operation": operation, "input": GENERATE if given is None else given, **more})


def replay(steps: Generator[Request, Reply, Any], *bodies: Any, status: int = 200) -> tuple[Any, list[Request]]:
    """Run a verb against these replies; what it returned, and what it asked."""
    asked = [next(steps)]
    try:
        for body in bodies:
            asked.append(steps.send(Reply(status=status, headers={}, body=json.dumps(body).encode())))
    except StopIteration as end:
        return end.value, asked
    raise AssertionError(f"it asks for more: {asked[-1].url}")


# -- money ----------------------------------------------------------------------------------------

# The table of the documents: base, per frame, per step, and the example that is printed for 41 frames and 4 steps.
PRINTED = {
    "wan-t2v": ("10", "0.20", "0.50", 21),
    "ltx-t2v": ("8", "0.15", "0.30", 16),
    "ltx-quality": ("15", "0.25", "0.40", 27),
    "hunyuan-t2v": ("12", "0.20", "0.40", 22),
    "hunyuan15-t2v": ("12", "0.20", "0.40", 22),
    "hunyuan15-i2v": ("15", "0.25", "0.50", 28),
    "ltx-i2v": ("12", "0.20", "0.40", 22),
    "cogvideo-t2v": ("12", "0.20", "0.40", 22),
    "animatediff": ("6", "0.10", "0.30", 9),
    "svd-i2v": ("10", "0.15", "0.40", 18),
    "wan-i2v": ("12", "0.20", "0.50", 23),
    "ltx-flf": ("12", "0.15", "0.30", 19),
    "wan-s2v": ("15", "0.25", "0.50", 28),
    "wan-flf": ("12", "0.20", "0.50", 23),
    "ltx-camera": ("10", "0.15", "0.30", 18),
    "ltx-control": ("12", "0.15", "0.30", 19),
    "wan-vace": ("15", "0.25", "0.50", 28),
    "wan-animate": ("18", "0.30", "0.50", 33),
    "liveportrait": ("8", "0.10", "0", 13),
    "hunyuan3d": ("20", "0", "0.80", 24),
    "dreamidv": ("15", "0.20", "0.40", 25),
    "echomimic": ("12", "0.15", "0.30", 19),
}
CONTRADICTED = {"animatediff": 12, "ltx-flf": 20, "ltx-camera": 18, "ltx-control": 20, "echomimic": 20}


def price_of(operation: str, given: dict[str, Any]) -> str | None:
    found = provider.price(a_call(operation, given))
    assert found is None or (found.unit, found.source) == ("credits", "quoted")
    return None if found is None else found.amount


@pytest.mark.parametrize("model", PRINTED)
def test_formula_wins_over_the_printed_examples(model: str) -> None:
    found = price_of("generate", {"prompt": "a cat", "model": model, "frames": 41, "steps": 4})
    assert found == str(CONTRADICTED.get(model, PRINTED[model][3]))


def test_the_table_has_every_model_and_no_other() -> None:
    rows = {row["id"]: (row["base"], row["per_frame"], row["per_step"]) for row in provider.catalogs["models"].data}
    assert rows == {model: printed[:3] for model, printed in PRINTED.items()}


def test_five_printed_sums_contradict_their_formula() -> None:
    """The documents print 8.8 for animatediff where the formula makes 11.3; ltx-camera's sums round up alike."""
    printed = {"animatediff": "8.8", "ltx-flf": "18.55", "ltx-camera": "17.15", "ltx-control": "18.55"}
    printed["echomimic"] = "18.55"
    for model, told in printed.items():
        base, per_frame, per_step = map(Fraction, PRINTED[model][:3])
        exact = base + 41 * per_frame + 4 * per_step
        assert exact > Fraction(told)
        assert math.ceil(exact) == CONTRADICTED[model]


@given(model=st.sampled_from(sorted(PRINTED)), frames=st.integers(1, 10_000), steps=st.integers(1, 10_000))
def test_formula_is_exact_and_rounded_up(model: str, frames: int, steps: int) -> None:
    base, per_frame, per_step = map(Fraction, PRINTED[model][:3])
    exact = base + frames * per_frame + steps * per_step
    assert price_of("generate", {"prompt": "x", "model": model, "frames": frames, "steps": steps}) == str(
        math.ceil(exact)
    )


@pytest.mark.parametrize("clips", range(2, 21))
def test_merge_is_the_larger_of_two_documented_prices(clips: int) -> None:
    given = {"video_filenames": [f"{number}.mp4" for number in range(clips)]}
    provider.operations["edit_merge"].validate(given)
    assert price_of("edit_merge", given) == str(max(3, 2 * clips))


@pytest.mark.parametrize(("videos", "credits"), [(0, "3"), (1, "3"), (2, "4"), (9, "18")])
def test_export_is_quoted_by_the_clips_of_its_project(videos: int, credits: str) -> None:
    shots = [{"id": number, "filename": f"{number}.mp4" if number < videos else None} for number in range(videos + 2)]
    found, asked = replay(provider.quote(a_call("projects_export", {"project_id": 5})), {"shots": shots})
    assert (found.amount, asked[0].url) == (credits, f"{provider.base_url}/api/projects/5")
    assert not asked[0].charges


@pytest.mark.parametrize("frames", [None, "many", True, -1, 1.5, [41], float("nan")])
def test_price_of_a_quantity_that_is_none_is_not_guessed(frames: Any) -> None:
    assert price_of("generate", {"prompt": "x", "model": "wan-t2v", "frames": frames, "steps": 4}) is None


# -- tiers ----------------------------------------------------------------------------------------

FRAMES = {"free": 81, "starter": 121, "creator": 201, "pro": 301, "studio": 301, "enterprise": 999}


@pytest.mark.parametrize("tier", FRAMES)
@pytest.mark.parametrize("frames", sorted({*FRAMES.values(), *(most + 1 for most in FRAMES.values())}))
def test_frames_beyond_the_tier_are_refused_naming_the_tier_that_allows_them(tier: str, frames: int) -> None:
    call = a_call(given={"prompt": "a cat", "frames": frames}, account={"tier": tier.upper()})
    if frames <= FRAMES[tier]:
        provider.allows(call)
        return
    with pytest.raises(Invalid) as refused:
        provider.allows(call)
    assert refused.value.param == "input.frames"
    needed = next((name.capitalize() for name, most in FRAMES.items() if frames <= most), None)
    assert tier.capitalize() in refused.value.detail
    assert (f"the {needed} tier allows it" if needed else "no tier allows it") in refused.value.detail


def test_every_operation_with_a_tier_is_refused_below_it_and_no_other() -> None:
    order, examples = list(FRAMES), accepted_inputs()
    for name, operation in provider.operations.items():
        for tier in order:
            call = a_call(name, examples[name], account={"tier": tier})
            if operation.tier and order.index(tier) < order.index(operation.tier):
                with pytest.raises(Invalid, match=f"{operation.tier.capitalize()} tier") as refused:
                    provider.allows(call)
                assert refused.value.param == "operation"
            elif name not in ("generate", "projects_export"):
                provider.allows(call)


def accepted_inputs() -> dict[str, dict[str, Any]]:
    cases = json.loads((HERE / "progressiverobot" / "submit.json").read_bytes())
    taken = [case for case in cases if case["expect"]["type"] in ("Accepted", "Done")]
    return {case["call"]["operation"]: case["call"]["input"] for case in reversed(taken)}


# -- what a schema refuses beyond missing and mistyped fields ---------------------------------------

REFUSED = [
    ("generate", {"prompt": "x" * 2001}, "prompt"),
    ("generate", {"prompt": ""}, "prompt"),
    ("generate", {"prompt": "a cat", "seed": -2}, "seed"),
    ("generate", {"prompt": "a cat", "frames": 0}, "frames"),
    ("edit_speed", {"video_filename": "a.mp4", "speed_factor": 0.2}, "speed_factor"),
    ("edit_speed", {"video_filename": "a.mp4", "speed_factor": 4.1}, "speed_factor"),
    ("edit_merge", {"video_filenames": ["a.mp4"]}, "video_filenames"),
    ("edit_merge", {"video_filenames": ["a.mp4"] * 21}, "video_filenames"),
    ("edit_resize", {"video_filename": "a.mp4"}, "width"),
    ("edit_resize", {"video_filename": "a.mp4", "width": 640}, "height"),
    ("edit_resize", {"video_filename": "a.mp4", "preset": "480p"}, "preset"),
    ("edit_resize", {"video_filename": "a.mp4", "preset": "720p", "width": 640}, "width"),
    ("subtitles_burn", {"video_filename": "a.mp4", "srt_filename": "a.srt", "style": "loud"}, "style"),
    ("tools_upscale_video", {"video_filename": "a.mp4", "scale_factor": 1.5}, "scale_factor"),
    ("tools_upscale_video", {"video_filename": "a.mp4", "scale_factor": 5}, "scale_factor"),
    ("tools_extract_frames", {"video_filename": "a.mp4", "mode": "every"}, "mode"),
    ("tools_add_watermark", {"video_filename": "a.mp4", "type": "text"}, "text"),
    ("tools_add_watermark", {"video_filename": "a.mp4", "type": "image"}, "image"),
    ("tools_add_watermark", {"video_filename": "a.mp4", "type": "sound"}, "type"),
]


@pytest.mark.parametrize(("operation", "given", "field"), REFUSED)
def test_input_beyond_what_is_documented_is_refused_by_its_field(
    operation: str, given: dict[str, Any], field: str
) -> None:
    with pytest.raises(Invalid) as refused:
        provider.operations[operation].validate(given)
    assert refused.value.param == f"input.{field}"


def test_input_at_the_edge_of_what_is_documented_passes() -> None:
    provider.operations["generate"].validate({"prompt": "x" * 2000, "seed": -1})
    for factor in (0.25, 4.0):
        provider.operations["edit_speed"].validate({"video_filename": "a.mp4", "speed_factor": factor})
    provider.operations["edit_merge"].validate({"video_filenames": ["a.mp4"] * 20})


# -- the seed -------------------------------------------------------------------------------------


def sent(call: Call) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(next(provider.submit(call)).body)
    return body


def test_seed_is_the_same_for_one_intent_and_another_for_every_other() -> None:
    seeds = {sent(a_call(correlation=f"intent-{number}"))["seed"] for number in range(2000)}
    assert len(seeds) == 2000
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert sent(a_call()) == sent(a_call(repeat=True, now=NOW + 9000))


@pytest.mark.parametrize("operation", [name for name in provider.operations if name != "generate"])
def test_only_generate_gets_a_seed(operation: str) -> None:
    request = next(provider.submit(a_call(operation, accepted_inputs()[operation])))
    assert b"seed" not in request.body
    assert request.form is None or "seed" not in request.form.fields
    assert provider.operations[operation].settled_by == "person"


def history_row(**fields: Any) -> dict[str, Any]:
    known = {"id": 1, "job_id": "j1", "prompt": GENERATE["prompt"], "model": "wan-t2v", "seed": sent(a_call())["seed"]}
    return {**known, "status": "processing", "created_at": "2027-01-15T08:00:01Z", **fields}


def a_page(first: int, at: str) -> dict[str, Any]:
    rows = [history_row(job_id=f"x{number}", seed=number, created_at=at) for number in range(first, first + 200)]
    return {"generations": rows}


def test_lookup_reads_on_until_it_finds_the_row() -> None:
    later = a_page(0, "2027-01-15T08:30:00Z")
    found, asked = replay(
        provider.lookup(a_call(submitted_at=NOW)), later, {"generations": [history_row(prompt=" a cat in the rain\n")]}
    )
    assert found == Candidates(provider_job_ids=("j1",), note=found.note)
    assert [request.url.partition("?")[2] for request in asked] == ["limit=200&offset=0", "limit=200&offset=200"]


SIXTEEN_HOURS_BEFORE = [
    "2027-01-14T16:00:00Z",
    "2027-01-14 16:00:00",
    "Thu, 14 Jan 2027 16:00:00 GMT",
    1_799_942_400,
    1_799_942_400_000,
]


@pytest.mark.parametrize("at", SIXTEEN_HOURS_BEFORE)
def test_lookup_stops_where_rows_are_older_than_the_submit_in_any_time_zone(at: Any) -> None:
    found, asked = replay(provider.lookup(a_call(submitted_at=NOW)), a_page(0, at))
    assert isinstance(found, NotFound)
    assert not found.conclusive
    assert len(asked) == 1


@pytest.mark.parametrize("at", ["2027-01-15 00:00:00", "Thu, 14 Jan 2027 20:00:00", 1_799_999_000])
def test_lookup_reads_on_past_rows_whose_time_may_be_another_zones(at: Any) -> None:
    found, asked = replay(provider.lookup(a_call(submitted_at=NOW)), a_page(0, at), [history_row(created_at=at)])
    assert isinstance(found, Candidates)
    assert len(asked) == 2


def test_lookup_does_not_take_the_oldest_rows_first_for_the_end() -> None:
    """Newest first is likely, not documented."""
    oldest = a_page(0, "2020-01-01T00:00:00Z")
    oldest["generations"][-1]["created_at"] = "2020-01-02T00:00:00Z"
    found, asked = replay(provider.lookup(a_call(submitted_at=NOW)), oldest, [history_row()])
    assert isinstance(found, Candidates)
    assert len(asked) == 2


def test_lookup_of_a_list_without_end_comes_to_an_end() -> None:
    pages = [a_page(200 * number, "2027-01-15T08:30:00Z") for number in range(50)]
    found, asked = replay(provider.lookup(a_call(submitted_at=NOW)), *pages)
    assert isinstance(found, NotFound)
    assert len(asked) == 50


def test_row_of_another_intent_with_the_same_words_is_never_a_candidate() -> None:
    other = sent(a_call(correlation="intent-2"))["seed"]
    found, _ = replay(provider.lookup(a_call(submitted_at=NOW)), [history_row(seed=other)])
    assert isinstance(found, NotFound)
    assert not found.hopeless


def test_a_submit_with_the_callers_own_bytes_has_no_seed_of_ours_to_look_for() -> None:
    with pytest.raises(StopIteration) as ended:  # it asks nothing
        next(provider.lookup(a_call(submitted_at=NOW, passthrough=True)))
    assert isinstance(ended.value.value, NotFound)
    assert ended.value.value.hopeless


# -- against the sandbox --------------------------------------------------------------------------


class Studio:
    """The adapter's verbs carried out over real sockets."""

    def __init__(self, url: str):
        self.http = httpx2.Client(timeout=10)
        self.origin, self.base_url = url, f"{url}/progressiverobot"

    def call(self, operation: str = "generate", given: dict[str, Any] | None = None, **more: Any) -> Call:
        return a_call(operation, given, **{"base_url": self.base_url, **more})

    def hold(self, steps: Generator[Request, Reply, Any]) -> Any:
        try:
            request = next(steps)
            while True:
                request = steps.send(self.send(request))
        except StopIteration as end:
            return end.value

    def send(self, request: Request) -> Reply:
        more: dict[str, Any] = {"content": request.body}
        if request.form is not None:
            picture = ("picture.png", PICTURE.read_bytes(), "image/png")
            fields = [(name, (None, text)) for name, text in request.form.fields.items()]
            more = {"files": [*fields, *((name, picture) for name, _ in request.form.files)]}
        reply = self.http.request(request.method, request.url, headers=request.headers, **more)
        headers = {name.lower(): value for name, value in reply.headers.items()}
        return Reply(status=reply.status_code, headers=headers, body=reply.content)

    def control(self, method: str, path: str, **body: Any) -> Any:
        reply = self.http.request(method, f"{self.origin}/_sandbox/progressiverobot/{path}", json=body or None)
        assert reply.status_code == 200, reply.text
        return reply.json()

    def finished(self, call: Call, provider_job_id: str) -> Update:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            update = self.hold(provider.status(call, provider_job_id))
            assert isinstance(update, Update), update
            if update.status != JobStatus.PROCESSING:
                return update
            time.sleep(0.02)
        raise AssertionError("it does not end")


@pytest.fixture(scope="module")
def running_studio() -> Iterator[Studio]:
    command = [sys.executable, "-m", "service.sandbox", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    studio = Studio(process.stdout.readline().strip().rsplit(" ", 1)[1])
    yield studio
    studio.http.close()
    process.terminate()
    process.wait()
    process.stdout.close()


@pytest.fixture
def studio(running_studio: Studio) -> Studio:
    running_studio.control("POST", "reset")
    running_studio.control("PUT", "faults", duration_s=[0.05, 0.1])
    return running_studio


def played(studio: Studio, operation: str) -> dict[str, Any]:
    """The recorded input of an operation, with ids of what there is."""
    given = dict(accepted_inputs()[operation])
    for field, path in (("project_id", "projects"), ("brand_kit_id", "brand-kits")):
        if field in given and "{" in provider.operations[operation].path:
            key = {"Authorization": "Bearer sandbox"}
            made = studio.http.post(f"{studio.base_url}/api/{path}", headers=key, json={"name": "mine"}).json()
            given[field] = next(value for value in (made.get("id"), *_inner_ids(made)) if value is not None)
    return given


def _inner_ids(said: dict[str, Any]) -> list[Any]:
    return [value.get("id") for value in said.values() if isinstance(value, dict)]


@pytest.mark.parametrize("operation", provider.operations)
def test_sandbox_makes_what_every_operation_asks_for(studio: Studio, operation: str) -> None:
    given, row = played(studio, operation), provider.operations[operation]
    call = studio.call(operation, given)
    row.validate(given)
    provider.allows(call)
    verdict = studio.hold(provider.submit(call))
    assert isinstance(verdict, Accepted | Done), verdict
    ledger = studio.control("GET", "ledger")["data"]
    assert [entry["operation"] for entry in ledger] == [operation] * max(1, len(verdict.provider_job_ids))
    ids = verdict.provider_job_ids
    updates = [verdict.update] if isinstance(verdict, Done) else [studio.finished(call, found) for found in ids]
    for update in updates:
        assert update.status == JobStatus.SUCCEEDED, update
        assert {output.kind for output in update.outputs} == {row.output}
        for output in update.outputs:
            assert_opens_with_the_key_alone(studio, call, output)


def assert_opens_with_the_key_alone(studio: Studio, call: Call, output: Any) -> None:
    if output.kind == "text":
        assert output.url.startswith("data:application/json;base64,")
        return
    request = provider.fetch(call, output)
    assert request is not None
    reply = studio.send(request)
    assert (reply.status, len(reply.body) > 0) == (200, True), output.url
    assert studio.http.get(output.url).status_code == 401


def test_sandbox_charges_what_we_quote(studio: Studio) -> None:
    for model in PRINTED:
        call = studio.call(given={**GENERATE, "model": model}, correlation=model)
        assert studio.hold(provider.quote(call)) == provider.price(call)
        studio.hold(provider.submit(call))
        assert str(studio.control("GET", "ledger")["data"][-1]["charged"]) == price_of("generate", call.input)


def test_lost_reply_is_found_by_its_seed_alone(studio: Studio) -> None:
    for number in range(3):
        studio.hold(provider.submit(studio.call(correlation=f"before-{number}")))
    mine = studio.call(correlation="mine", submitted_at=int(time.time() * 1000))
    assert isinstance(studio.hold(provider.lookup(mine)), NotFound)
    studio.control("PUT", "faults", duration_s=[0.05, 0.1], drop_reply_after_accept=1.0)
    with pytest.raises(httpx2.HTTPError):
        studio.hold(provider.submit(mine))
    assert studio.control("GET", "faults")["happened"]["drop_reply_after_accept"] == 1
    studio.control("PUT", "faults", duration_s=[0.05, 0.1])
    found = studio.hold(provider.lookup(mine))
    ledger = studio.control("GET", "ledger")["data"]
    assert found.provider_job_ids == (ledger[-1]["provider_job_id"],)
    assert len(ledger) == 4


def test_page_of_a_gateway_after_the_charge_is_unknown(studio: Studio) -> None:
    studio.control("PUT", "faults", error_after_accept={"500": 1.0})
    assert isinstance(studio.hold(provider.submit(studio.call())), Unknown)
    assert len(studio.control("GET", "ledger")["data"]) == 1


def test_image_is_uploaded_before_it_is_animated(studio: Studio) -> None:
    given = {"prompt": "it wakes up", "model": "wan-i2v", "image_filename": FILE}
    verdict = studio.hold(provider.submit(studio.call(given=given)))
    assert isinstance(verdict, Accepted)
    received = studio.control("GET", "ledger")["data"][0]["input"]
    assert re.fullmatch(r"input_\w+\.png", received["image_filename"])


def test_several_images_are_several_ids_of_one_submit(studio: Studio) -> None:
    call = studio.call("generate_image", {"prompt": "a cat", "model": "flux-dev", "count": 3})
    verdict = studio.hold(provider.submit(call))
    assert len(set(verdict.provider_job_ids)) == 3
    assert verdict.cost.amount == price_of("generate_image", call.input) == "24"
    assert all(studio.finished(call, found).status == JobStatus.SUCCEEDED for found in verdict.provider_job_ids)


def test_cancel_ends_it(studio: Studio) -> None:
    studio.control("PUT", "faults", duration_s=[30, 30])
    verdict = studio.hold(provider.submit(studio.call()))
    update = studio.hold(provider.status(studio.call(), verdict.provider_job_ids[0]))
    assert update.status == JobStatus.PROCESSING
    studio.hold(provider.cancel(studio.call(), verdict.provider_job_ids[0]))
    assert studio.finished(studio.call(), verdict.provider_job_ids[0]).status == JobStatus.CANCELED


def test_sandbox_refuses_as_we_read_it(studio: Studio) -> None:
    studio.control("PUT", "account", credits=5)
    out_of_credit = studio.hold(provider.submit(studio.call()))
    assert isinstance(out_of_credit, Refused)
    assert (out_of_credit.error.code, out_of_credit.pauses) == ("out_of_credit", True)
    studio.control("PUT", "account", credits=1000, tier="free")
    beyond = studio.hold(provider.submit(studio.call(given={**GENERATE, "frames": 82})))
    assert isinstance(beyond, Refused)
    assert (beyond.error.code, beyond.pauses) == ("invalid_input", False)
    account = studio.hold(provider.account(studio.call()))
    with pytest.raises(Invalid, match="Starter tier"):
        provider.allows(studio.call(given={**GENERATE, "frames": 82}, account=account))
    wrong_key = studio.hold(provider.submit(studio.call(api_key="wrong")))
    assert (wrong_key.error.code, wrong_key.pauses) == ("authentication", True)
    assert studio.control("GET", "ledger")["data"] == []


def test_account_balance_history_catalogs_and_share(studio: Studio) -> None:
    studio.control("PUT", "account", credits=500, tier="creator")
    assert "creator tier, 500 credits" in studio.hold(provider.check(studio.call()))
    assert studio.hold(provider.balance(studio.call()))["amount"] == "500"
    since = int(time.time() * 1000) - 1000
    call = studio.call(given=GENERATE, submitted_at=since, options={"share": "1"})
    done = studio.finished(call, studio.hold(provider.submit(call)).provider_job_ids[0])
    picture = studio.call("generate_image", {"prompt": "a cat"})
    studio.hold(provider.submit(picture))
    rows = studio.hold(provider.history(call, since))
    assert {row.operation for row in rows} == {"generate", "generate_image"}
    assert all(row.at is not None and row.at >= since for row in rows)
    for kind in ("models", "image_models", "voices"):
        live = studio.hold(provider.catalog(call, kind))
        assert {row["id"] for row in live} == {row["id"] for row in provider.catalogs[kind].data}
    shared = studio.hold(provider.share(call, done.outputs[0]))
    assert studio.http.get(shared).status_code == 200


@pytest.mark.parametrize(
    ("operation", "given"),
    [
        ("edit_trim", {"end_seconds": 3}),
        ("edit_trim", {"start_seconds": 1.5}),
        ("tools_trim_video", {"end_time": 3}),
        ("edit_crop", {"width": 640, "height": 360}),
        ("edit_crop", {"x": 10}),
    ],
)
def test_what_no_document_calls_required_may_be_left_out(operation: str, given: dict[str, Any]) -> None:
    provider.operations[operation].validate({"video_filename": "a.mp4", **given})
