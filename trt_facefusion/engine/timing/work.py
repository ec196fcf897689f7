"""What a kernel of an engine moves and computes: bytes by type, multiplications, the type it multiplies in.

Everything is read off the kernel as its engine maker describes it, `engine.backends.base.Kernel`: types and shapes of
what it reads, holds and writes. What is in no such list (scratch memory, a second pass over the input) is not seen.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from trt_facefusion.engine.backends.base import Kernel, TensorFormat

CONVOLUTION, DECONVOLUTION = "convolution", "deconvolution"
MATRIX_PRODUCT, ATTENTION = "matrix product", "attention"
QUANTISER, COPY, ELEMENTWISE, NOTHING = "quantiser", "copy", "elementwise", "nothing"
KINDS = (CONVOLUTION, DECONVOLUTION, MATRIX_PRODUCT, ATTENTION, ELEMENTWISE, QUANTISER, COPY, NOTHING)
"""Kinds of kernels. A quantiser writes 8-bit integers and multiplies nothing; a copy only changes a format; ``nothing``
runs on no GPU: events between streams, sizes that the host computes, reshapes that move nothing."""

_BITS = {"fp32": 32, "int32": 32, "fp16": 16, "bf16": 16, "int8": 8, "uint8": 8, "fp8": 8, "bool": 8, "int64": 64}
_BITS |= {"int4": 4, "fp4": 4}
_UNKNOWN_BITS = 32
_EIGHT_BIT = frozenset({"int8", "uint8"})

_MULTIPLYING = {
    ATTENTION: re.compile(r"attention|mha", re.IGNORECASE),
    MATRIX_PRODUCT: re.compile(r"gemm|matrixmultiply|matmul|fullyconnected", re.IGNORECASE),
    DECONVOLUTION: re.compile(r"deconv", re.IGNORECASE),
    CONVOLUTION: re.compile(r"conv|correlation|__myl_\w*Corr", re.IGNORECASE),
}
# Kernels that TensorRT generates: their names tell what is fused into them, like __myl_CorrMulMax (a convolution, its
# bias and a LeakyReLU) and _gemm_mha_v2 (two matrix products around a softmax).
_GENERATED = frozenset({"kgen", "runtime_fusion"})
_COPIES = re.compile(r"reformat|copy|shuffle|slice|concat", re.IGNORECASE)
# TensorRT-RTX: events of a stream and sizes that the host computes; TensorRT: what became no kernel.
_NOTHING = frozenset({"signal", "wait", "shape_call", "NoOp", "Constant"})

# TensorRT's names for vectorised formats: "Thirty-two wide channel vectorized row major Int8 format", "Channel major
# FP16 format where channel % 8 == 0". The channels are stored up to that multiple.
_WIDE = re.compile(r"\b(two|four|eight|sixteen|thirty-two) wide channel", re.IGNORECASE)
_WIDTHS = {"two": 2, "four": 4, "eight": 8, "sixteen": 16, "thirty-two": 32}
_MULTIPLE = re.compile(r"channel % (\d+) == 0", re.IGNORECASE)

# How CUTLASS and xmma kernels say that they sum in FP16 (..._f16f16_f16f16_f16_..., h16816gemm) or round to TF32.
_SUMS_IN_FP16 = re.compile(r"f16f16_f16f16_f16|(?<![a-z])h(?:884|1688|16816)", re.IGNORECASE)
_TF32 = re.compile(r"tf32", re.IGNORECASE)
# TensorRT-RTX chooses or makes the kernel on the GPU, and its builder allows TF32 by default.
_CHOSEN_LATER, _MADE_LATER = "CASK_STUB", "runtime_fusion"


@dataclass(frozen=True)
class KernelWork:
    """What one kernel does in one inference.

    Attributes:
        kind: one of `KINDS`.
        read, held, written: bytes by type, of inputs, constants and outputs.
        macs: multiplications with an addition each; 0 for a kernel that moves, scales or rounds.
        arithmetic: the type they are done in, one of `gpus.RATES`; empty where ``macs`` is 0.
    """

    kind: str
    read: Mapping[str, int]
    held: Mapping[str, int]
    written: Mapping[str, int]
    macs: int = 0
    arithmetic: str = ""

    @property
    def moved_bytes(self) -> int:
        """Bytes read and written, constants included."""
        return sum(sum(part.values()) for part in (self.read, self.held, self.written))


def measure_work(kernel: Kernel, batch: int = 1) -> KernelWork:
    """What ``kernel`` does; every dynamic axis counts as ``batch``, the only size that our engines leave open."""
    kind = classify(kernel)
    if kind == NOTHING:
        return KernelWork(kind, {}, {}, {})
    macs = _count_macs(kernel, kind, batch)
    return KernelWork(
        kind,
        read=_count_bytes(kernel.inputs, batch),
        held=_count_bytes(kernel.constants, batch),
        written=_count_bytes(kernel.outputs, batch),
        macs=macs,
        arithmetic=_name_arithmetic(kernel) if macs else "",
    )


def classify(kernel: Kernel) -> str:
    """The kind of a kernel, one of `KINDS`."""
    if kernel.type in _NOTHING or not (kernel.inputs or kernel.constants or kernel.outputs):
        return NOTHING
    text = kernel.name if kernel.type in _GENERATED else kernel.type
    for kind, pattern in _MULTIPLYING.items():
        if pattern.search(text):
            return kind
    read, written = ({t.dtype for t in tensors} for tensors in (kernel.inputs, kernel.outputs))
    if written & _EIGHT_BIT and not read & _EIGHT_BIT:
        return QUANTISER
    return COPY if _COPIES.search(kernel.type) else ELEMENTWISE


def count_elements(tensor: TensorFormat, batch: int = 1) -> int:
    """Numbers in a tensor; of a weight whose shape is not told, those that the inspector counted."""
    if not tensor.shape and tensor.count is not None:
        return tensor.count
    return math.prod(_resolve(tensor, batch))


def _count_bytes(tensors: Iterable[TensorFormat], batch: int) -> dict[str, int]:
    """Bytes by type. A kernel that reads a tensor in two places lists it twice, and loads it once."""
    counted: Counter[str] = Counter()
    for tensor in {(tensor.name, tensor.dtype): tensor for tensor in tensors}.values():
        elements = _pad_channels(tensor, batch)
        counted[tensor.dtype] += -(-elements * _BITS.get(tensor.dtype, _UNKNOWN_BITS) // 8)
    return dict(counted)


def _pad_channels(tensor: TensorFormat, batch: int) -> int:
    """Elements as they are stored: a vectorised format rounds the channels up."""
    shape = _resolve(tensor, batch)
    multiple = _read_multiple(tensor.layout)
    if multiple == 1 or len(shape) < 3:
        return count_elements(tensor, batch)
    channels = -(-shape[1] // multiple) * multiple
    return math.prod((shape[0], channels, *shape[2:]))


def _read_multiple(layout: str) -> int:
    wide, multiple = _WIDE.search(layout), _MULTIPLE.search(layout)
    if wide is not None:
        return _WIDTHS[wide[1].lower()]
    return int(multiple[1]) if multiple is not None else 1


def _resolve(tensor: TensorFormat, batch: int) -> tuple[int, ...]:
    return tuple(batch if size < 0 else size for size in tensor.shape)


def _count_macs(kernel: Kernel, kind: str, batch: int) -> int:
    """Multiplications: each weight meets every pixel of the output (of the input, in a transposed convolution)."""
    if kind not in _MULTIPLYING or not kernel.inputs or not kernel.outputs:
        return 0
    if kind == ATTENTION:
        return _count_attention(kernel, batch)
    weights = max((count_elements(t, batch) for t in _list_factors(kernel)), default=0)
    if kind == MATRIX_PRODUCT:
        return _count_products(kernel, weights, batch)
    pixels = kernel.inputs[0] if kind == DECONVOLUTION else kernel.outputs[0]
    shape = _resolve(pixels, batch)
    return weights * math.prod(shape[:1] + shape[2:])


def _list_factors(kernel: Kernel) -> list[TensorFormat]:
    """What may be the weights: constants that are matrices, or the second input where they are computed."""
    constants = [t for t in kernel.constants if len(t.shape) >= 2 or (not t.shape and t.count is not None)]
    return constants or [t for t in kernel.inputs[1:2] if len(t.shape) >= 2]


def _count_products(kernel: Kernel, weights: int, batch: int) -> int:
    """Multiplications of a matrix product [.., m, k] x [.., k, n] -> [.., m, n]: m * n * k of each batch.

    Constant weights are met once by each row of the result, whichever axis holds the columns. Of two computed factors
    the first has k elements for each row of the result and the second k for each column of each batch; one that is
    broadcast has fewer, so the larger answer holds.
    """
    source, result = (_resolve(t, batch) for t in (kernel.inputs[0], kernel.outputs[0]))
    elements = math.prod(result)
    if kernel.constants and len(source) == len(result):
        for before, after in reversed(list(zip(source, result, strict=True))):
            if before * after == weights:
                return weights * (elements // after)
    rows, columns = math.prod(result[:-1]), math.prod(result[:-2]) * (result[-1] if result else 1)
    depth = math.prod(source) // max(rows, 1)
    if len(kernel.inputs) > 1 and not kernel.constants:
        depth = max(depth, count_elements(kernel.inputs[1], batch) // max(columns, 1))
    return elements * depth


def _count_attention(kernel: Kernel, batch: int) -> int:
    """Multiplications of softmax(q k) v: q [.., m, d], k, v [.., n, e] -> [.., m, e]: (m d + m e) n of each batch."""
    result = count_elements(kernel.outputs[0], batch)
    if len(kernel.inputs) < 3 or not result:
        return 0
    queries, values = kernel.inputs[0], kernel.inputs[2]
    rows = _resolve(kernel.outputs[0], batch)[-2]
    keys = count_elements(values, batch) * rows // result
    return (count_elements(queries, batch) + result) * keys


def _name_arithmetic(kernel: Kernel) -> str:
    source = kernel.inputs[0].dtype
    if source in _EIGHT_BIT:
        factors = [t.dtype for t in (*kernel.inputs[1:], *kernel.constants) if not t.shape or len(t.shape) >= 2]
        return "int8" if any(dtype in _EIGHT_BIT for dtype in factors) else "fp16"
    if source in {"fp16", "bf16"}:
        return "fp16_acc" if _SUMS_IN_FP16.search(kernel.tactic) else "fp16"
    later = _CHOSEN_LATER in kernel.tactic or kernel.type == _MADE_LATER
    return "tf32" if later or _TF32.search(kernel.tactic) else "fp32"
