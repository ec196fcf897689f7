"""How a typed ONNX is written so that a compiler keeps its fusions.

What a compiler fuses, and what keeps it from doing so, was measured on the kernels that it makes of small networks, and
of the same networks written in other ways (`docs/fusion.md`, `benchmarks/fusion_study.py`). A backend says which of
these forms it wants (`Capabilities.fusion`); without any, the typed ONNX stays as `typed.lower` gives it. The numbers
stay those of the plan but for the rounding of FP16; with ``quantised_skips`` there is a quantiser's error more. What is
judged on pictures is the graph in this form.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import onnx

from trt_facefusion.model.graph import GraphView
from trt_facefusion.quantization.lowering.norms import flatten_norms
from trt_facefusion.quantization.lowering.skips import quantise_skips
from trt_facefusion.quantization.lowering.weight_scales import share_weight_scales


@dataclass(frozen=True)
class FusionRules:
    """The forms that a compiler makes fewer kernels of, or kernels that move fewer bytes.

    Attributes:
        shared_weight_scales: an INT8 convolution has one weight scale, and the kernel behind it multiplies each channel
            by what is special to it (`weight_scales`).
        flat_norms: instance normalisation is written as reductions over the flattened map (`norms`).
        quantised_skips: what is quantised for a convolution is read from the quantiser by an addition, too (`skips`).
    """

    shared_weight_scales: bool = False
    flat_norms: bool = False
    quantised_skips: bool = False

    def __bool__(self) -> bool:
        return any(getattr(self, rule.name) for rule in fields(self))

    def describe(self) -> str:
        """The rules that are followed, by name."""
        return ", ".join(rule.name for rule in fields(self) if getattr(self, rule.name))


def apply_fusion_rules(view: GraphView, typed: onnx.ModelProto, rules: FusionRules) -> onnx.ModelProto:
    """``typed``, the typed ONNX of ``view``, in the form that a compiler with ``rules`` wants; the same without any.

    Nodes of ``view`` that multiply and add keep their names, and tensors of ``view`` keep theirs as far as they are
    still computed: what a normalisation reads may be another factor of it.
    """
    if rules.shared_weight_scales:
        typed = share_weight_scales(typed)
    if rules.quantised_skips:
        typed = quantise_skips(typed)
    if rules.flat_norms:
        typed = flatten_norms(view, typed)
    return typed
