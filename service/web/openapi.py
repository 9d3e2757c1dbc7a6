"""The interface as an OpenAPI 3.1 document, made from the route table and the structs it names."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from service import __version__
from service.endpoints import EVENT_TYPES
from service.providers import Provider
from service.states import Json
from service.web import answers, schemas
from service.web.examples import EXAMPLES, HEADERS, PARAMETERS, WEBHOOK_HEADERS
from service.web.problems import PROBLEM
from service.web.queries import Query
from service.web.replies import JSON
from service.web.routing import Link, Route

REF = "#/components/schemas/{name}"
LEFT_OUT = frozenset({"openapi"})  # the document does not describe itself, nor a provider's own API
TITLES = {
    400: "Not readable", 401: "No valid key", 403: "The key lacks the scope", 404: "No such object",
    408: "The body came too slowly", 409: "The object's state forbids it", 410: "It was there, and is not any more",
    413: "The body is too large", 415: "Compressed, or of another type", 416: "A range beyond the end",
    422: "Readable, and refused", 429: "A ceiling was reached", 503: "Not now",
}  # fmt: skip
ABOUT = (
    "Submit a paid AI media job once; every URL that asked gets one signed event. Errors are RFC 9457 problem"
    " documents whose `type` resolves to a page with the remedy. Lists go by `limit` and `cursor`."
    " Each provider's own API, unchanged and so described by the provider, is at"
    " `/v1/providers/{provider}/passthrough/{path}`: `path` as on its own host, a key of ours with the scope"
    " `passthrough` in its own header."
)


def openapi_document(routes: Iterable[Route], *, public_url: str, providers: Mapping[str, Provider]) -> Json:
    """The whole document, as JSON values."""
    shown = [route for route in routes if route.name not in LEFT_OUT and not route.passes]
    named = PARAMETERS | {"provider": _one_of(PARAMETERS["provider"], providers)}
    paths: Json = {}
    for route in shown:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, named)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Callsheet", "version": __version__, "description": ABOUT, "license": _LICENSE},
        "servers": [{"url": public_url}],
        "security": [{"key": []}],
        "paths": paths,
        "webhooks": {kind: _webhook(kind, said) for kind, said in EVENT_TYPES.items()},
        "components": {
            "schemas": _schemas(shown, providers),
            "responses": {"Problem": _problem("What was refused, and the remedy")},
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer", "description": "`callsheet keys create` makes a key"}
            },
        },
    }


_LICENSE = {"name": "Apache-2.0", "identifier": "Apache-2.0"}


def _one_of(parameter: Json, names: Iterable[str]) -> Json:
    return {**parameter, "schema": {"type": "string", "enum": sorted(names)}}


def _operation(route: Route, named: Mapping[str, Json]) -> Json:
    operation: Json = {
        "operationId": route.name,
        "summary": route.summary,
        "tags": [_tag(route.path)],
        "parameters": _parameters(route, named),
        "responses": _responses(route),
    }
    if route.scope is None:
        operation["security"] = []
    else:
        operation["description"] = f"Needs the scope `{route.scope}`."
    if route.body is not None:
        operation["requestBody"] = _request(route)
    elif route.form:
        operation["requestBody"] = {"required": True, "content": {"multipart/form-data": {"schema": _FORM}}}
    elif route.open_query:
        operation["requestBody"] = {"required": True, "content": {JSON: {"schema": {}}}}
    return operation


_FORM = {
    "type": "object",
    "required": ["file"],
    "additionalProperties": False,
    "properties": {"file": {"type": "string", "format": "binary", "description": "The file, with its name and type"}},
}


def _tag(path: str) -> str:
    parts = [part for part in path.split("/") if part]
    return parts[1] if parts[0] == "v1" else "service"


def _parameters(route: Route, named: Mapping[str, Json]) -> list[Json]:
    found = [named[name] for name in re.findall(r"{(\w+)}", route.path)]
    if route.scope is not None:
        found.append(HEADERS["Callsheet-Tenant"])
    return found + [HEADERS[name] for name in route.headers] + [_query(query) for query in route.query]


def _query(query: Query) -> Json:
    shown: Json = {"name": query.name, "in": "query", "description": query.summary, "schema": query.schema}
    return shown | ({"style": "deepObject", "explode": True} if query.schema.get("type") == "object" else {})


def _request(route: Route) -> Json:
    media: Json = {"schema": {"$ref": REF.format(name=route.body.__name__)}}
    if route.name in EXAMPLES:
        media["examples"] = {name: {"value": value} for name, value in EXAMPLES[route.name].items()}
    return {"required": not route.body_optional, "content": {JSON: media}}


# -- responses


def _responses(route: Route) -> Json:
    found: Json = {}
    for status in (route.status, *route.also):
        found[str(status)] = _success(route) if status < 300 else _elsewhere(route)
    for status in _error_statuses(route):
        found[str(status)] = _problem(TITLES[status])
    return found | {"default": {"$ref": "#/components/responses/Problem"}}


def _success(route: Route) -> Json:
    response: Json = {"description": route.summary, "headers": {"Callsheet-Request-Id": {"schema": {"type": "string"}}}}
    if route.status != 204:
        response["content"] = {route.media: {"schema": _returned(route)} if route.returns else {}}
    if route.links:
        response["links"] = {link.to: _link(link) for link in route.links}
    return response


def _elsewhere(route: Route) -> Json:
    return {"description": route.summary, "headers": {"Location": {"schema": {"type": "string", "format": "uri"}}}}


def _returned(route: Route) -> Json:
    row = {"$ref": REF.format(name=route.returns.__name__)}
    if not route.listed:
        return row
    return {
        "type": "object",
        "required": ["data", "next_cursor"],
        "properties": {"data": {"type": "array", "items": row}, "next_cursor": {"type": ["string", "null"]}},
    }


def _link(link: Link) -> Json:
    return {"operationId": link.to, "parameters": {link.param: link.value}}


def _error_statuses(route: Route) -> list[int]:
    found = set(route.errors)
    if route.scope is not None:
        found |= {401, 403, 404}
    if "{" in route.path:
        found.add(404)
    if route.body is not None or route.form:
        found |= {400, 408, 413, 415, 422}
    if not route.open_query:
        found |= {400, 422}
    return sorted(found)


def _problem(description: str) -> Json:
    return {"description": description, "content": {PROBLEM: {"schema": {"$ref": REF.format(name="Problem")}}}}


# -- schemas


def _schemas(routes: Iterable[Route], providers: Mapping[str, Provider]) -> Json:
    named = {kind.__name__: kind for route in routes for kind in (route.body, route.returns) if kind is not None}
    events = (answers.JobEvent, answers.OtherEvent, answers.JobData, answers.ThinJob)
    kinds: list[Any] = [*{**named, **{kind.__name__: kind for kind in events}}.values(), answers.Problem]
    _, components = msgspec.json.schema_components(kinds, ref_template=REF)
    whole_or_thin = [{"$ref": REF.format(name=name)} for name in ("JobData", "ThinJob")]
    components["JobEvent"]["properties"]["data"] = {"anyOf": whole_or_thin}
    create = components[schemas.CreateJob.__name__]["properties"]
    create["provider"]["enum"] = sorted(providers)
    create["operation"]["enum"] = sorted({name for provider in providers.values() for name in provider.operations})
    return components


# -- what we send


def _webhook(kind: str, said: str) -> Json:
    schema = "JobEvent" if kind.startswith("job.") else "OtherEvent"
    body = {"allOf": [{"$ref": REF.format(name=schema)}, {"properties": {"type": {"const": kind}}}]}
    return {
        "post": {
            "summary": said,
            "security": [],
            "parameters": WEBHOOK_HEADERS,
            "requestBody": {"required": True, "content": {JSON: {"schema": body}}},
            "responses": {
                "2XX": {"description": "Taken: answer within 15 seconds; anything else is tried again"},
                "410": {"description": "Gone: the endpoint is disabled"},
            },
        }
    }
