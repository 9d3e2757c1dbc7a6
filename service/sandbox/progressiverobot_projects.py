"""Progressive Robot's projects with their shots, elements and comments."""

from typing import Any

from starlette.responses import Response

from service.sandbox.progressiverobot_calls import Call, Refused, Row
from service.sandbox.progressiverobot_histories import VIDEOS, row_view
from service.sandbox.progressiverobot_kept import List, rows_of
from service.sandbox.progressiverobot_studio import Kept, Studio
from service.sandbox.replies import Json

PROJECTS = "/api/projects"
COPIED = ("shots", "elements")
SHOT: Kept = {
    "prompt": "",
    "notes": "",
    "duration": None,
    "shot_type": None,
    "camera_move": None,
    "transition": None,
    "filename": None,
}


def shots_of(studio: Studio, project: Kept) -> list[Kept]:
    """A project's shots, in their order."""
    return list(studio.shelves[f"{PROJECTS}/{project['id']}/shots"].values())


def in_list(studio: Studio, call: Call, project: Kept) -> Kept:
    """How many shots, and the first that has a video."""
    shots = shots_of(studio, project)
    cover = next((shot["filename"] for shot in shots if shot.get("filename")), None)
    return {"shot_count": len(shots), "cover": cover}


def alone(studio: Studio, call: Call, project: Kept) -> Kept:
    """The shots, and the videos that were made for the project."""
    made_for_it: list[dict[str, Any]] = [
        row_view(studio, VIDEOS, entry)
        for entry in studio.histories[VIDEOS].values()
        if entry.fields.get("project_id") == project["id"]
    ]
    return {"shots": shots_of(studio, project), "generations": made_for_it}


def duplicate(studio: Studio, call: Call) -> Response:
    """A copy, with all shots and elements."""
    project = studio.find(PROJECTS, call.ids["id"], word="project")
    copy = studio.keep(PROJECTS, {**project, "name": f"{project['name']} (copy)"})
    for name in COPIED:
        for row in list(studio.shelves[f"{PROJECTS}/{project['id']}/{name}"].values()):
            studio.keep(f"{PROJECTS}/{copy['id']}/{name}", row)
    return Json({**copy, **in_list(studio, call, copy)})


def reorder(studio: Studio, call: Call) -> Response:
    """The shots in the order of the ids given, which must be all of them."""
    project = studio.find(PROJECTS, call.ids["project"], word="project")
    call.need("order")
    shelf, order = f"{PROJECTS}/{project['id']}/shots", call.fields["order"]
    shots = studio.shelves[shelf]
    if not isinstance(order, list) or sorted(map(str, order)) != sorted(map(str, shots)):
        raise Refused(400, "order must name each shot of the project once", field="order")
    studio.shelves[shelf] = {int(shot_id): shots[int(shot_id)] for shot_id in order}
    return Json({"shots": shots_of(studio, project)})


LISTS = (
    List(
        path=PROJECTS,
        word="project",
        does="list add show change remove",
        needs=("name",),
        start={"description": "", "model": None},
        listed=in_list,
        shown=alone,
    ),
    List(path=f"{PROJECTS}/{{project}}/shots", word="shot", does="add change remove", start=SHOT),
    List(path=f"{PROJECTS}/{{project}}/elements", word="element", needs=("name",), start={"type": "character"}),
    List(
        path=f"{PROJECTS}/{{project}}/comments",
        word="comment",
        does="list add remove",
        needs=("text",),
        start={"shot_id": None},
    ),
)
ROWS = (
    *rows_of(LISTS),
    Row("POST", f"{PROJECTS}/{{id}}/duplicate", duplicate),
    Row("POST", f"{PROJECTS}/{{project}}/shots/reorder", reorder),
)
