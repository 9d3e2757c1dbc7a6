"""Every route of the table, with every kind of key that must not pass."""

import re
from typing import Any

import pytest

from service.web.routes import ROUTES
from service.web.routing import Route

pytestmark = pytest.mark.anyio

CLOSED = [route for route in ROUTES if route.scope is not None]
OPEN = {
    "receiveCallback", "receiveTokenCallback", "health", "ready", "openapi", "docs", "errors", "llms", "readFile",
    "openOutput",
}  # fmt: skip
IDS = {
    "job_id": "job_00000000000000000000000000", "endpoint_id": "ep_00000000000000000000000000",
    "event_id": "evt_00000000000000000000000000", "delivery_id": "dlv_00000000000000000000000000",
    "key_id": "key_00000000000000000000000000", "tenant": "nobody", "provider": "pixverse", "kind": "models",
    "file_id": "file_00000000000000000000000000",
}  # fmt: skip


def path_of(route: Route) -> str:
    return re.sub(r"{(\w+)}", lambda found: IDS[found[1]], route.path)


def test_only_these_need_no_key() -> None:
    assert {route.name for route in ROUTES if route.scope is None} == OPEN


def test_names_and_places_are_unique() -> None:
    assert len({route.name for route in ROUTES}) == len({(route.method, route.path) for route in ROUTES}) == len(ROUTES)


@pytest.mark.parametrize("route", CLOSED, ids=lambda route: route.name)
async def test_no_route_opens_to_a_wrong_key(call: Any, route: Route) -> None:
    wrong_scope = await call.a_key("jobs:read" if route.scope != "jobs:read" else "metrics")
    expired = await call.a_key(str(route.scope), expires_at="2999-01-01T00:00:00Z")
    await call.context.store.write("UPDATE keys SET expires_at = 1 WHERE expires_at IS NOT NULL")
    garbage = expired[:-1] + ("0" if expired[-1] != "0" else "1")
    for key, status, code in (
        (None, 401, "unauthenticated"),
        ("x" * 40, 401, "unauthenticated"),
        (garbage, 401, "unauthenticated"),
        (expired, 401, "key_expired"),
        (wrong_scope, 403, "forbidden"),
    ):
        response = await call(route.method, path_of(route), key=key, content=b"not even read")
        assert (response.status_code, response.json()["code"]) == (status, code), response.text
        assert ("www-authenticate" in response.headers) == (status == 401)
    assert f"`{route.scope}`" in response.json()["detail"]


@pytest.mark.parametrize("route", CLOSED, ids=lambda route: route.name)
async def test_only_an_admin_may_name_a_tenant(call: Any, route: Route) -> None:
    await call.ok("POST", "/v1/tenants", json={"name": "other"})
    key = await call.a_key(str(route.scope))
    headers = {"callsheet-tenant": "other"}
    if route.scope != "admin":
        said = await call.refused(403, "forbidden", route.method, path_of(route), key=key, headers=headers)
        assert said["param"] == "Callsheet-Tenant"
    headers = {"callsheet-tenant": "nobody-at-all"}
    said = await call.refused(404, "not_found", route.method, path_of(route), headers=headers)
    assert said["param"] == "Callsheet-Tenant"


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Bearer",
        "Bearer ",
        "Basic YTpi",
        "Token x",
        "Bearer \x00",
        "Bearer é",
        "bearer" + " x" * 5000,
        "Bearer a, Bearer b",
    ],
)
async def test_an_authorization_that_is_none(call: Any, authorization: str) -> None:
    headers = {"authorization": authorization.encode("latin-1")}
    await call.refused(401, "unauthenticated", "GET", "/v1/jobs", key=None, headers=headers)


async def test_the_scheme_may_be_written_in_any_case(call: Any) -> None:
    key = await call.a_key("jobs:read")
    for scheme in ("bearer", "BEARER"):
        assert (
            await call("GET", "/v1/jobs", key=None, headers={"authorization": f"{scheme} {key}"})
        ).status_code == 200
