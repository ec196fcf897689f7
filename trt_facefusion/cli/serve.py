"""`trt-ff serve`."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from trt_facefusion.cli import console
from trt_facefusion.cli.canary_options import CanaryOptions, open_pool
from trt_facefusion.cli.groups import expand_groups
from trt_facefusion.cli.swap import (
    BlendOptions,
    FedOptions,
    ProvenanceOptions,
    SwapRunOptions,
    describe_onnx,
    open_provenance,
    parse_padding,
)
from trt_facefusion.errors import BackendUnavailableError, pip_install
from trt_facefusion.swap.engines import ChainOptions
from trt_facefusion.swap.masks import MaskSettings
from trt_facefusion.swap.steps import SwapSettings, SwapSteps

if TYPE_CHECKING:
    from trt_facefusion.serving.limits import ServiceLimits
    from trt_facefusion.serving.seam import ServesFaces
    from trt_facefusion.serving.service import SwapService

_WHERE, _PACE, _LIMITS = "Where it listens, and who may ask", "How it works", "What it refuses"
_MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class ListenOptions:
    """Address and access."""

    host: Annotated[str, typer.Option(help="Address; 0.0.0.0 is every one.", rich_help_panel=_WHERE)] = "127.0.0.1"
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.", rich_help_panel=_WHERE)] = (
        8000
    )
    token_file: Annotated[
        Optional[Path],
        typer.Option(help="It holds the token of requests; else $TRT_FF_TOKEN, else none.", rich_help_panel=_WHERE),
    ] = None
    allow_hosts: Annotated[
        Optional[list[str]],
        typer.Option(
            "--allow-host", help="A name by which the service is asked for, behind a proxy.", rich_help_panel=_WHERE
        ),
    ] = None
    name: Annotated[
        str, typer.Option(help="What the Open Inference Protocol calls the model.", rich_help_panel=_WHERE)
    ] = "swap"


@dataclass(frozen=True, kw_only=True)
class PaceOptions:
    """How work is spread."""

    worker_threads: Annotated[
        int, typer.Option(min=1, max=64, help="Threads that read photos, and that write them.", rich_help_panel=_PACE)
    ] = 2
    max_wait_ms: Annotated[
        float, typer.Option(min=0, max=1000, help="A face waits so long for company.", rich_help_panel=_PACE)
    ] = 5.0
    queue: Annotated[
        int, typer.Option(min=1, help="Requests at work or waiting; more get 503.", rich_help_panel=_PACE)
    ] = 64
    deadline: Annotated[
        float, typer.Option(min=0.1, help="Seconds until an answer; then 504.", rich_help_panel=_PACE)
    ] = 30.0
    drain: Annotated[
        float, typer.Option(min=0, help="Seconds for what is at work when it is stopped.", rich_help_panel=_PACE)
    ] = 30.0


@dataclass(frozen=True, kw_only=True)
class LimitOptions:
    """Limits of a request."""

    max_upload_mb: Annotated[int, typer.Option(min=1, help="MiB of one photo.", rich_help_panel=_LIMITS)] = 20
    max_request_mb: Annotated[int, typer.Option(min=1, help="MiB of one request.", rich_help_panel=_LIMITS)] = 64
    max_megapixels: Annotated[float, typer.Option(min=0.01, help="Of one photo.", rich_help_panel=_LIMITS)] = 24.0
    max_sources: Annotated[int, typer.Option(min=1, help="Photos of the source.", rich_help_panel=_LIMITS)] = 8
    max_faces: Annotated[int, typer.Option(min=1, help="Faces of one photo.", rich_help_panel=_LIMITS)] = 32
    receive: Annotated[
        float, typer.Option(min=0.1, help="Seconds for a request to arrive.", rich_help_panel=_LIMITS)
    ] = 30.0


@expand_groups
def command(
    engines: Annotated[
        list[Path],
        typer.Option("--engine", help="An engine's folder, a model's folder in the store, or an ONNX file; repeat it."),
    ],
    address: ListenOptions,
    pace: PaceOptions,
    limits: LimitOptions,
    blend: BlendOptions,
    marks: ProvenanceOptions,
    fed: FedOptions,
    execution: SwapRunOptions,
    rollout: CanaryOptions,
    detector: Annotated[
        Optional[Path], typer.Option(help="SCRFD or RetinaFace ONNX that finds faces; else YuNet.")
    ] = None,
) -> None:
    """Serve an engine over HTTP: photos in, a fused photo out, with a page to try it.

    POST /v1/swap takes photos; /v2 is the Open Inference Protocol; /healthz, /readyz and /metrics are for whoever runs
    it. No photo is stored. Told to stop (Ctrl-C, SIGTERM), it finishes what is at work.
    """
    _require_packages()
    from trt_facefusion.serving.app import make_app
    from trt_facefusion.serving.limits import Pace
    from trt_facefusion.serving.logs import log_as_json
    from trt_facefusion.serving.server import Server, listen
    from trt_facefusion.serving.service import SwapService
    from trt_facefusion.serving.token import read_token

    token = read_token(address.token_file)
    is_local = _is_loopback(address.host)
    if token is None and not is_local:
        console.warn(
            f"{address.host} is reachable from elsewhere, and no token is asked for: name one with --token-file"
        )
    provenance, signer = open_provenance(marks)
    settled = _read_limits(pace, limits)
    settings = SwapSettings(MaskSettings(blend.mask, blend.blur, parse_padding(blend.padding)), blend.colours)

    def open_steps(opened: ServesFaces) -> SwapSteps:
        return SwapSteps(
            opened.contract,
            settings=settings,
            embedder=fed.embedder,
            converter=fed.converter,
            detector=detector,
            provenance=provenance,
            note=console.note,
        )

    with listen(address.host, address.port) as listener:
        host, port = listener.getsockname()[:2]
        log_as_json()
        opener = _make_opener(engines, fed, execution, rollout)
        service = SwapService(
            opener, open_steps, settled, Pace(pace.worker_threads, pace.max_wait_ms / 1000), signer, address.name
        )
        hosts = address.allow_hosts or ([] if is_local else None)
        app = make_app(service, token, hosts)
        server = Server(app, service, settled, lambda: _tell_start(service, host, port))
        is_done = server.serve_on(listener)
        is_done = service.close() and is_done
    if server.force_exit:
        raise KeyboardInterrupt
    if not is_done:
        console.warn(f"not everything that was at work was finished within --drain {pace.drain:g} s")


def _require_packages() -> None:
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise BackendUnavailableError(f"the service needs more packages: {error}", pip_install("serve")) from error


def _make_opener(
    engines: list[Path], fed: FedOptions, execution: SwapRunOptions, rollout: CanaryOptions
) -> Callable[[], ServesFaces]:
    """What opens the engines, in the thread that runs them."""
    from trt_facefusion.serving.logs import log_event

    def open_engines() -> ServesFaces:
        return open_pool(
            engines,
            rollout,
            precision=execution.precision,
            chain=ChainOptions(execution.device, execution.threads, execution.stand_in),
            contract=describe_onnx(engines[0], fed),
            embedder=fed.embedder,
            converter=fed.converter,
            on_event=log_event,
            note=console.note,
        )

    return open_engines


def _read_limits(pace: PaceOptions, limits: LimitOptions) -> ServiceLimits:
    from trt_facefusion.serving.limits import ServiceLimits

    upload_bytes, request_bytes = limits.max_upload_mb * _MIB, limits.max_request_mb * _MIB
    photo_pixels = round(limits.max_megapixels * 1e6)
    return ServiceLimits(
        upload_bytes=upload_bytes,
        request_bytes=max(request_bytes, upload_bytes),
        held_bytes=max(ServiceLimits.held_bytes, 4 * request_bytes),
        photo_pixels=photo_pixels,
        held_pixels=max(ServiceLimits.held_pixels, 4 * photo_pixels),
        source_photos=limits.max_sources,
        faces=limits.max_faces,
        requests=pace.queue,
        receive_s=limits.receive,
        deadline_s=pace.deadline,
        drain_s=pace.drain,
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _tell_start(service: SwapService, host: str, port: int) -> None:
    name = f"[{host}]" if ":" in host else host
    states = ", ".join(f"{state.engine} ({state.precision})" for state in service.describe())
    console.line(f"http://{name}:{port}/ serves {states}; Ctrl-C ends it")
