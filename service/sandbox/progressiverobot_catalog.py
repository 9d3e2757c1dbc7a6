"""Progressive Robot's models, voices, prices and tiers, as its catalog calls list them."""

from starlette.responses import Response

from service.sandbox import progressiverobot_prices as prices
from service.sandbox.progressiverobot_calls import Call, Refused, Row
from service.sandbox.progressiverobot_studio import Kept, Studio
from service.sandbox.replies import Json


def models(studio: Studio, call: Call) -> Response:
    """Video models, with what a submit that does not say gets."""
    defaults = {
        "width": prices.WIDTH,
        "height": prices.HEIGHT,
        "frames": prices.FRAMES,
        "steps": prices.STEPS,
        "frame_rate": prices.FRAME_RATE,
    }
    shown = [
        {"id": key, "name": model.name, "type": model.kind, "defaults": defaults, "cost": _rates(model)}
        for key, model in prices.MODELS.items()
    ]
    return Json({"models": shown})


def _rates(model: prices.Model) -> dict[str, float]:
    return {"base": float(model.base), "per_frame": float(model.per_frame), "per_step": float(model.per_step)}


def image_models(studio: Studio, call: Call) -> Response:
    """Image models."""
    defaults = {"width": prices.WIDTH, "height": prices.HEIGHT, "steps": prices.STEPS}
    shown = [
        {"id": key, "name": name, "defaults": defaults, "credit_cost": cost}
        for key, (name, cost) in prices.IMAGE_MODELS.items()
    ]
    return Json({"models": shown})


def voices(studio: Studio, call: Call) -> Response:
    """Voices of speech."""
    return Json({"voices": [{"id": key, "description": text} for key, text in prices.VOICES.items()]})


def generation_cost(studio: Studio, call: Call) -> Response:
    """A quote."""
    model = call.query("model", prices.DEFAULT_MODEL)
    frames, steps = call.whole("frames", prices.FRAMES), call.whole("steps", prices.STEPS)
    if model in prices.MODELS:
        cost = prices.MODELS[model].cost(frames, steps)
    elif model in prices.IMAGE_MODELS:
        cost = prices.IMAGE_MODELS[model][1]
    elif model == prices.VIDEO_TO_VIDEO:
        cost = prices.VIDEO_TO_VIDEO_CREDITS
    else:
        raise Refused(400, f"Unknown model: {model}", field="model")
    return Json({"cost": cost, "model": model, "frames": frames, "steps": steps})


def pricing(studio: Studio, call: Call) -> Response:
    """Tiers and rules; the page names no prices of the tiers."""
    tiers = [{"id": name, **limits_of(name)} for name in prices.TIERS]
    video = {key: _rates(model) for key, model in prices.MODELS.items()}
    images = {key: cost for key, (_, cost) in prices.IMAGE_MODELS.items()}
    return Json({"tiers": tiers, "credit_costs": {"video": video, "image": images, **prices.RULES}})


def limits_of(tier: str) -> Kept:
    """What a tier allows."""
    held = prices.TIERS[tier]
    return {
        "monthly_credits": held.credits,
        "max_resolution": held.resolution,
        "max_frames": held.frames,
        "watermark": held.watermark,
        "features": [name for name, least in prices.FEATURES.items() if prices.reaches(tier, least)],
    }


ROWS = (
    Row("GET", "/api/models", models),
    Row("GET", "/api/image-models", image_models),
    Row("GET", "/api/tts/voices", voices),
    Row("GET", "/api/generation-cost", generation_cost),
    Row("GET", "/api/pricing", pricing, public=True),
)
