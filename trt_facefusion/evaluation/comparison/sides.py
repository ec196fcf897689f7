"""Two subjects that are compared: fed alike, opened on this machine, and held against what they are fed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from trt_facefusion.engine.runtime.base import Runner
from trt_facefusion.engine.runtime.onnxruntime import OnnxRuntimeRunner
from trt_facefusion.errors import BackendUnavailableError, BadInputError, ModelError
from trt_facefusion.inference.feeder import BATCH, find_projection
from trt_facefusion.inference.open import OpenedModel
from trt_facefusion.model.export.onnx_file import load_model
from trt_facefusion.model.presets import Preset
from trt_facefusion.model.presets.contract import PRESET_FILE, Contract
from trt_facefusion.model.presets.fit import batch_of as batch_insisted_on
from trt_facefusion.model.presets.fit import fit_inputs, suggestions

STAND_IN, GPU, CPU = "stand-in", "gpu", "onnxruntime"


@dataclass(frozen=True)
class Side:
    """A subject that was opened; ``ran`` says what runs: the engine on the GPU, a library on the CPU, or a stand-in."""

    subject: OpenedModel
    runner: Runner
    ran: str
    missing: str = ""
    """Why the engine itself could not be run, where a stand-in was not asked for."""

    def as_dict(self) -> dict[str, Any]:
        """What the JSON output says of it."""
        path = self.subject.engine if self.ran != STAND_IN else self.subject.graph
        return {"name": self.subject.label, "path": str(path), "ran": self.ran}


def contract_of(a: OpenedModel, b: OpenedModel, described: Preset | None) -> Contract:
    """How both are fed: what their folders say, or what the user describes.

    Raises:
        BadInputError: the two are fed differently, nobody says how they are fed, or both the folder and the user do.
        ModelError: the preset multiplies embeddings with a matrix that is in neither file.
    """
    described_sides = [side for side in (a, b) if side.contract is not None]
    if described_sides and described is not None:
        raise BadInputError(
            f"{described_sides[0].label} says itself how it is fed",
            "leave --preset and --input out; they are for bare ONNX files",
        )
    if described is not None:
        return Contract(described, _projection(described, a, b))
    if not described_sides:
        with OnnxRuntimeRunner(a.graph) as runner:
            takes = runner.inputs
        raise BadInputError(
            f"nothing says what the inputs of {a.label} are. It takes {'; '.join(map(str, takes))}",
            f"name a --preset, or describe each input, perhaps with {suggestions(takes)}",
        )
    contracts = [side.contract for side in described_sides if side.contract is not None]
    if len(contracts) == 2 and _comparable(contracts[0]) != _comparable(contracts[1]):
        different = _differences(a, b, *contracts)
        raise BadInputError(
            f"{a.label} and {b.label} are fed differently, so their pictures cannot be compared: {different}",
            "compare two engines of one model; build one of them again with the inputs of the other",
        )
    return contracts[0]


def _projection(preset: Preset, a: OpenedModel, b: OpenedModel) -> Any:
    try:
        return find_projection(preset, load_model(a.graph))
    except ModelError:
        return find_projection(preset, load_model(b.graph))


def _comparable(contract: Contract) -> dict[str, Any]:
    """Everything that decides what is fed; the preset's name does not."""
    files: dict[str, Any] = dict(contract.files())
    described = json.loads(files.pop(PRESET_FILE))
    del described["name"]
    return {**files, **described}


def _differences(a: OpenedModel, b: OpenedModel, first: Contract, second: Contract) -> str:
    one, two = _comparable(first), _comparable(second)
    texts = []
    for key in sorted(one.keys() | two.keys()):
        if one.get(key) == two.get(key):
            continue
        if key == "inputs":
            texts.append(f"{_takes(one[key])} against {_takes(two[key])}")
        elif isinstance(one.get(key), bytes) or isinstance(two.get(key), bytes):
            texts.append(f"other values in {key}")
        else:
            texts.append(f"{key} {one.get(key)} against {two.get(key)}")
    return "; ".join(texts)


def _takes(inputs: list[Mapping[str, Any]]) -> str:
    def one(spec: Mapping[str, Any]) -> str:
        details = ", ".join(f"{name} {value}" for name, value in spec.items() if name not in {"name", "kind"})
        return f"{spec['name']} = {spec['kind']}" + (f" ({details})" if details else "")

    return "[" + "; ".join(one(spec) for spec in inputs) + "]"


def open_side(subject: OpenedModel, stack: ExitStack, *, stand_in: bool | None, device: int) -> Side:
    """Open one side until ``stack`` ends.

    ``stand_in`` True computes what a GPU would on the CPU, from the typed ONNX; None does so where there is no GPU.

    Raises:
        BackendUnavailableError: ``stand_in`` is False, and there is no GPU, no pycuda or no TensorRT.
        TrtFaceFusionError: what opening the engine or the model raises.
    """
    if not subject.needs_gpu:
        imitated = bool(stand_in) and subject.manifest is None
        runner: Runner = OnnxRuntimeRunner(subject.graph, stand_in=True) if imitated else subject.open_runner()
        return Side(subject, stack.enter_context(runner), STAND_IN if imitated else _library_of(subject))
    missing = ""
    if not stand_in:
        try:
            return Side(subject, stack.enter_context(subject.open_runner(slots=1, device=device)), GPU)
        except BackendUnavailableError as error:
            if stand_in is False:
                raise
            missing = error.message.rstrip(".")
    return Side(subject, stack.enter_context(subject.open_runner(stand_in=True)), STAND_IN, missing)


def _library_of(subject: OpenedModel) -> str:
    """What runs a subject on the CPU: its backend, and onnxruntime where it is an ONNX file."""
    return CPU if subject.backend is None else subject.backend.name


def check_side(side: Side, preset: Preset, embedding: int) -> None:
    """Hold the inputs of one side against what it will be fed; ``embedding`` is the length of the embedder's vectors.

    Raises:
        BadInputError: other names, types or sizes.
    """
    try:
        fit_inputs(preset, side.runner.inputs, embedding)
    except BadInputError as error:
        raise BadInputError(
            f"{side.subject.label}: {error.message}",
            f"compare two engines of one model, or correct --preset, --input or --embedder: {error.remedy}",
        ) from error


@dataclass(frozen=True)
class BatchSize:
    """Samples that both sides take at once; ``fixed`` where fewer must be filled up."""

    size: int
    fixed: bool


def batch_of(a: Side, b: Side, preset: Preset, embedding: int) -> BatchSize:
    """The batch size for both: that which the engines were built for (B's, since it is judged, else A's).

    ``preset`` and ``embedding`` as for `check_side`.

    Raises:
        BadInputError: there is none that both take.
    """
    ranges = [_range(side, preset, embedding) for side in (a, b)]
    low, high = max(r[0] for r in ranges), min(r[1] for r in ranges)
    if low > high:
        texts = [f"{s.subject.label} takes {r[0]} to {r[1]}" for s, r in zip((a, b), ranges, strict=True)]
        raise BadInputError(
            f"no batch size fits both: {', '.join(texts)} faces at once", "build both engines with the same --batch"
        )
    usual = (_usual(side, preset, embedding) for side in (b, a))
    built = next((size for size in usual if size is not None), None)
    size = max(low, min(built or BATCH, high))
    return BatchSize(size, low > 1 or low == high or (built or 1) > 1)


def _usual(side: Side, preset: Preset, embedding: int) -> int | None:
    """The batch that a stored engine is built for; None for a file, and where no input has a batch axis."""
    fits = fit_inputs(preset, side.runner.inputs, embedding)
    shapes = {} if side.subject.manifest is None else side.subject.manifest.shapes
    return next((shapes[name][1][0] for name, fit in fits.items() if fit.batched and name in shapes), None)


def _range(side: Side, preset: Preset, embedding: int) -> tuple[int, int]:
    takes = side.runner.inputs
    fits = fit_inputs(preset, takes, embedding)
    fixed = batch_insisted_on(preset, takes, fits)
    if fixed is not None:
        return fixed, fixed
    manifest = side.subject.manifest
    if side.ran != GPU or manifest is None or not manifest.shapes:
        return 1, 1 << 30
    smallest, _, largest = manifest.shapes[next(name for name, fit in fits.items() if fit.batched)]
    return smallest[0], largest[0]
