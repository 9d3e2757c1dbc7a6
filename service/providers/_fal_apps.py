"""fal's names: models, the apps that keep their requests, and both in a path.

`fal.run/<model>` is a run on the host of that name, whose reply is the result itself.
"""

import re
from typing import Any

from service.providers._reading import id_text, on_origin, path_part, path_parts
from service.states import Json, Record

_PART = r"[A-Za-z0-9][\w.-]*"
RUN_HOST = "fal.run"
NO_OWNERS = ("fal.run/", "api.fal.ai/")  # hosts of fal's, not names
MODEL = re.compile(rf"(?:(?:workflows|comfy)/{_PART}|(?!(?:workflows|comfy)/){_PART})(?:/{_PART})+", re.A)
# The two published clients: apps in these keep their requests below three parts, all others below two.
NAMESPACES = frozenset({"workflows", "comfy"})
OLD_ID = re.compile(r"([0-9]+)-([A-Za-z0-9-]+)")  # as the published clients read it: 123-name is 123/name
REQUESTS = "requests"


class Places(Record, frozen=True, kw_only=True):
    """Where a request's status and result are asked for, and where it is canceled."""

    status_url: str
    response_url: str
    cancel_url: str


def model_of(named: str) -> str | None:
    """The model's path, an old id written as it is today; None for what is no model's."""
    named = named.removeprefix(f"{RUN_HOST}/")
    if named.startswith(NO_OWNERS):
        return None
    model = OLD_ID.sub(r"\1/\2", named) if OLD_ID.fullmatch(named) else named
    return model if MODEL.fullmatch(model) else None


def is_run(given: Json) -> bool:
    """Whether this submit goes to fal.run."""
    return str(given.get("model", "")).startswith(f"{RUN_HOST}/")


def app_of(model: str) -> str:
    """The app that a model belongs to, whatever stands below it in the model's path."""
    parts = model.split("/")
    return "/".join(parts[: 3 if parts[0] in NAMESPACES else 2])


def submitted_to(path: str) -> str | None:
    """The model that a POST to this path runs, behind `fal.run/` if it does so there; None for what stands below a
    request, and what is no model's.
    """
    named = "/".join(path_parts(path))
    model = model_of(named)
    if model is None or REQUESTS in model.removeprefix(app_of(model)).split("/"):
        return None
    return f"{RUN_HOST}/{model}" if is_run({"model": named}) else model


def asked_about(path: str) -> str | None:
    """The request whose status or result this path is; None for every other path."""
    parts = path_parts(path)
    below = 3 if parts and parts[0] in NAMESPACES else 2
    match parts[below:]:
        case ("requests", named) | ("requests", named, "status") if id_text(named):
            return named
    return None


def split_id(provider_job_id: str, given: Json) -> tuple[str | None, str]:
    """The model and the request's own id.

    A followed request has no model of ours: its id then stands below its model, `<owner>/<name>/requests/<id>`.
    """
    below, _, request_id = provider_job_id.rpartition(f"/{REQUESTS}/")
    return model_of(below or str(given.get("model", ""))), request_id


def places(base_url: str, model: str, request_id: str, named: Json) -> Places:
    """The URLs that the submit's reply named for this request; else those below its app."""
    part = path_part(request_id)
    documented = f"{base_url}/{app_of(model)}/{REQUESTS}/{part}"

    return Places(
        status_url=_named(named.get("status_url"), part, base_url) or f"{documented}/status",
        response_url=_named(named.get("response_url"), part, base_url) or documented,
        cancel_url=_named(named.get("cancel_url"), part, base_url) or f"{documented}/cancel",
    )


def _named(url: Any, part: str, base_url: str) -> str | None:
    """The URL if it is about this request, and on the origin that the key belongs to."""
    ours = on_origin(url, base_url) and url.startswith(f"{base_url}/")
    return url if ours and f"/{REQUESTS}/{part}" in url else None
