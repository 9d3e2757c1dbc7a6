"""Logs of a process: to stderr, in UTC, without secrets."""

import logging
import time
from collections.abc import Iterator

from service.crypto import RedactingFilter, Secret
from service.masking import Masks
from service.settings import Settings
from service.told import of_secret


def configure_logging(settings: Settings) -> None:
    """Everything that is logged passes the redacting filter, whoever logs it."""
    output = logging.StreamHandler()
    output.addFilter(RedactingFilter(_secrets(settings)))
    form = _Masked("%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S")
    form.masks, form.converter = Masks(_parts(settings)), time.gmtime
    output.setFormatter(form)
    root = logging.getLogger()
    root.handlers[:] = [output]
    root.setLevel(settings.log_level)
    if settings.log_level != "DEBUG":  # the server's start and stop are said in our own words
        logging.getLogger("uvicorn").setLevel(logging.WARNING)


class _Masked(logging.Formatter):
    """The whole line as it leaves: what a stranger said may tell one of the settings' secrets encoded."""

    masks = Masks()

    def format(self, record: logging.LogRecord) -> str:
        return self.masks.text(super().format(record))


def _parts(settings: Settings) -> Iterator[str]:
    for secret in _secrets(settings):
        yield from of_secret(secret.reveal())


def _secrets(settings: Settings) -> Iterator[Secret]:
    for secret in (settings.api_key, settings.master_keys):
        if secret is not None:
            yield secret
    for url in (settings.egress_proxy, settings.operator_url):
        if url is not None:
            yield Secret(url)
    if settings.database_path is None:
        yield Secret(settings.database_url)
    for provider in settings.providers.values():
        yield from filter(None, (provider.api_key, provider.callback_secret))
