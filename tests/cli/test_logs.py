"""A log line as it leaves a process: no secret of the settings is in it, however a stranger has spelled it."""

import logging
from collections.abc import Iterator

import pytest

from service import providers
from service.cli.logs import configure_logging
from service.settings import load
from tests.test_masking import FORMS

KEY = "the-key/of a+provider~7f3a"


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    logger = logging.getLogger()
    handlers, level = logger.handlers[:], logger.level
    yield logger
    logger.handlers[:] = handlers
    logger.setLevel(level)


@pytest.mark.parametrize("form", FORMS)
def test_no_spelling_of_a_key_is_logged(root: logging.Logger, capsys: pytest.CaptureFixture[str], form: str) -> None:
    environment = {"CALLSHEET_PEAKMV_API_KEY": KEY, "CALLSHEET_DATABASE_URL": "sqlite:///x.db"}
    configure_logging(load(environment, known_providers=providers.names()))
    said = FORMS[form](KEY).decode()
    try:
        raise KeyError(f"<{said}>")
    except KeyError:
        root.exception("a reply (%s) could not be read", said)
    shown = capsys.readouterr().err
    assert "could not be read" in shown and "KeyError" in shown
    assert said not in shown and KEY not in shown
