"""Plan + ranges + corrections -> the ONNX that a backend builds.

The plan says a precision for every node, the calibration table a range for every quantised activation. Lowering writes
both into the graph: casts between precisions, a quantiser and a dequantiser at each INT8 node, weights in INT8. What is
lowered here already decides the numbers, so it is judged on pictures before a backend sees it. The same plan and table
give the same bytes.

May import: the ground, `model`, and of `quantization` everything else.

Modules, from the ground up:

    typed        the one strongly typed ONNX for TensorRT: FP16 casts and explicit Q/DQ
    integer      the same plan for onnxruntime's integer operators on a CPU, which want quantised results, too
    npu          the same plan for a neural processor that stores every tensor in integers
    equalise     which channels get which scale and shift; the FP32 model with them, for a backend that quantises itself
    rewriting    nodes of a lowered model replaced by others
    zero_points  one zero point for a tensor in place of shifted channels, in a lowered graph
    unsigned     all 255 steps for what is never negative, for a backend that takes uint8
    pads         quantisers in front of what pads, for a backend that moves integers through it
    weight_scales, norms, skips    forms that a compiler makes most of: one weight scale for a convolution, flat
                 normalisation, skips that are read in INT8
    fusion       which of these forms a compiler wants
    scales       a lowered model whose activation scales are inputs: one session tries any thresholds
    switch       a model whose precisions are inputs: one session measures every plan of a search

Start reading at `typed`: its docstring says what is placed where and why; `typed.Rewriter` then does it, node by node.
`integer.IntegerRewriter` is the same with other rules for results and biases.
"""

from trt_facefusion.quantization.lowering.fusion import FusionRules, apply_fusion_rules
from trt_facefusion.quantization.lowering.integer import (
    find_nine_bit_candidates,
    find_storable_results,
    lower_to_integers,
)
from trt_facefusion.quantization.lowering.typed import lower

__all__ = [
    "FusionRules",
    "apply_fusion_rules",
    "find_nine_bit_candidates",
    "find_storable_results",
    "lower",
    "lower_to_integers",
]
