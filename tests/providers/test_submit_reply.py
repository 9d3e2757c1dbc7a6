"""The reply that a provider's file makes for a repeat means the same as the one that was lost."""

import json
from typing import Any

import pytest

from service import providers
from service.facts import Accepted
from service.providers import Call, Reply

VIDEO = {"prompt": "a cat", "model": "v5", "duration": 5, "quality": "540p", "aspect_ratio": "16:9"}
SUBMITS: list[tuple[str, str, dict[str, Any], tuple[str, ...]]] = [
    ("peakmv", "generate", {"audio_url": "https://example.com/a.mp3"}, ("job-1",)),
    ("pixverse", "text_to_video", VIDEO, ("365275447418921",)),
    ("aimlapi", "video", {"model": "pixverse/v5/text-to-video", "prompt": "a cat"}, ("gen-1:pixverse/v5",)),
    ("progressiverobot", "generate", {"prompt": "a cat"}, ("job-1",)),
    ("progressiverobot", "generate_image", {"prompt": "a cat", "count": 2}, ("job-1", "job-2")),
    ("fal", "queue", {"model": "fal-ai/flux/dev", "input": {"prompt": "a cat"}}, ("r-1",)),
    ("fal", "queue", {"model": "workflows/me/mine", "input": {"prompt": "a cat"}}, ("r-1",)),
    ("replicate", "prediction", {"version": "v", "input": {"prompt": "a cat"}}, ("p1",)),
]


def call(name: str, operation: str, given: dict[str, Any], ids: tuple[str, ...]) -> Call:
    base = providers.load(name).base_url
    return Call(operation=operation, input=given, api_key="k", base_url=base, provider_job_ids=ids, now=1_000_000)


@pytest.mark.parametrize(("name", "operation", "given", "ids"), SUBMITS)
def test_it_is_read_as_the_acceptance_of_these_ids(
    name: str, operation: str, given: dict[str, Any], ids: tuple[str, ...]
) -> None:
    provider = providers.load(name)
    said = provider.submit_reply(call(name, operation, given, ids))
    assert said is not None
    steps = provider.submit(call(name, operation, given, ()))
    request = next(steps)
    assert request.charges
    with pytest.raises(StopIteration) as finished:
        steps.send(Reply(status=provider.submit_status, headers={}, body=json.dumps(said).encode()))
    verdict = finished.value.value
    assert isinstance(verdict, Accepted) and verdict.provider_job_ids == ids


@pytest.mark.parametrize("name", providers.names())
def test_without_an_id_there_is_none(name: str) -> None:
    operation = next(iter(providers.load(name).operations))
    assert providers.load(name).submit_reply(call(name, operation, {"model": "a/b", "input": {}}, ())) is None


def test_what_is_answered_at_once_cannot_be_answered_again() -> None:
    given = {"model": "flux/dev", "prompt": "a cat"}
    assert providers.load("aimlapi").submit_reply(call("aimlapi", "image", given, ("i",))) is None
    run = {"model": "fal.run/fal-ai/flux/dev", "input": {}}
    assert providers.load("fal").submit_reply(call("fal", "queue", run, ("r",))) is None
