from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterable, Mapping

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import Net, run
from onnx import helper

from trt_facefusion.model.graph import GraphView, Role, classify, prepare
from trt_facefusion.model.graph.subpixel import make_subpixel
from trt_facefusion.quantization.precision import plan_by_rules
from trt_facefusion.types import Array

torch = pytest.importorskip("torch", reason="pip install 'trt-facefusion[torch]'")
nn, functional = torch.nn, torch.nn.functional

SIZE = 12
NORMS = {
    "rsqrt of powers": lambda w: torch.rsqrt(w.pow(2).sum([2, 3, 4]) + 1e-8),
    "root of products": lambda w: 1 / torch.sqrt((w * w).sum([2, 3, 4]) + 1e-8),
    "power": lambda w: ((w**2).sum([2, 3, 4]) + 1e-8) ** -0.5,
    "mean": lambda w: torch.rsqrt((w * w).mean([2, 3, 4]) + 1e-8),
    "norm": lambda w: 1 / (torch.linalg.vector_norm(w.reshape(*w.shape[:2], -1), dim=2) + 1e-8),
    "none": None,
}


class Modulated(nn.Module):
    """As StyleGAN2's many ports write it: a batch in groups, weights reshaped and transposed."""

    def __init__(self, inputs: int, outputs: int, kernel: int, norm: str, mode: str = "plain") -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, outputs, inputs, kernel, kernel))
        self.style = nn.Linear(4, inputs)
        nn.init.ones_(self.style.bias)
        self.norm, self.mode = NORMS[norm], mode

    def forward(self, x: torch.Tensor, latent: torch.Tensor) -> torch.Tensor:
        batch, inputs = x.shape[:2]
        _, outputs, _, kernel, _ = self.weight.shape
        gain = 1 / math.sqrt(inputs * kernel**2)
        weight = gain * self.weight * self.style(latent).view(batch, 1, inputs, 1, 1)
        if self.norm is not None:
            weight = weight * self.norm(weight).view(batch, outputs, 1, 1, 1)
        if self.mode == "resize":
            x = functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        x = x.reshape(1, batch * inputs, *x.shape[2:])
        if self.mode == "transposed":
            weight = weight.transpose(1, 2).reshape(batch * inputs, outputs, kernel, kernel)
            y = functional.conv_transpose2d(x, weight, stride=2, groups=batch)
        else:
            weight = weight.view(batch * outputs, inputs, kernel, kernel)
            stride = 2 if self.mode == "down" else 1
            y = functional.conv2d(x, weight, padding=kernel // 2, stride=stride, groups=batch)
        return y.view(batch, outputs, *y.shape[2:])


class Generator(nn.Module):
    def __init__(self, norm: str) -> None:
        super().__init__()
        self.stem, self.mapping = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(6, 4)
        layers = [Modulated(6, 8, 3, norm, "down"), Modulated(8, 7, 3, norm, "transposed")]
        self.layers = nn.ModuleList([*layers, Modulated(7, 6, 3, norm, "resize"), Modulated(6, 3, 1, "none")])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        latent = self.mapping(x.mean((2, 3)))
        for layer in self.layers:
            x = functional.leaky_relu(layer(x, latent), 0.2)
        return torch.tanh(x)


def exported(module: nn.Module, batch: int, opset: int, **options: object) -> onnx.ModelProto:
    buffer = io.BytesIO()
    options = {"dynamo": opset >= 18, "input_names": ["x"], "output_names": ["y"], **options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module.eval(), (torch.rand(batch, 3, SIZE, SIZE),), buffer, opset_version=opset, **options)
    return onnx.load_from_string(buffer.getvalue())


def assert_rewritten(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> GraphView:
    """All weights are constants, and the picture is that of the file."""
    prepared = prepare(model, {"x": (3, SIZE, SIZE)}).model
    onnx.checker.check_model(prepared, full_check=True)
    for name, wanted in run(model, feeds).items():
        difference = np.abs(run(prepared, feeds)[name] - wanted).max()
        assert difference <= 1e-4 * np.abs(wanted).max()
    view = GraphView(prepared)
    assert all(view.weight(node) for node in prepared.graph.node if node.op_type in {"Conv", "ConvTranspose"})
    return view


def picture(batch: int) -> dict[str, Array]:
    return {"x": np.random.default_rng(batch).random((batch, 3, SIZE, SIZE), np.float32)}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("batch", "opset"), [(1, 11), (1, 17), (3, 17)])
def test_the_older_exporters_weights_become_constants(norm: str, batch: int, opset: int) -> None:
    torch.manual_seed(0)
    view = assert_rewritten(exported(Generator(norm), batch, opset), picture(batch))
    assert not {"ReduceSum", "ReduceSumSquare", "ReduceL2", "ConvTranspose"} & {n.op_type for n in view.nodes.values()}


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "batch"), [("rsqrt of powers", 1), ("norm", 2)])
@pytest.mark.parametrize("opset", [18, 20])
def test_the_newer_exporters_weights_become_constants(norm: str, batch: int, opset: int) -> None:
    torch.manual_seed(0)
    assert_rewritten(exported(Generator(norm), batch, opset), picture(batch))


class Shared(nn.Module):
    """One style for the whole batch, a bias, and an output gain."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.weight = nn.Conv2d(3, 6, 3, padding=1), nn.Parameter(torch.randn(5, 6, 3, 3))
        self.style, self.gain = nn.Parameter(torch.rand(6, 3)), nn.Parameter(torch.rand(5, 3))
        self.bias = nn.Parameter(torch.rand(5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = x.mean((0, 2, 3))
        weight = self.weight * (self.style @ seen).view(1, 6, 1, 1) / (1 + self.gain @ seen).view(5, 1, 1, 1)
        return functional.conv2d(torch.relu(self.stem(x)), weight, self.bias, padding=1)


@pytest.mark.parametrize("batch", [1, 4])
def test_the_batch_stays_dynamic_where_it_was(batch: int) -> None:
    torch.manual_seed(0)
    model = exported(Shared(), 2, 17, dynamic_axes={"x": {0: "n"}, "y": {0: "n"}})
    assert_rewritten(model, picture(batch))
    assert prepare(model, {"x": (3, SIZE, SIZE)}).dynamic_batch


def test_the_norms_stay_exact_and_the_picture_does_not() -> None:
    torch.manual_seed(0)
    view = GraphView(prepare(exported(Generator("rsqrt of powers"), 1, 17), {"x": (3, SIZE, SIZE)}).model)
    roles = classify(view)
    statistics = {node.op_type for node in view.nodes.values() if roles[node.name] is Role.STATISTICS}
    assert {"MatMul", "Add", "Sqrt", "Div"} <= statistics
    assert all(
        len(view.shape(n.output[0]) or ()) != 4 or view.per_sample(n.output[0]) <= 8
        for n in view.nodes.values()
        if roles[n.name] is Role.STATISTICS
    )


def test_modulated_convolutions_are_planned_for_int8() -> None:
    torch.manual_seed(0)
    view = GraphView(prepare(exported(Generator("rsqrt of powers"), 1, 17), {"x": (3, SIZE, SIZE)}).model)
    plan = plan_by_rules(view, {}, "net")
    assert {node.precision.value for node in plan.nodes if "layers" in node.name and node.op == "Conv"} >= {"int8"}
    assert plan.macs_share()["int8"] > 0.8  # what remains is the first convolution and the head


def test_weights_that_are_no_product_stay_as_they_are() -> None:
    net = Net()
    mean = net.op("Reshape", net.op("GlobalAveragePool", "x"), net.const([1, 3, 1, 1], np.int64))
    weight = net.op("Add", net.const(net.rng.normal(size=(4, 3, 3, 3))), mean)
    model = net.model({"x": [1, 3, SIZE, SIZE]}, {net.op("Conv", "x", weight, name="y"): [1, 4, 10, 10]})
    view = GraphView(prepare(model, {"x": (3, SIZE, SIZE)}).model)
    assert view.weight(view.nodes["y"]) is None


@settings(max_examples=40, deadline=None)
@given(
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    stride=st.integers(2, 3),
    pads=st.lists(st.integers(0, 2), min_size=4, max_size=4),
    extra=st.integers(0, 1),
)
def test_phases_give_what_a_transposed_convolution_gives(
    kernel: tuple[int, int], stride: int, pads: list[int], extra: int
) -> None:
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=(2, 3, 5, 4)).astype(np.float32), rng.normal(size=(3, 2, *kernel)).astype(np.float32)
    size = tuple(
        (n - 1) * stride + k + extra - pads[i] - pads[i + 2]
        for i, (n, k) in enumerate(zip((5, 4), kernel, strict=True))
    )
    if min(size) < 1:
        return
    attributes = {"strides": [stride] * 2, "pads": pads, "output_padding": [extra] * 2}
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], "up", **attributes)
    wanted = run_nodes([node], "y", {"x": x, "w": weight})
    made = make_subpixel(node, "x", weight, (size[0], size[1]))
    assert made is not None
    np.testing.assert_allclose(run_nodes(made.nodes, made.result, {"x": x, **made.constants}), wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("kernel", "attributes", "op"),
    [
        (4, {"strides": [2, 2], "pads": [1] * 4}, "Conv"),
        (2, {"strides": [2, 2]}, "Conv"),
        (6, {"strides": [3, 3], "pads": [2, 1, 1, 2], "output_padding": [1, 0]}, "Conv"),
        (3, {"strides": [2, 2], "pads": [1] * 4, "output_padding": [1, 1]}, "ConvTranspose"),
        (4, {"strides": [2, 2], "group": 3}, "ConvTranspose"),
        (4, {"strides": [2, 2], "auto_pad": "SAME_UPPER"}, "ConvTranspose"),
    ],
)
@pytest.mark.parametrize("biased", [True, False])
def test_only_what_costs_no_more_becomes_a_convolution(
    kernel: int, attributes: dict[str, object], op: str, biased: bool
) -> None:
    net = Net()
    outputs = 5 * int(attributes.get("group", 1))
    bias = [net.const(net.rng.normal(size=outputs))] if biased else []
    net.op("ConvTranspose", "x", net.const(net.rng.normal(size=(3, 5, kernel, kernel))), *bias, name="y", **attributes)
    model = net.model({"x": ["N", 3, SIZE, SIZE]}, {"y": ["N", outputs, "H", "W"]})
    view = assert_rewritten(model, picture(2))
    assert view.nodes["y"].op_type == op


def run_nodes(nodes: Iterable[onnx.NodeProto], result: str, values: Mapping[str, Array]) -> Array:
    inputs = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for n, v in values.items()
    ]
    graph = helper.make_graph(list(nodes), "g", inputs, [onnx.ValueInfoProto(name=result)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return run(model, values)[result]
