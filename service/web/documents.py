"""What is rendered from the route table: once, when it is first asked for."""

from collections.abc import Sequence
from functools import cached_property

import msgspec

from service.web.context import Context
from service.web.openapi import openapi_document
from service.web.pages import docs_page, errors_page, llms_text
from service.web.routing import Route


class Documents:
    def __init__(self, routes: Sequence[Route], context: Context):
        self._routes, self._context = routes, context

    @cached_property
    def openapi(self) -> bytes:
        public_url, providers = self._context.settings.public_url, self._context.providers
        return msgspec.json.encode(openapi_document(self._routes, public_url=public_url, providers=providers))

    @cached_property
    def docs(self) -> bytes:
        return docs_page(self._routes).encode()

    @cached_property
    def errors(self) -> bytes:
        return errors_page().encode()

    @cached_property
    def llms(self) -> bytes:
        return llms_text(self._routes, self._context.settings.public_url).encode()
