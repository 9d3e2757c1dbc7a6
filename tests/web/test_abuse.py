"""The small form of `make abuse`: whoever asks properly is answered beside each kind, and memory stays where it was."""

from collections.abc import Iterator

import pytest

from tests.bench import abuse

SMALL = {"silent": 600, "dripped": 100, "lines": 50_000, "header": 20}
MOST_MB = 64


@pytest.fixture(scope="module")
def service() -> Iterator[tuple[int, int]]:
    with abuse.serving() as running:
        yield running


@pytest.mark.parametrize("kind", SMALL)
def test_a_healthy_client_is_answered_beside(service: tuple[int, int], kind: str) -> None:
    pid, port = service
    _, _, grown = abuse.beside(kind, pid, port, SMALL[kind], seconds=1.0)  # each request is answered 200
    assert grown < MOST_MB
