"""Progressive Robot's credits, keys, profile, sessions, billing and analytics."""

import secrets
from collections import Counter, defaultdict

from starlette.responses import Response

from service.sandbox import progressiverobot_prices as prices
from service.sandbox.jobs import Job
from service.sandbox.progressiverobot_calls import Call, Refused, Row, done
from service.sandbox.progressiverobot_catalog import limits_of
from service.sandbox.progressiverobot_files import kept
from service.sandbox.progressiverobot_histories import PICTURES, SOUNDS, VIDEOS, has_ended_well
from service.sandbox.progressiverobot_kept import List, rows_of
from service.sandbox.progressiverobot_studio import OWNER, Kept, Studio
from service.sandbox.provider import plain, rfc3339
from service.sandbox.replies import Json

KEYS = "/api/keys"
TOP_UP = (100, 50_000)  # credits
SHORTEST_PASSWORD = 8
COOKIE = "session"
CHECKOUT = "https://billing.example.com"  # no such place: nothing is bought here
PROFILE = ("display_name", "bio", "profile_public")
THEMES = ("dark", "light")
PAID_TIERS = tuple(prices.TIERS)[1:]


# -- credits --


def credits(studio: Studio, call: Call) -> Response:
    """The balance."""
    tier = studio.account.tier
    return Json({"credits": studio.account.credits, "tier": tier, "monthly_allowance": prices.TIERS[tier].credits})


def credit_history(studio: Studio, call: Call) -> Response:
    """Every movement of the balance, newest first: all of them, unless a page is asked for."""
    newest_first = studio.transactions[::-1]
    page = call.page() if call.query("limit") else slice(None)
    return Json({"transactions": newest_first[page], "total": len(newest_first)})


def top_up(studio: Studio, call: Call) -> Response:
    """Credits at 1p each; the sandbox takes no money, and books at once."""
    call.need("credits")
    bought = call.fields["credits"]
    if not isinstance(bought, int) or isinstance(bought, bool) or not TOP_UP[0] <= bought <= TOP_UP[1]:
        raise Refused(400, f"credits must be between {TOP_UP[0]} and {TOP_UP[1]}", field="credits")
    studio.account.credits = plain(studio.account.credits + bought)
    studio.note("topup", bought, operation="topup")
    return Json(
        {"credits": studio.account.credits, "purchased": bought, "amount_pence": bought * prices.PENCE_PER_CREDIT}
    )


def subscription(studio: Studio, call: Call) -> Response:
    """The tier."""
    return Json({"tier": studio.account.tier, "status": "active", **limits_of(studio.account.tier)})


# -- keys --


def key_made(studio: Studio, call: Call, row: Kept) -> Kept:
    """A new key, shown in full this once."""
    key = f"pr_{secrets.token_urlsafe(24)}"
    row |= {"prefix": key[:8], "last_used": None, "is_active": True}
    studio.tokens[key] = row["id"]
    return {"key": key}


# -- sessions --


def auth_check(studio: Studio, call: Call) -> Response:
    """Who we are, and what we may."""
    account = studio.account
    return Json(
        {
            "authenticated": True,
            "username": account.username,
            "tier": account.tier,
            "credits": account.credits,
            "limits": limits_of(account.tier),
        }
    )


def signup(studio: Studio, call: Call) -> Response:
    """One more user, who can log in; there is still but one account."""
    username, password = call.text("username"), new_password(call, "password")
    call.need("email")
    if username in studio.passwords:
        raise Refused(400, "Username is taken", field="username")
    studio.passwords[username] = password
    return done(username=username)


def login(studio: Studio, call: Call) -> Response:
    """A session cookie; the API itself opens for keys alone."""
    username, password = call.text("username"), call.text("password")
    if studio.passwords.get(username) != password:
        raise Refused(401, "Invalid username or password")
    reply = done(username=username)
    reply.set_cookie(COOKIE, secrets.token_urlsafe(16), httponly=True, samesite="lax")
    return reply


def logout(studio: Studio, call: Call) -> Response:
    """No session any more."""
    reply = done()
    reply.delete_cookie(COOKIE)
    return reply


def request_reset(studio: Studio, call: Call) -> Response:
    """Says that a mail was sent, whoever was named; the token in it would be the user's name."""
    call.text("username")
    return done()


def reset_password(studio: Studio, call: Call) -> Response:
    """The token is the user's name."""
    username, password = call.text("token"), new_password(call, "new_password")
    if username not in studio.passwords:
        raise Refused(400, "Invalid or expired token", field="token")
    studio.passwords[username] = password
    return done()


def change_password(studio: Studio, call: Call) -> Response:
    """The owner's."""
    if call.text("current_password") != studio.passwords[OWNER]:
        raise Refused(400, "Current password is wrong", field="current_password")
    studio.passwords[OWNER] = new_password(call, "new_password")
    return done()


def new_password(call: Call, name: str) -> str:
    """A password that is long enough; 400 otherwise."""
    password = call.text(name)
    if len(password) < SHORTEST_PASSWORD:
        raise Refused(400, f"{name} must have at least {SHORTEST_PASSWORD} characters", field=name)
    return password


# -- profile and settings --


def profile(studio: Studio, call: Call) -> Response:
    """Who we say we are."""
    return Json({"username": studio.account.username, **studio.profile})


def change_profile(studio: Studio, call: Call) -> Response:
    """The fields that are named."""
    studio.profile |= {name: call.fields[name] for name in PROFILE if name in call.fields}
    return profile(studio, call)


def avatar(studio: Studio, call: Call) -> Response:
    """A picture of us."""
    kind = call.images()[0]
    studio.profile["avatar"] = kept(studio, f"avatar.{kind}", kind, call.files[0].content)
    return Json({"avatar": studio.profile["avatar"]})


def change_email(studio: Studio, call: Call) -> Response:
    """Where mail goes."""
    studio.settings["email"] = call.text("email")
    return done(**studio.settings)


def change_theme(studio: Studio, call: Call) -> Response:
    """dark or light."""
    studio.settings["theme"] = call.choose("theme", THEMES)
    return done(**studio.settings)


# -- billing --


def checkout(studio: Studio, call: Call) -> Response:
    """Where a tier would be paid for."""
    return Json({"url": f"{CHECKOUT}/checkout/{call.choose('tier', PAID_TIERS)}"})


def portal(studio: Studio, call: Call) -> Response:
    """Where the subscription would be managed."""
    return Json({"url": f"{CHECKOUT}/portal"})


def stripe(studio: Studio, call: Call) -> Response:
    """A key that is public in any case."""
    return Json({"publishable_key": "pk_test_sandbox"})


# -- analytics --


def usage(studio: Studio, call: Call) -> Response:
    """By day: what was made, and the credits it cost in the end."""
    days: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for name in (VIDEOS, PICTURES, SOUNDS):
        for job in jobs_of(studio, name):
            days[rfc3339(job.accepted_at)[:10]][name.replace("-", "_")] += 1
    for line in studio.transactions:
        if line.type != "topup":
            days[line.created_at[:10]]["credits"] -= int(line.amount)
    return Json({"days": [{"date": day, **counts} for day, counts in sorted(days.items())]})


def summary(studio: Studio, call: Call) -> Response:
    """All that was made."""
    finished = [entry for entry in studio.histories[VIDEOS].values() if has_ended_well(studio, entry)]
    used = Counter(entry.fields.get("model") or prices.DEFAULT_MODEL for entry in studio.histories[VIDEOS].values())
    seconds = sum(float(entry.job.submit.details["seconds"]) for entry in finished)
    return Json(
        {
            "total_generations": len(studio.histories[VIDEOS]),
            "total_images": len(studio.histories[PICTURES]),
            "video_minutes": round(seconds / 60, 2),
            "favorite_model": next((model for model, _ in used.most_common(1)), None),
        }
    )


def jobs_of(studio: Studio, history: str) -> list[Job]:
    """The jobs of a history."""
    return [entry.job for entry in studio.histories[history].values()]


ROWS = (
    *rows_of((List(path=KEYS, word="key", does="list add remove", needs=("name",), made=key_made),)),
    Row("GET", "/api/credits", credits),
    Row("GET", "/api/credits/history", credit_history),
    Row("POST", "/api/credits/topup", top_up),
    Row("GET", "/api/subscription", subscription),
    Row("GET", "/api/auth/check", auth_check),
    Row("POST", "/api/signup", signup, public=True),
    Row("POST", "/api/login", login, public=True),
    Row("POST", "/api/logout", logout),
    Row("POST", "/api/password-reset/request", request_reset, public=True),
    Row("POST", "/api/password-reset/reset", reset_password, public=True),
    Row("GET", "/api/profile", profile),
    Row("POST", "/api/profile", change_profile),
    Row("POST", "/api/profile/avatar", avatar),
    Row("POST", "/api/settings/change-password", change_password),
    Row("POST", "/api/settings/email", change_email),
    Row("POST", "/api/settings/theme", change_theme),
    Row("POST", "/api/stripe/create-checkout", checkout),
    Row("POST", "/api/stripe/create-portal", portal),
    Row("GET", "/api/stripe/config", stripe, public=True),
    Row("GET", "/api/analytics/usage", usage),
    Row("GET", "/api/analytics/summary", summary),
)
