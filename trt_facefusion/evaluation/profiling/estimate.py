"""How long stored engines will take on a GPU, predicted from their kernels: nothing is run here, nothing measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from trt_facefusion.engine.backends.registry import find_backend
from trt_facefusion.engine.store.manifest import Manifest
from trt_facefusion.engine.store.store import MANIFEST, Store
from trt_facefusion.engine.timing.factors import AT_THE_ROOF, FittedFactors, load_factors
from trt_facefusion.engine.timing.gpus import GpuModel, choose_gpu, get_gpu, list_gpus
from trt_facefusion.engine.timing.roofline import EnginePrediction, KernelPrediction, predict_engine, share
from trt_facefusion.engine.timing.summary import PredictedTime, explain_int8, list_int8_writing_fp32, summarise
from trt_facefusion.errors import BadInputError
from trt_facefusion.quantization.precision import read_rows
from trt_facefusion.types import Precision

COSTLIEST = 10


@dataclass(frozen=True)
class EstimatedEngine:
    """One stored engine and what is predicted of it; ``planned`` are the nodes that its plan speaks of."""

    folder: Path
    manifest: Manifest
    prediction: EnginePrediction
    planned: frozenset[str]
    fitted: bool

    @cached_property
    def summary(self) -> PredictedTime:
        """The prediction in few words."""
        return summarise(self.prediction, fitted=self.fitted)

    def name_nodes(self, kernel: KernelPrediction) -> tuple[str, ...]:
        """The planned nodes that a kernel was made of; of one that has none, the nodes that lowering put in."""
        nodes = kernel.kernel.nodes
        return tuple(node for node in nodes if node in self.planned) or nodes

    def list_int8_writing_fp32(self) -> tuple[tuple[str, ...], ...]:
        """The nodes of each kernel that multiplies in INT8 and writes FP32."""
        return tuple(self.name_nodes(kernel) for kernel in list_int8_writing_fp32(self.prediction))

    def as_dict(self) -> dict[str, Any]:
        """The engine as ``--json`` shows it."""
        predicted = self.prediction
        return {
            "path": str(self.folder),
            "precision": self.manifest.precision,
            "backend": self.manifest.backend,
            "target": self.manifest.target,
            "batch": predicted.batch,
            "predicted_ms": predicted.total_ms,
            "kernels": predicted.launches,
            "moved_bytes": predicted.moved_bytes,
            "macs": predicted.sum_macs(),
            "share_by_bound": share(predicted.sum_by_bound()),
            "share_by_kind": share(predicted.sum_by_kind()),
            "int8_kernels": self.summary.int8_kernels,
            "int8_writing_fp32": [list(nodes) for nodes in self.list_int8_writing_fp32()],
            "costliest": [
                kernel.as_dict() | {"nodes": list(self.name_nodes(kernel))}
                for kernel in predicted.list_costliest(COSTLIEST)
            ],
        }


@dataclass(frozen=True)
class TimeEstimate:
    """Engines of one model side by side on one GPU, the one that was named first."""

    gpu: GpuModel
    factors: FittedFactors | None
    engines: tuple[EstimatedEngine, ...]
    notes: tuple[str, ...] = ()

    @property
    def verdict(self) -> str | None:
        """Why INT8 is not worth it, and what is; None where it pays, or where FP16 is not there to compare."""
        times = {Precision(engine.manifest.precision): engine.summary for engine in self.engines}
        return explain_int8(times, self.gpu.title)

    def as_dict(self) -> dict[str, Any]:
        """The estimate as ``--json`` shows it."""
        fitted = self.factors
        return {
            "schema": 1,
            "what": "predicted by a model, not measured",
            "gpu": {**asdict(self.gpu), "tera_ops": dict(self.gpu.tera_ops), "sources": dict(self.gpu.sources)},
            "factors": asdict(AT_THE_ROOF if fitted is None else fitted.factors),
            "fitted": None if fitted is None else {k: v for k, v in asdict(fitted).items() if k != "factors"},
            "engines": [engine.as_dict() for engine in self.engines],
            "int8_does_not_pay": self.verdict,
            "notes": list(self.notes),
        }


def estimate(path: Path, gpu_name: str | None, cache: Path) -> TimeEstimate:
    """Predict the time of the engine at ``path`` and of its siblings of other precisions.

    Args:
        path: an engine's folder, a file in it, or a model's folder in the store.
        gpu_name: a GPU of the table; None for the one that the engine was built on or for.
        cache: folder of the factors that `trt-ff profile --fit` keeps.

    Raises:
        BadInputError: no such GPU, no engine there, one for a processor, or one whose kernels are not known.
        StoreError: the engine's folder, or the file of factors, is damaged.
    """
    folder, manifest = _find_engine(path, gpu_name)
    _require_kernels(folder, manifest)
    gpu = choose_gpu(gpu_name, manifest.target, manifest.pins.device)
    if gpu is None:
        raise BadInputError(
            f"nothing is known of a GPU of the target {manifest.target}",
            f"name one with --gpu: {', '.join(list_gpus())}",
        )
    fitted = load_factors(cache, gpu)
    engines = [(folder, manifest), *_list_siblings(folder, manifest)]
    notes = [f"the kernels are those for {manifest.target}, and {gpu.title} is {gpu.target}"]
    return TimeEstimate(
        gpu,
        fitted,
        tuple(_estimate_engine(path, m, gpu, fitted) for path, m in engines),
        tuple(notes) if manifest.target != gpu.target else (),
    )


def _estimate_engine(folder: Path, manifest: Manifest, gpu: GpuModel, fitted: FittedFactors | None) -> EstimatedEngine:
    factors = AT_THE_ROOF if fitted is None else fitted.factors
    prediction = predict_engine(manifest.kernels, gpu, manifest.usual_batch, factors)
    planned = frozenset(str(row["name"]) for row in _read_plan(folder))
    return EstimatedEngine(folder, manifest, prediction, planned, fitted is not None)


def _read_plan(folder: Path) -> Sequence[Mapping[str, Any]]:
    path = folder / "plan.yaml"
    return read_rows(path) if path.is_file() else []


def _find_engine(path: Path, gpu_name: str | None) -> tuple[Path, Manifest]:
    """The engine that ``path`` names; of a model the cheapest precision of the newest engines for that GPU."""
    path = path.resolve()
    folder = path.parent if path.is_file() else path
    if (folder / MANIFEST).is_file():
        return folder, Store(folder.parent.parent).load(folder)
    is_model = path.is_dir() and any(path.glob(f"*/{MANIFEST}"))
    candidates = [(f, m) for f, m in _list_engines(path) if m.kernels] if is_model else []
    if not candidates:
        raise BadInputError(
            f"{path} holds no engine whose kernels are known", "name an engine's folder (`trt-ff engines` lists them)"
        )
    target = None if gpu_name is None else get_gpu(gpu_name).target
    suited = [(f, m) for f, m in candidates if m.target == target] or candidates
    newest = max((m for _, m in suited), key=lambda m: m.created)
    same = [(f, m) for f, m in suited if _is_of_one_make(m, newest)]
    order = [precision.value for precision in Precision]
    return min(same, key=lambda entry: order.index(entry[1].precision))


def _list_siblings(folder: Path, manifest: Manifest) -> list[tuple[Path, Manifest]]:
    """Engines of other precisions that the same backend built for the same target, from the same model."""
    return [
        (other, m)
        for other, m in _list_engines(folder.parent)
        if _is_of_one_make(m, manifest) and m.precision != manifest.precision and m.kernels
    ]


def _list_engines(model: Path) -> list[tuple[Path, Manifest]]:
    entries = Store(model.parent).list()
    return [(f, m) for f, m in entries if f.parent == model and isinstance(m, Manifest) and _needs_gpu(m)]


def _is_of_one_make(one: Manifest, other: Manifest) -> bool:
    def list_origin(m: Manifest) -> tuple[object, ...]:
        return m.inputs.model_sha256, m.target, m.backend, m.backend_version, m.shapes

    return list_origin(one) == list_origin(other)


def _needs_gpu(manifest: Manifest) -> bool:
    backend = find_backend(manifest.backend)
    return backend is not None and backend.capabilities.needs_gpu


def _require_kernels(folder: Path, manifest: Manifest) -> None:
    if not _needs_gpu(manifest):
        raise BadInputError(
            f"{folder.name} runs on a processor, and the model of time knows GPUs only",
            f"measure it: trt-ff profile {folder}",
        )
    if not manifest.kernels:
        raise BadInputError(
            f"the kernels of {folder.name} are not known: its builder told none, or in words that were not understood",
            "build it again with --force, or measure it on its GPU with `trt-ff profile`",
        )
