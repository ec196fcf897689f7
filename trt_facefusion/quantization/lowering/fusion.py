"""How a typed ONNX is written so that a compiler keeps its fusions: choices that were measured on kernels it makes."""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from trt_facefusion.model.graph import GraphView
from trt_facefusion.quantization.lowering.norms import flatten_norms
from trt_facefusion.quantization.lowering.weight_scales import share_weight_scales


@dataclass(frozen=True)
class FusionRules:
    """What a compiler wants."""

    shared_weight_scales: bool = False
    flat_norms: bool = False


def apply_fusion_rules(view: GraphView, typed: onnx.ModelProto, rules: FusionRules) -> onnx.ModelProto:
    """``typed``, the typed ONNX of ``view``, as a compiler with ``rules`` wants it."""
    if rules.shared_weight_scales:
        typed = share_weight_scales(typed)
    if rules.flat_norms:
        typed = flatten_norms(view, typed)
    return typed
