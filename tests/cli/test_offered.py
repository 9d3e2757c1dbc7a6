"""What help, refusals and pages name is there: commands, paths of the API, choices."""

import re
from collections.abc import Iterator
from pathlib import Path

import click

import service
from service.cli import main
from service.web.routes import ROUTES
from tests.cli.test_help import invoke

ROOT = Path(service.__file__).parent
COMMAND = re.compile(r"`callsheet ((?:[a-z]+ ?)+)")
PATH = re.compile(r"\b(GET|POST|PUT|PATCH|DELETE) (/(?:v1|internal)/[\w{}/.-]*[\w}])(?!-->)\b")


def texts() -> Iterator[tuple[str, str]]:
    for pattern in ("*.py", "cli/*.py", "web/**/*.py", "providers/*.py", "../README.md", "../deploy/*.md"):
        for path in ROOT.glob(pattern):
            yield path.name, path.read_text()


def test_every_command_that_a_text_names_is_there() -> None:
    named = {(name, found.strip()) for name, text in texts() for found in COMMAND.findall(text)}
    assert len(named) > 30
    for place, words in named:
        name, *rest = words.split(" ")
        if name in ("listening",):  # what `serve` prints
            continue
        command = main.get_command(click.Context(main), name)
        assert command is not None, f"{place}: callsheet {words}"
        if isinstance(command, click.Group) and rest:
            assert rest[0] in command.commands, f"{place}: callsheet {words}"


def test_every_path_that_a_text_names_is_a_route() -> None:
    shapes = [(route.method, re.compile(re.sub(r"\\{[^}]*\\}", "[^/]+", re.escape(route.path)))) for route in ROUTES]
    named = {(place, *found) for place, text in texts() for found in PATH.findall(text)}
    assert len(named) > 30
    for place, method, path in named:
        assert any(method == known and shape.fullmatch(path) for known, shape in shapes), f"{place}: {method} {path}"


def test_no_choice_of_one_is_offered() -> None:
    for name in ("create", "update"):
        shown = invoke("endpoints", name, "--help").output
        assert "cloudevents" not in shown
        assert "v1a" not in shown
