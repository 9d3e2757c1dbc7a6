"""A client of the sandbox's Progressive Robot, and what its calls are given."""

import time
from typing import TYPE_CHECKING, Any

import httpx2

if TYPE_CHECKING:
    from .conftest import Sandbox

PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)
WEBP = b"RIFF\0\0\0\0WEBP" + bytes(100)
PICTURE = {"image": ("cat.png", PNG, "image/png")}
TWO_PICTURES = {"source_image": ("a.png", PNG, "image/png"), "target_image": ("b.webp", WEBP, "image/webp")}
CLIP = {"video_filename": "clip.mp4"}


class Studio:
    """A client of the sandbox's Progressive Robot, and of what it is told behind the scenes."""

    def __init__(self, sandbox: "Sandbox") -> None:
        self.sandbox = sandbox

    def call(self, method: str, path: str, *, key: str | None = "sandbox", **more: Any) -> httpx2.Response:
        headers = {**({"Authorization": f"Bearer {key}"} if key else {}), **more.pop("headers", {})}
        return self.sandbox.http.request(method, f"/progressiverobot{path}", headers=headers, **more)

    def get(self, path: str, **more: Any) -> Any:
        return said(self.call("GET", path, **more))

    def post(self, path: str, **fields: Any) -> Any:
        return said(self.call("POST", path, json=fields))

    def generate(self, **fields: Any) -> str:
        return str(self.post("/api/generate", **{"prompt": "a cat", **fields})["job_id"])

    def status(self, job_id: str) -> Any:
        return self.get("/api/status", params={"job_id": job_id})

    def ended(self, job_id: str) -> Any:
        deadline = time.monotonic() + 30
        while (found := self.status(job_id))["status"] in ("queued", "processing"):
            assert time.monotonic() < deadline, found
            time.sleep(0.01)
        return found

    def faults(self, **faults: Any) -> None:
        self.sandbox.faults("progressiverobot", **faults)

    def account(self, **changes: Any) -> Any:
        return self.sandbox.control("PUT", "progressiverobot/account", **changes)

    @property
    def ledger(self) -> list[dict[str, Any]]:
        return self.sandbox.ledger("progressiverobot")

    @property
    def happened(self) -> dict[str, int]:
        return self.sandbox.happened("progressiverobot")

    @property
    def credits(self) -> int:
        return int(self.get("/api/credits")["credits"])


def said(reply: httpx2.Response) -> Any:
    assert reply.status_code == 200, reply.text
    return reply.json()
