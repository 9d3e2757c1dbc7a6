"""deploy/.env.example: what the settings say now, and a file that works when its marks are removed."""

from pathlib import Path

from service import providers, settings
from tests.deploy import env_example


def loaded(path: Path) -> settings.Settings:
    return settings.load({}, path, known_providers=providers.names())


def test_it_is_current() -> None:
    assert env_example.FILE.read_text() == env_example.made(), "run `make env`"


def test_it_names_every_setting_and_what_compose_needs() -> None:
    text = env_example.FILE.read_text()
    for variable, *_ in settings.describe():
        assert f"\n#{variable}=" in text
    assert "\n#POSTGRES_PASSWORD=" in text


def test_copied_as_it_is_it_changes_nothing() -> None:
    assert loaded(env_example.FILE) == settings.load({}, known_providers=providers.names())


def test_with_every_mark_removed_it_says_the_defaults(tmp_path: Path) -> None:
    lines = env_example.FILE.read_text().splitlines()
    opened = [line.removeprefix("#") if line.startswith("#CALLSHEET") and "<" not in line else line for line in lines]
    (tmp_path / ".env").write_text("\n".join(opened))
    assert loaded(tmp_path / ".env") == settings.load({}, known_providers=providers.names())
    changed = "\n".join(opened).replace("RETENTION_JOBS_DAYS=90", "RETENTION_JOBS_DAYS=7")
    (tmp_path / ".env").write_text(changed)
    assert loaded(tmp_path / ".env").retention_jobs_days == 7
