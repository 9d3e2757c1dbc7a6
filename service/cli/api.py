"""The service's API as the commands use it: one call, one page of a list, and what went wrong as one sentence."""

import functools
import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from service.cli.environment import is_here, read_settings
from service.cli.failing import Failed, Refused
from service.cli.printing import Printer

if TYPE_CHECKING:
    import httpx2

    from service.settings import Settings

Json = dict[str, Any]
F = TypeVar("F", bound=Callable[..., Any])

TIMEOUT_S = 30.0
PAGE = 100  # the most that the API gives at once
PAUSES_S = (0.3, 1.0, 2.0)  # before a request that may safely be repeated is repeated
_ASTRAY = re.compile(r"[?#\\\x00-\x20\x7f]|/\.{0,2}(?=/|$)")  # an argument that would lead to another path


class NotReached(Failed):
    """No answer came; the request may have arrived."""


class Api:
    def __init__(self, settings: "Settings", *, tenant: str | None = None):
        if settings.api_key is None:
            raise Failed("no API key: set CALLSHEET_API_KEY, or make one with `callsheet keys create --scope admin`")
        import httpx2

        headers = {"Authorization": f"Bearer {as_header('CALLSHEET_API_KEY', settings.api_key.reveal())}"}
        if tenant is not None:
            headers["Callsheet-Tenant"] = as_header("--tenant", tenant)
        # A transport of its own: a proxy of the environment does not know this machine's loopback.
        direct = httpx2.HTTPTransport() if is_here(settings.url) else None
        self._url, self._unnamed = settings.url, "CALLSHEET_URL" not in settings.given
        try:
            self._http = httpx2.Client(base_url=settings.url, headers=headers, timeout=TIMEOUT_S, transport=direct)
        except (ImportError, ValueError) as error:  # of a proxy that the environment names
            raise Refused(f"{settings.url} {_by_proxy(error)}") from None

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def call(self, method: str, path: str, body: Any = None, *, repeat: bool = False, **more: Any) -> Any:
        """The reply's JSON, None for an empty one. `repeat`: the request may be sent again where no answer came."""
        if body is not None:
            more["content"] = json.dumps(body).encode()
            more["headers"] = {"Content-Type": "application/json", **more.get("headers", {})}
        if self._unnamed:
            self._recognise()
        return self._read(self._repeated(method, path, PAUSES_S if repeat else (), more))

    def get(self, path: str, **more: Any) -> Any:
        """A read."""
        return self.call("GET", path, **more)

    def page(self, path: str, filters: Json, *, limit: int, everything: bool) -> Json:
        """Up to `limit` rows of a list, or all, asked for in pages."""
        rows: list[Json] = []
        params = {name: value for name, value in filters.items() if value is not None}
        while True:
            left = PAGE if everything else min(PAGE, limit - len(rows))
            reply = self.get(path, params={**params, "limit": left})
            rows += reply["data"]
            params["cursor"] = cursor = reply.get("next_cursor")
            if cursor is None or (not everything and len(rows) >= limit):
                return {"data": rows, "next_cursor": cursor}

    def _recognise(self) -> None:
        """Nobody said where the service is: what answers at the default address is asked for its name, without the key.

        Ports such as 8080 are often another program's, which the key is nothing for. Raises `Refused`.
        """
        reply = self._send("GET", "/health", {"headers": {"Authorization": ""}})
        try:
            known = reply.is_success and json.loads(reply.content).get("service") == "callsheet"
        except (ValueError, AttributeError):
            known = False
        if not known:
            raise Refused(f"what answers at {self._url} is not Callsheet, and got no key: set CALLSHEET_URL")
        self._unnamed = False

    def _repeated(self, method: str, path: str, pauses: tuple[float, ...], more: Json) -> "httpx2.Response":
        for pause in pauses:
            try:
                return self._send(method, path, more)
            except NotReached as error:
                click.echo(f"{error.message}; trying again in {pause:g} s", err=True)
                time.sleep(pause)
        return self._send(method, path, more)

    def _send(self, method: str, path: str, more: Json) -> "httpx2.Response":
        import httpx2

        if _ASTRAY.search(path):
            raise Refused(f"{path!r} is no path here: give an id or a name as it was shown, and nothing else")
        try:
            return self._http.request(method, path, **more)
        except httpx2.ConnectError:
            remedy = "start it with `callsheet serve`, or say with CALLSHEET_URL where it is"
            raise NotReached(f"no service answers at {self._url}: {remedy}") from None
        except httpx2.TimeoutException:
            raise NotReached(f"{self._url} did not answer in time") from None
        except httpx2.TransportError as error:
            raise NotReached(f"the connection to {self._url} broke ({error})") from None
        except UnicodeError:
            raise Refused("an argument has characters that are no text in UTF-8: see the terminal's locale") from None

    def _read(self, reply: "httpx2.Response") -> Any:
        try:
            said = json.loads(reply.content) if reply.content else None
        except ValueError:
            said = reply
        if reply.is_success and said is not reply:
            return said
        if reply.status_code == 401 and isinstance(said, dict):
            remedy = "give CALLSHEET_API_KEY a key of the service there, or CALLSHEET_URL another address"
            raise Failed(f"{self._url} does not take this key ({said.get('code', 'HTTP 401')}): {remedy}")
        if isinstance(said, dict) and isinstance(said.get("detail"), str):
            raise Failed(f"{said['detail']} ({said['param']})" if said.get("param") else said["detail"])
        raise Failed(f"{self._url} answered HTTP {reply.status_code}, and not as Callsheet does: see CALLSHEET_URL")


def _by_proxy(error: Exception) -> str:
    """Why the environment's proxy cannot be used, which is httpx's to read, and the remedy."""
    remedy = "unset ALL_PROXY, HTTP_PROXY and HTTPS_PROXY, give an http:// one, or list the host in NO_PROXY"
    kind = "a SOCKS proxy" if isinstance(error, ImportError) else "a proxy that cannot be read"
    return f"would be asked through {kind} of the environment, which is not taken: {remedy}"


def as_header(name: str, value: str) -> str:
    """A value that a header can carry. Raises `Refused` that names where it came from."""
    if not value.isascii() or not value.isprintable():
        raise Refused(f"{name} takes visible ASCII characters only")
    return value


@contextmanager
def connected(tenant: str | None = None) -> Iterator[Api]:
    """The API that the settings name."""
    api = Api(read_settings(), tenant=tenant)
    try:
        yield api
    finally:
        api.close()


def calls_api(command: F) -> F:
    """Give a command `api` and `out` first, and the options --json and --tenant."""

    @click.option("--tenant", metavar="NAME", help="Act in this tenant (admin keys).")
    @click.option("--json", "as_json", is_flag=True, help="Print the API's JSON, for scripts.")
    @functools.wraps(command)
    def run(*args: Any, tenant: str | None, as_json: bool, **more: Any) -> Any:
        with connected(tenant) as api:
            return command(api, Printer(as_json=as_json), *args, **more)

    return run  # type: ignore[return-value]


def paged(command: F) -> F:
    """Give a command that lists the options --limit and --all."""
    command = click.option("--all", "everything", is_flag=True, help="All there are.")(command)
    limit = click.option(
        "--limit", type=click.IntRange(1), default=20, show_default=True, help="How many, newest first."
    )
    return limit(command)
