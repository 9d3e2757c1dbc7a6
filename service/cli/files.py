"""`callsheet files`: upload what jobs name, see and delete it."""

import mimetypes
from pathlib import Path

import click

from service.cli.api import Api, calls_api, paged
from service.cli.printing import Printer

COLUMNS = "id name content_type bytes expires_at"


@click.group()
def command() -> None:
    """Upload files for jobs to name, see and delete them.

    \b
    callsheet files upload cat.png                       prints file_..., for any field that takes a file
    callsheet submit pixverse image_to_video -f img_id=file_... ...
    """


@command.command()
@click.argument("path", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--type", "content_type", help="Its media type, where its name does not say it.")
@calls_api
def upload(api: Api, out: Printer, path: Path, content_type: str | None) -> None:
    """Upload a file; prints its id."""
    kind = content_type or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    with path.open("rb") as content:
        file = api.call("POST", "/v1/files", files={"file": (path.name, content, kind)})
    out.said(file, file["id"])


@command.command("list")
@paged
@calls_api
def list_files(api: Api, out: Printer, limit: int, everything: bool) -> None:
    """The files, newest first."""
    out.page(api.page("/v1/files", {}, limit=limit, everything=everything), COLUMNS)


@command.command()
@click.argument("file_id", metavar="FILE_ID")
@calls_api
def delete(api: Api, out: Printer, file_id: str) -> None:
    """Delete a file; jobs that were sent with it go on."""
    out.said(api.call("DELETE", f"/v1/files/{file_id}"), f"{file_id} is deleted")
