"""The Open Inference Protocol, version 2, over HTTP: the network's own tensors, for clients that know Triton.

`tritonclient.http` and perf_analyzer ask exactly this of a server. There is one model with one version.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from trt_facefusion import __version__
from trt_facefusion.serving.exchange import find_exchange, get_header
from trt_facefusion.serving.problems import RequestError, UnknownResourceError, UnsupportedMediaError
from trt_facefusion.serving.seam import RunsTensors, TensorInterface
from trt_facefusion.serving.service import SwapService, serve_unless_gone
from trt_facefusion.serving.tensor_work import is_batched, plan_work
from trt_facefusion.serving.tensors import describe_tensor, read_infer_request, write_infer_reply
from trt_facefusion.text import printable

VERSION = "1"
_HEADER_LENGTH = "Inference-Header-Content-Length"
_MODEL = "/v2/models/{name}"
_EXTENSIONS = ("binary_tensor_data", "model_configuration", "statistics")


@dataclass
class Statistics:
    """What was inferred over this protocol; from the event loop alone."""

    success: int = 0
    fail: int = 0
    success_ns: int = 0
    fail_ns: int = 0
    samples: int = 0
    last_ms: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, started: float, samples: int | None) -> None:
        """Add a request that began at ``started`` (`time.monotonic`); None: it failed."""
        elapsed_ns = int((time.monotonic() - started) * 1e9)
        if samples is None:
            self.fail, self.fail_ns = self.fail + 1, self.fail_ns + elapsed_ns
            return
        self.success, self.success_ns = self.success + 1, self.success_ns + elapsed_ns
        self.samples, self.last_ms = self.samples + samples, int(time.time() * 1000)


def make_router(service: SwapService) -> APIRouter:
    """The routes under ``/v2``."""
    router, statistics = APIRouter(tags=["Open Inference Protocol v2"]), Statistics()

    @router.get("/v2")
    async def show_server() -> dict[str, Any]:
        """The server and what it speaks."""
        return {"name": "trt-facefusion", "version": __version__, "extensions": list(_EXTENSIONS)}

    @router.get("/v2/health/live")
    async def show_live() -> Response:
        """Whether the process works."""
        return JSONResponse({"live": service.is_alive}, 200 if service.is_alive else 503)

    @router.get("/v2/health/ready")
    async def show_ready() -> Response:
        """Whether requests are served."""
        return JSONResponse({"ready": service.is_ready}, 200 if service.is_ready else 503)

    @router.get(f"{_MODEL}/ready")
    @router.get(f"{_MODEL}/versions/{{version}}/ready")
    async def show_model_ready(name: str, version: str = VERSION) -> Response:
        """Whether the model is served."""
        _require_model(service, name, version)
        return JSONResponse({"name": service.name, "ready": service.is_ready}, 200 if service.is_ready else 503)

    @router.get(_MODEL)
    @router.get(f"{_MODEL}/versions/{{version}}")
    async def show_model(name: str, version: str = VERSION) -> dict[str, Any]:
        """Its inputs and outputs."""
        return _describe_model(service.name, _require_model(service, name, version).tensors)

    @router.get(f"{_MODEL}/config")
    @router.get(f"{_MODEL}/versions/{{version}}/config")
    async def show_config(name: str, version: str = VERSION) -> dict[str, Any]:
        """Its configuration, as Triton has it."""
        return _describe_config(service, _require_model(service, name, version).tensors)

    @router.get("/v2/models/stats")
    @router.get(f"{_MODEL}/stats")
    @router.get(f"{_MODEL}/versions/{{version}}/stats")
    async def show_statistics(name: str | None = None, version: str = VERSION) -> dict[str, Any]:
        """What was inferred."""
        _require_model(service, service.name if name is None else name, version)
        return {"model_stats": [_describe_statistics(service, statistics)]}

    @router.post(f"{_MODEL}/infer")
    @router.post(f"{_MODEL}/versions/{{version}}/infer")
    async def infer(request: Request, name: str, version: str = VERSION) -> Response:
        """Outputs for inputs: JSON, or raw bytes behind it."""
        started = time.monotonic()
        samples: int | None = None
        try:
            reply, samples = await _infer(request, service, _require_model(service, name, version))
            return reply
        finally:
            statistics.count(started, samples)

    return router


async def _infer(request: Request, service: SwapService, engines: RunsTensors) -> tuple[Response, int]:
    """The reply, and how many samples were inferred."""
    exchange = find_exchange(request)
    if request.headers.get("content-encoding", "identity") != "identity":
        raise UnsupportedMediaError("the body is compressed", "send it as it is")
    header_length = get_header(request.scope, _HEADER_LENGTH.lower().encode())
    order = await service.run_in_thread(read_infer_request, await request.body(), header_length)
    work, size = plan_work(engines, order.feeds)
    outputs: Mapping[str, Any] = await serve_unless_gone(
        request.receive, service.infer(work, order.feeds, size, exchange.id)
    )
    interface = engines.tensors
    body, json_length = await service.run_in_thread(
        write_infer_reply, order, outputs, interface.outputs, service.name, VERSION
    )
    exchange.facts |= {"engine": interface.engine, "samples": size}
    headers = {} if json_length is None else {_HEADER_LENGTH: str(json_length)}
    kind = "application/json" if json_length is None else "application/octet-stream"
    return Response(body, 200, headers, kind), size


def _require_model(service: SwapService, name: str, version: str) -> RunsTensors:
    if name != service.name or version != VERSION:
        raise UnknownResourceError(
            f"there is no model {printable(name)[:64]!r} in version {printable(version)[:16]!r}",
            f"ask for {service.name} in version {VERSION}",
        )
    if not isinstance(service.engines, RunsTensors):
        raise RequestError("the engines of this service take no tensors", "send photos to /v1/swap")
    return service.engines


def _describe_model(name: str, interface: TensorInterface) -> dict[str, Any]:
    return {
        "name": name,
        "versions": [VERSION],
        "platform": interface.platform,
        "inputs": [describe_tensor(spec) for spec in interface.inputs],
        "outputs": [describe_tensor(spec) for spec in interface.outputs],
    }


def _describe_config(service: SwapService, interface: TensorInterface) -> dict[str, Any]:
    batched = is_batched(interface)

    def describe(specs: Any) -> list[dict[str, Any]]:
        tensors = [describe_tensor(spec) for spec in specs]
        return [
            {
                "name": tensor["name"],
                "data_type": "TYPE_STRING" if tensor["datatype"] == "BYTES" else f"TYPE_{tensor['datatype']}",
                "dims": tensor["shape"][1:] if batched else tensor["shape"],
            }
            for tensor in tensors
        ]

    config: dict[str, Any] = {
        "name": service.name,
        "platform": interface.platform,
        "backend": interface.platform,
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": interface.batch if batched else 0,
        "input": describe(interface.inputs),
        "output": describe(interface.outputs),
    }
    if batched:
        wait_us = int(service.pace.max_wait_s * 1e6)
        config["dynamic_batching"] = {"max_queue_delay_microseconds": wait_us}
    return config


def _describe_statistics(service: SwapService, statistics: Statistics) -> dict[str, Any]:
    def pair(count: int, ns: int = 0) -> dict[str, int]:
        return {"count": count, "ns": ns}

    done = statistics.success
    return {
        "name": service.name,
        "version": VERSION,
        "last_inference": statistics.last_ms,
        "inference_count": statistics.samples,
        "execution_count": done,
        "inference_stats": {
            "success": pair(done, statistics.success_ns),
            "fail": pair(statistics.fail, statistics.fail_ns),
            "queue": pair(done),
            "compute_input": pair(done),
            "compute_infer": pair(done, statistics.success_ns),
            "compute_output": pair(done),
            "cache_hit": pair(0),
            "cache_miss": pair(0),
        },
        "batch_stats": [],
    }
