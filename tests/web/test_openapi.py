"""The document: valid OpenAPI 3.1, and true to the table."""

import re
from typing import Any

import pytest
from openapi_spec_validator import validate

from service.endpoints import EVENT_TYPES
from service.web.bodies import rules_of
from service.web.examples import EXAMPLES, PARAMETERS
from service.web.remedies import REMEDIES
from service.web.routes import ROUTES
from service.web.schemas import TYPE_NAMES

pytestmark = pytest.mark.anyio


@pytest.fixture
async def document(call: Any) -> Any:
    return await call.ok("GET", "/openapi.json", key=None)


async def test_it_is_valid_openapi_31(document: Any) -> None:
    assert document["openapi"].startswith("3.1")
    validate(document)


async def test_it_has_every_route_but_itself(document: Any) -> None:
    there = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
    assert there == {(route.method, route.path) for route in ROUTES if route.name != "openapi" and not route.passes}


async def test_every_event_type_is_a_webhook(document: Any) -> None:
    assert set(document["webhooks"]) == set(EVENT_TYPES)
    assert set(EVENT_TYPES) < set(TYPE_NAMES)


async def test_every_operation_has_problem_responses_and_says_who_may(document: Any) -> None:
    for item in document["paths"].values():
        for operation in item.values():
            assert operation["responses"]["default"] == {"$ref": "#/components/responses/Problem"}
            refusals = [status for status in operation["responses"] if status.startswith("4")]
            assert refusals and ("security" in operation) != ("401" in operation["responses"] and "403" in refusals)


async def test_every_link_leads_to_an_operation_and_a_parameter_of_it(document: Any) -> None:
    operations = {op["operationId"]: op for item in document["paths"].values() for op in item.values()}
    for operation in operations.values():
        for response in operation["responses"].values():
            for link in response.get("links", {}).values():
                names = {f"{p['in']}.{p['name']}" for p in operations[link["operationId"]]["parameters"]}
                assert set(link["parameters"]) <= names


async def test_every_field_of_a_request_is_described(document: Any) -> None:
    for route in ROUTES:
        if route.body is not None:
            undescribed = {name for name, rule in rules_of(route.body).items() if "description" not in rule}
            assert undescribed <= {"metadata", "name"} and document["components"]["schemas"][route.body.__name__]


@pytest.mark.parametrize("name", sorted(EXAMPLES))
async def test_examples_are_of_routes_that_there_are(name: str) -> None:
    assert name in {route.name for route in ROUTES if route.body is not None}


async def test_path_patterns_fit_the_ids_that_are_made(call: Any) -> None:
    job = await call.a_finished_job()
    endpoint = await call.an_endpoint()
    event = (await call.ok("GET", "/v1/events"))["data"][0]
    for name, value in (("job_id", job["id"]), ("endpoint_id", endpoint["id"]), ("event_id", event["id"])):
        assert re.search(PARAMETERS[name]["schema"]["pattern"], value)


async def test_remedies_are_sentences() -> None:
    for remedy in REMEDIES.values():
        assert remedy.title and remedy.text.endswith(".")
