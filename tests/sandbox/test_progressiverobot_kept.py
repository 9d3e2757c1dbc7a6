"""Progressive Robot: histories, files, keys, and the lists that are kept for its client."""

import json

import httpx2
import pytest

from .studio import CLIP, PNG, Studio, said

# -- histories --


def test_a_row_is_in_the_history_from_acceptance_on_newest_first(studio: Studio) -> None:
    studio.faults(duration_s=[60, 60])
    jobs = [studio.generate(prompt=f"cat {number}", steps=number) for number in range(1, 6)]
    found = studio.get("/api/generations")
    assert found["total"] == 5 and [row["job_id"] for row in found["generations"]] == jobs[::-1]
    newest = found["generations"][0]
    asked = {"prompt": "cat 5", "model": "wan-t2v", "steps": 5, "frames": 41, "width": 832, "height": 480}
    assert {name: newest[name] for name in asked} == asked
    assert (newest["status"], newest["filename"], newest["credits_used"]) == ("queued", None, 21)
    page = studio.get("/api/generations", params={"limit": 2, "offset": 1})["generations"]
    assert [row["job_id"] for row in page] == [jobs[3], jobs[2]]
    assert studio.call("GET", "/api/generations", params={"limit": "many"}).status_code == 400


def test_a_page_of_the_history_has_50_rows_and_at_most_200(studio: Studio) -> None:
    studio.post("/api/generate-image", prompt="x", count=100)
    studio.post("/api/generate-image", prompt="x", count=100)
    studio.post("/api/generate-image", prompt="x", count=5)
    sizes = [len(studio.get("/api/image-generations", params=more)["generations"]) for more in ({}, {"limit": 1000})]
    assert sizes == [50, 200]
    assert len(studio.get("/api/image-generations", params={"limit": 200, "offset": 200})["generations"]) == 5


def test_seeds_are_kept_or_drawn(studio: Studio) -> None:
    studio.generate(seed=123456789012345)
    for more in ({"seed": -1}, {}, {"seed": None}):
        studio.generate(**more)
    seeds = [row["seed"] for row in studio.get("/api/generations")["generations"]]
    assert seeds[3] == 123456789012345 and len(set(seeds)) == 4 and min(seeds) >= 0
    studio.post("/api/generate-v2v", **CLIP, prompt="x", seed=7)
    newest = studio.get("/api/generations")["generations"][0]
    assert (newest["seed"], newest["model"]) == (7, "v2v")
    assert [row["input"].get("seed") for row in studio.ledger[:2]] == [123456789012345, -1], "as received"


def test_a_deleted_generation_takes_its_file_along(studio: Studio) -> None:
    name = studio.ended(studio.generate())["filename"]
    row = studio.get("/api/generations")["generations"][0]
    assert studio.call("GET", f"/api/video/{name}").status_code == 200
    assert studio.call("DELETE", f"/api/generations/{row['id']}").status_code == 200
    assert studio.call("GET", f"/api/video/{name}").status_code == 404
    assert studio.get("/api/generations") == {"generations": [], "total": 0}
    assert studio.call("DELETE", f"/api/generations/{row['id']}").status_code == 404
    assert len(studio.ledger) == 1, "what was charged stays so"


def test_favorites_and_the_public_gallery_toggle(studio: Studio) -> None:
    studio.ended(studio.generate(prompt="for all"))
    row_id = studio.get("/api/generations")["generations"][0]["id"]
    flips = [studio.post(f"/api/generations/{row_id}/favorite")["is_favorite"] for _ in range(3)]
    assert flips == [True, False, True]
    assert studio.get("/api/gallery/community", key=None)["total"] == 0
    assert studio.post(f"/api/generations/{row_id}/public") == {"is_public": True}
    assert studio.get("/api/gallery/community", key=None)["generations"][0]["prompt"] == "for all"
    assert studio.get("/api/generations")["generations"][0]["is_favorite"] is True


def test_analytics_count_what_was_made(studio: Studio) -> None:
    studio.ended(studio.generate(model="ltx-t2v", frames=720, frame_rate=24))
    studio.post("/api/generate-image", prompt="x", count=2)
    spent = 1_000_000_000 - studio.credits
    [day] = studio.get("/api/analytics/usage")["days"]
    assert (day["generations"], day["image_generations"], day["credits"]) == (1, 2, spent)
    assert studio.get("/api/analytics/summary") == {
        "total_generations": 1,
        "total_images": 2,
        "video_minutes": 0.5,
        "favorite_model": "ltx-t2v",
    }


# -- files --


def test_ranges_of_made_and_of_uploaded_files(studio: Studio) -> None:
    content = PNG + b"0123456789"
    picture = {"image": ("x.png", content, "image/png")}
    uploaded = said(studio.call("POST", "/api/upload-image", files=picture))["filename"]
    made = studio.ended(studio.generate())["filename"]
    for path in (f"/api/input-image/{uploaded}", f"/api/video/{made}"):
        whole = studio.call("GET", path)
        assert whole.headers["accept-ranges"] == "bytes" and (whole.content == content) == (uploaded in path)
        size = len(whole.content)
        for wanted, first, last in (("4-7", 4, 7), ("10-", 10, size - 1), ("-3", size - 3, size - 1)):
            part = studio.call("GET", path, headers={"Range": f"bytes={wanted}"})
            assert (part.status_code, part.content) == (206, whole.content[first : last + 1])
            assert part.headers["content-range"] == f"bytes {first}-{last}/{size}"
        assert studio.call("GET", path, headers={"Range": f"bytes={size}-"}).status_code == 416


def test_files_are_served_where_their_kind_belongs(studio: Studio) -> None:
    made = studio.ended(studio.generate())["filename"]
    assert studio.call("GET", f"/api/audio/{made}").status_code == 404
    assert studio.call("GET", f"/api/image/{made}").status_code == 404
    assert studio.call("GET", f"/api/video/{made}").headers["content-type"] == "video/mp4"


def test_an_unfinished_or_failed_video_has_no_file(studio: Studio) -> None:
    studio.faults(duration_s=[60, 60])
    running = studio.generate()
    assert studio.call("GET", f"/api/video/generate_{running}.mp4").status_code == 404
    studio.faults(fail=1)
    failed = studio.generate()
    studio.ended(failed)
    assert studio.call("GET", f"/api/video/generate_{failed}.mp4").status_code == 404


def test_a_share_token_opens_its_own_video_and_no_other(studio: Studio) -> None:
    shared = studio.ended(studio.generate(prompt="shared"))["filename"]
    row_id = studio.get("/api/generations")["generations"][0]["id"]
    other = studio.ended(studio.generate())["filename"]
    token = studio.post(f"/api/generations/{row_id}/share")["share_token"]
    assert studio.post(f"/api/generations/{row_id}/share")["share_token"] == token

    def status(name: str, token: str) -> int:
        return studio.call("GET", f"/api/video/{name}", key=None, params={"token": token}).status_code

    assert [status(shared, token), status(other, token), status(shared, "x"), status(shared, "")] == [
        200,
        401,
        401,
        401,
    ]
    about = studio.get(f"/api/share/{token}", key=None)
    assert (about["prompt"], about["filename"]) == ("shared", shared)
    assert httpx2.get(about["video_url"]).content[4:8] == b"ftyp"
    studio.call("DELETE", f"/api/generations/{row_id}")
    assert studio.call("GET", f"/api/share/{token}", key=None).status_code == 404


def test_only_a_finished_video_can_be_shared(studio: Studio) -> None:
    studio.faults(duration_s=[60, 60])
    studio.generate()
    row_id = studio.get("/api/generations")["generations"][0]["id"]
    assert studio.call("POST", f"/api/generations/{row_id}/share").status_code == 400


# -- keys and sessions --


def test_a_made_key_is_shown_once_and_opens_until_it_is_revoked(studio: Studio) -> None:
    made = studio.post("/api/keys", name="My App")
    assert made["key"].startswith(made["prefix"])
    [row] = studio.get("/api/keys", key=made["key"])["keys"]
    assert {"id", "prefix", "name", "created_at", "last_used", "is_active"} <= set(row) and row["last_used"]
    assert made["key"] not in json.dumps(row)
    studio.call("DELETE", f"/api/keys/{made['id']}")
    assert studio.call("GET", "/api/credits", key=made["key"]).status_code == 401
    assert studio.call("GET", "/api/credits", key="wrong").status_code == 401
    assert studio.call("GET", "/api/credits", key=None, headers={"X-Api-Key": "sandbox"}).status_code == 401


def test_a_login_sets_a_cookie_that_opens_nothing(studio: Studio) -> None:
    wrong = studio.call("POST", "/api/login", key=None, json={"username": "sandbox", "password": "wrong"})
    assert wrong.status_code == 401
    reply = studio.call("POST", "/api/login", key=None, json={"username": "sandbox", "password": "sandbox"})
    assert reply.status_code == 200 and reply.headers["set-cookie"].startswith("session=")
    cookie = reply.headers["set-cookie"].partition(";")[0]
    assert studio.call("GET", "/api/credits", key=None, headers={"Cookie": cookie}).status_code == 401
    assert "session=" in studio.call("POST", "/api/logout").headers["set-cookie"]
    studio.sandbox.http.cookies.clear()


def test_passwords_change_and_must_be_long(studio: Studio) -> None:
    change = "/api/settings/change-password"
    short = {"current_password": "sandbox", "new_password": "short"}
    assert studio.call("POST", change, json=short).status_code == 400
    studio.post(change, current_password="sandbox", new_password="long enough")
    assert studio.call("POST", change, json={**short, "new_password": "long enough"}).status_code == 400
    new = {"username": "ada", "password": "long enough", "email": "ada@example.com"}
    assert studio.call("POST", "/api/signup", key=None, json=new).status_code == 200
    assert studio.call("POST", "/api/signup", key=None, json=new).status_code == 400
    assert studio.call("POST", "/api/settings/theme", json={"theme": "pink"}).status_code == 400


# -- lists --

LISTS = [
    ("/api/templates", {"name": "x", "prompt": "x"}, None),
    ("/api/brand-kits", {"name": "x"}, {"font": "Inter"}),
    ("/api/hosting/pages", {"video_filename": "a.mp4"}, {"title": "Look", "password": "x"}),
    ("/api/projects", {"name": "x"}, {"description": "y"}),
    ("/api/projects/{project}/elements", {"name": "x"}, {"name": "y"}),
    ("/api/projects/{project}/comments", {"text": "x"}, None),
]


@pytest.mark.parametrize(("path", "fields", "changes"), LISTS)
def test_what_is_added_is_listed_changed_and_removed(
    studio: Studio, path: str, fields: dict[str, str], changes: dict[str, str] | None
) -> None:
    if "{project}" in path:
        path = path.format(project=studio.post("/api/projects", name="of all")["id"])
    name = path.rsplit("/", 1)[1].replace("-", "_")
    missing = studio.call("POST", path, json={})
    assert missing.status_code == 400 and missing.json()["field"] == next(iter(fields))
    row_id = studio.post(path, **fields, id=77)["id"]
    if changes:
        assert said(studio.call("PUT", f"{path}/{row_id}", json={**changes, "id": 78}))["id"] == row_id
    [found] = [row for row in studio.get(path)[name] if row["id"] == row_id]
    expected = {**fields, **(changes or {})}
    assert {key: found[key] for key in expected} == expected
    assert said(studio.call("DELETE", f"{path}/{row_id}")) == {"success": True}
    assert row_id not in [row["id"] for row in studio.get(path)[name]]
    assert studio.call("DELETE", f"{path}/{row_id}").status_code == 404


def test_a_project_with_its_shots(studio: Studio) -> None:
    project = studio.post("/api/projects", name="Film")["id"]
    path = f"/api/projects/{project}"
    shots = [studio.post(f"{path}/shots", prompt=f"shot {number}")["id"] for number in (1, 2, 3)]
    video = studio.ended(studio.generate(project_id=project))["filename"]
    studio.generate()
    said(studio.call("PUT", f"{path}/shots/{shots[1]}", json={"filename": video, "notes": "good"}))
    order = [shots[2], shots[0], shots[1]]
    assert [shot["id"] for shot in studio.post(f"{path}/shots/reorder", order=order)["shots"]] == order
    for wrong in ([], shots[:2], [*shots, shots[0]], [*shots[:2], 999], "312"):
        assert studio.call("POST", f"{path}/shots/reorder", json={"order": wrong}).status_code == 400
    found = studio.get(path)
    assert [shot["id"] for shot in found["shots"]] == order
    assert [row["filename"] for row in found["generations"]] == [video]
    [listed] = studio.get("/api/projects")["projects"]
    assert (listed["shot_count"], listed["cover"]) == (3, video)
    assert said(studio.call("DELETE", f"{path}/shots/{shots[0]}")) and len(studio.get(path)["shots"]) == 2


def test_a_project_is_duplicated_exported_and_deleted_with_its_shots(studio: Studio) -> None:
    project = studio.post("/api/projects", name="Film")["id"]
    for number in (1, 2, 3):
        shot = studio.post(f"/api/projects/{project}/shots", prompt=f"shot {number}", filename="a.mp4")["id"]
    studio.post(f"/api/projects/{project}/elements", name="the cat")
    copy = studio.post(f"/api/projects/{project}/duplicate")["id"]
    assert copy != project
    assert [shot["prompt"] for shot in studio.get(f"/api/projects/{copy}")["shots"]] == ["shot 1", "shot 2", "shot 3"]
    assert len(studio.get(f"/api/projects/{copy}/elements")["elements"]) == 1
    made = studio.post(f"/api/projects/{copy}/export", resolution="1080p")
    assert made["credits_used"] == 6 and studio.ended(made["job_id"])["filename"].endswith(".mp4")
    assert studio.ledger[0]["operation"] == "projects_export"
    assert studio.call("DELETE", f"/api/projects/{project}").status_code == 200
    for path in ("", "/elements", "/comments", f"/shots/{shot}"):
        method = "PUT" if "shots" in path else "GET"
        assert studio.call(method, f"/api/projects/{project}{path}").status_code == 404
    assert len(studio.get(f"/api/projects/{copy}")["shots"]) == 3


def test_an_export_above_the_tier_is_refused(studio: Studio) -> None:
    project = studio.post("/api/projects", name="Film")["id"]
    assert studio.post(f"/api/projects/{project}/export")["credits_used"] == 3
    studio.account(tier="starter")
    reply = studio.call("POST", f"/api/projects/{project}/export", json={"resolution": "4K"})
    assert (reply.status_code, reply.json()["required_tier"]) == (403, "creator")


def test_a_brand_kit_is_applied_as_a_charged_row_of_the_ledger(studio: Studio) -> None:
    kit = studio.post("/api/brand-kits", name="Ours")["id"]
    logo = {"logo": ("logo.png", PNG, "image/png")}
    name = said(studio.call("POST", f"/api/brand-kits/{kit}/upload-logo", files=logo))["filename"]
    assert studio.call("GET", f"/api/image/{name}").content == PNG
    text = {"intro": ("intro.txt", b"x", "text/plain")}
    assert studio.call("POST", f"/api/brand-kits/{kit}/upload-intro", files=text).status_code == 400
    made = studio.post(f"/api/brand-kits/{kit}/apply", **CLIP)
    assert studio.call("GET", f"/api/video/{made['filename']}").status_code == 200
    assert [row["operation"] for row in studio.ledger] == ["brand_kits_apply"]


def test_a_hosted_page_counts_its_visitors(studio: Studio) -> None:
    page = studio.post("/api/hosting/pages", video_filename="a.mp4", title="Watch")
    assert page["url"] in page["embed_code"]
    for _ in range(3):
        assert "Watch" in httpx2.get(page["url"], headers={"Referer": "https://example.com"}).text
    found = studio.get(f"/api/hosting/pages/{page['id']}/analytics")
    assert (found["total_views"], found["unique_views"]) == (3, 1)
    assert found["referrers"] == {"https://example.com": 3} and found["daily"][0]["views"] == 3


def test_community_prompts_are_voted_on_used_and_sorted(studio: Studio) -> None:
    first = studio.post("/api/community/prompts", prompt="a cat", model="wan-t2v", tags=["cinematic"])["id"]
    second = studio.post("/api/community/prompts", prompt="a dog", model="ltx-t2v", tags=[])["id"]
    assert [studio.post(f"/api/community/prompts/{first}/vote", vote=1)["votes"] for _ in range(2)] == [1, 1]
    assert studio.call("POST", f"/api/community/prompts/{first}/vote", json={"vote": 5}).status_code == 400

    def found(**query: str) -> list[int]:
        return [row["id"] for row in studio.get("/api/community/prompts", key=None, params=query)["prompts"]]

    assert found() == [second, first] and found(sort="popular") == [first, second]
    assert found(tag="cinematic") == [first] and found(model="ltx-t2v") == [second] and found(page="2") == []
    assert studio.post(f"/api/community/prompts/{second}/use") == {"prompt": "a dog", "use_count": 1}
    studio.call("DELETE", f"/api/community/prompts/{first}")
    assert found() == [second]


def test_an_organisation_invites_members(studio: Studio) -> None:
    org = studio.post("/api/orgs", name="Team")["id"]
    token = studio.post(f"/api/orgs/{org}/invite", email="b@example.com", role="reviewer")["token"]
    member = studio.post("/api/orgs/accept-invite", token=token)
    assert studio.call("POST", "/api/orgs/accept-invite", json={"token": token}).status_code == 404
    roles = [row["role"] for row in studio.get(f"/api/orgs/{org}/members")["members"]]
    assert roles == ["admin", "reviewer"] and member["org_id"] == org
    path = f"/api/orgs/{org}/members/{member['id']}"
    assert studio.call("PUT", f"{path}/role", json={"role": "king"}).status_code == 400
    assert said(studio.call("PUT", f"{path}/role", json={"role": "admin"}))["role"] == "admin"
    assert studio.call("DELETE", path).status_code == 200
    assert len(studio.get(f"/api/orgs/{org}/members")["members"]) == 1
    studio.post(f"/api/orgs/{org}/projects", name="Team Project")
    assert len(studio.get(f"/api/orgs/{org}/projects")["projects"]) == 1
    assert studio.get("/api/projects")["projects"] == []


def test_stock_media_is_found_and_kept(studio: Studio) -> None:
    found = studio.get("/api/stock/videos", params={"query": "cat", "page": 2, "per_page": 100})
    assert len(found["results"]) == found["per_page"] == 30 and found["results"][0]["id"] == 31
    url = found["results"][0]["url"]
    assert httpx2.get(url).content[4:8] == b"ftyp"
    kept = studio.post("/api/stock/download", url=url, type="video")["filename"]
    assert studio.call("GET", f"/api/video/{kept}").status_code == 200
    studio.account(require_files=True)
    assert studio.post("/api/edit/speed", video_filename=kept, speed_factor=2)["credits_used"] == 3
