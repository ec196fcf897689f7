"""The corrections of a build: computed on calibration faces, tried on others of them, kept where the pictures gain."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from trt_facefusion.build.effort import FULL
from trt_facefusion.build.inputs import BuildInputs
from trt_facefusion.build.tuning.calibration_evaluator import calibration_evaluator
from trt_facefusion.engine.runtime.onnxruntime import OnnxRuntimeRunner
from trt_facefusion.model.graph import GraphView
from trt_facefusion.quantization.calibration.collect import open_tapped_session, run_batch
from trt_facefusion.quantization.correction.channel_affine import Affines, name_equalised
from trt_facefusion.quantization.correction.grid import fake_quantise
from trt_facefusion.quantization.correction.kinds import LAYER_CORRECTIONS, parse_corrections
from trt_facefusion.quantization.correction.rounding import MAX_COLUMNS, InputCovariance, round_weights
from trt_facefusion.quantization.correction.weight_correction import (
    CorrectableLayer,
    Correction,
    Corrections,
    InputMoments,
    choose_weight_scales,
    correct_layer,
    read_layer,
    round_to_nearest,
)
from trt_facefusion.quantization.lowering import lower
from trt_facefusion.quantization.precision import Plan
from trt_facefusion.sampling import spread
from trt_facefusion.types import Array, Precision

AUTO = (("bias",), ("scales", "bias"))
"""What `auto` tries of the corrections of layers."""

CORRECTING_FACES = FULL.correcting_faces
"""Calibration faces that layers' inputs are taken from."""
_ROUNDING_FACES, _ROUNDING_POSITIONS = 16, 256
_ROUNDING_BYTES = 1 << 30
"""Covariances that are held at a time; more take more passes over the faces."""

_INPUTS_BYTES = 1 << 30
"""Inputs of layers that leave the network at a time; more take more passes over the faces."""

Kinds = tuple[str, ...]


@dataclass
class Correcting:
    """Corrections of one model's INT8 layers over one table; each layer's is computed once, whatever the plan."""

    inputs: BuildInputs
    table: Mapping[str, float]
    affines: Affines
    tried: dict[str, float] = field(default_factory=dict)
    """What was measured: corrections -> mean SSIM drop on the validation faces."""
    _computed: dict[Kinds, dict[str, Correction | None]] = field(default_factory=dict)
    _moments: dict[str, InputMoments] = field(default_factory=dict)
    _kinds: Kinds | None = None

    def of(self, plan: Plan) -> Corrections:
        """The corrections of the INT8 nodes of ``plan``; what is corrected is decided by the first plan."""
        if self._kinds is None:
            self._kinds = self._decide(plan)
        return self._correct(plan, self._kinds)

    @property
    def kinds(self) -> Kinds:
        """What is corrected; nothing before the first plan."""
        return self._kinds or ()

    @property
    def record(self) -> dict[str, object]:
        """For the manifest: what is corrected, and the mean SSIM drop of all that was tried."""
        return {"corrections": list(self.kinds), "corrections_ssim_drop": dict(self.tried)}

    def _decide(self, plan: Plan) -> Kinds:
        asked = parse_corrections(self.inputs.settings.corrections)
        candidates = AUTO if asked is None else (tuple(kind for kind in LAYER_CORRECTIONS if kind in asked),)
        if candidates == ((),):
            return ()
        measure = self._measure(plan)
        drops = {kinds: measure(kinds) for kinds in ((), *candidates)}
        self.tried = {" + ".join(kinds) or "none": drop for kinds, drop in drops.items()}
        best = min(drops, key=lambda kinds: drops[kinds]) if asked is None else candidates[0]
        shown = ", ".join(f"{name} {drop:.3%}" for name, drop in sorted(self.tried.items(), key=lambda item: item[1]))
        self.inputs.reporter.note(
            f"layers corrected: {' + '.join(best) or 'none'}; SSIM drop on calibration faces: {shown}"
        )
        self._computed = {best: self._computed[best]} if best in self._computed else {}
        return best

    def _measure(self, plan: Plan) -> Callable[[Kinds], float]:
        inputs = self.inputs
        evaluator = calibration_evaluator(inputs, inputs.level.validation_faces)

        def drop(kinds: Kinds) -> float:
            corrections = self._correct(plan, kinds)
            held = [lower(inputs.view, plan, self.table, Precision.FP32, self.affines, corrections)]
            with OnnxRuntimeRunner(held.pop, ours="the corrected graph") as runner:
                return evaluator.ssim_drop(runner)

        return drop

    def _correct(self, plan: Plan, kinds: Kinds) -> Corrections:
        if not kinds:
            return {}
        computed = self._computed.setdefault(kinds, {})
        names = plan.names(Precision.INT8)
        new = [name for name in names if name not in computed]
        if new:
            computed |= dict.fromkeys(new)
            computed |= self._compute(new, kinds)
        return {name: correction for name in names if (correction := computed[name]) is not None}

    def _layer(self, name: str) -> CorrectableLayer | None:
        tensor = self.inputs.view.nodes[name].input[0]
        affine = self.affines.get(tensor)
        amax = self.table[tensor if affine is None else name_equalised(tensor)]
        return read_layer(self.inputs.view, name, affine, amax, TensorProto.FLOAT16)

    def _layers(self, names: Sequence[str]) -> Iterator[tuple[str, CorrectableLayer]]:
        """The layers that can be corrected, one at a time: in float64, all weights take twice the network's memory."""
        for name in names:
            layer = self._layer(name)
            if layer is not None:
                yield name, layer

    def _compute(self, names: Sequence[str], kinds: Kinds) -> dict[str, Correction]:
        moments = self._measured(names)

        def scales_of(name: str, layer: CorrectableLayer) -> Array:
            return choose_weight_scales(layer, moments[name] if "scales" in kinds else None)

        scales: dict[str, Array] = {}
        steps: dict[str, NDArray[np.float64]] = {}
        if "rounding" in kinds:
            scales = {name: scales_of(name, layer) for name, layer in self._layers(names)}
            steps = self._rounded(dict(self._layers(names)), scales)
        corrections = {}
        for name, layer in self._layers(names):
            scale = scales[name] if name in scales else scales_of(name, layer)
            rounded_ones = steps[name] if name in steps else round_to_nearest(layer.matrix, scale)
            corrections[name] = correct_layer(layer, rounded_ones, scale, moments[name] if "bias" in kinds else None)
        return corrections

    def _measured(self, names: Sequence[str]) -> dict[str, InputMoments]:
        new = {name: InputMoments(layer) for name, layer in self._layers(names) if name not in self._moments}
        if new:
            for group in by_memory(self.inputs.view, list(new), self.inputs.network.smallest_batch):
                layers = {name: new[name].layer for name in group}
                for values in self._inputs(layers, self.inputs.level.correcting_faces, "layers' inputs"):
                    for name, layer in layers.items():
                        new[name].add(values[layer.node.input[0]])
            self._moments |= new
        return self._moments

    def _rounded(
        self, layers: Mapping[str, CorrectableLayer], scales: Mapping[str, Array]
    ) -> dict[str, NDArray[np.float64]]:
        steps = {}
        for group in _groups(layers):
            covariances = {name: InputCovariance(layer) for name, layer in group.items()}
            for values in self._inputs(
                group, min(_ROUNDING_FACES, self.inputs.level.correcting_faces), "rounding weights"
            ):
                for name, covariance in covariances.items():
                    layer = group[name]
                    exact = layer.inputs(values[layer.node.input[0]])
                    covariance.add(fake_quantise(exact, layer.scale), _ROUNDING_POSITIONS * len(exact))
            for name, covariance in covariances.items():
                steps[name] = round_weights(group[name], scales[name], covariance.matrix())
        return steps

    def _inputs(self, layers: Mapping[str, CorrectableLayer], count: int, stage: str) -> Iterator[Mapping[str, Array]]:
        """FP32 activations that ``layers`` read, batch by batch."""
        inputs = self.inputs
        faces = inputs.faces.calibration
        feeder, indices = (
            inputs.network.feeder(faces),
            correcting_faces(len(faces), count, inputs.level.validation_faces),
        )
        names = list(dict.fromkeys(layer.node.input[0] for layer in layers.values()))
        fed = [name for name in names if name in inputs.view.input_names]
        tapped = [name for name in names if name not in fed]
        session = open_tapped_session(inputs.network.prepared.model, tapped, None)
        size = inputs.network.smallest_batch
        for start in range(0, len(indices), size):
            part = indices[start : start + size]
            yield run_batch(session, fed, tapped, feeder(part))
            inputs.reporter.progress(stage, start + len(part), len(indices))


def correcting_faces(count: int, limit: int, tried_on: int = FULL.validation_faces) -> list[int]:
    """At most ``limit`` of ``count`` faces, none of which corrections are tried on, where there are enough for that."""
    tried = set(spread(count, tried_on))
    others = [index for index in range(count) if index not in tried]
    pool = others if len(others) >= tried_on else list(range(count))
    return [pool[index] for index in spread(len(pool), limit)]


def by_memory(view: GraphView, names: Sequence[str], batch: int, most: int = _INPUTS_BYTES) -> list[list[str]]:
    """``names`` of layers in groups: the inputs of each, for ``batch`` faces, take ``most`` bytes or are one tensor."""
    groups: list[list[str]] = []
    tensors: set[str] = set()
    held = 0
    for name in names:
        tensor = view.nodes[name].input[0]
        size = 0 if tensor in tensors else 4 * batch * view.per_sample(tensor)
        if not groups or (size and held + size > most):
            groups.append([])
            tensors, held, size = set(), 0, 4 * batch * view.per_sample(tensor)
        groups[-1].append(name)
        tensors.add(tensor)
        held += size
    return groups


def _groups(layers: Mapping[str, CorrectableLayer]) -> Iterator[dict[str, CorrectableLayer]]:
    group: dict[str, CorrectableLayer] = {}
    held = 0
    for name, layer in layers.items():
        columns = layer.matrix.shape[1]
        if columns > MAX_COLUMNS:
            continue
        size = columns**2 * 8
        if group and held + size > _ROUNDING_BYTES:
            yield group
            group, held = {}, 0
        group[name] = layer
        held += size
    if group:
        yield group
