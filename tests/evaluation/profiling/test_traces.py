"""What other programs measured: ONNX Runtime's trace, trtexec's times, and the layers they are merged into."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import numpy as np
import pytest
from nets import SWAPPER_SHAPES, feeds, swapper

from trt_facefusion.engine.backends.base import Kernel, TensorFormat
from trt_facefusion.engine.runtime.onnxruntime import OnnxRuntimeRunner
from trt_facefusion.errors import BackendUnavailableError, DeviceError, ModelError
from trt_facefusion.evaluation.profiling import trtexec
from trt_facefusion.evaluation.profiling.layers import merge_layers, share_by_precision
from trt_facefusion.evaluation.profiling.onnx_trace import read_trace


def test_a_real_trace_gives_the_time_of_every_node(tmp_path: Path) -> None:
    inputs = feeds(SWAPPER_SHAPES)
    with OnnxRuntimeRunner(swapper(), threads=1, trace=tmp_path) as runner:
        for _ in range(5):
            runner.infer(inputs)
        trace = read_trace(runner.end_trace(), skip=2)
    assert len(trace.runs_ms) == 3
    assert sum(1 for kind in trace.node_types.values() if "Conv" in kind) == 3 + 4 + 2 + 1
    assert all(time >= 0 for time in trace.node_ms.values())
    assert 0 < sum(trace.node_ms.values()) <= 1.05 * np.mean(trace.runs_ms)


@pytest.mark.parametrize("text", ["", "{}", "[]", "[1]", '[{"name": "model_run"}]'])
def test_a_damaged_trace_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "trace.json").write_text(text)
    with pytest.raises(ModelError, match="cannot be read"):
        read_trace(tmp_path / "trace.json")


def event(name: str, ts: float, dur: float, cat: str = "Session", **args: str) -> dict[str, object]:
    return {"cat": cat, "name": name, "ts": ts, "dur": dur, "ph": "X", "args": args}


def test_runs_that_do_not_count_are_left_out(tmp_path: Path) -> None:
    events = []
    for number in range(3):
        start = 1000 * number
        dur = 900 if number == 0 else 100
        events += [
            event("conv_kernel_time", start + 10, dur, "Node", op_name="Conv"),
            event("SequentialExecutor::Execute", start + 5, dur + 20),
            event("model_run", start, dur + 30),
        ]
    (tmp_path / "trace.json").write_text(json.dumps(events))
    trace = read_trace(tmp_path / "trace.json", skip=1)
    assert trace.node_ms == {"conv": pytest.approx(0.1)}
    assert trace.runs_ms == (pytest.approx(0.12),) * 2
    with pytest.raises(ModelError, match="3 runs"):
        read_trace(tmp_path / "trace.json", skip=3)


def test_layers_say_what_was_planned_and_what_they_work_on() -> None:
    kernel = Kernel("a+b", "CaskConvolution", ("a", "relu"), (TensorFormat("x", "int8"),), (TensorFormat("w", "int8"),))
    plan = [{"name": "a", "precision": "int8", "macs": 5}, {"name": "relu", "precision": "fp16"}]
    found = merge_layers({"copy": 1.0, "a+b": 3.0}, [kernel], plan, {"CaskConvolution"})
    assert [(layer.name, layer.share, layer.precision) for layer in found] == [
        ("a+b", 0.75, "int8"),
        ("copy", 0.25, None),
    ]
    assert found[0].dtypes.startswith("int8 x int8") and found[0].is_math and found[1].dtypes == ""
    assert share_by_precision(found) == {"int8": 0.75, "-": 0.25}
    assert merge_layers({}, [kernel], plan, ()) == ()


def export(path: Path, latencies: list[float]) -> str:
    """A script that stands in for trtexec: writes its arguments, and times as `--exportTimes` has them."""
    rows = [
        {
            "startEnqMs": 0.1, "endEnqMs": 0.2, "startH2dMs": 0.1, "endH2dMs": 0.3, "startComputeMs": 0.3,
            "endComputeMs": 1.0, "startD2hMs": 1.0, "endD2hMs": 1.1, "h2dMs": 0.2, "computeMs": ms - 0.3, "d2hMs": 0.1,
            "latencyMs": ms,
        }
        for ms in latencies
    ]  # fmt: skip
    return f"""#!/bin/sh
echo "$@" > {path}.arguments
for word in "$@"; do case "$word" in --exportTimes=*) cat > "${{word#--exportTimes=}}" <<'END'
{json.dumps(rows)}
END
;; esac; done
echo "&&&& PASSED TensorRT.trtexec"
"""


def script(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_trtexec_is_asked_for_the_same_and_its_times_are_read(tmp_path: Path) -> None:
    program = script(tmp_path / "trtexec", export(tmp_path / "trtexec", [1.0, 2.0, 3.0]))
    found = trtexec.run(trtexec.find(program), tmp_path / "e.engine", {"x": (2, 3, 8, 8), "s": (2, 4)}, 150)
    assert (found.latency.p50, found.compute_ms, found.upload_ms, found.download_ms) == pytest.approx(
        (2, 1.7, 0.2, 0.1)
    )
    words = (tmp_path / "trtexec.arguments").read_text().split()
    assert f"--loadEngine={tmp_path / 'e.engine'}" in words
    assert "--shapes=x:2x3x8x8,s:2x4" in words
    assert {"--iterations=150", "--useSpinWait", "--infStreams=1", "--warmUp=500", "--duration=0"} <= set(words)


def test_a_missing_or_failing_trtexec_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BackendUnavailableError) as error:
        trtexec.find()
    assert "--trtexec-path" in error.value.remedy
    script(tmp_path / "trtexec", "#!/bin/sh\necho '[E] no such engine' >&2\nexit 1\n")
    with pytest.raises(DeviceError, match="no such engine"):
        trtexec.run(trtexec.find(), tmp_path / "e", {}, 1)
    silent = script(tmp_path / "silent", "#!/bin/sh\nexit 0\n")
    with pytest.raises(DeviceError, match="cannot be read"):
        trtexec.run(silent, tmp_path / "e", {}, 1)


@pytest.mark.parametrize("text", ["", "[]", "{}", "[1]", '[{"latencyMs": 1}]', '[{"latencyMs": "x"}]'])
def test_times_that_are_none_are_refused(text: str) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        trtexec.parse(text)
