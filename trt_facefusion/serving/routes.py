"""The service's own routes: swapping, health, metrics, and the page to try it."""

from __future__ import annotations

import base64
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from trt_facefusion.serving.exchange import Exchange, find_exchange
from trt_facefusion.serving.forms import read_form
from trt_facefusion.serving.orders import FORMATS, RESPONSES, read_order
from trt_facefusion.serving.page import read_page
from trt_facefusion.serving.problems import MEDIA_TYPE
from trt_facefusion.serving.service import SwapAnswer, SwapService, serve_unless_gone
from trt_facefusion.serving.token import BearerToken
from trt_facefusion.swap.selection import FACES

_PHOTO = {"type": "string", "format": "binary"}
_FORM = {
    "type": "object",
    "required": ["target"],
    "properties": {
        "source": {"type": "array", "items": _PHOTO, "description": "Photos of the person who is put in."},
        "target": {**_PHOTO, "description": "The photo whose faces are swapped, or restored."},
        "faces": {"type": "string", "enum": list(FACES), "default": FACES[0]},
        "format": {"type": "string", "enum": list(FORMATS), "description": "Else that of the target, or PNG."},
        "response": {"type": "string", "enum": list(RESPONSES), "default": RESPONSES[0]},
    },
}
_ANSWER = {
    "type": "object",
    "properties": {
        "image": {"type": "string", "contentEncoding": "base64"},
        "media_type": {"type": "string"},
        "faces": {"type": "array", "items": {"type": "object"}},
        "milliseconds": {"type": "object"},
        "request": {"type": "string"},
    },
}
_PROBLEM = {
    "content": {
        MEDIA_TYPE: {
            "schema": {
                "type": "object",
                "properties": {name: {"type": "string"} for name in ("title", "detail", "remedy", "request")},
            }
        }
    }
}
_REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"description": text, **_PROBLEM}
    for status, text in {
        400: "The form is not what it should be",
        401: "No token, or a wrong one",
        403: "A page of another site asks",
        408: "The request did not arrive in time",
        413: "Too many bytes, pixels, photos or faces",
        415: "Not a photo that is read",
        422: "A photo is damaged, or shows no face",
        500: "No sound picture came of it",
        503: "Too much is asked of the service: try again after the seconds of Retry-After",
        504: "The answer was not ready in time",
    }.items()
}
_IMAGES = {media: {"schema": _PHOTO} for media in ("image/png", "image/jpeg", "image/webp")}


def make_router(service: SwapService, token: BearerToken | None) -> APIRouter:
    """The routes; ``token`` protects what /readyz tells of the engines."""
    router = APIRouter()
    page = read_page()

    @router.get("/", include_in_schema=False)
    async def show_page() -> Response:
        """A page to try it."""
        return Response(page.html, 200, {"Content-Security-Policy": page.policy}, "text/html; charset=utf-8")

    @router.head("/healthz", include_in_schema=False)
    @router.get("/healthz", tags=["health"])
    async def show_health() -> Response:
        """Whether the process works; where it does not, it should be started anew."""
        alive = service.is_alive
        return JSONResponse({"alive": alive, "busy_s": round(service.batcher.busy_s, 3)}, 200 if alive else 503)

    @router.head("/readyz", include_in_schema=False)
    @router.get("/readyz", tags=["health"])
    async def show_readiness(request: Request) -> Response:
        """Whether requests are served, how the engines are, and why those that are out are out."""
        ready = service.is_ready
        told: dict[str, Any] = {"ready": ready, "draining": service.is_draining, "swaps": service.steps.preset.swaps}
        if _may_see(request, token):
            told["engines"] = [vars(state) for state in service.describe()]
        return JSONResponse(told, 200 if ready else 503)

    @router.get("/metrics", tags=["health"], response_class=Response)
    async def show_metrics() -> Response:
        """Counters for Prometheus."""
        return Response(service.metrics.write(), 200, media_type=CONTENT_TYPE_LATEST)

    @router.post(
        "/v1/swap",
        tags=["swap"],
        response_class=Response,
        responses={
            200: {"content": {**_IMAGES, "application/json": {"schema": _ANSWER}}, "description": "The picture"},
            **_REFUSALS,
        },
        openapi_extra={"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _FORM}}}},
    )
    async def swap(request: Request) -> Response:
        """The target with the person of the sources (several photos of one person are averaged).

        Restorers take no source. Results are marked as generated.
        """
        exchange = find_exchange(request)
        parts = await read_form(request.headers.get("content-type", ""), request.stream(), service.limits)
        order = read_order(parts, service.limits, swaps=service.steps.preset.swaps)
        del parts
        answer = await serve_unless_gone(request.receive, service.swap(order, exchange.id))
        return _reply(answer, exchange, order.response == "json")

    return router


def _reply(answer: SwapAnswer, exchange: Exchange, as_json: bool) -> Response:
    engines = ", ".join(f"{label} ({precision})" for label, precision in answer.engines)
    exchange.facts |= {
        "engine": engines,
        "faces": len(answer.faces),
        "stages": {stage: round(ms, 1) for stage, ms in answer.milliseconds.items()},
    }
    total_ms = sum(answer.milliseconds.values())
    if as_json:
        return JSONResponse(
            {
                "image": base64.b64encode(answer.encoded).decode(),
                "media_type": answer.media_type,
                "faces": [
                    {"engine": face.engine, "precision": face.precision, "role": face.role} for face in answer.faces
                ],
                "milliseconds": {**answer.milliseconds, "total": total_ms},
                "request": exchange.id,
            }
        )
    headers = {
        "X-Engine": _make_plain(engines),
        "X-Precision": ", ".join(dict.fromkeys(precision for _, precision in answer.engines)),
        "X-Role": ", ".join(dict.fromkeys(face.role for face in answer.faces)),
        "X-Faces": str(len(answer.faces)),
        "X-Milliseconds": f"{total_ms:.1f}",
        "Server-Timing": ", ".join(f"{stage};dur={ms:.1f}" for stage, ms in answer.milliseconds.items()),
    }
    return Response(answer.encoded, 200, headers, answer.media_type)


def _make_plain(text: str) -> str:
    """``text`` as a header holds it: an engine's folder may have any name."""
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in text)


def _may_see(request: Request, token: BearerToken | None) -> bool:
    if token is None:
        return True
    try:
        token.require(request.headers.get("authorization", "").encode("latin-1", "replace"))
    except Exception:
        return False
    return True
