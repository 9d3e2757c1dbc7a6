"""The main job with no loop alive: by `POST /internal/tick` alone, and by `callsheet tick` alone."""

import json

from tests.cli.conftest import VIDEO, Folder, World, until

JOBS = (
    {"provider": "pixverse", "operation": "text_to_video", "input": VIDEO},
    {"provider": "peakmv", "operation": "generate", "input": {"audio_url": "https://example.com/a.mp3"}},
)


def begin(world: World) -> list[str]:
    world.api("POST", "/v1/endpoints", {"url": f"{world.subscriber}/"})
    return [world.api("POST", "/v1/jobs", job)["id"] for job in JOBS]


def arrived(world: World) -> list[str]:
    return sorted(row["type"] for row in world.received() if row["status"] == 200)


def test_ticks_over_http_complete_the_main_job(asleep: World) -> None:
    with asleep.listening("serve", "--port", asleep.port, "--role", "api"):
        jobs = begin(asleep)
        assert {asleep.api("GET", f"/v1/jobs/{job}")["status"] for job in jobs} == {"queued"}

        def done() -> bool:
            assert asleep.api("POST", "/internal/tick", {})["ran"]
            return arrived(asleep).count("job.succeeded") == 2

        until(done, 60)
        assert {asleep.api("GET", f"/v1/jobs/{job}")["status"] for job in jobs} == {"succeeded"}


def test_ticks_alone_complete_the_main_job(asleep: World) -> None:
    asleep.variables["PIXVERSE_POLL"] = "true"  # nobody is there to be called back
    with asleep.listening("serve", "--port", asleep.port, "--role", "api"):
        begin(asleep)
        assert json.loads(asleep.ok("tick", "--json"))["ran"]  # beside an API that runs no loop

    def done() -> bool:
        assert json.loads(asleep.ok("tick", "--json"))["ran"]
        return arrived(asleep).count("job.succeeded") == 2

    until(done, 60)


def test_a_budget_too_short_for_a_submit_says_so(folder: Folder) -> None:
    assert "no submit is started" in folder.run("tick", "--budget", "5s").stderr
    assert folder.run("tick").stderr == ""


def test_beside_a_service_there_is_nothing_to_do(world: World) -> None:
    assert f"in use by process {world.pid} (" in world.ok("tick")
    result = json.loads(world.ok("tick", "--json"))
    assert result["ran"] is False
    assert str(world.pid) in result["held_by"]
