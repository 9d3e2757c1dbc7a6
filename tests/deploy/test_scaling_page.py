"""deploy/SCALING.md: what it names is there, and it is two pages."""

import re
from pathlib import Path

from service import settings
from tests.deploy.reading import DEPLOY, ROOT

PAGE = DEPLOY / "SCALING.md"
WORDS = 1_150  # without the tables: two pages


def test_the_targets_that_it_names_can_be_made() -> None:
    named = set(re.findall(r"`make (\w+)", PAGE.read_text()))
    made = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"scaling", "isolation", "claims", "costs"} <= named <= made


def test_the_settings_that_it_names_are_read() -> None:
    named = set(re.findall(r"CALLSHEET_\w+", PAGE.read_text()))
    assert named and named <= {variable for variable, *_ in settings.describe()}


def test_the_files_that_it_names_are_there() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", PAGE.read_text())
    links += re.findall(r"`((?:service|tests|deploy)/[\w/]+\.\w+)`", PAGE.read_text())
    missing = [link for link in links if not (ROOT / link).exists() and not (PAGE.parent / Path(link)).exists()]
    assert links and not missing


def test_it_is_two_pages() -> None:
    prose = [line for line in PAGE.read_text().splitlines() if not line.startswith("|")]
    assert len(" ".join(prose).split()) <= WORDS
