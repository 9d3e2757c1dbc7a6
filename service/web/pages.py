"""/openapi.json, /docs, /docs/errors and /llms.txt: rendered from the route table."""

import base64
import hashlib
from collections.abc import Iterable
from html import escape

from service.endpoints import EVENT_TYPES
from service.web.openapi import ABOUT
from service.web.remedies import REMEDIES
from service.web.routing import Route

STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "code{font-family:ui-monospace,monospace}td,th{padding:.3rem .6rem;text-align:left;vertical-align:top}"
    "table{border-collapse:collapse}tr{border-top:1px solid #8884}:target{background:#fd06}"
    "@media(prefers-color-scheme:dark){body{background:#111;color:#eee}a{color:#8cf}}"
)
_STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
CSP = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def docs_page(routes: Iterable[Route]) -> str:
    """The interface for people: every route with its scope."""
    rows = "".join(
        f"<tr id={route.name}><td><code>{route.method}</code><td><code>{escape(route.path)}</code>"
        f"<td>{_code(route.summary)}<td>{_scope(route)}"
        for route in routes
    )
    kinds = "".join(f"<tr><td><code>{kind}</code><td>{_code(said)}" for kind, said in EVENT_TYPES.items())
    body = (
        f"<h1>Callsheet</h1><p>{_code(ABOUT)}<p><a href=/openapi.json>/openapi.json</a> has every field;"
        f" <a href=/docs/errors>every error</a> has its remedy.<h2>Calls</h2>"
        f"<table><tr><th>Method<th>Path<th>Does<th>Scope{rows}</table><h2>Events</h2><table>{kinds}</table>"
    )
    return _page("Callsheet", body)


def errors_page() -> str:
    """Each code at its own anchor: what a problem's `type` resolves to."""
    rows = "".join(
        f"<h2 id={code}>{escape(row.title)}</h2><p><code>{code}</code><p>{_code(row.text)}"
        for code, row in REMEDIES.items()
    )
    return _page("Callsheet: errors", f"<h1>Errors and remedies</h1><p><a href=/docs>All calls</a>{rows}")


def llms_text(routes: Iterable[Route], public_url: str) -> str:
    """The interface for language models, after llmstxt.org."""
    calls = [f"- `{route.method} {route.path}`: {route.summary}" for route in routes]
    kinds = [f"- `{kind}`: {said}" for kind, said in EVENT_TYPES.items()]
    parts = (
        "# Callsheet",
        f"> {ABOUT}",
        "Send `Authorization: Bearer <key>`, JSON in and out. `POST /v1/jobs` with an `Idempotency-Key` is safe to"
        " repeat; `Prefer: wait=60` waits for the end. Unknown fields inside `input` pass to the provider.",
        "## Calls\n\n" + "\n".join(calls),
        "## Event types\n\n" + "\n".join(kinds),
        f"## More\n\n- [OpenAPI 3.1]({public_url}/openapi.json): every field\n"
        f"- [Errors]({public_url}/docs/errors): every code with its remedy",
    )
    return "\n\n".join(parts) + "\n"


def _page(title: str, body: str) -> str:
    return (
        f'<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content="width=device-width">'
        f"<title>{title}</title><style>{STYLE}</style>{body}</html>"
    )


def _scope(route: Route) -> str:
    return f"<code>{route.scope}</code>" if route.scope else "no key"


def _code(text: str) -> str:
    """Text with `code` marked up."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if place % 2 else part for place, part in enumerate(parts))
