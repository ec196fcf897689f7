"""A service on a free port of this machine, and clients of it."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trt_facefusion.errors import TrtFaceFusionError
from trt_facefusion.model.presets import Preset, parse_input
from trt_facefusion.model.presets.contract import Contract
from trt_facefusion.serving.app import make_app
from trt_facefusion.serving.engines.pool import EnginePool
from trt_facefusion.serving.limits import Pace, ServiceLimits
from trt_facefusion.serving.seam import EngineState, ServedFace, TensorInterface
from trt_facefusion.serving.server import Server, listen
from trt_facefusion.serving.service import SwapService
from trt_facefusion.serving.token import BearerToken
from trt_facefusion.swap.feeds import FaceInput
from trt_facefusion.swap.steps import SwapSteps
from trt_facefusion.types import Array, Feeds

BOUNDARY = "part-of-a-form"
FORM = f"multipart/form-data; boundary={BOUNDARY}"
Parts = Sequence[tuple[str, bytes]]


@dataclass(frozen=True)
class Reply:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(eq=False)
class Running:
    """A service that runs, and what its engines were asked for."""

    port: int
    service: SwapService
    server: Server
    engines: WatchedEngines

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            named = {name.replace("_", "-"): text for name, text in headers.items()}
            connection.request(method, path, body, named)
            reply = connection.getresponse()
            return Reply(reply.status, reply.headers, reply.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Reply:
        return self.ask("GET", path, **headers)

    def swap(self, parts: Parts, **headers: str) -> Reply:
        return self.ask("POST", "/v1/swap", make_form(parts), **{"Content_Type": FORM, **headers})

    def read_metric(self, name: str) -> float:
        """The sum over all labels of a counter or gauge."""
        lines = self.get("/metrics").body.decode().splitlines()
        values = [line.split() for line in lines if line.split("{")[0].split(" ")[0] == name]
        return sum(float(words[-1]) for words in values)


class WatchedEngines:
    """One engine that remembers how many faces each inference had, and waits while ``gate`` is closed."""

    def __init__(self, engine: EnginePool) -> None:
        self._engine = engine
        self.batches: list[int] = []
        self.requests: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.fail: Callable[[], Exception] | None = None

    @property
    def contract(self) -> Contract:
        return self._engine.contract

    @property
    def batch(self) -> int:
        return self._engine.batch

    @property
    def tensors(self) -> TensorInterface:
        return self._engine.tensors

    def serve(self, faces: Sequence[FaceInput], requests: Sequence[str]) -> list[ServedFace | TrtFaceFusionError]:
        self.batches.append(len(faces))
        self.requests += requests
        assert self.gate.wait(60)
        if self.fail is not None:
            raise self.fail()
        return self._engine.serve(faces, requests)

    def infer(self, feeds: Feeds) -> dict[str, Array]:
        self.batches.append(len(next(iter(feeds.values()))))
        assert self.gate.wait(60)
        return self._engine.infer(feeds)

    def describe(self) -> Sequence[EngineState]:
        return self._engine.describe()

    def close(self) -> None:
        self._engine.close()


@dataclass(frozen=True)
class Setting:
    """A network, how it is fed, and how it is served."""

    net: Path
    inputs: tuple[str, ...]
    limits: ServiceLimits = field(default_factory=ServiceLimits)
    pace: Pace = field(default_factory=Pace)
    token: BearerToken | None = None
    hosts: Collection[str] | None = ()

    @property
    def contract(self) -> Contract:
        return Contract(Preset.from_inputs([parse_input(text) for text in self.inputs]))


@contextmanager
def run_service(setting: Setting) -> Iterator[Running]:
    engines: list[WatchedEngines] = []

    def open_engines() -> WatchedEngines:
        engines.append(WatchedEngines(EnginePool([setting.net], setting.contract)))
        return engines[0]

    service = SwapService(open_engines, lambda opened: SwapSteps(opened.contract), setting.limits, setting.pace)
    listener = listen("127.0.0.1", 0)
    server = Server(make_app(service, setting.token, setting.hosts), service, setting.limits)
    thread = threading.Thread(target=server.serve_on, args=(listener,))
    thread.start()
    try:
        wait_until(lambda: server.started)
        yield Running(listener.getsockname()[1], service, server, engines[0])
    finally:
        engines[0].gate.set()
        server.drain()
        thread.join(60)
        assert service.close() and not thread.is_alive()


def make_form(parts: Parts, filename: str = "photo") -> bytes:
    """A multipart body; parts called source and target are files."""
    encoded = b""
    for name, content in parts:
        file = f'; filename="{filename}"' if name in {"source", "target"} else ""
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
        encoded += head.encode() + content + b"\r\n"
    return encoded + f"--{BOUNDARY}--\r\n".encode()


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.01)


def in_threads(calls: Sequence[Callable[[], Any]], patience_s: float = 120) -> list[Any]:
    """What all of ``calls`` give, made at the same time, each within ``patience_s``."""
    results: list[Any] = [None] * len(calls)

    def keep(number: int) -> None:
        results[number] = calls[number]()

    threads = [threading.Thread(target=keep, args=(number,)) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(patience_s)
        assert not thread.is_alive()
    return results
