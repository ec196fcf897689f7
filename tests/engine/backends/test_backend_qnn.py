"""Engines that Qualcomm's compiler really builds, and its simulator really runs."""

from __future__ import annotations

import sys
from collections.abc import Mapping

import numpy as np
import onnx
import pytest
import tiny
from onnx import TensorProto, helper, numpy_helper

from trt_facefusion.engine.backends import qnn as backend_module
from trt_facefusion.engine.backends.base import BuildRequest, BuiltEngine, RunOptions, ShapeRange
from trt_facefusion.engine.backends.chips import CHIPS
from trt_facefusion.engine.backends.kernels import find_int8_coverage
from trt_facefusion.engine.backends.qnn import Qnn
from trt_facefusion.engine.runtime.onnxruntime import OnnxRuntimeRunner
from trt_facefusion.engine.runtime.qnn import read_note
from trt_facefusion.errors import BackendUnavailableError, BadInputError, BuildError, DeviceError
from trt_facefusion.evaluation.accuracy.metrics import decode_nchw, measure_psnr_db
from trt_facefusion.model.graph import GraphView, prepare
from trt_facefusion.quantization.lowering import lower
from trt_facefusion.quantization.lowering.npu import NARROW, WIDE, list_stored_tensors, lower_for_npu
from trt_facefusion.quantization.precision import Plan, plan_by_rules
from trt_facefusion.types import Precision

pytest.importorskip("onnxruntime_qnn", reason="onnxruntime-qnn is not installed")

SIZE = 16
SHAPES: dict[str, ShapeRange] = {"image": ((1, 3, SIZE, SIZE),) * 3}
IMAGE = np.linspace(0, 1, 3 * SIZE * SIZE, dtype=np.float32).reshape(1, 3, SIZE, SIZE)
FEEDS = {"image": IMAGE}


def make_view(extra: str | None = None) -> GraphView:
    return GraphView(prepare(tiny.generator(size=SIZE, blocks=1, extra=extra), {"image": (3, SIZE, SIZE)}).model)


def plan_all(view: GraphView) -> Plan:
    plan = plan_by_rules(view, {}, "tiny")
    return plan.assigned({node.name: (Precision.INT8, "all") for node in plan.nodes if node.quantisable})


def lower_tiny(extra: str | None = None, narrow: tuple[str, ...] = ()) -> onnx.ModelProto:
    view = make_view(extra)
    bounds = dict.fromkeys(list_stored_tensors(view), (-6.0, 6.0))
    return lower_for_npu(view, plan_all(view), {WIDE: bounds, NARROW: bounds}, narrow)


def compile_tiny(
    model: onnx.ModelProto, chip: str = "sm8550", shapes: Mapping[str, ShapeRange] = SHAPES
) -> BuiltEngine:
    return Qnn().build(BuildRequest(model.SerializeToString(), shapes, chip))


@pytest.fixture(scope="module")
def engine() -> BuiltEngine:
    return compile_tiny(lower_tiny(narrow=("head",)))


@pytest.mark.parametrize("chip", [chip.target for chip in CHIPS])
def test_every_chip_takes_every_node(chip: str, engine: BuiltEngine) -> None:
    built = engine if chip == engine.target else compile_tiny(lower_tiny(), chip)
    assert not built.left and built.pins.chip == chip == read_note(built.data).chip
    nodes = {name for kernel in built.kernels for name in kernel.nodes}
    assert {node.name for node in make_view().model.graph.node} <= nodes


def test_planned_layers_are_proven_with_their_widths(engine: BuiltEngine) -> None:
    view = make_view()
    planned = {node.name: node.op for node in plan_all(view).nodes if node.precision is Precision.INT8}
    coverage = find_int8_coverage(planned, engine.kernels, Qnn.capabilities.math_types)
    assert coverage.planned == coverage.real == 5
    shown = {detail.node: detail.dtypes for detail in coverage.details}
    assert shown["stem"] == "uint16 x int8 -> uint16" and shown["head"] == "uint8 x int8 -> uint8"


def test_the_simulator_paints_what_the_stand_in_paints(engine: BuiltEngine) -> None:
    with (
        Qnn().open(engine.data, RunOptions()) as simulator,
        OnnxRuntimeRunner(lower_tiny(narrow=("head",)), stand_in=True) as stand_in,
    ):
        pictures = [decode_nchw(runner.infer(FEEDS)["picture"]) for runner in (simulator, stand_in)]
        assert measure_psnr_db(*pictures)[0] > 45
        (later,) = simulator.map([FEEDS])
        np.testing.assert_array_equal(later["picture"], simulator.infer_async(FEEDS).result(60)["picture"])
        with pytest.raises(BadInputError, match="image"):
            simulator.infer({"image": IMAGE[:, :1]})
    with pytest.raises(RuntimeError, match="closed"):
        simulator.infer(FEEDS)


def test_a_node_that_it_does_not_take_is_named() -> None:
    built = compile_tiny(lower_tiny(extra="Erf"))
    assert list(built.left) == ["extra"] and "Erf" in built.left["extra"]
    with Qnn().open(built.data, RunOptions()) as runner:
        assert np.isfinite(runner.infer(FEEDS)["picture"]).all()


def test_floats_are_fp16_and_never_fp32() -> None:
    view = make_view()
    plan = plan_by_rules(view, {}, "tiny")
    halves = plan.assigned({node.name: (Precision.FP16, "all") for node in plan.nodes})
    built = compile_tiny(lower(view, halves, {}))
    convolutions = [kernel for kernel in built.kernels if kernel.type == "Conv2d"]
    assert {kernel.dtypes for kernel in convolutions} == {"fp16 x fp16 -> fp16"} and not built.left
    with pytest.raises(BuildError, match="no FP32"):
        compile_tiny(view.model)


def test_an_island_computes_in_fp16_between_integers() -> None:
    view = make_view()
    bounds = dict.fromkeys(list_stored_tensors(view), (-6.0, 6.0))
    plan = plan_all(view).raised({"merge": "an island"})
    built = compile_tiny(lower_for_npu(view, plan, {WIDE: bounds, NARROW: bounds}))
    (island,) = (kernel for kernel in built.kernels if "merge" in kernel.nodes)
    assert island.dtypes == "fp16 x fp16 -> fp16" and not built.left


def test_an_unknown_chip_names_those_that_are_known() -> None:
    with pytest.raises(BackendUnavailableError, match="sm9999") as error:
        Qnn().require("sm9999")
    assert all(chip.target in error.value.remedy for chip in CHIPS) and error.value.exit_code == 4


def test_shapes_have_to_be_fixed() -> None:
    ranges: dict[str, ShapeRange] = {"image": ((1, 3, SIZE, SIZE), (2, 3, SIZE, SIZE), (4, 3, SIZE, SIZE))}
    with pytest.raises(BuildError, match="no fixed shape"):
        compile_tiny(lower_tiny(), shapes=ranges)


def damage_binary(content: bytes) -> bytes:
    model = onnx.load_model_from_string(content)
    (binary,) = (a for node in model.graph.node for a in node.attribute if a.name == "ep_cache_context")
    binary.s = binary.s[: len(binary.s) // 2] + b"?" + binary.s[len(binary.s) // 2 + 1 :]
    return model.SerializeToString()


@pytest.mark.parametrize(
    "damage",
    [damage_binary, lambda content: content[: len(content) // 2], lambda _: b"", lambda _: b"no engine"],
    ids=["a byte of the binary", "cut off", "empty", "something else"],
)
def test_a_damaged_engine_is_refused_before_the_library_sees_it(damage: object, engine: BuiltEngine) -> None:
    with pytest.raises(DeviceError, match="damaged"):
        Qnn().open(damage(engine.data), RunOptions())  # type: ignore[operator]


def test_an_engine_of_another_version_is_refused(engine: BuiltEngine) -> None:
    model = onnx.load_model_from_string(engine.data)
    (entry,) = (e for e in model.metadata_props if e.key == "trt_ff_library")
    entry.value = "1.0.0"
    with pytest.raises(DeviceError, match=r"compiled by onnxruntime-qnn 1\.0\.0"):
        Qnn().open(model.SerializeToString(), RunOptions())


def test_a_library_that_is_missing_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime_qnn", None)
    with pytest.raises(BackendUnavailableError) as error:
        Qnn().require("sm8550")
    assert "pip install 'onnxruntime-qnn" in error.value.remedy


def test_a_network_that_it_takes_nothing_of_is_refused() -> None:
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 8]) for name in ("image", "picture")]
    grid = [numpy_helper.from_array(np.array(1 / 255, np.float32), "scale")]
    grid.append(numpy_helper.from_array(np.array(0, np.uint8), "zero"))
    nodes = [
        helper.make_node("QuantizeLinear", ["image", "scale", "zero"], ["stored"], "quantise"),
        helper.make_node("DequantizeLinear", ["stored", "scale", "zero"], ["read"], "dequantise"),
        helper.make_node("Erf", ["read"], ["picture"], "erf"),
    ]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], grid)
    with pytest.raises(BuildError, match=r"takes no node of the network \(Erf\)"):
        compile_tiny(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10))


def test_nothing_is_left_on_the_disk_or_the_console(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "scratch"  # type: ignore[operator]
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.chdir(folder)
    compile_tiny(lower_tiny())
    assert list(folder.iterdir()) == [] and capfd.readouterr() == ("", "")


def test_a_trace_that_cannot_be_read_is_told() -> None:
    with pytest.raises(BuildError, match="trace of the nodes cannot be read"):
        backend_module.read_trace('{"schema_version": 99}', lower_tiny())
