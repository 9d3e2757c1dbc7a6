"""The image: linted, its commands tried, what it is built from built. No engine runs here, so no image is made."""

import fnmatch
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.cli.conftest import Folder, free_port
from tests.deploy.reading import BIN, DEPLOY, ROOT, Instruction, dockerfile, parsed, run, settings, words


def final(word: str) -> list[Instruction]:
    return [instruction for instruction in dockerfile()[-1] if instruction.word == word]


def test_hadolint_finds_nothing() -> None:
    linted = run(BIN / "hadolint", "--failure-threshold", "style", DEPLOY / "Dockerfile")
    assert (linted.returncode, linted.stdout) == (0, "")


def test_hadolint_would_find_something(tmp_path: Path) -> None:
    bad = tmp_path / "Dockerfile"
    bad.write_text(
        (DEPLOY / "Dockerfile").read_text().replace("3.13-slim-bookworm", "latest") + "RUN cd /tmp && sudo ls\n"
    )
    linted = run(BIN / "hadolint", bad)
    assert linted.returncode == 1 and {"DL3007", "DL3003", "DL3004"} <= set(linted.stdout.replace(":", " ").split())


def test_two_stages_of_one_pinned_image_and_only_the_environment_is_taken_over() -> None:
    build, last = dockerfile()
    assert {stage[0].text.split()[0] for stage in (build, last)} == {"python:3.13-slim-bookworm"}
    assert [row.text for row in final("COPY")] == ["--from=build /opt/callsheet /opt/callsheet"]
    assert not [row for row in last if row.word == "ADD" or "pip" in row.text]


def test_it_runs_as_a_fixed_user_who_is_not_root_and_owns_its_data() -> None:
    (user,) = final("USER")
    assert user.text == "10001:10001"
    (made,) = final("RUN")
    assert "--uid 10001" in made.text and "--owner 10001 --group 10001 --mode 0700 /data" in made.text
    order = [row.word for row in dockerfile()[-1]]
    assert order.index("USER") > order.index("RUN") and [row.text for row in final("VOLUME")] == ["/data"]


def test_it_starts_the_service_where_the_container_can_be_reached() -> None:
    (entry,), (command,) = final("ENTRYPOINT"), final("CMD")
    assert entry.form == ["callsheet"]
    started = parsed(command.form)
    assert (started["command"], started["host"], started["port"]) == ("serve", "0.0.0.0", int(final("EXPOSE")[0].text))
    assert final("STOPSIGNAL")[0].text == "SIGTERM"
    variables = dict(pair.split("=", 1) for pair in words(final("ENV")[0].text))
    ours = {name: value for name, value in variables.items() if name.startswith("CALLSHEET_")}
    assert str(settings(ours).database_path) == "/data/callsheet.db"
    assert variables["TMPDIR"] == final("VOLUME")[0].text  # compose.yaml has the rest read-only


def test_the_health_check_tells_a_service_from_none(tmp_path: Path) -> None:
    (check,) = final("HEALTHCHECK")
    python, *arguments = Instruction("CMD", check.text.partition(" CMD ")[2]).form
    assert python == "python"

    def healthy(port: int) -> bool:
        asked = [part.replace("8080", str(port)) for part in arguments]
        return subprocess.run([sys.executable, *asked], capture_output=True, timeout=20).returncode == 0

    assert not healthy(free_port())
    folder = Folder(tmp_path)
    with folder.listening("serve", "--port", "0") as service:
        assert healthy(int(service.url.rpartition(":")[2]))
    with folder.listening("sandbox", "--port", "0") as other:
        assert not healthy(int(other.url.rpartition(":")[2])), "another server is not this service"


def ignored(path: str) -> bool:
    """As docker reads the file: the last pattern that matches the path, or a folder that it is in, decides."""
    parents = [path, *map(str, Path(path).parents)][:-1]
    verdict = False
    for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines():
        pattern = line.lstrip("!")
        if line and not line.startswith("#"):
            deep = pattern.removeprefix("**/")
            names = [Path(part).name for part in parents] if deep != pattern else parents
            if any(fnmatch.fnmatchcase(name, deep) for name in names):
                verdict = not line.startswith("!")
    return verdict


def test_the_context_is_what_is_copied_and_holds_no_secret() -> None:
    copied = [part for row in dockerfile()[0] if row.word == "COPY" for part in row.text.split()[:-1]]
    assert sorted(copied) == ["LICENSE", "README.md", "pyproject.toml", "service"]
    for path in (*copied, "service/app.py", "service/stores/migrations/0001_start.sqlite.sql"):
        assert (ROOT / path).exists() and not ignored(path), path
    for path in (".env", "callsheet.db", "callsheet.db.key", ".git/config", "tests/conftest.py", ".venv/bin/python"):
        assert ignored(path), path
    assert ignored("service/__pycache__/app.cpython-313.pyc")


def test_what_is_copied_suffices_to_build_and_all_of_it_arrives(tmp_path: Path) -> None:
    listed = run("git", "-C", ROOT, "ls-files", "service", "pyproject.toml", "README.md", "LICENSE").stdout.split()
    for path in listed:
        (tmp_path / "src" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "src" / path).write_bytes((ROOT / path).read_bytes())
    built = run(
        sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", tmp_path, tmp_path / "src"
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    packed = set(zipfile.ZipFile(wheel).namelist())
    assert {path for path in listed if path.startswith("service/")} <= packed
    assert not [name for name in packed if name.startswith("tests")]


def test_the_extras_that_it_installs_are_there() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (install,) = [row.text for row in dockerfile()[0] if row.word == "RUN"]
    assert "'.[postgres]'" in install and "postgres" in extras


@pytest.mark.parametrize("word", ["ONBUILD", "MAINTAINER", "SHELL"])
def test_nothing_hidden_is_in_it(word: str) -> None:
    assert not [row for stage in dockerfile() for row in stage if row.word == word]
