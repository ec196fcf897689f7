"""The HTTP server: uvicorn, with patience that ends, and a shutdown that finishes what was begun."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from trt_facefusion.errors import BadInputError
from trt_facefusion.serving.limits import ServiceLimits
from trt_facefusion.serving.logs import log
from trt_facefusion.serving.problems import MEDIA_TYPE
from trt_facefusion.serving.service import SwapService

_KEEP_ALIVE_S = 15
_GRACE_S = 5.0
"""Between the moment when a request should have arrived, of which the client is told, and that when it is cut off."""


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises BadInputError where that address cannot be had."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        # By its protocol asyncio knows TCP, whose small last packets it then sends at once, not 40 ms later.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BadInputError(
            f"{host}:{port} cannot be listened on: {reason}", "name another --host or --port; --port 0 takes a free one"
        ) from error
    return listener


class Server(uvicorn.Server):
    """Serves ``app`` until it is told to stop; then finishes what is at work, within ``limits.drain_s``.

    ``started_serving`` is called when requests can come.
    """

    def __init__(
        self, app: Any, service: SwapService, limits: ServiceLimits, started_serving: Callable[[], None] = lambda: None
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=_make_protocol(limits),
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                h11_max_incomplete_event_size=limits.header_bytes,
                timeout_keep_alive=_KEEP_ALIVE_S,
                timeout_graceful_shutdown=max(1, round(limits.drain_s)),
                backlog=min(limits.connections, 1024),
            )
        )
        self._service, self._drain_s, self._started_serving = service, limits.drain_s, started_serving
        self._draining_since: float | None = None
        self.finished = True
        """Whether everything that was at work was answered."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept connections."""
        await super().startup(sockets)
        self._started_serving()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal begins the end, a second one does not wait for it."""
        if self._draining_since is not None:
            self.should_exit = self.force_exit = True
            return
        self.drain()

    def drain(self) -> None:
        """Take no more requests, and end when those at work are answered."""
        self._draining_since = time.monotonic()
        self._service.is_draining = True
        log("draining", in_service=self._service.in_service)

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether it is time to go."""
        since = self._draining_since
        if since is not None and not self.should_exit:
            is_late = time.monotonic() - since > self._drain_s
            self.finished = not self._service.in_service
            self.should_exit = self.finished or is_late
        return await super().on_tick(counter)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM end in `handle_exit`; unlike uvicorn's own, they are not raised again at the end."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def serve_on(self, listener: socket.socket) -> bool:
        """Serve until told to stop; whether everything at work was answered."""
        asyncio.run(self.serve([listener]))
        return self.finished and not self.force_exit


def _make_protocol(limits: ServiceLimits) -> type[H11Protocol]:
    class Protocol(_PatientProtocol):
        receive_s, connection_limit = limits.receive_s + _GRACE_S, limits.connections

    return Protocol


class _PatientProtocol(H11Protocol):
    """HTTP/1.1 in which a request must have arrived whole within a time, from its first byte or its connection on.

    Of a reply, something must have gone out within as long.
    """

    receive_s = 35.0
    connection_limit = 512

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, unless there are too many."""
        self._patience: asyncio.TimerHandle | None = None
        self._stuck: asyncio.TimerHandle | None = None
        super().connection_made(transport)
        if len(self.connections) > self.connection_limit:
            transport.abort()
            return
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._stop_waiting()
        self._go_on()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes of a request: the time runs from the first of them."""
        if self._patience is None and self._is_between_requests:
            self._wait()
        super().data_received(data)
        if self.cycle is not None and not self.cycle.more_body:
            self._stop_waiting()

    def pause_writing(self) -> None:
        """The client does not read as fast as is written."""
        super().pause_writing()
        self._watch_reader(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """It has read."""
        self._go_on()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Tell of a request that is no HTTP, or has too large headers, as all problems are told."""
        problem = {
            "type": "about:blank",
            "title": "request",
            "status": 400,
            "detail": "the request is no HTTP/1.1, or its headers are too large",
            "remedy": "send smaller headers",
        }
        body = json.dumps(problem).encode()
        head = (
            f"HTTP/1.1 400 Bad Request\r\ncontent-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\n"
            "connection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()

    @property
    def _is_between_requests(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _wait(self) -> None:
        self._patience = self.loop.call_later(self.receive_s, self._give_up)

    def _stop_waiting(self) -> None:
        patience, self._patience = self._patience, None
        if patience is not None:
            patience.cancel()

    def _watch_reader(self, unread: int) -> None:
        self._go_on()
        self._stuck = self.loop.call_later(self.receive_s, self._leave_reader, unread)

    def _leave_reader(self, unread: int) -> None:
        """Cut off a client that read nothing for a whole time."""
        left = self.transport.get_write_buffer_size()
        if left >= unread:
            self.transport.abort()
        else:
            self._watch_reader(left)

    def _go_on(self) -> None:
        stuck, self._stuck = self._stuck, None
        if stuck is not None:
            stuck.cancel()

    def _give_up(self) -> None:
        self._patience = None
        if not self.transport.is_closing():
            self.transport.abort()
