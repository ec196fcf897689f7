"""INT8 on this CPU with OpenVINO: our engines against FP32 and against other quantisers, in one run.

    trt-ff build --int8 --fp32 --backend openvino --calib CALIB --eval EVAL
    python benchmarks/openvino_cpu.py engines/NET/fp32-cpu-openvino-... engines/NET/int8-cpu-openvino-... \\
        --calib CALIB --eval EVAL --threads 1 --threads 2

Beside our two engines: their network in onnxruntime's FP32; NNCF's `quantize` (`pip install nncf`) of the same layers,
in OpenVINO, as it comes and with its fix for saturation in every layer; onnxruntime's `quantize_static` of the same
layers and of all operators. Speed: all take turns in alternating order. Accuracy: SSIM lost against the FP32 engine's
pictures, on faces that nobody was calibrated on; also what our typed graph loses in onnxruntime.

The floor is what the arithmetic would take if every layer ran at the rate of a single large convolution, FP32 and INT8
measured in turn: a guide, for layers of FP32 fall short of that rate, too. One thread is measured twice, in wall time
and in processor time, which a busy machine disturbs less.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from rich.table import Table

from trt_facefusion.engine.backends.base import BuildRequest
from trt_facefusion.engine.backends.openvino import OpenVino
from trt_facefusion.engine.backends.processor import name_instructions, name_processor
from trt_facefusion.engine.runtime.base import Runner
from trt_facefusion.engine.runtime.onnxruntime import OnnxRuntimeRunner
from trt_facefusion.engine.runtime.openvino import OpenVinoRunner, make_configuration, open_core
from trt_facefusion.evaluation.accuracy.metrics import measure_ssim
from trt_facefusion.evaluation.profiling.measure import Clock, CyclingInputs, time_interleaved
from trt_facefusion.evaluation.profiling.statistics import compare
from trt_facefusion.evaluation.profiling.workload import PhotoSettings, make_feeder
from trt_facefusion.inference.feeder import Feeder
from trt_facefusion.inference.open import OpenedModel, open_model
from trt_facefusion.inference.renderer import PictureRenderer, find_picture_output
from trt_facefusion.quantization.precision import read_rows

FP32, INT8, TYPED = "OpenVINO FP32", "OpenVINO INT8 (ours)", "our typed graph, onnxruntime"
ORT = "onnxruntime FP32"
MULTIPLYING = {"Convolution", "ConvolutionBackpropData", "GroupConvolution", "MatMul"}
FLOOR_CHANNELS, FLOOR_SIZE, FLOOR_ROUNDS = 256, 32, 20
Open = Callable[[int], Runner]


def read_layers(engine: OpenedModel) -> tuple[set[str], set[str]]:
    """Names of the layers that multiply: those planned in INT8, and the others."""
    rows = [row for row in read_rows(engine.graph.parent / "plan.yaml") if row.get("macs")]
    int8 = {str(row["name"]) for row in rows if row["precision"] == "int8"}
    return int8, {str(row["name"]) for row in rows} - int8


def quantise_with_nncf(model: Path, feeds: Sequence[Mapping[str, Any]], floats: Collection[str], fix: bool) -> bytes:
    """An engine of what NNCF makes of the network, the layers ``floats`` left alone."""
    import nncf
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, OverflowFix

    core = open_core()
    read = core.read_model(model)
    read.reshape({port.get_any_name(): list(feeds[0][port.get_any_name()].shape) for port in read.inputs})
    quantised = nncf.quantize(
        read,
        nncf.Dataset(list(feeds)),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(feeds),
        ignored_scope=nncf.IgnoredScope(names=list(find_multipliers(read, floats))),
        advanced_parameters=AdvancedQuantizationParameters(overflow_fix=OverflowFix.ENABLE) if fix else None,
    )
    return bytes(core.compile_model(quantised, "CPU", make_configuration()).export_model().getvalue())


def find_multipliers(read: Any, layers: Collection[str]) -> Iterator[str]:
    """What OpenVINO calls the operations that multiply in ``layers``: the addition of a bias may bear the name."""
    for operation in read.get_ordered_ops():
        if operation.get_type_name() in MULTIPLYING:
            readers = [port.get_node() for port in operation.output(0).get_target_inputs()]
            names = [operation.get_friendly_name()]
            names += [reader.get_friendly_name() for reader in readers if reader.get_type_name() == "Add"]
            if any(name in layers for name in names):
                yield names[0]


def quantise_with_onnxruntime(
    model: Path, feeds: Sequence[Mapping[str, Any]], nodes: Sequence[str] | None, output: Path
) -> Path:
    """What `quantize_static` makes of the network: all operators, or only ``nodes``."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(feeds)

        def get_next(self) -> Any:
            return next(self.left, None)

    quantize_static(
        model,
        output,
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        nodes_to_quantize=nodes,
        op_types_to_quantize=None if nodes is None else ["Conv", "ConvTranspose", "Gemm", "MatMul"],
    )
    return output


def make_large_convolution(int8: bool) -> bytes:
    """One 3x3 convolution, as large as it takes for arithmetic to be all that counts."""
    c = FLOOR_CHANNELS
    values = np.random.default_rng(0).integers(-60, 61, (c, c, 3, 3))
    constants: dict[str, Any] = {"scale": np.float32(0.02), "zero": np.array(128, np.uint8)}
    nodes, reads = [], ["x", "weight"]
    if int8:
        constants |= {"values": values.astype(np.int8), "scales": np.full(c, 0.001, np.float32)}
        nodes.append(helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"], "q"))
        nodes.append(helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["dq"], "dq"))
        nodes.append(helper.make_node("DequantizeLinear", ["values", "scales"], ["weight"], "weight", axis=0))
        reads[0] = "dq"
    else:
        constants["weight"] = (values * 0.001).astype(np.float32)
    nodes.append(helper.make_node("Conv", reads, ["y"], "conv", pads=[1] * 4))
    shape = [1, c, FLOOR_SIZE, FLOOR_SIZE]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y"))
    used = [numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items() if int8 or n == "weight"]
    graph = helper.make_graph(nodes, "floor", [x], [y], used)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return bytes(model.SerializeToString())


def measure_rates() -> tuple[float, float]:
    """GMAC of the large convolution in a second of one thread's processor time, FP32 and INT8, measured in turn."""
    macs = FLOOR_CHANNELS**2 * 9 * FLOOR_SIZE**2
    shape = (1, FLOOR_CHANNELS, FLOOR_SIZE, FLOOR_SIZE)
    feeds = {"x": np.random.default_rng(1).normal(0, 1, shape).astype(np.float32)}
    with ExitStack() as stack:
        engines = [
            OpenVino().build(BuildRequest(make_large_convolution(int8), {}, "cpu")).data for int8 in (False, True)
        ]
        runners = [stack.enter_context(OpenVinoRunner(engine, 1, 1)) for engine in engines]
        calls: list[Callable[[], object]] = [lambda r=runner: r.infer(feeds) for runner in runners]  # type: ignore[misc]
        times = time_interleaved(calls, 5, FLOOR_ROUNDS, clock=time.process_time)
    fp32, int8 = (macs / 1e6 / statistics.median(own) for own in times)
    return fp32, int8


def count_macs(engine: OpenedModel) -> tuple[float, float]:
    """GMAC of one face: of the layers in INT8, and of all others."""
    rows = [row for row in read_rows(engine.graph.parent / "plan.yaml") if row.get("macs")]
    int8 = sum(row["macs"] for row in rows if row["precision"] == "int8")
    return int8 / 1e9, (sum(row["macs"] for row in rows) - int8) / 1e9


def paint(feeder: Feeder, runner: Runner) -> Any:
    renderer = PictureRenderer(feeder, find_picture_output(feeder.preset, runner.outputs), 1)
    return renderer(runner).clip(0, 1)


def main(
    fp32: Annotated[Path, typer.Argument(help="Our FP32 engine.")],
    int8: Annotated[Path, typer.Argument(help="Our INT8 engine.")],
    calib: Annotated[Path, typer.Option(help="Photos for the other quantisers' calibration.")],
    evaluation: Annotated[Path, typer.Option("--eval", help="Photos to judge on.")],
    photos: Annotated[int, typer.Option(help="Photos to take of each folder.")] = 48,
    threads: Annotated[list[int], typer.Option(help="CPU threads; may be given again.")] = [1, 2],  # noqa: B006
    warmups: int = 5,
    rounds: int = 60,
    output: Annotated[Path | None, typer.Option(help="JSON file for the figures.")] = None,
) -> None:
    floats_engine, engine = open_model(fp32), open_model(int8)
    planned, others = read_layers(engine)
    calibration, judged = (make_feeder(engine, PhotoSettings(folder), photos) for folder in (calib, evaluation))
    feeds = [dict(calibration([index])) for index in range(len(calibration.faces))]
    network = floats_engine.graph
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        nncf = [quantise_with_nncf(network, feeds, others, fix) for fix in (False, True)]
        same = quantise_with_onnxruntime(network, feeds, sorted(planned), folder / "same.onnx")
        everything = quantise_with_onnxruntime(network, feeds, None, folder / "all.onnx")
        subjects: dict[str, Open] = {
            FP32: lambda t: floats_engine.open_runner(slots=1, threads=t),
            ORT: lambda t: OnnxRuntimeRunner(network, threads=t),
            INT8: lambda t: engine.open_runner(slots=1, threads=t),
            "NNCF, same layers": lambda t: OpenVinoRunner(nncf[0], t, 1),
            "NNCF, same layers, overflow fix": lambda t: OpenVinoRunner(nncf[1], t, 1),
            "quantize_static, same layers": lambda t: OnnxRuntimeRunner(same, threads=t),
            "quantize_static, all operators": lambda t: OnnxRuntimeRunner(everything, threads=t),
        }
        lost = measure_drops(subjects | {TYPED: lambda t: engine.open_runner(stand_in=True, threads=t)}, judged)
        found: dict[str, Any] = {"processor": f"{name_processor()} ({name_instructions()})", "rounds": rounds}
        found["drops"] = {label: [float(drop.mean()), float(drop.max())] for label, drop in lost.items()}
        for count in threads:
            for clock in (time.perf_counter, time.process_time)[: 2 if count == 1 else 1]:
                times = time_subjects(subjects, judged, count, warmups, rounds, clock)
                title = f"{count} threads, {'wall' if clock is time.perf_counter else 'processor'} time"
                found[title] = show(times, lost, title)
                write(output, found)
        rates, (int8_macs, float_macs) = measure_rates(), count_macs(engine)
        found["floor"] = describe_floor(rates, int8_macs, float_macs)
        write(output, found)


def write(output: Path | None, found: dict[str, Any]) -> None:
    """Keep what was found so far."""
    if output is not None:
        output.write_text(json.dumps(found, indent=1) + "\n")


def time_subjects(
    subjects: Mapping[str, Open], judged: Feeder, threads: int, warmups: int, rounds: int, clock: Clock
) -> dict[str, list[float]]:
    """Milliseconds of every turn."""
    inputs = CyclingInputs([judged([index]) for index in range(4)])
    with ExitStack() as stack:
        runners = [stack.enter_context(open_runner(threads)) for open_runner in subjects.values()]
        calls: list[Callable[[], object]] = [lambda r=runner: r.infer(inputs.next()) for runner in runners]  # type: ignore[misc]
        return dict(zip(subjects, time_interleaved(calls, warmups, rounds, clock=clock), strict=True))


def measure_drops(subjects: Mapping[str, Open], judged: Feeder) -> dict[str, Any]:
    """SSIM lost against the first subject's pictures, for every face."""
    pictures = {}
    for label, open_runner in subjects.items():
        with open_runner(2) as runner:
            pictures[label] = paint(judged, runner)
    return {label: 1 - measure_ssim(pictures[FP32], painted) for label, painted in pictures.items()}


def show(times: Mapping[str, list[float]], lost: Mapping[str, Any], title: str) -> dict[str, Any]:
    table = Table(title=f"{len(times[FP32])} turns, batch 1, {title}", title_justify="left")
    for column in ("", "median ms", "of OpenVINO FP32 (95 %)", "of onnxruntime FP32", "SSIM drop", "worst face"):
        table.add_column(column, justify="right" if column else "left", overflow="fold")
    figures: dict[str, Any] = {}
    for label, drop in lost.items():
        row = ["", "", ""]
        if label in times:
            ours, theirs = compare(times[FP32], times[label]), compare(times[ORT], times[label])
            row = [f"{ours.other_ms:.1f}", f"{ours.ratio:.3f} ({ours.low:.3f}-{ours.high:.3f})", f"{theirs.ratio:.3f}"]
            figures[label] = {"median_ms": ours.other_ms, "of_openvino": ours.ratio, "of_onnxruntime": theirs.ratio}
        table.add_row(label, *row, f"{drop.mean():.3%}", f"{drop.max():.3%}")
    console = Console()
    console.print(table, width=max(130, console.width))
    return figures


def describe_floor(rates: tuple[float, float], int8: float, floats: float) -> dict[str, float]:
    """What the arithmetic alone would take, of FP32's time."""
    floor = (int8 / rates[1] + floats / rates[0]) / ((int8 + floats) / rates[0])
    Console().print(
        f"best rates of one large convolution: {rates[0]:.1f} GMAC/s FP32, {rates[1]:.1f} INT8 "
        f"({rates[0] / rates[1]:.3f} of the time); with {int8 / (int8 + floats):.1%} of the arithmetic in INT8 the "
        f"floor is {floor:.3f}"
    )
    return {"fp32_gmacs": rates[0], "int8_gmacs": rates[1], "of_openvino": floor}


if __name__ == "__main__":
    typer.run(main)
