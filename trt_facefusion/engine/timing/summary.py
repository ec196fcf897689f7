"""Predicted times in few words: what a manifest keeps, and whether INT8 pays on a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from trt_facefusion.engine.timing.factors import Factors
from trt_facefusion.engine.timing.roofline import EnginePrediction, KernelPrediction
from trt_facefusion.types import Precision


@dataclass(frozen=True)
class PredictedTime:
    """What is predicted of an engine: by a model, on a GPU that need not be there.

    Attributes:
        gpu: name of the row of the table (`gpus.yaml`).
        batch: samples of one inference.
        total_ms: time of one inference, milliseconds.
        moved_bytes: bytes that all kernels read and write, constants included.
        launches: kernels that are launched.
        by_bound, by_kind: milliseconds, by what the kernels are bound by and by what they do.
        int8_kernels: kernels that multiply in INT8.
        int8_writing_fp32: those of them that write FP32, which the next kernel has to read.
        factors: the shares of the GPU's published figures that were reckoned with.
        fitted: whether these were fitted to measured layers; else they are all 1, and the time is that at the roof.
    """

    gpu: str
    batch: int
    total_ms: float
    moved_bytes: int
    launches: int
    by_bound: Mapping[str, float]
    by_kind: Mapping[str, float]
    int8_kernels: int = 0
    int8_writing_fp32: tuple[str, ...] = ()
    factors: Factors = field(default_factory=Factors)
    fitted: bool = False


def summarise(prediction: EnginePrediction, *, fitted: bool) -> PredictedTime:
    """What a manifest keeps of a prediction; ``fitted`` says whether its factors were."""
    return PredictedTime(
        gpu=prediction.gpu.name,
        batch=prediction.batch,
        total_ms=prediction.total_ms,
        moved_bytes=prediction.moved_bytes,
        launches=prediction.launches,
        by_bound=prediction.sum_by_bound(),
        by_kind=prediction.sum_by_kind(),
        int8_kernels=sum(kernel.work.arithmetic == "int8" for kernel in prediction.kernels),
        int8_writing_fp32=tuple(k.kernel.name for k in list_int8_writing_fp32(prediction)),
        factors=prediction.factors,
        fitted=fitted,
    )


def list_int8_writing_fp32(prediction: EnginePrediction) -> tuple[KernelPrediction, ...]:
    """Kernels that multiply in INT8 and write FP32: four bytes where one or two would do."""
    return tuple(k for k in prediction.kernels if k.work.arithmetic == "int8" and k.work.written.get("fp32", 0) > 0)


def explain_int8(times: Mapping[Precision, PredictedTime], title: str) -> str | None:
    """Why INT8 is not worth building for a GPU called ``title``, and what is; None where it pays, or is not known.

    ``times`` are those of engines of one model on one GPU, by precision.
    """
    int8, fp16 = times.get(Precision.INT8), times.get(Precision.FP16)
    if int8 is None or fp16 is None or (int8.gpu, int8.batch) != (fp16.gpu, fp16.batch):
        return None
    if int8.total_ms < fp16.total_ms:
        return None
    moved, launches = (int8.moved_bytes, fp16.moved_bytes), (int8.launches, fp16.launches)
    why = describe_loss(moved, launches, int8.int8_kernels, len(int8.int8_writing_fp32))
    return (
        f"INT8 does not pay on {title}: predicted {int8.total_ms:.3f} ms, FP16 {fp16.total_ms:.3f} ms. Build FP16 "
        f"(--fp16) for this GPU; it is more exact, too. Why: {why}."
    )


def describe_loss(
    moved_bytes: tuple[int, int], launches: tuple[int, int], int8_kernels: int, int8_writing_fp32: int
) -> str:
    """What costs an INT8 engine its time, in words.

    Args:
        moved_bytes, launches: of the INT8 engine, and of the FP16 engine.
        int8_kernels, int8_writing_fp32: kernels that multiply in INT8, and how many of them write FP32.
    """
    reasons = [f"it moves {moved_bytes[0] / 1e6:.1f} MB where FP16 moves {moved_bytes[1] / 1e6:.1f}"]
    if int8_writing_fp32:
        reasons.append(f"{int8_writing_fp32} of its {int8_kernels} INT8 kernels write FP32")
    if launches[0] > launches[1]:
        reasons.append(f"it has {launches[0]} kernels where FP16 has {launches[1]}")
    return ", ".join(reasons)
