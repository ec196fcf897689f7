"""One request and its reply: what is counted and logged, the limits of what arrives, and how problems are told."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from trt_facefusion.serving.limits import ServiceLimits
from trt_facefusion.serving.logs import log
from trt_facefusion.serving.problems import (
    CLIENT_GONE,
    MEDIA_TYPE,
    OverloadedError,
    SlowRequestError,
    TooLargeError,
    explain_cause,
    find_problem,
)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

KEY = "trt_ff.exchange"
_REQUEST_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)
_SAFE = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
    (b"cache-control", b"no-store"),
)


@dataclass
class HeldBytes:
    """Bytes of all bodies that are in memory."""

    limit: int
    held: int = 0


@dataclass(eq=False)
class Exchange:
    """One request; ``facts`` are logged with it."""

    scope: Scope
    id: str
    started: float = field(default_factory=time.monotonic)
    status: int | None = None
    reason: str | None = None
    received: int = 0
    sent: int = 0
    facts: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def begin(cls, scope: Scope) -> Exchange:
        """The exchange of ``scope``, under the client's own X-Request-Id where that is a plain word."""
        named = get_header(scope, b"x-request-id") or ""
        exchange = cls(scope, named if _REQUEST_ID.fullmatch(named) else secrets.token_hex(8))
        scope[KEY] = exchange
        return exchange

    @property
    def route(self) -> str:
        """The route's pattern, never the address that was asked for."""
        return getattr(self.scope.get("route"), "path", "other")

    def explain(self, error: BaseException) -> Response:
        """The reply that tells of ``error``; what is our own fault is logged with its cause."""
        problem = find_problem(error)
        self.reason = problem.kind
        if problem.status >= 500 and not isinstance(error, OverloadedError):
            log("failed", logging.ERROR, id=self.id, status=problem.status, cause=explain_cause(error))
        body = json.dumps(problem.describe(self.id)).encode()
        return Response(body, problem.status, problem.headers, MEDIA_TYPE)

    def wrap_send(self, send: Send) -> Send:
        """``send`` that counts, and adds the headers of every reply."""

        async def send_counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.status = message["status"]
                message["headers"] = [*message.get("headers", ()), *_SAFE, (b"x-request-id", self.id.encode())]
            self.sent += len(message.get("body", b""))
            await send(message)

        return send_counted


class Body:
    """What is received of a request: within its time and size, and counted among all that is held."""

    def __init__(self, exchange: Exchange, receive: Receive, limits: ServiceLimits, held: HeldBytes) -> None:
        self._exchange, self._receive, self._limits, self._held = exchange, receive, limits, held
        self._until = exchange.started + limits.receive_s
        self._is_complete = False

    async def receive(self) -> Message:
        """The next message.

        Raises:
            SlowRequestError: the body takes too long.
            TooLargeError: it is larger than one may be.
            OverloadedError: all bodies together are larger than they may be.
        """
        if self._is_complete:
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), max(0.0, self._until - time.monotonic()))
        except asyncio.TimeoutError as error:
            raise SlowRequestError(
                f"the request did not arrive within {self._limits.receive_s:g} s", "send it over a faster line"
            ) from error
        if message["type"] == "http.request":
            self._is_complete = not message.get("more_body", False)
            self._count(len(message.get("body", b"")))
        return message

    def end(self) -> None:
        """Nothing of it is held any more."""
        self._held.held -= self._exchange.received

    def _count(self, size: int) -> None:
        self._exchange.received += size
        self._held.held += size
        if self._exchange.received > self._limits.request_bytes:
            raise make_size_error(self._limits)
        if self._held.held > self._held.limit:
            raise OverloadedError("too many large requests arrive at once", "try again a little later")


def make_size_error(limits: ServiceLimits) -> TooLargeError:
    """A body is larger than one may be."""
    return TooLargeError(f"the request has more than {limits.request_bytes >> 20} MiB", "send smaller photos")


def get_header(scope: Scope, name: bytes) -> str | None:
    """The first header ``name`` (in small letters), or None."""
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), None)


def find_exchange(request: Request) -> Exchange:
    """The exchange of ``request``."""
    exchange: Exchange = request.scope[KEY]
    return exchange


def is_client_gone(status: int | None) -> bool:
    """Whether nobody was there any more to be answered."""
    return status in {None, CLIENT_GONE}
