"""A provider's scripts, as far as the service sees them: a client of one provider through passthrough."""

from typing import Any

import httpx2

from service.providers import load as load_provider
from tests.web.served import ADMIN, Served

BOTH = "passthrough", "passthrough:account", "jobs:read", "events:read"


class Client:
    """Speaks to one provider through the service, its key in that provider's own header; `us` is the admin."""

    def __init__(self, url: str, provider: str, key: str, **more: Any):
        self.provider, self.key = provider, key
        self.base = f"{url}/v1/providers/{provider}/passthrough"
        self.http = httpx2.Client(timeout=60, **more)
        self.us = httpx2.Client(base_url=url, headers={"authorization": f"Bearer {ADMIN}"}, timeout=60, **more)

    def close(self) -> None:
        self.http.close()
        self.us.close()

    def __call__(self, method: str, path: str, **more: Any) -> httpx2.Response:
        name, prefix = load_provider(self.provider).key_header
        headers = {name: prefix + self.key, **more.pop("headers", {})}
        return self.http.request(method, self.base + path, headers=headers, **more)

    def job(self, named: httpx2.Response | str) -> Any:
        job_id = named if isinstance(named, str) else named.headers["callsheet-job-id"]
        return self.us.get(f"/v1/jobs/{job_id}").json()

    def jobs(self) -> list[Any]:
        rows: list[Any] = self.us.get("/v1/jobs?limit=100").json()["data"]
        return rows

    def timeline(self, job: Any) -> list[str]:
        entries = self.us.get(f"/v1/jobs/{job['id']}/timeline").json()["data"]
        return [entry.get("outcome") or entry.get("type") or entry["kind"] for entry in entries]

    def events(self, job: Any, kind: str = "") -> list[str]:
        rows = self.us.get(f"/v1/events?limit=100&job={job['id']}").json()["data"]
        return [row["type"] for row in rows if kind in ("", row["type"])]

    def tick(self) -> None:
        assert self.us.post("/internal/tick", json={"budget_seconds": 60}).json()["ran"]


class Sandbox:
    """What the sandbox is told, and tells, behind the scenes."""

    def __init__(self, url: str):
        self.url, self.http = url, httpx2.Client(timeout=10)

    def faults(self, provider: str, **faults: Any) -> None:
        self.http.post(f"{self.url}/_sandbox/{provider}/reset")
        body = {"duration_s": [0.05, 0.1], **faults}
        assert self.http.put(f"{self.url}/_sandbox/{provider}/faults", json=body).status_code == 200

    def happened(self, provider: str, fault: str) -> int:
        return int(self.http.get(f"{self.url}/_sandbox/{provider}/faults").json()["happened"][fault])

    def ledger(self, provider: str) -> list[Any]:
        rows: list[Any] = self.http.get(f"{self.url}/_sandbox/{provider}/ledger").json()["data"]
        return rows


def a_key(served: Served, *scopes: str) -> str:
    """A key of the default tenant with these scopes."""
    admin = {"authorization": f"Bearer {ADMIN}"}
    body = {"name": "a test", "scopes": list(scopes)}
    return str(httpx2.post(f"{served.url}/v1/keys", json=body, headers=admin).json()["key"])
