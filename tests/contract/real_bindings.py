"""Runs in a process of its own: the adapters' callbacks in the hands of TensorRT's real bindings over null libraries.

Usage: python real_bindings.py FOLDER MAJOR. Calling a virtual method through the library's own class goes from Python
into C++ and back out to the override, as it does in a build.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import Any

folder, major = Path(sys.argv[1]) / sys.argv[2], int(sys.argv[2])
for library in ("nvinfer", "nvinfer_plugin", "nvonnxparser"):
    ctypes.CDLL(str(folder / f"lib{library}.so.{major}"), ctypes.RTLD_GLOBAL)
sys.path[:0] = [str(folder), str(Path(__file__).resolve().parents[1])]

import tensorrt_bindings as trt  # noqa: E402

from contract.surface_data import extract, load  # noqa: E402
from trt_facefusion.engine.backends.base import BuildRequest  # noqa: E402
from trt_facefusion.engine.backends.calibrator import CalibrationSource, make_calibrator  # noqa: E402
from trt_facefusion.engine.backends.callbacks import Stop, make_logger, make_monitor  # noqa: E402
from trt_facefusion.engine.backends.interrupts import Interrupt  # noqa: E402
from trt_facefusion.engine.backends.rtx_log import LogBuffer  # noqa: E402
from trt_facefusion.engine.backends.tensorrt import TensorRt  # noqa: E402
from trt_facefusion.engine.runtime.layer_times import make_profiler  # noqa: E402
from trt_facefusion.errors import BuildError  # noqa: E402

sys.modules["tensorrt"] = trt


def check_surface() -> None:
    stored = load({10: "tensorrt_10.16", 11: "tensorrt_11.4"}[major])
    found = extract(trt)
    assert found["version"] == stored["version"], found["version"]
    assert found == stored, [name for name in found["classes"] if found["classes"][name] != stored["classes"].get(name)]


def check_logger() -> None:
    log, stop = LogBuffer(), Stop(Interrupt())
    logger = make_logger(trt, log, stop)
    assert isinstance(logger, trt.ILogger)
    trt.ILogger.log(logger, trt.ILogger.Severity.ERROR, "a message")
    assert log.errors == ("a message",), log.errors
    assert stop.error is None


def check_monitor() -> None:
    seen: list[tuple[str, int, int]] = []
    stop = Stop(Interrupt())
    monitor = make_monitor(trt, lambda *step: seen.append(step), stop)
    trt.IProgressMonitor.phase_start(monitor, "build", "", 4)
    assert trt.IProgressMonitor.step_complete(monitor, "build", 0) is True
    assert seen == [("compile", 25, 100)], seen
    stop.interrupt.signum = 2
    assert trt.IProgressMonitor.step_complete(monitor, "build", 1) is False
    trt.IProgressMonitor.phase_finish(monitor, "build")


def check_profiler() -> None:
    times: list[tuple[str, float]] = []
    # Where an execution context says it is from, as the runtime asks.
    profiler = make_profiler(sys.modules[trt.IExecutionContext.__module__], times)
    assert isinstance(profiler, trt.IProfiler)
    trt.IProfiler.report_layer_time(profiler, "conv + relu", 0.25)
    trt.IProfiler.report_layer_time(profiler, "head", 2)
    assert times == [("conv + relu", 0.25), ("head", 2.0)], times


class Feed:
    """Two batches at made-up addresses, then a failure."""

    batch_size, done = 4, 0

    def __next__(self) -> dict[str, int]:
        self.done += 1
        if self.done == 3:
            raise OSError("gone")
        return {"style": 4096 * self.done, "image": 8192 * self.done}


def check_calibrator(algorithm: str, base: Any, kind: Any) -> None:
    stop = Stop(Interrupt())
    source = CalibrationSource(stop, cache=b"TRT-1", feed=Feed())  # type: ignore[arg-type]
    calibrator = make_calibrator(trt, algorithm, source)
    assert isinstance(calibrator, base)
    assert calibrator.get_algorithm() == kind
    assert calibrator.get_batch_size() == base.get_batch_size(calibrator) == 4
    assert list(calibrator.get_batch(["image", "style"])) == [8192, 4096]
    assert bytes(calibrator.read_calibration_cache()) == b"TRT-1"
    calibrator.write_calibration_cache(memoryview(b"made"))
    assert source.written == b"made"
    assert list(calibrator.get_batch(["style"])) == [8192]
    assert calibrator.get_batch(["image"]) is None
    assert isinstance(stop.error, OSError)


def check_build_without_a_gpu() -> None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "engine" / "backends"))
    from typed_nets import two_convolutions

    try:
        TensorRt(lambda: None).build(BuildRequest(two_convolutions(), {}, "sm86"))
    except BuildError as error:
        assert "no builder" in error.message, error.message
    else:
        raise AssertionError("an engine without a library")


check_surface()
check_logger()
check_monitor()
check_profiler()
check_build_without_a_gpu()
if major == 10:
    kinds = trt.CalibrationAlgoType
    check_calibrator("entropy", trt.IInt8EntropyCalibrator2, kinds.ENTROPY_CALIBRATION_2)
    check_calibrator("minmax", trt.IInt8MinMaxCalibrator, kinds.MINMAX_CALIBRATION)
print("all right")  # noqa: T201
