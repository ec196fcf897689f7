"""Computes corrections of single layers from what they read on calibration faces."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from trt_facefusion.build.inputs import BuildInputs
from trt_facefusion.build.tuning.layer_inputs import group_by_covariances, group_by_inputs, run_layer_inputs
from trt_facefusion.build.tuning.ranges import Ranges
from trt_facefusion.quantization.calibration.table import INT8_MAX
from trt_facefusion.quantization.correction.channel_affine import name_equalised
from trt_facefusion.quantization.correction.grid import fake_quantise
from trt_facefusion.quantization.correction.rounding import InputCovariance, round_weights
from trt_facefusion.quantization.correction.weight_correction import (
    CorrectableLayer,
    Correction,
    InputMoments,
    choose_weight_scales,
    correct_layer,
    read_layer,
    round_to_nearest,
)
from trt_facefusion.types import Array

_ROUNDING_FACES, _ROUNDING_POSITIONS = 16, 256

Kinds = tuple[str, ...]
"""What is corrected, of `LAYER_CORRECTIONS`."""


@dataclass
class LayerCorrections:
    """Computes corrections of one model's layers over one table; what a layer reads is measured once."""

    inputs: BuildInputs
    ranges: Ranges
    levels: int = INT8_MAX
    """Steps of activations' grids either way from zero."""
    _moments: dict[str, InputMoments] = field(default_factory=dict)

    def compute(self, names: Sequence[str], kinds: Kinds) -> dict[str, Correction]:
        """Corrections of the layers ``names``, but for those that cannot be corrected; runs inferences."""
        moments = self._measure_moments(names)

        def choose_scales(name: str, layer: CorrectableLayer) -> Array:
            return choose_weight_scales(layer, moments[name] if "scales" in kinds else None)

        scales: dict[str, Array] = {}
        steps: dict[str, NDArray[np.float64]] = {}
        if "rounding" in kinds and not self.inputs.pairs:  # which takes single weights far from where they were
            scales = {name: choose_scales(name, layer) for name, layer in self._read_layers(names)}
            steps = self._round(dict(self._read_layers(names)), scales)
        corrections = {}
        for name, layer in self._read_layers(names):
            scale = scales[name] if name in scales else choose_scales(name, layer)
            rounded = steps[name] if name in steps else round_to_nearest(layer.matrix, scale)
            corrections[name] = correct_layer(layer, rounded, scale, moments[name] if "bias" in kinds else None)
        return corrections

    def _read_layer(self, name: str) -> CorrectableLayer | None:
        ranges = self.ranges
        tensor = ranges.view.nodes[name].input[0]
        affine = ranges.affines.get(tensor)
        amax = ranges.amax[tensor if affine is None else name_equalised(tensor)]
        # The scale of more levels is too small for FP16, and no backend keeps it in that.
        kind = TensorProto.FLOAT16 if self.levels == INT8_MAX else TensorProto.FLOAT
        return read_layer(ranges.view, name, affine, amax, kind, pairs=self.inputs.pairs, levels=self.levels)

    def _read_layers(self, names: Sequence[str]) -> Iterator[tuple[str, CorrectableLayer]]:
        """The layers that can be corrected, one at a time: in float64, all weights take twice the network's memory."""
        for name in names:
            layer = self._read_layer(name)
            if layer is not None:
                yield name, layer

    def _measure_moments(self, names: Sequence[str]) -> dict[str, InputMoments]:
        new = {name: InputMoments(layer) for name, layer in self._read_layers(names) if name not in self._moments}
        faces = self.inputs.level.correcting_faces
        if new:
            for group in group_by_inputs(self.inputs.view, list(new), self.inputs.network.smallest_batch):
                layers = {name: new[name].layer for name in group}
                for activations in run_layer_inputs(self.inputs, self.ranges.view, layers, faces, "layers' inputs"):
                    for name, layer in layers.items():
                        new[name].add(activations[layer.node.input[0]])
            self._moments |= new
        return self._moments

    def _round(
        self, layers: Mapping[str, CorrectableLayer], scales: Mapping[str, Array]
    ) -> dict[str, NDArray[np.float64]]:
        steps = {}
        faces = min(_ROUNDING_FACES, self.inputs.level.correcting_faces)
        for group in group_by_covariances(layers):
            covariances = {name: InputCovariance(layer) for name, layer in group.items()}
            for activations in run_layer_inputs(self.inputs, self.ranges.view, group, faces, "rounding weights"):
                for name, covariance in covariances.items():
                    layer = group[name]
                    exact = layer.inputs(activations[layer.node.input[0]])
                    covariance.add(fake_quantise(exact, layer.scale, layer.levels), _ROUNDING_POSITIONS * len(exact))
            for name, covariance in covariances.items():
                steps[name] = round_weights(group[name], scales[name], covariance.matrix())
        return steps
