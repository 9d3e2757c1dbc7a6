"""The interface about itself: /openapi.json, /docs, /docs/errors, /llms.txt."""

from service.web.calls import Call
from service.web.pages import CSP
from service.web.replies import Reply

HTML = "text/html; charset=utf-8"
_HEADERS = (("content-security-policy", CSP),)


async def openapi(call: Call) -> Reply:
    return Reply(status=200, body=call.documents.openapi)


async def docs(call: Call) -> Reply:
    return Reply(status=200, body=call.documents.docs, content_type=HTML, headers=_HEADERS)


async def errors(call: Call) -> Reply:
    return Reply(status=200, body=call.documents.errors, content_type=HTML, headers=_HEADERS)


async def llms(call: Call) -> Reply:
    return Reply(status=200, body=call.documents.llms, content_type="text/plain; charset=utf-8")
