"""Progressive Robot's hosted pages, community prompts, organisations, brand kits, templates and stock media."""

import secrets
from collections import Counter
from functools import partial
from typing import Any

from starlette.responses import PlainTextResponse, Response

from service.sandbox.progressiverobot_calls import Call, Refused, Row
from service.sandbox.progressiverobot_files import ending, kept
from service.sandbox.progressiverobot_histories import VIDEOS
from service.sandbox.progressiverobot_kept import List, rows_of
from service.sandbox.progressiverobot_prices import FEATURES
from service.sandbox.progressiverobot_studio import Kept, Studio
from service.sandbox.replies import Json

HOSTING, STOCK = FEATURES["hosting"], FEATURES["stock"]
ORGS, BRAND = FEATURES["organisations"], FEATURES["brand_kits"]
PAGES, PROMPTS, KITS = "/api/hosting/pages", "/api/community/prompts", "/api/brand-kits"
PROMPTS_PER_PAGE = 20
LARGEST_STOCK_PAGE = 30
STOCK_FOUND = 60  # how much there is of anything
STOCK_KINDS = {"video": "mp4", "image": "png", "music": "mp3"}
INTRO_KINDS = frozenset({"mp4", "mov", "webm"})
ROLES = ("member", "admin", "reviewer")
SUGGESTIONS = 10


# -- hosted pages --


def page_made(studio: Studio, call: Call, page: Kept) -> Kept:
    """A new page gets its public URL and the code that embeds it."""
    page["url"] = f"{studio.origin(call.request)}/p/{page['id']}"
    page["embed_code"] = f'<iframe src="{page["url"]}" allowfullscreen></iframe>'
    return {}


def hosted_page(studio: Studio, call: Call) -> Response:
    """The page as its visitors see it; each visit is counted."""
    page = studio.find(PAGES, call.ids["id"], word="page")
    host = call.request.client.host if call.request.client else ""
    visit = {"day": studio.time()[:10], "visitor": host, "referrer": call.request.headers.get("referer", "direct")}
    studio.visits.setdefault(page["id"], []).append(visit)
    return PlainTextResponse(f"Progressive Robot sandbox: {page.get('title') or page['video_filename']}\n")


def page_analytics(studio: Studio, call: Call) -> Response:
    """Visits of a page."""
    page = studio.find(PAGES, call.ids["id"], word="page")
    visits = studio.visits.get(page["id"], [])
    days = Counter(visit["day"] for visit in visits)
    return Json(
        {
            "total_views": len(visits),
            "unique_views": len({visit["visitor"] for visit in visits}),
            "referrers": Counter(visit["referrer"] for visit in visits),
            "daily": [{"date": day, "views": views} for day, views in sorted(days.items())],
        }
    )


# -- community prompts --


def browse(studio: Studio, call: Call) -> Response:
    """A page of the approved prompts; the sandbox approves all."""
    rows = [row for row in studio.shelves[PROMPTS].values() if _asked_for(row, call)]
    order = "votes" if call.query("sort") == "popular" else "id"
    rows.sort(key=lambda row: row[order], reverse=True)
    number = max(1, call.whole("page", 1))
    shown = rows[(number - 1) * PROMPTS_PER_PAGE : number * PROMPTS_PER_PAGE]
    return Json({"prompts": shown, "page": number, "total": len(rows)})


def _asked_for(row: Kept, call: Call) -> bool:
    tag, model, tags = call.query("tag"), call.query("model"), row["tags"]
    tagged = isinstance(tags, list | str) and tag in tags
    return (not tag or tagged) and (not model or model == row["model"])


def vote(studio: Studio, call: Call) -> Response:
    """1 or -1; a second vote takes the place of the first, as one account has one."""
    row = studio.find(PROMPTS, call.ids["id"], word="prompt")
    if call.fields.get("vote") not in (1, -1):
        raise Refused(400, "vote must be 1 or -1", field="vote")
    row["votes"] = int(call.fields["vote"])
    return Json({"votes": row["votes"]})


def use(studio: Studio, call: Call) -> Response:
    """Counts, and gives the text."""
    row = studio.find(PROMPTS, call.ids["id"], word="prompt")
    row["use_count"] += 1
    return Json({"prompt": row["prompt"], "use_count": row["use_count"]})


def autocomplete(studio: Studio, call: Call) -> Response:
    """Prompts of the history that begin alike, newest first."""
    begun = (call.query("q") or call.query("query")).lower()
    used = (entry.fields["prompt"] for entry in reversed(studio.histories[VIDEOS].values()))
    found = list(dict.fromkeys(prompt for prompt in used if prompt.lower().startswith(begun)))
    return Json({"suggestions": found[:SUGGESTIONS]})


# -- organisations --


def org_made(studio: Studio, call: Call, org: Kept) -> Kept:
    """Who makes an organisation is its first member, and its admin."""
    studio.keep(f"/api/orgs/{org['id']}/members", {"username": studio.account.username, "role": "admin"})
    return {}


def invite(studio: Studio, call: Call) -> Response:
    """An invitation, whose token the mail would carry."""
    org = studio.find("/api/orgs", call.ids["id"], word="organisation")
    call.need("email")
    role = call.choose("role", ROLES) if "role" in call.fields else ROLES[0]
    token = secrets.token_urlsafe(16)
    studio.invites[token] = {"org_id": org["id"], "email": call.fields["email"], "role": role}
    return Json({**studio.invites[token], "token": token})


def accept_invite(studio: Studio, call: Call) -> Response:
    """The invited becomes a member; a token is good once."""
    call.need("token")
    invited = studio.invites.pop(str(call.fields["token"]), None)
    if invited is None:
        raise Refused(404, "Invitation not found")
    member = {"username": invited["email"], "role": invited["role"]}
    return Json({**studio.keep(f"/api/orgs/{invited['org_id']}/members", member), "org_id": invited["org_id"]})


def change_role(studio: Studio, call: Call) -> Response:
    """Another role for a member."""
    org = studio.find("/api/orgs", call.ids["org"], word="organisation")
    member = studio.find(f"/api/orgs/{org['id']}/members", call.ids["id"], word="member")
    member["role"] = call.choose("role", ROLES)
    return Json(member)


# -- brand kits --


def upload_logo(studio: Studio, call: Call) -> Response:
    """A picture of a brand kit."""
    kit = studio.find(KITS, call.ids["id"], word="brand kit")
    kind = call.images()[0]
    kit["logo_filename"] = kept(studio, f"logo_{kit['id']}.{kind}", kind, call.files[0].content)
    return Json({"filename": kit["logo_filename"]})


def upload_intro(studio: Studio, call: Call) -> Response:
    """A clip of a brand kit."""
    kit = studio.find(KITS, call.ids["id"], word="brand kit")
    if not call.files or ending(call.files[0].file_name) not in INTRO_KINDS:
        raise Refused(400, "A video file is required", field="intro")
    kit["intro_filename"] = kept(studio, f"intro_{kit['id']}.mp4", "mp4", call.files[0].content)
    return Json({"filename": kit["intro_filename"]})


# -- stock media --


def stock(kind: str, studio: Studio, call: Call) -> Response:
    """A page of what is found: always the same, and of the sandbox's own files."""
    number, size = max(1, call.whole("page", 1)), max(1, min(call.whole("per_page", 15), LARGEST_STOCK_PAGE))
    first = (number - 1) * size + 1
    numbers = range(first, min(first + size, STOCK_FOUND + 1))
    ending, origin = STOCK_KINDS[kind], studio.origin(call.request)
    found: list[dict[str, Any]] = [
        {"id": at, "title": f"{call.query('query')} {at}".strip(), "url": f"{origin}/media/stock{at}.{ending}"}
        for at in numbers
    ]
    return Json({"results": found, "page": number, "per_page": size, "total": STOCK_FOUND})


def stock_download(studio: Studio, call: Call) -> Response:
    """A stock file becomes one of ours."""
    call.need("url")
    kind = STOCK_KINDS[call.choose("type", tuple(STOCK_KINDS))]
    return Json({"filename": kept(studio, f"stock_{secrets.token_hex(8)}.{kind}", kind)})


LISTS = (
    List(path="/api/templates", word="template", does="list add remove", needs=("name", "prompt")),
    List(
        path=PAGES,
        word="page",
        does="list add show change remove",
        needs=("video_filename",),
        start={"title": "", "description": "", "visibility": "public"},
        tier=HOSTING,
        made=page_made,
    ),
    List(
        path=PROMPTS,
        word="prompt",
        does="add remove",
        needs=("prompt",),
        start={"title": "", "model": None, "tags": [], "votes": 0, "use_count": 0, "status": "approved"},
    ),
    List(path="/api/orgs", word="organisation", does="list add", needs=("name",), tier=ORGS, made=org_made),
    List(path="/api/orgs/{org}/members", word="member", does="list remove", tier=ORGS),
    List(path="/api/orgs/{org}/projects", word="project", does="list add", needs=("name",), tier=ORGS),
    List(path=KITS, word="brand kit", does="list add change remove", needs=("name",), tier=BRAND),
)
ROWS = (
    *rows_of(LISTS),
    Row("GET", f"{PAGES}/{{id}}/analytics", page_analytics, HOSTING),
    Row("GET", "/p/{id}", hosted_page, public=True),
    Row("GET", PROMPTS, browse, public=True),
    Row("POST", f"{PROMPTS}/{{id}}/vote", vote),
    Row("POST", f"{PROMPTS}/{{id}}/use", use),
    Row("GET", "/api/prompts/autocomplete", autocomplete),
    Row("POST", "/api/orgs/{id}/invite", invite, ORGS),
    Row("POST", "/api/orgs/accept-invite", accept_invite, ORGS),
    Row("PUT", "/api/orgs/{org}/members/{id}/role", change_role, ORGS),
    Row("POST", f"{KITS}/{{id}}/upload-logo", upload_logo, BRAND),
    Row("POST", f"{KITS}/{{id}}/upload-intro", upload_intro, BRAND),
    *(
        Row("GET", f"/api/stock/{folder}", partial(stock, kind), STOCK)
        for folder, kind in {"videos": "video", "images": "image", "music": "music"}.items()
    ),
    Row("POST", "/api/stock/download", stock_download, STOCK),
)
