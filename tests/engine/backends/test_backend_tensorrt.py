from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from twin.builder import VERSION_10, VERSION_11, Twin, make_twin, read_plan
from twin.nets import SHAPES, Case, batches
from twin.surface import DataType
from twin.uploader import A10G, HostUploader

from trt_facefusion.engine.backends.base import BuildOptions, BuildRequest, BuiltEngine, WeakTyping
from trt_facefusion.engine.backends.device import WORKSPACE_SHARE, Device
from trt_facefusion.engine.backends.kernels import find_int8_coverage
from trt_facefusion.engine.backends.tensorrt import TensorRt
from trt_facefusion.engine.runtime.onnxruntime import OnnxRuntimeRunner
from trt_facefusion.errors import BackendUnavailableError, BadInputError, BuildError
from trt_facefusion.quantization.calibration import CalibrationTable, collect
from trt_facefusion.quantization.correction.channel_affine import Affine
from trt_facefusion.quantization.lowering import lower
from trt_facefusion.quantization.lowering.equalise import equalise_model, find_added_ranges, make_scaled_tensors
from trt_facefusion.types import Precision


@pytest.fixture(scope="module")
def case() -> Case:
    return Case()


def install(monkeypatch: pytest.MonkeyPatch, version: str = VERSION_10, **options: Any) -> Twin:
    module, twin = make_twin(version, **options)
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    return twin


def request(case: Case, precision: Precision = Precision.INT8, **changes: Any) -> BuildRequest:
    plan = case.plan.capped(precision)
    weak = WeakTyping(case.model, {n.name: n.precision for n in plan.nodes}, case.table)
    weak = replace(
        weak, **{name: changes.pop(name) for name in ("batches", "algorithm", "table", "keep") if name in changes}
    )
    return BuildRequest(case.typed(plan), changes.pop("shapes", SHAPES), "sm86", weak=weak, **changes)


def build(
    case: Case, precision: Precision = Precision.INT8, device: Device | None = A10G, **changes: Any
) -> BuiltEngine:
    return TensorRt(lambda: device, HostUploader).build(request(case, precision, **changes))


def pictures(model: bytes) -> np.ndarray:
    with OnnxRuntimeRunner(onnx.load_model_from_string(model), stand_in=True) as runner:
        return runner.infer(batches(1)[0])["picture"]


@pytest.mark.parametrize("version", [VERSION_10, VERSION_11])
@pytest.mark.parametrize("precision", list(Precision))
def test_engines_compute_what_the_typed_graph_computes(
    case: Case, version: str, precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, version)
    engine = build(case, precision)
    header, model = read_plan(engine.data)
    assert header["version"] == version == engine.backend_version
    assert header["profiles"] == {name: [list(shape) for shape in shapes] for name, shapes in SHAPES.items()}
    np.testing.assert_allclose(pictures(model), pictures(case.typed(case.plan.capped(precision))), atol=1e-5)
    if version == VERSION_10:
        assert header["precisions"] == {n.name: n.precision.value for n in case.plan.capped(precision).nodes}
    planned = {n.name: n.op for n in case.plan.capped(precision).nodes if n.precision is Precision.INT8}
    assert bool(planned) == (precision is Precision.INT8)
    assert find_int8_coverage(planned, engine.kernels, TensorRt.capabilities.math_types).missing == ()
    assert (engine.weights_bytes, engine.activations_bytes) == (1024, 4096)
    assert engine.notes == ()


def test_int8_differs_from_fp32_at_all(case: Case) -> None:
    assert np.abs(pictures(case.typed()) - pictures(case.model)).max() > 1e-3


def test_every_tensor_of_the_network_gets_a_scale(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    engine = build(case)
    assert engine.scales is not None
    assert engine.scales.missing == ()
    assert engine.scales.unknown == ()
    assert engine.scales.derived["s.w_output"] == "weights"
    assert any("Matrix Multiply" in name and source == "s:0" for name, source in engine.scales.derived.items())
    assert not any("Missing scale" in line for line in engine.log_tail)


def test_missing_scales_are_named_and_cost_int8(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    table = {name: value for name, value in case.table.items() if name != "sum:0"} | {"elsewhere": 1.0}
    engine = build(case, table=table)
    assert engine.scales is not None
    assert engine.scales.missing == ("sum:0",)
    assert engine.scales.unknown == ("elsewhere",)
    assert "sum:0" in engine.notes[0]
    header, _ = read_plan(engine.data)
    assert header["precisions"]["c"] == "fp16"  # it reads the tensor


def test_constraints_map_nodes_to_layers(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    report = build(case).constraints
    assert report is not None
    assert report.several == ("s",)
    assert report.layers["s"] == ("s", "s_bias")
    assert "a_relu" in report.free  # between two INT8 convolutions
    assert "first_relu" not in report.free  # behind an FP16 one
    assert report.without_layer == ()
    assert {"s.w", "s.b"} <= set(report.without_node)


@pytest.mark.parametrize(
    ("layer", "compute", "output"),
    [
        ("a", None, None),  # INT8, and its rectifier feeds INT8 only
        ("a_relu", None, None),
        ("b", None, "HALF"),  # INT8, read by an FP16 node
        ("s_bias", None, "HALF"),
        ("sum", "HALF", "HALF"),
        ("s_wide", "HALF", "HALF"),
        ("tanh", "FLOAT", "FLOAT"),
        ("a.w", None, None),  # a constant
    ],
)
def test_layers_are_held_to_what_they_compute_and_write(
    case: Case, layer: str, compute: str | None, output: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    twin = install(monkeypatch)
    build(case)
    (found,) = [one for one in twin.last_network._layers if one._name == layer]
    types = {None: None} | {int(t): t.name for t in DataType}
    assert types[found._precision] == compute
    assert [types[t] for t in found._output_types.values()] == ([output] if output else [])


def test_a_node_that_becomes_no_layer_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case()
    relu = next(node for node in case.prepared.model.graph.node if node.name == "first_relu")
    relu.op_type = "Dropout"
    install(monkeypatch)
    engine = build(case, Precision.FP16)
    assert engine.constraints is not None
    assert engine.constraints.without_layer == ("first_relu",)
    assert "first_relu" in engine.notes[0]


def test_layers_that_lose_their_precision_are_named(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, disobeys=frozenset({"tanh"}))
    assert any("tanh" in note and "precision" in note for note in build(case).notes)


@pytest.mark.parametrize("obey", [True, False])
def test_flags_say_what_may_be_used(case: Case, obey: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    twin = install(monkeypatch)
    build(case, options=BuildOptions(obey=obey))
    rule = "OBEY_PRECISION_CONSTRAINTS" if obey else "PREFER_PRECISION_CONSTRAINTS"
    assert twin.last_config._flags == {"FP16", "INT8", rule}
    build(case, Precision.FP32)
    assert twin.last_config._flags == set()


@pytest.mark.parametrize(("algorithm", "rule"), [("entropy", "entropy"), ("minmax", "max")])
def test_tensorrt_calibrates_itself_through_device_memory(
    algorithm: str, rule: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    twin = install(monkeypatch)
    case = Case(rule=rule)
    kept = tmp_path / "tensorrt.cache"
    engine = build(case, batches=batches(), algorithm=algorithm, keep=kept)
    assert twin.batches_seen == 3
    assert engine.calibration is not None
    assert dict(CalibrationTable.read(kept)) == dict(engine.calibration)
    for name, amax in case.table.items():
        assert engine.calibration[name] == pytest.approx(amax, rel=1e-6)
    _, model = read_plan(engine.data)
    np.testing.assert_allclose(pictures(model), pictures(case.typed()), atol=1e-5)


def test_a_short_last_batch_is_filled_with_its_own_samples(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    twin = install(monkeypatch)
    short = batches(3, size=4, last=1)
    engine = build(case, batches=short, algorithm="minmax")
    assert twin.batches_seen == 3
    assert engine.calibration is not None
    peak = max(float(np.abs(feeds["image"]).max()) for feeds in short)
    assert engine.calibration["image"] == pytest.approx(peak)


def test_a_failing_batch_ends_the_build_with_its_own_error(
    case: Case, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install(monkeypatch)
    made: list[HostUploader] = []

    def uploader() -> HostUploader:
        made.append(HostUploader())
        return made[-1]

    def failing() -> Any:
        yield from batches(2)
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        TensorRt(lambda: A10G, uploader).build(request(case, batches=failing(), keep=tmp_path / "t.cache"))
    assert made[0].closed
    assert not (tmp_path / "t.cache").exists()


def test_int8_without_ranges_says_so(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    with pytest.raises(BuildError, match="neither a calibration table"):
        build(case, table=None)


def test_without_a_plan_version_10_builds_the_typed_graph(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    engine = TensorRt(lambda: A10G, HostUploader).build(BuildRequest(case.typed(), SHAPES, "sm86"))
    assert read_plan(engine.data)[1] == case.typed()


@pytest.mark.parametrize("version", [VERSION_10, VERSION_11])
def test_options_reach_the_builder(case: Case, version: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    twin = install(monkeypatch, version)
    options = BuildOptions(tmp_path, 4, "ampere_plus", version_compatible=True)
    engine = build(case, Precision.FP16, options=options, workspace_bytes=None)
    assert engine.kernels_known
    config = twin.last_config
    assert config.builder_optimization_level == 4
    assert config.hardware_compatibility_level.name == "AMPERE_PLUS"
    assert config.profiling_verbosity.name == "DETAILED"
    assert "VERSION_COMPATIBLE" in config._flags
    assert config._workspace == A10G.free_bytes * WORKSPACE_SHARE < 0.4 * A10G.total_bytes
    (file,) = tmp_path.iterdir()
    assert file.name == f"nvidia-a10g-sm86-tensorrt-{version}.timing"
    timings = file.read_bytes()
    file.write_bytes(b"of another version")
    build(case, Precision.FP16, options=options)
    assert file.read_bytes() == timings


def test_workspace_that_is_asked_for_is_used_as_it_is(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    twin = install(monkeypatch)
    build(case, Precision.FP16, workspace_bytes=12345)
    assert twin.last_config._workspace == 12345


@pytest.mark.parametrize("options", [BuildOptions(optimization_level=6), BuildOptions(hardware_compatibility="turing")])
def test_options_that_do_not_exist_are_refused(
    case: Case, options: BuildOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch)
    with pytest.raises(BadInputError):
        build(case, Precision.FP16, options=options)


@pytest.mark.parametrize("version", [VERSION_10, VERSION_11])
def test_control_c_cancels_the_build(case: Case, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, version)
    steps: list[int] = []

    def progress(stage: str, done: int, total: int) -> None:
        steps.append(done)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        TensorRt(lambda: A10G, HostUploader).build(request(case, Precision.FP16), progress)
    assert len(steps) == 1


def test_the_librarys_own_message_is_kept(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, VERSION_11)
    monkeypatch.setattr("trt_facefusion.engine.backends.tensorrt_typed.add_profile", lambda *_: None)
    with pytest.raises(BuildError, match=r"TensorRT 11\.4.*missing dimensions in profile"):
        build(case, Precision.FP16)


@pytest.mark.parametrize("error", [MemoryError("bad allocation"), RuntimeError("an exception of C")])
def test_what_the_bindings_raise_is_a_failed_build_with_the_librarys_log(
    case: Case, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch)
    module = sys.modules["tensorrt"]

    def raising(self: Any, network: Any, config: Any) -> Any:
        self._logger.log(module.ILogger.Severity.WARNING, "tactic 7 needs too much memory")
        raise error

    monkeypatch.setattr(module.Builder, "build_serialized_network", raising)
    with pytest.raises(BuildError, match=f"{type(error).__name__}: {error}") as told:
        build(case)
    assert "[WARNING] tactic 7 needs too much memory" in told.value.log


def test_the_log_says_how_nodes_became_layers(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    log = build(case).log_tail
    assert "[PLAN] node s became 2 layers: s, s_bias" in log
    assert "[PLAN] layer s.w was made from no node" in log


def test_a_machine_without_a_gpu_gives_a_build_error(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, no_gpu=True)
    with pytest.raises(BuildError, match="no builder could be made"):
        build(case)


def test_another_gpus_engine_cannot_be_built_here(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    backend = TensorRt(lambda: A10G)
    assert backend.targets() == ("sm86",)
    with pytest.raises(BackendUnavailableError, match="not for sm89") as error:
        backend.require("sm89")
    assert "tensorrt-rtx" in error.value.remedy


def test_other_versions_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "8.6.1")
    with pytest.raises(BackendUnavailableError, match=r"8\.6\.1"):
        TensorRt(lambda: A10G).version()


@pytest.mark.parametrize("shift", [0, 1])
def test_equalised_channels_are_built_as_they_were_verified(
    case: Case, monkeypatch: pytest.MonkeyPatch, shift: int
) -> None:
    install(monkeypatch)
    rng = np.random.default_rng(1)
    affines = {
        name: Affine(
            rng.integers(-2, 3, 16).astype(np.int8), rng.choice([-0.25, 0, 0.5], 16).astype(np.float32) * shift
        )
        for name in ("a_relu:0", "sum:0")
    }
    histograms = collect(case.prepared.model, list(affines), batches(), scaled=make_scaled_tensors(affines))
    table = dict(case.table) | {name: histogram.amax for name, histogram in histograms.items()}
    int8 = case.plan.names(Precision.INT8)
    model = equalise_model(case.view, int8, affines)
    np.testing.assert_allclose(pictures(model.SerializeToString()), pictures(case.model), atol=1e-5)
    precisions = {n.name: n.precision for n in case.plan.nodes}
    precisions |= {node.name: Precision.FP16 for node in model.graph.node if node.name not in precisions}
    assert len(precisions) == len(case.plan.nodes) + (2 if shift == 0 else 6)
    added = find_added_ranges(case.view, int8, affines, table)
    weak = WeakTyping(model.SerializeToString(), precisions, table | added)
    typed = lower(case.view, case.plan, table, affines=affines).SerializeToString()
    engine = TensorRt(lambda: A10G, HostUploader).build(BuildRequest(typed, SHAPES, "sm86", weak=weak))
    header, plan = read_plan(engine.data)
    assert {name for name, kind in header["precisions"].items() if kind == "int8"} == {"a", "b", "c", "s"}
    assert engine.scales is not None
    assert engine.scales.missing == ()
    np.testing.assert_allclose(pictures(plan), pictures(typed), atol=1e-5)
    assert np.abs(pictures(typed) - pictures(case.typed())).max() > 1e-4
