"""What every request goes through: who may ask, how much may be sent, what is counted, and that no error gets out."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Collection
from urllib.parse import urlsplit

from trt_facefusion.serving.exchange import (
    Body,
    Exchange,
    HeldBytes,
    Receive,
    Scope,
    Send,
    get_header,
    is_client_gone,
    make_size_error,
)
from trt_facefusion.serving.logs import log
from trt_facefusion.serving.problems import CLIENT_GONE, ForbiddenError, LargeHeadersError
from trt_facefusion.serving.service import SwapService
from trt_facefusion.serving.token import BearerToken

OPEN_PATHS = frozenset({"/", "/healthz", "/readyz", "/v2", "/v2/health/live", "/v2/health/ready", "/openapi.json"})
"""What needs no token: what probes ask for, and what shows nothing of anybody."""
_QUIET = frozenset({"/healthz", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"})


class Guard:
    """An ASGI application around ``app``.

    Args:
        app: the routes.
        service: what they serve.
        token: what requests have to bring.
        hosts: names under which the service may be asked for, beside addresses and ``localhost``; None: any.
    """

    def __init__(
        self, app: object, service: SwapService, token: BearerToken | None, hosts: Collection[str] | None
    ) -> None:
        self._app, self._service, self._token, self._hosts = app, service, token, hosts
        self._held = HeldBytes(service.limits.held_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)  # type: ignore[operator]
            return
        exchange = Exchange.begin(scope)
        body, reply = Body(exchange, receive, self._service.limits, self._held), exchange.wrap_send(send)
        try:
            try:
                self._check(scope)
                await self._app(scope, body.receive, reply)  # type: ignore[operator]
            except Exception as error:
                response = exchange.explain(error)
                if exchange.status is None:
                    await response(scope, body.receive, reply)
        finally:
            body.end()
            self._record(exchange)

    def _check(self, scope: Scope) -> None:
        if sum(len(key) + len(value) for key, value in scope["headers"]) > self._service.limits.header_bytes:
            raise LargeHeadersError("the headers are too large", "send smaller ones")
        if self._token is None:
            self._require_own_page(scope)
        elif scope["path"] not in OPEN_PATHS:
            authorization = get_header(scope, b"authorization")
            self._token.require(None if authorization is None else authorization.encode("latin-1"))
        if scope["method"] != "POST":
            return
        length = get_header(scope, b"content-length")
        if length is not None and length.isdecimal() and int(length[:20]) > self._service.limits.request_bytes:
            raise make_size_error(self._service.limits)
        self._service.require_room()

    def _require_own_page(self, scope: Scope) -> None:
        """Without a token any page in a browser on this machine could ask: only our own may."""
        host = get_header(scope, b"host") or ""
        if self._hosts is not None and not _is_named(host, self._hosts):
            raise ForbiddenError(
                "the request names a host that this service is not", "start it with --allow-host and that name"
            )
        origin = get_header(scope, b"origin")
        ours = {host, get_header(scope, b"x-forwarded-host")}
        if origin is not None and scope["method"] != "GET" and urlsplit(origin).netloc not in ours:
            raise ForbiddenError("the request comes from a page of another site", "use the page of this service")

    def _record(self, exchange: Exchange) -> None:
        metrics, status = self._service.metrics, exchange.status
        gone = is_client_gone(status) or exchange.reason == "client_gone"
        status = CLIENT_GONE if gone or status is None else status
        elapsed_s = time.monotonic() - exchange.started
        metrics.requests.labels(exchange.route, str(status)).inc()
        metrics.seconds.labels(exchange.route).observe(elapsed_s)
        metrics.received.inc(exchange.received)
        if gone:
            metrics.cancelled.inc()
        elif exchange.reason is not None:
            metrics.rejected.labels(exchange.reason).inc()
        if exchange.route in _QUIET and status == 200:
            return
        log(
            "request",
            id=exchange.id,
            method=exchange.scope["method"] if exchange.scope["method"] in {"GET", "POST", "HEAD"} else "other",
            route=exchange.route,
            status=status,
            reason=exchange.reason,
            ms=round(elapsed_s * 1000, 1),
            received=exchange.received,
            sent=exchange.sent,
            **exchange.facts,
        )


def _is_named(host: str, hosts: Collection[str]) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name in {"localhost", *hosts}
    return True
