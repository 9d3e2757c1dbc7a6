"""TEST_DATABASE_URL with a mistake in it: one sentence before the first test, and no traceback in any of them."""

import os
import subprocess
import sys
import uuid
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from tests.cli.conftest import free_port
from tests.stores import server

ROOT = Path(__file__).parents[2]
SECRET = "canary"


def session(url: str) -> subprocess.CompletedProcess[str]:
    """Of tests that need a server, collected and not run: the URL is looked at before."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/stores/test_money.py"]
    given = {**os.environ, "TEST_DATABASE_URL": url}
    given.pop("PYTEST_XDIST_WORKER", None)
    return subprocess.run(
        [*command, "--collect-only"], cwd=ROOT, env=given, capture_output=True, text=True, timeout=120
    )


def refused(url: str) -> str:
    ended = session(url)
    (said,) = [line for line in ended.stderr.splitlines() if line]
    assert ended.returncode == pytest.ExitCode.USAGE_ERROR and "Traceback" not in ended.stdout + said
    assert said.startswith("ERROR: TEST_DATABASE_URL") and SECRET not in said
    return said


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        (f"mysql://u:{SECRET}@127.0.0.1/db", "is no postgresql://"),
        ("127.0.0.1:5432", "is no postgresql://"),
        (f"postgresql://u:{SECRET}@127.0.0.1:port/db", "cannot be read"),
        (f"postgresql://u:{SECRET}@127.0.0.1:{{port}}/db", "no server answers"),
    ],
)
def test_a_url_without_a_server_behind_it(url: str, sentence: str) -> None:
    assert sentence in refused(url.format(port=free_port()))


@pytest.mark.anyio
async def test_a_role_that_may_not_make_databases_and_one_that_may(tmp_path: Path) -> None:
    direct, low = await server.database(tmp_path), f"low_{uuid.uuid4().hex[:8]}"
    parts, db = urlsplit(direct), await asyncpg.connect(direct)
    url = urlunsplit(parts._replace(netloc=f"{low}@{parts.netloc.rpartition('@')[2]}"))
    try:
        assert "does not exist" in refused(url)
        await db.execute(f"CREATE ROLE {low} LOGIN")
        assert f"ALTER ROLE {low} CREATEDB" in refused(url)
        await db.execute(f"ALTER ROLE {low} CREATEDB")
        assert session(url).returncode == 0
    finally:
        await db.execute(f"DROP ROLE IF EXISTS {low}")
        await db.close()
