"""Keys, tenants, callback secrets over HTTP."""

from typing import Any

import pytest

from service.scopes import DEFAULT_SCOPES
from service.web import answers
from tests.web.shapes import has_exactly

pytestmark = pytest.mark.anyio


async def test_a_key_is_shown_once_works_and_is_revoked(call: Any) -> None:
    body = {"name": "worker", "scopes": ["jobs:read"], "expires_at": "2999-01-01T00:00:00Z"}
    made = await call.ok("POST", "/v1/keys", json=body)
    has_exactly(made, answers.KeyWithText)
    assert (await call("GET", "/v1/jobs", key=made["key"])).status_code == 200
    rows = (await call.ok("GET", "/v1/keys"))["data"]
    assert rows == [{name: value for name, value in made.items() if name != "key"}]
    has_exactly(rows[0], answers.Key)
    assert (await call("DELETE", f"/v1/keys/{made['id']}")).status_code == 204
    await call.refused(401, "unauthenticated", "GET", "/v1/jobs", key=made["key"])
    await call.refused(404, "not_found", "DELETE", f"/v1/keys/{made['id']}")


async def test_keys_are_listed_by_tenant_and_page(call: Any) -> None:
    await call.ok("POST", "/v1/tenants", json={"name": "other"})
    for tenant in ("default", "default", "other"):
        await call.a_key("jobs:read", tenant=tenant)
    page = await call.ok("GET", "/v1/keys?limit=2")
    assert [row["tenant"] for row in page["data"]] == ["other", "default"]
    rest = await call.ok("GET", f"/v1/keys?limit=2&cursor={page['next_cursor']}")
    assert len(rest["data"]) == 1 and rest["next_cursor"] is None
    assert len((await call.ok("GET", "/v1/keys?tenant=other"))["data"]) == 1
    await call.refused(404, "not_found", "GET", "/v1/keys?tenant=nobody")


async def test_a_key_without_a_tenant_is_of_the_tenant_one_acts_in(call: Any) -> None:
    await call.ok("POST", "/v1/tenants", json={"name": "other"})
    body = {"name": "k", "scopes": ["jobs:read"]}
    made = await call.ok("POST", "/v1/keys", json=body, headers={"callsheet-tenant": "other"})
    assert made["tenant"] == "other"


async def test_tenants_are_made_listed_and_deleted_while_they_own_nothing(call: Any) -> None:
    for _ in range(2):
        made = await call.ok("POST", "/v1/tenants", json={"name": "other"})
    has_exactly(made, answers.Tenant)
    assert [row["name"] for row in (await call.ok("GET", "/v1/tenants"))["data"]] == ["other", "default"]
    await call.a_key("jobs:read", tenant="other")
    await call.refused(409, "tenant_in_use", "DELETE", "/v1/tenants/other")
    await call.refused(409, "tenant_in_use", "DELETE", "/v1/tenants/default")
    key_id = (await call.ok("GET", "/v1/keys?tenant=other"))["data"][0]["id"]
    await call.ok("DELETE", f"/v1/keys/{key_id}")
    assert (await call("DELETE", "/v1/tenants/other")).status_code == 204
    await call.refused(404, "not_found", "DELETE", "/v1/tenants/other")


async def test_the_callback_secret_is_shown_and_rotated(call: Any) -> None:
    before = await call.ok("GET", "/v1/callback-secret")
    rotated = await call.ok("POST", "/v1/callback-secret/rotate", json={"overlap_seconds": 60})
    has_exactly(rotated, answers.NewSecret)
    after = await call.ok("GET", "/v1/callback-secret")
    assert after == {"secret": rotated["secret"]} != before
    for scope in ("secrets:write", "secrets:read"):
        key = await call.a_key(scope)
        assert await call.ok("GET", "/v1/callback-secret", key=key) == after
    await call.refused(403, "forbidden", "POST", "/v1/callback-secret/rotate", key=key)
    ordinary = await call.a_key(*DEFAULT_SCOPES)
    await call.refused(403, "forbidden", "GET", "/v1/callback-secret", key=ordinary)
