"""The application: routes, what every request goes through, and how errors are told."""

from __future__ import annotations

from collections.abc import Collection

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from trt_facefusion import __version__
from trt_facefusion.errors import TrtFaceFusionError
from trt_facefusion.serving import inference_protocol, routes
from trt_facefusion.serving.exchange import find_exchange
from trt_facefusion.serving.guard import Guard
from trt_facefusion.serving.problems import ClientGoneError, RequestError, UnknownResourceError
from trt_facefusion.serving.service import SwapService
from trt_facefusion.serving.token import BearerToken


def make_app(service: SwapService, token: BearerToken | None = None, hosts: Collection[str] | None = None) -> Guard:
    """The ASGI application that serves ``service``; ``token`` and ``hosts`` as `Guard` takes them."""
    app = FastAPI(
        title="trt-facefusion",
        version=__version__,
        description="Photos in, a fused photo out.",
        docs_url=None,  # they would load scripts from elsewhere
        redoc_url=None,
    )
    app.include_router(routes.make_router(service, token))
    app.include_router(inference_protocol.make_router(service))
    for kind in (TrtFaceFusionError, HTTPException, ClientDisconnect, RequestValidationError, Exception):
        app.add_exception_handler(kind, _explain)
    return Guard(app, service, token, hosts)


async def _explain(request: Request, error: Exception) -> Response:
    return find_exchange(request).explain(_translate(error))


def _translate(error: Exception) -> Exception:
    """Errors of the web framework as ours."""
    if isinstance(error, ClientDisconnect):
        return ClientGoneError("the client left", "send it again")
    if isinstance(error, RequestValidationError):
        return RequestError("the request is malformed", "see /openapi.json")
    if isinstance(error, HTTPException):
        kind = UnknownResourceError("there is nothing at this address", "see /openapi.json")
        if error.status_code == 405:
            kind = UnknownResourceError("this address takes another method", "see /openapi.json")
        kind.status = error.status_code
        return kind
    return error
