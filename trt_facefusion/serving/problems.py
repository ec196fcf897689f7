"""What went wrong, as HTTP says it: a status, and a problem (RFC 9457) with what happened and what to do.

Whatever is the service's own fault is told to the client without a word of its inside: no path, no traceback. The log
names it, under the same request id.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from trt_facefusion.errors import (
    BackendUnavailableError,
    BadInputError,
    DeviceError,
    FacesError,
    ModelError,
    PlanError,
    TrtFaceFusionError,
)
from trt_facefusion.faces.image_file import ImageTooLargeError, UnreadableImageError

CLIENT_GONE = 499
"""The status, in log and metrics alone, of a request whose client left before it was answered."""
MEDIA_TYPE = "application/problem+json"


class RequestError(TrtFaceFusionError):
    """A request that is not served."""

    kind = "request"
    status = 400


class UnauthorizedError(RequestError):
    """No token, or a wrong one."""

    kind = "unauthorized"
    status = 401


class ForbiddenError(RequestError):
    """The request comes from a page of another site, or names a host that this service is not."""

    kind = "forbidden"
    status = 403


class UnknownResourceError(RequestError):
    """There is nothing at that address."""

    kind = "not_found"
    status = 404


class SlowRequestError(RequestError):
    """The request did not arrive in time."""

    kind = "request_timeout"
    status = 408


class TooLargeError(RequestError):
    """More bytes, photos or faces than are served."""

    kind = "too_large"
    status = 413


class UnsupportedMediaError(RequestError):
    """A body or a photo of a type that is not read."""

    kind = "unsupported_media_type"
    status = 415


class LargeHeadersError(RequestError):
    """More header than one may send."""

    kind = "large_headers"
    status = 431


class ClientGoneError(RequestError):
    """The client left; nobody reads this."""

    kind = "client_gone"
    status = CLIENT_GONE


class OverloadedError(RequestError):
    """More requests than can be served; the client may try again after ``retry_s`` seconds."""

    kind = "overloaded"
    status = 503

    def __init__(self, message: str, remedy: str, retry_s: float = 1.0) -> None:
        super().__init__(message, remedy)
        self.retry_s = retry_s


class DrainingError(OverloadedError):
    """The service is being stopped."""

    kind = "draining"


class DeadlineError(RequestError):
    """The answer was not ready in time."""

    kind = "deadline"
    status = 504


@dataclass(frozen=True)
class Problem:
    """What a client is told."""

    status: int
    kind: str
    message: str
    remedy: str
    headers: dict[str, str] = field(default_factory=dict)

    def describe(self, request: str) -> dict[str, Any]:
        """The body of the reply to ``request``; ``error`` is where the Open Inference Protocol looks."""
        return {
            "type": "about:blank",
            "title": self.kind,
            "status": self.status,
            "detail": self.message,
            "remedy": self.remedy,
            "request": request,
            "error": self.message,
        }


_BY_CLASS: tuple[tuple[type[TrtFaceFusionError], int, str], ...] = (
    (ImageTooLargeError, 413, "send the photo smaller"),
    (UnreadableImageError, 422, "save the photo again as JPEG or PNG and send that"),
    (FacesError, 422, ""),
)
"""Status and remedy of errors that are the client's; an empty remedy is the error's own."""
_OWN_FAULT = Problem(
    500,
    "engine",
    "the service could not make this picture",
    "try again; if it stays so, tell the operator the request id, under which the log has the cause",
)

_NO_ENGINE = Problem(
    503,
    "no_engine",
    "no engine of this service works at present",
    "try again later; /readyz says how the engines are",
    {"Retry-After": "10"},
)


def find_problem(error: BaseException) -> Problem:
    """What a client is told of ``error``."""
    if isinstance(error, RequestError):
        return Problem(error.status, error.kind, error.message, error.remedy, _make_headers(error))
    if isinstance(error, DeviceError | BackendUnavailableError):
        return _NO_ENGINE
    for kind, status, remedy in _BY_CLASS:
        if isinstance(error, kind):
            return Problem(status, error.kind, error.message, remedy or error.remedy)
    if isinstance(error, BadInputError) and not isinstance(error, ModelError | PlanError):
        return Problem(400, error.kind, error.message, error.remedy)
    return _OWN_FAULT


def _make_headers(error: RequestError) -> dict[str, str]:
    if isinstance(error, OverloadedError):
        return {"Retry-After": str(max(1, math.ceil(error.retry_s)))}
    return {"WWW-Authenticate": "Bearer"} if isinstance(error, UnauthorizedError) else {}


def explain_cause(error: BaseException) -> str:
    """``error`` for the operator's log: ours with its message, others by class and place: theirs may hold values."""
    if isinstance(error, TrtFaceFusionError):
        return f"{error.kind}: {error.message}"
    place, trace = "", error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        place, trace = f" at {code.co_filename.rpartition('/')[2]}:{trace.tb_lineno} in {code.co_name}", trace.tb_next
    return f"{type(error).__name__}{place}"
