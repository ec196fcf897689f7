"""Where an error enters, on networks in which it is known: it was planted there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import pytest
from nets import SWAPPER_SHAPES, Net, feeds, ranges, swapper
from numpy.typing import NDArray
from onnx import numpy_helper

from trt_facefusion.engine.runtime.onnxruntime import OnnxRuntimeRunner
from trt_facefusion.errors import BadInputError
from trt_facefusion.evaluation.accuracy.metrics import measure_ssim
from trt_facefusion.evaluation.comparison.layer_error import LayerError
from trt_facefusion.evaluation.comparison.layers import LayerComparison
from trt_facefusion.model.graph import GraphView, prepare
from trt_facefusion.quantization.calibration.reader import Batches
from trt_facefusion.quantization.lowering import lower
from trt_facefusion.quantization.precision import plan_by_rules
from trt_facefusion.types import Precision

FACES = 4
PLAIN = prepare(swapper(), SWAPPER_SHAPES).model


def batches() -> Batches:
    given = feeds(SWAPPER_SHAPES, batch=FACES)
    return Batches(lambda part: {name: value[list(part)] for name, value in given.items()}, FACES, 2)


def paint(runner: OnnxRuntimeRunner) -> NDArray[np.float32]:
    return np.concatenate([runner.infer(given)["output"].transpose(0, 2, 3, 1) for given in batches()])


def planted(layer: str, change: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> onnx.ModelProto:
    """The network with other weights in one layer."""
    model = onnx.ModelProto()
    model.CopyFrom(PLAIN)
    weight = next(node.input[1] for node in model.graph.node if node.name == layer)
    for tensor in model.graph.initializer:
        if tensor.name == weight:
            tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)), weight))
    return model


def typed(*, fp16: tuple[str, ...] = ()) -> onnx.ModelProto:
    view = GraphView(PLAIN)
    amax = ranges(PLAIN, feeds(SWAPPER_SHAPES, batch=FACES))
    return lower(view, plan_by_rules(view, amax, "net").raised(dict.fromkeys(fp16, "test")), amax)


def compare(candidate: onnx.ModelProto, **options: int) -> dict[str, LayerError]:
    return {error.node.name: error for error in LayerComparison(PLAIN, candidate, batches(), **options).rank_errors()}


@pytest.mark.parametrize("layer", ["stem", "block0b", "block1a/adain/style", "to_rgb"])
def test_an_error_enters_in_the_layer_that_it_was_planted_in_and_nowhere_else(layer: str) -> None:
    rng = np.random.default_rng(0)
    found = compare(planted(layer, lambda w: w + rng.normal(0, 0.02, w.shape).astype(np.float32)))
    assert next(iter(found)) == layer
    assert found[layer].added == found[layer].total > 0.01 and found[layer].inherited == 0
    assert all(error.added == 0 for name, error in found.items() if name != layer)
    assert (found["half"].total or 0.0) > 0  # it shows in the picture, and does not enter there


def test_an_error_that_a_later_layer_hides_still_enters_where_it_does() -> None:
    """The style's shift is wiped out by the normalisation behind it: no error at the output, yet it is there."""
    net = Net()
    x = net.conv("target", 3, 8, name="conv")
    x = net.instance_norm(x, "norm", eps=1e-5)
    net.op("Sigmoid", net.conv(x, 8, 3, name="head"), name="output")
    model = prepare(
        net.model({"target": ["N", 3, 32, 32]}, {"output": ["N", 3, 32, 32]}), {"target": (3, 32, 32)}
    ).model
    louder = onnx.ModelProto()
    louder.CopyFrom(model)
    for tensor in louder.graph.initializer:
        if tensor.name in {"const_0", "const_1"}:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 4, tensor.name))
    given = feeds({"target": (3, 32, 32)}, batch=2)
    errors = LayerComparison(model, louder, Batches(lambda _: given, 2, 2)).rank_errors()
    assert errors[0].node.name == "conv" and errors[0].added == pytest.approx(3, rel=1e-5)
    shown = {error.node.name: error for error in errors}
    assert shown["output"].total is not None and shown["output"].total < 1e-4


def test_int8_layers_add_more_than_fp16_ones_and_fp32_ones_nothing() -> None:
    found = compare(typed())

    def of(precision: str) -> list[float]:
        return [error.added or 0.0 for error in found.values() if error.node.precision == precision]

    added = {precision: of(precision) for precision in ("int8", "fp16", "fp32")}
    assert min(added["int8"]) > max(added["fp16"]) > 0
    assert max(added["fp16"]) < 2e-3
    assert max(added["fp32"]) < 2**-11  # an FP32 node that reads FP16 tensors rounds nothing but its output
    assert {e.node.reference_precision for e in found.values()} == {"fp32"}


def test_figures_do_not_depend_on_the_memory_they_may_take() -> None:
    candidate = typed()
    plain = LayerComparison(PLAIN, candidate, batches())
    tight = LayerComparison(PLAIN, candidate, batches(), budget_bytes=600_000)
    groups = list(tight.iterate_groups())
    assert len(list(plain.iterate_groups())) == 1 and len(groups) > 5
    assert all(len(group) == 1 or tight._count_bytes(group) <= 600_000 for group in groups)
    assert sorted(part.tensor for group in groups for part in group) == sorted(plain.sizes)
    assert tight.rank_errors() == plain.rank_errors()


def test_only_one_groups_tensors_are_held() -> None:
    held: list[int] = []
    comparison = LayerComparison(PLAIN, typed(), batches(), budget_bytes=600_000)
    comparison.rank_errors(
        keep=lambda number, *values: held.append(sum(x.nbytes for side in values for x in side.values()))
    )
    biggest = max(comparison._count_bytes([part]) for group in comparison.iterate_groups() for part in group)
    assert len(held) > 5 and max(held) <= max(600_000, biggest)


def test_what_overflows_in_fp16_is_ranked_first_where_it_does() -> None:
    huge = planted("block0a", lambda w: w * np.float32(1.2e5))
    view = GraphView(huge)
    amax = ranges(huge, feeds(SWAPPER_SHAPES, batch=FACES))
    plan = plan_by_rules(view, {}, "net").capped(Precision.FP16)
    nodes = (replace(n, precision=Precision.FP16) if n.name == "block0a" else n for n in plan.nodes)
    plan = replace(plan, nodes=tuple(nodes))  # the rules would have known better
    errors = LayerComparison(huge, lower(view, plan, amax), batches()).rank_errors()
    assert errors[0].node.name == "block0a" and errors[0].nonfinite_added > 0
    behind = {error.node.name: error for error in errors}["block0a/adain/centred"]
    assert behind.nonfinite > 0 and behind.nonfinite_added == 0


def test_raising_the_planted_layer_wins_back_what_the_picture_lost() -> None:
    rng = np.random.default_rng(1)
    candidate = planted("block0b", lambda w: w + rng.normal(0, 0.05, w.shape).astype(np.float32))
    comparison = LayerComparison(PLAIN, candidate, batches())
    errors = comparison.measure_gains(comparison.rank_errors(), paint, 3)
    assert [error.node.name for error in errors if error.gain is not None] == ["block0b"]  # no other adds any
    with OnnxRuntimeRunner(PLAIN) as one, OnnxRuntimeRunner(candidate) as other:
        lost = 1 - float(measure_ssim(paint(one).clip(0, 1), paint(other).clip(0, 1)).mean())
    assert errors[0].gain == pytest.approx(lost, abs=1e-5) and lost > 1e-3


def test_gains_of_a_typed_graph_are_measured_for_as_many_layers_as_asked() -> None:
    comparison = LayerComparison(PLAIN, typed(), batches())
    errors = comparison.measure_gains(comparison.rank_errors(), paint, 4)
    assert [error.gain is not None for error in errors[:5]] == [True] * 4 + [False]
    assert all(abs(error.gain or 0.0) < 0.2 for error in errors)


def test_two_typed_graphs_are_compared_too() -> None:
    reference, candidate = typed(), typed(fp16=("block0a",))
    errors = LayerComparison(reference, candidate, batches()).rank_errors()
    assert errors[0].node.name == "block0a"
    assert (errors[0].node.reference_precision, errors[0].node.precision) == ("int8", "fp16")
    assert sum((error.added or 0.0) > 1e-3 for error in errors) == 1


def test_graphs_that_share_no_tensor_are_refused() -> None:
    other = Net()
    other.op("Sigmoid", other.conv("target", 3, 3, name="mine"), name="mine_too")
    model = other.model({"target": ["N", 3, 32, 32], "source": ["N", 64]}, {"mine_too": ["N", 3, 32, 32]})
    with pytest.raises(BadInputError, match="share no tensor"):
        LayerComparison(PLAIN, model, batches())
