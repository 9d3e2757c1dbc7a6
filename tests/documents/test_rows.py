"""Every row of the documents: it maps to an operation, or is carried out through passthrough against the sandbox."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from service.passthrough.recognising import recognised
from service.providers import load
from tests.documents.rows import DOCUMENTS, Carrying, Row, name_of
from tests.through import BOTH, Client, Sandbox, a_key
from tests.web.served import Served, sandbox_running

pytestmark = pytest.mark.xdist_group("documents")

COUNTS = {"S000": 6, "S001": 129, "S002": 22, "S003": 4, "S004": 2}
ROWS = [(name, row) for name, document in DOCUMENTS.items() for row in document["rows"]]
# What deletes comes last, so that each row finds what it is about.
ORDERED = sorted(ROWS, key=lambda named: (named[0], named[1]["method"] == "DELETE"))


@pytest.fixture(scope="module")
def carrying(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Carrying]]:
    served = Served(tmp_path_factory.mktemp("served"))
    with ExitStack() as stack:
        sandbox_url = stack.enter_context(sandbox_running(served.url))
        stack.enter_context(served.running(sandbox_url))
        sandbox = Sandbox(sandbox_url)
        stack.enter_context(closing(sandbox.http))
        key, found = a_key(served, *BOTH), {}
        for name, document in DOCUMENTS.items():
            sandbox.faults(document["provider"], duration_s=[0.7, 0.7])  # so that there is something to cancel
            client = stack.enter_context(closing(Client(served.url, document["provider"], key)))
            found[name] = Carrying(client, name)
        yield found


@pytest.fixture(scope="module")
def ordinary(carrying: dict[str, Carrying]) -> str:
    body = {"name": "ordinary", "scopes": ["passthrough"]}
    return str(carrying["S001"].client.us.post("/v1/keys", json=body).json()["key"])


def test_the_documents_have_as_many_rows_as_were_counted(capsys: pytest.CaptureFixture[str]) -> None:
    assert {name: len(document["rows"]) for name, document in DOCUMENTS.items()} == COUNTS
    making = Counter(name for name, row in ROWS if "operation" in row)
    with capsys.disabled():
        for name, count in sorted(COUNTS.items()):
            print(f"\n{name}: {count} rows, {making[name]} make jobs, {count - making[name]} pass through", end="")


def test_the_sandbox_was_made_from_the_same_rows() -> None:
    """Two readings of the same page, made apart."""
    path = Path(__file__).parents[1] / "sandbox" / "s001_rows.json"
    others = {(row["method"], row["path"]) for row in json.loads(path.read_bytes())}
    assert others == {(row["method"], row["path"]) for row in DOCUMENTS["S001"]["rows"]}


def test_no_row_is_there_twice_under_one_name() -> None:
    for document in DOCUMENTS.values():
        rows = Counter((name_of(row), row.get("operation")) for row in document["rows"])
        assert max(rows.values()) == 1


@pytest.mark.parametrize(
    ("document", "row"), ORDERED, ids=[f"{name} {name_of(row)} {row.get('operation', '')}" for name, row in ORDERED]
)
def test_a_row_is_an_operation_or_passes_through(
    carrying: dict[str, Carrying], ordinary: str, document: str, row: Row
) -> None:
    through = carrying[document]
    if row.get("account"):
        assert refused(through, row, ordinary)
    reply = through.carry_out(row)
    assert reply.status_code < 300, reply.text
    if through.client.provider == "pixverse":
        assert reply.json()["ErrCode"] == 0, reply.text
    assert ("callsheet-job-id" in reply.headers) == ("operation" in row)
    if "operation" in row:
        job = through.client.job(reply)
        assert job["operation"] == row["operation"]
        assert job["status"] in ("processing", "succeeded") and (job["provider_job_ids"] or job["outputs"])


def refused(through: Carrying, row: Row, key: str) -> bool:
    """Whether an ordinary key is refused. The path is as it stands in the document: nothing was made for it."""
    name, prefix = load(through.client.provider).key_header
    reply = through.client.http.request(
        row["method"], through.client.base + row["path"].replace("{", "").replace("}", ""), headers={name: prefix + key}
    )
    return reply.status_code == 403 and reply.json()["code"] == "forbidden"


@pytest.mark.parametrize(
    ("document", "row"), [named for named in ROWS if "operation" not in named[1]],
    ids=[f"{name} {name_of(row)}" for name, row in ROWS if "operation" not in row],
)  # fmt: skip
def test_what_makes_no_job_is_known_for_what_it_is(document: str, row: Row) -> None:
    provider = load(DOCUMENTS[document]["provider"])
    path, query = row["path"].replace("{", "").replace("}", ""), ""
    if "query" in row:
        query = "&".join(f"{name}=1" for name in row["query"])
    seen: Any = recognised(provider, row["method"], path, query, b"")
    wanted = "account" if row.get("account") else "status" if row.get("status") else seen.kind
    assert seen.kind == wanted and seen.kind != "submit"
    assert seen.kind != "status" or seen.provider_job_ids
