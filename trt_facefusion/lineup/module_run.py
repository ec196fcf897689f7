"""All variants of a torch module, timed in turns and held against FP32."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray

from trt_facefusion.engine.backends.base import Backend, BuildRequest, RunOptions
from trt_facefusion.engine.backends.registry import BACKENDS
from trt_facefusion.engine.timing.factors import AT_THE_ROOF
from trt_facefusion.engine.timing.gpus import choose_gpu
from trt_facefusion.engine.timing.roofline import predict_engine
from trt_facefusion.engine.timing.summary import PredictedTime, summarise
from trt_facefusion.errors import (
    BackendUnavailableError,
    BadInputError,
    DeviceError,
    ModelError,
    TrtFaceFusionError,
)
from trt_facefusion.evaluation.profiling.machine import describe_processor
from trt_facefusion.evaluation.profiling.measure import Counts, time_interleaved
from trt_facefusion.evaluation.profiling.statistics import Latency
from trt_facefusion.lineup.gather import find_no_target
from trt_facefusion.lineup.measuring import Watch, explain
from trt_facefusion.lineup.module_inputs import ModuleInput, Samples
from trt_facefusion.lineup.module_quantize import (
    export_module,
    make_half,
    measure_bytes,
    quantize_dynamic,
    quantize_onnx,
    quantize_static,
)
from trt_facefusion.lineup.published import MODULES, Publication, list_published
from trt_facefusion.model.generators.user_code import run_user_code
from trt_facefusion.types import Feeds, Note, Progress, drop_note, silent

if TYPE_CHECKING:
    from torch import nn

Outputs = list[NDArray[Any]]
_FORWARD = "check the shapes, and that forward() takes the inputs in the order of --input"
_DEPRECATED = "by torch.ao.quantization, which torch has deprecated"


@dataclass(frozen=True)
class ModuleSettings:
    """What is compared, and how it is timed: ``repeats`` series, each of so many rounds, say how far times spread."""

    reference: str
    inputs: tuple[ModuleInput, ...]
    samples: Samples
    counts: Counts
    repeats: int = 3
    threads: int | None = None
    target: str | None = None


@dataclass(frozen=True)
class Variant:
    """One way to run the module: ``prepare`` makes what ``call`` takes, ``read`` makes arrays of what it gives."""

    library: str
    precision: str
    weights_bytes: int | None
    prepare: Callable[[Feeds], Any]
    call: Callable[[Any], Any]
    read: Callable[[Any], Outputs]
    remark: str = ""


@dataclass(frozen=True)
class OutputDeviation:
    """Outputs against FP32's on the judging samples: the largest difference, and the root mean square relative to
    FP32's own."""

    largest: float
    relative: float


@dataclass(frozen=True)
class ModuleEntry:
    """What became of one variant; ``reason`` where there is none. Latency is that of one call, of the whole batch."""

    library: str
    precision: str
    reason: str = ""
    weights_bytes: int | None = None
    latency: Latency | None = None
    fastest_ms: float | None = None
    """What other work on the machine disturbs least."""
    medians_ms: tuple[float, ...] = ()
    """The median of each series."""
    throughput_per_s: float | None = None
    error: OutputDeviation | None = None
    predicted: PredictedTime | None = None
    remark: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "library": self.library,
            "precision": self.precision,
            "reason": self.reason,
            "weights_bytes": self.weights_bytes,
            "latency_ms": None if self.latency is None else self.latency.as_dict(),
            "fastest_ms": self.fastest_ms,
            "medians_ms": list(self.medians_ms),
            "throughput_per_s": self.throughput_per_s,
            "error": None if self.error is None else {"largest": self.error.largest, "relative": self.error.relative},
            "predicted_ms": None if self.predicted is None else self.predicted.total_ms,
            "remark": self.remark,
        }


@dataclass(frozen=True)
class ModuleLineup:
    """The comparison of a module."""

    model: str
    machine: str
    threads: int | None
    rounds: int
    repeats: int
    batch: int
    samples: str
    created: str
    entries: tuple[ModuleEntry, ...]
    processor_share: float | None = None
    """As in `entry.Lineup`."""
    published: Sequence[Publication] = field(default_factory=tuple)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        head = ("model", "machine", "threads", "rounds", "repeats", "batch", "samples", "created", "processor_share")
        return {
            "schema": 1,
            **{name: getattr(self, name) for name in head},
            "variants": [entry.as_dict() for entry in self.entries],
            "published": [publication.as_dict() for publication in self.published],
        }


def line_up_module(
    net: nn.Module, settings: ModuleSettings, progress: Progress = silent, note: Note = drop_note
) -> ModuleLineup:
    """Make all variants of ``net``, time them in turns, and hold their outputs against FP32's.

    Raises:
        BadInputError: the module does not take these inputs.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(settings.threads or before)
    try:
        with ExitStack() as stack, torch.no_grad():
            variants, refused = _make_all(net.eval(), settings, stack, note)
            watch = Watch()
            entries = _measure(variants, settings, progress)
            share = watch.share
    finally:
        torch.set_num_threads(before)
    shape = settings.inputs[0].shape
    return ModuleLineup(
        model=settings.reference,
        machine=describe_processor(settings.threads),
        threads=settings.threads,
        rounds=settings.counts.rounds,
        repeats=settings.repeats,
        batch=shape[0],
        samples=settings.samples.text,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        entries=(*entries, *refused),
        processor_share=share,
        published=list_published(MODULES),
    )


_Maker = Callable[[], "Variant | ModuleEntry"]


def _make_all(
    net: nn.Module, settings: ModuleSettings, stack: ExitStack, note: Note
) -> tuple[list[Variant], list[ModuleEntry]]:
    """All variants that can be made and run, FP32 first; of the others why not, or what is predicted."""
    with run_user_code(f"forward() of {settings.reference}", _FORWARD):
        first = _torch_variant(net, "fp32", settings)
        outputs = _run(first, settings.samples.judging[0])
    if not outputs:
        raise BadInputError(f"{settings.reference} gives no tensor", "compare a module that returns tensors")
    variants, refused = [first], list[ModuleEntry]()
    for library, precision, make in itertools.chain(_list_torch(net, settings), _list_onnx(net, settings, stack)):
        note(f"{library} {precision}")
        try:
            made = make()
            if isinstance(made, Variant):
                _run(made, settings.samples.judging[0])
                variants.append(made)
            else:
                refused.append(made)
        except TrtFaceFusionError as error:
            refused.append(ModuleEntry(library, precision, reason=explain(error)))
        except Exception as error:  # an operator that a library lacks in this type
            refused.append(ModuleEntry(library, precision, reason=f"it does not run: {str(error).splitlines()[0]}"))
    return variants, refused


def _list_torch(net: nn.Module, settings: ModuleSettings) -> Iterator[tuple[str, str, _Maker]]:
    calibrate = [_to_tensors(feeds, settings.inputs) for feeds in settings.samples.calibration]

    def variant(precision: str, make: Callable[[], nn.Module], remark: str = "") -> tuple[str, str, _Maker]:
        return "torch", precision, lambda: _torch_variant(make(), precision, settings, remark)

    yield variant("fp16", lambda: make_half(net))
    yield variant("bf16", lambda: make_half(net, bfloat=True))
    yield variant("int8 dynamic", lambda: quantize_dynamic(net), _DEPRECATED)
    yield variant("int8 static", lambda: quantize_static(net, calibrate), f"needs calibration; {_DEPRECATED}")


def _list_onnx(net: nn.Module, settings: ModuleSettings, stack: ExitStack) -> Iterator[tuple[str, str, _Maker]]:
    """Every backend, with the ONNX of each precision that says something there."""
    models = _OnnxModels(net, settings)
    for backend in BACKENDS:
        precisions = ("fp32", "fp16", "int8 static") if backend.capabilities.needs_gpu else ("fp32", "int8 static")
        for precision in precisions:
            yield backend.name, precision, _bind(_make_on_backend, backend, precision, models, settings, stack)


def _bind(make: Callable[..., Variant | ModuleEntry], *arguments: Any) -> _Maker:
    return lambda: make(*arguments)


class _OnnxModels:
    """The module as ONNX, made once for each precision."""

    def __init__(self, net: nn.Module, settings: ModuleSettings) -> None:
        self.net, self.settings = net, settings
        self._made: dict[tuple[str, bool], onnx.ModelProto | ModelError] = {}

    def get(self, precision: str, *, symmetric: bool) -> onnx.ModelProto:
        """The model; raises `ModelError` where it cannot be made, which takes torch long to find out: once."""
        key = precision, symmetric and precision.startswith("int8")
        if key not in self._made:
            try:
                self._made[key] = self._make(*key)
            except ModelError as error:
                self._made[key] = error
        model = self._made[key]
        if isinstance(model, ModelError):
            raise ModelError(model.message, model.remedy)
        return model

    def _make(self, precision: str, symmetric: bool) -> onnx.ModelProto:
        settings, names = self.settings, [spec.name for spec in self.settings.inputs]
        tensors = _to_tensors(settings.samples.calibration[0], settings.inputs)
        if precision == "fp16":
            halves = tuple(tensor.half() if tensor.is_floating_point() else tensor for tensor in tensors)
            return export_module(make_half(self.net), halves, names)
        if precision == "fp32":
            return export_module(self.net, tensors, names)
        return quantize_onnx(self.get("fp32", symmetric=False), settings.samples.calibration, symmetric=symmetric)


def _make_on_backend(
    backend: Backend, precision: str, models: _OnnxModels, settings: ModuleSettings, stack: ExitStack
) -> Variant | ModuleEntry:
    target = settings.target if settings.target in backend.targets() else backend.default_target()
    if target is None:
        raise find_no_target(backend)
    backend.require(target)
    symmetric = backend.capabilities.needs_gpu
    model = models.get(precision, symmetric=symmetric)
    built = backend.build(BuildRequest(model.SerializeToString(), {}, target))
    weights = _count_weight_bytes(model)
    remark = "needs calibration" if precision.startswith("int8") else ""
    try:
        runner = stack.enter_context(backend.open(built.data, RunOptions(1, 0, settings.threads)))
    except (BackendUnavailableError, DeviceError) as error:
        gpu = choose_gpu(None, target, None) if built.kernels else None
        if gpu is None:
            raise
        prediction = predict_engine(built.kernels, gpu, settings.inputs[0].shape[0], AT_THE_ROOF)
        predicted = summarise(prediction, fitted=False)
        text = "; ".join(part for part in (remark, f"cannot run here: {error.message}") if part)
        return ModuleEntry(backend.name, precision, weights_bytes=weights, predicted=predicted, remark=text)
    types = {spec.name: spec.dtype for spec in runner.inputs}

    def prepare(feeds: Feeds) -> Feeds:
        return {name: np.asarray(array, types[name]) for name, array in feeds.items()}

    return Variant(
        backend.name,
        precision,
        weights,
        prepare,
        runner.infer,
        lambda outputs: [np.asarray(array, np.float32) for array in outputs.values()],
        remark,
    )


def _count_weight_bytes(model: onnx.ModelProto) -> int:
    return sum(onnx.numpy_helper.to_array(tensor).nbytes for tensor in model.graph.initializer)


def _torch_variant(net: nn.Module, precision: str, settings: ModuleSettings, remark: str = "") -> Variant:
    import torch

    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(precision, torch.float32)

    def prepare(feeds: Feeds) -> Any:
        tensors = _to_tensors(feeds, settings.inputs)
        return tuple(tensor.to(dtype) if tensor.is_floating_point() else tensor for tensor in tensors)

    def read(outputs: Any) -> Outputs:
        return [tensor.float().numpy() for tensor in _flatten(outputs)]

    return Variant("torch", precision, measure_bytes(net), prepare, lambda tensors: net(*tensors), read, remark)


def _to_tensors(feeds: Feeds, inputs: Sequence[ModuleInput]) -> tuple[Any, ...]:
    import torch

    return tuple(torch.from_numpy(np.array(feeds[spec.name])) for spec in inputs)


def _flatten(outputs: Any) -> Iterator[Any]:
    """The tensors in what a module gives."""
    if isinstance(outputs, Mapping):
        outputs = list(outputs.values())
    if isinstance(outputs, list | tuple):
        for part in outputs:
            yield from _flatten(part)
    elif hasattr(outputs, "detach"):
        yield outputs


def _run(variant: Variant, feeds: Feeds) -> Outputs:
    return variant.read(variant.call(variant.prepare(feeds)))


def _measure(variants: Sequence[Variant], settings: ModuleSettings, progress: Progress) -> list[ModuleEntry]:
    judging, counts = settings.samples.judging, settings.counts
    turns = [itertools.cycle([variant.prepare(feeds) for feeds in judging]) for variant in variants]
    calls = [
        lambda variant=variant, turn=turn: variant.call(next(turn))
        for variant, turn in zip(variants, turns, strict=True)
    ]
    series = [
        time_interleaved(calls, counts.warmups, counts.rounds, progress=progress) for _ in range(settings.repeats)
    ]
    reference = [_run(variants[0], feeds) for feeds in judging]
    batch, entries = settings.inputs[0].shape[0], []
    for index, variant in enumerate(variants):
        medians = tuple(float(np.median(times[index])) for times in series)
        latency = Latency.of([time_ms for times in series for time_ms in times[index]])
        entries.append(
            ModuleEntry(
                variant.library,
                variant.precision,
                weights_bytes=variant.weights_bytes,
                latency=latency,
                fastest_ms=min(time_ms for times in series for time_ms in times[index]),
                medians_ms=medians,
                throughput_per_s=1e3 * batch / latency.p50,
                error=measure_error(reference, [_run(variant, feeds) for feeds in judging]),
                remark=variant.remark,
            )
        )
    return entries


def measure_error(reference: Sequence[Outputs], candidate: Sequence[Outputs]) -> OutputDeviation:
    """The error over all outputs of all samples. Raises `ModelError` where shapes differ."""
    pairs = [pair for a, b in zip(reference, candidate, strict=True) for pair in zip(a, b, strict=True)]
    if any(a.shape != b.shape for a, b in pairs):
        raise ModelError("the outputs have other shapes than FP32's", "report it")
    apart = [np.asarray(b, np.float64) - np.asarray(a, np.float64) for a, b in pairs]
    power = sum(float((np.asarray(a, np.float64) ** 2).sum()) for a, _ in pairs)
    squares = sum(float((difference**2).sum()) for difference in apart)
    largest = max((float(np.abs(difference).max()) for difference in apart if difference.size), default=0.0)
    return OutputDeviation(largest, float(np.sqrt(squares / power)) if power else float(np.sqrt(squares)))
