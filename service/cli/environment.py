"""The settings of a command: CALLSHEET_ variables over `.env` in the working directory."""

import os
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from service.settings import Settings

DOTENV = Path(".env")


def read_settings() -> "Settings":
    """Raises `SettingsError`, with a sentence for everything that cannot be used."""
    from service import providers, settings

    return settings.load(os.environ, DOTENV, known_providers=providers.names())


def is_here(url: str) -> bool:
    """Whether the URL's host is this machine's loopback."""
    from service.addresses import is_loopback_host

    return is_loopback_host(urlsplit(url).hostname or "")
