"""INT8 on this CPU: engines of ONNX Runtime against FP32, and against ONNX Runtime's own quantiser, in one run.

    trt-ff build --int8 --fp32 --backend onnxruntime --calib CALIB --eval EVAL
    python benchmarks/profile_cpu.py engines/reference/fp32-... engines/reference/int8-... --calib CALIB --eval EVAL

The first engine is what all others are compared with; any further one, or a typed.onnx, may be named. ONNX Runtime's
`quantize_static` quantises the first one's network with its defaults (every operator, MinMax, per channel), and only
convolutions and linear layers. Speed: all take turns in alternating order, one thread each. Accuracy: SSIM against the
first one's pictures, on faces that nobody was calibrated on.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np
import onnx
import typer
from rich.console import Console
from rich.table import Table

from trt_facefusion.engine.runtime.onnxruntime import OnnxRuntimeRunner
from trt_facefusion.evaluation.accuracy.metrics import measure_ssim
from trt_facefusion.evaluation.profiling.measure import CyclingInputs, time_interleaved
from trt_facefusion.evaluation.profiling.statistics import Latency, compare
from trt_facefusion.evaluation.profiling.workload import PhotoSettings, make_feeder
from trt_facefusion.inference.feeder import Feeder
from trt_facefusion.inference.open import open_model
from trt_facefusion.inference.renderer import PictureRenderer, find_picture_output

MATH = ["Conv", "Gemm", "MatMul"]
_WIDTH = 130


class Reader:
    """Hands faces to ONNX Runtime's calibration."""

    def __init__(self, feeder: Feeder) -> None:
        self.feeder, self.next = feeder, 0

    def get_next(self) -> dict[str, np.ndarray] | None:
        if self.next == len(self.feeder.faces):
            return None
        self.next += 1
        return dict(self.feeder([self.next - 1]))


def quantised(model: Path, feeder: Feeder, folder: Path, operators: list[str] | None) -> Path:
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared, output = folder / "prepared.onnx", folder / f"quantised-{len(operators or [])}.onnx"
    quant_pre_process(str(model), str(prepared), skip_symbolic_shape=True)
    quantize_static(
        str(prepared),
        str(output),
        Reader(feeder),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=operators,
    )
    return output


def drops(models: dict[str, Path], feeder: Feeder) -> dict[str, np.ndarray]:
    """SSIM lost against the first model, for every face."""
    first = next(iter(models.values()))
    with OnnxRuntimeRunner(first) as runner:
        renderer = PictureRenderer(feeder, find_picture_output(feeder.preset, runner.outputs), 1)
        wanted = renderer(runner).clip(0, 1)
    found = {}
    for name, model in models.items():
        with OnnxRuntimeRunner(model) as runner:
            found[name] = 1 - measure_ssim(wanted, renderer(runner).clip(0, 1))
    return found


def main(
    engines: Annotated[list[Path], typer.Argument(help="The FP32 engine, then others (folders or ONNX files).")],
    calib: Annotated[Path, typer.Option(help="Photos for ONNX Runtime's calibration.")],
    evaluation: Annotated[Path, typer.Option("--eval", help="Photos to judge on.")],
    photos: Annotated[int, typer.Option(help="Photos to take of each folder.")] = 64,
    warmups: int = 60,
    rounds: int = 150,
    cpu_seconds: Annotated[bool, typer.Option("--cpu-seconds", help="CPU time: steadier on a busy machine.")] = False,
) -> None:
    subjects = [open_model(path) for path in engines]
    models = {found.label: found.graph for found in subjects}
    calibration = make_feeder(subjects[0], PhotoSettings(calib), photos)
    judged = make_feeder(subjects[0], PhotoSettings(evaluation), photos)
    with TemporaryDirectory() as name, ExitStack() as stack:
        base = subjects[0].graph
        models["quantize_static, all operators"] = quantised(base, calibration, Path(name), None)
        models["quantize_static, Conv and linear"] = quantised(base, calibration, Path(name), MATH)
        lost = drops(models, judged)
        inputs = CyclingInputs([judged([index]) for index in range(4)])
        runners = [stack.enter_context(OnnxRuntimeRunner(model, threads=1)) for model in models.values()]
        calls: list[Callable[[], object]] = [lambda r=runner: r.infer(inputs.next()) for runner in runners]  # type: ignore[misc]
        times = time_interleaved(calls, warmups, rounds, clock=time.process_time if cpu_seconds else time.perf_counter)
        sizes = {label: sum(onnx.load(m).ByteSize() for m in [model]) for label, model in models.items()}
    show(models, times, lost, sizes, "CPU time" if cpu_seconds else "wall time")


def show(
    models: dict[str, Path], times: list[list[float]], lost: dict[str, np.ndarray], sizes: dict[str, int], clock: str
) -> None:
    table = Table(
        title=f"{len(times[0])} rounds in alternating order, batch 1, one thread, {clock}", title_justify="left"
    )
    for name in ("model", "p50 ms", "p95 ms", "times FP32 (95 %)", "MB", "SSIM drop", "worst face"):
        table.add_column(name, justify="left" if name == "model" else "right", overflow="fold")
    for label, own in zip(models, times, strict=True):
        found, latency = compare(times[0], own), Latency.of(own)
        ratio = f"{found.ratio:.3f} ({found.low:.3f}-{found.high:.3f})"
        drop = [f"{value:.3%}" for value in (lost[label].mean(), lost[label].max())]
        table.add_row(label, f"{latency.p50:.1f}", f"{latency.p95:.1f}", ratio, f"{sizes[label] / 1e6:.2f}", *drop)
    console = Console()
    console.print(table, width=max(_WIDTH, console.width))


if __name__ == "__main__":
    typer.run(main)
