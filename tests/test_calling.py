"""Which URL of ours a provider is told: none that would make it refuse the submit."""

import pytest

from service import providers
from service.calling import Calling
from service.models import Credential
from service.settings import load
from tests.builders import a_job

HERE, THERE = "http://127.0.0.1:9/replicate", "https://api.replicate.com"


def told(provider: str, operation: str, *, public: str, base: str = THERE, source: str = "environment") -> str | None:
    settings = load({"CALLSHEET_PUBLIC_URL": public}, known_providers=providers.names())
    calling = Calling(settings=settings, provider_of=providers.load, token_of=lambda subject: "token")
    credential = Credential(num=1, tenant=1, provider=provider, source=source, api_key="k", base_url=base)
    return calling.url_for(a_job(), credential, providers.load(provider).operations[operation])


@pytest.mark.parametrize(
    ("public", "base", "source", "is_told"),
    [
        ("https://callsheet.example.com", THERE, "environment", True),
        ("https://callsheet.example.com:8443", THERE, "api", True),
        ("http://callsheet.example.com", THERE, "environment", False),
        ("http://203.0.113.7:8080", THERE, "api", False),
        ("http://callsheet.example.com", "http://sandbox:8090/replicate", "sandbox", True),
        ("http://127.0.0.1:8080", HERE, "sandbox", True),
        ("http://localhost:8080", HERE, "environment", True),
        ("http://localhost:8080", THERE, "environment", False),
    ],
)
def test_a_provider_that_takes_https_alone_is_told_nothing_else(
    public: str, base: str, source: str, is_told: bool
) -> None:
    for operation in ("prediction", "model_prediction", "deployment_prediction"):
        assert (told("replicate", operation, public=public, base=base, source=source) is not None) is is_told


def test_a_provider_that_takes_any_url_is_told_ours() -> None:
    url = told("fal", "queue", public="http://callsheet.example.com", base="https://queue.fal.run")
    assert url == "http://callsheet.example.com/v1/callbacks/fal/token"
