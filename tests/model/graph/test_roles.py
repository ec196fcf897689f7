from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from nets import SWAPPER_SHAPES, Net, swapper

from trt_facefusion.model.export import load_model
from trt_facefusion.model.graph import GraphView, Role, classify, prepare

IMAGE = {"x": ["N", 3, 16, 16]}
STATISTICS = {"mean", "centred", "square", "variance", "eps", "sqrt", "div"}


def roles(net: Net, *outputs: str, style: int = 0) -> dict[str, Role]:
    inputs, shapes = dict(IMAGE), {"x": (3, 16, 16)}
    if style:
        inputs["s"], shapes["s"] = ["N", style], (style,)
    model = net.model(inputs, {name: ["N", "C", "H", "W"] for name in outputs})
    return classify(GraphView(prepare(model, shapes).model))


def named(roles_by_name: dict[str, Role], *roles_asked: Role) -> set[str]:
    return {name for name, role in roles_by_name.items() if role in roles_asked}


@pytest.fixture(scope="module")
def of_swapper() -> dict[str, Role]:
    return classify(GraphView(prepare(swapper(), SWAPPER_SHAPES).model))


def test_statistics_are_found_whole_and_nothing_else_is(of_swapper: dict[str, Role]) -> None:
    prefixes = [f"block{i}{half}/adain" for i in range(2) for half in "ab"]
    assert named(of_swapper, Role.STATISTICS) == {f"{prefix}/{part}" for prefix in prefixes for part in STATISTICS}


def test_the_parts_of_a_swapper_are_found(of_swapper: dict[str, Role]) -> None:
    adains = [f"block{i}{half}/adain" for i in range(2) for half in "ab"]
    assert named(of_swapper, Role.FIRST_CONV) == {"stem"}
    assert named(of_swapper, Role.HEAD_CONV) == {"to_rgb"}
    assert named(of_swapper, Role.HEAD_ACTIVATION) == {"tanh", "plus_one", "half", "output"}
    assert named(of_swapper, Role.RESIDUAL_ADD) == {"block0/add", "block1/add"}
    assert named(of_swapper, Role.STYLE_LINEAR) == {f"{adain}/style" for adain in adains}
    assert named(of_swapper, Role.STYLE) == {f"{adain}/{part}" for adain in adains for part in ("scale", "shift")}
    assert {"down1", "block0a", "block1b", "up2"} < named(of_swapper, Role.CONV)
    assert len(named(of_swapper, Role.RESIZE)) == 2


def test_a_normalised_residual_sum_is_no_statistic() -> None:
    net = Net()
    trunk = net.conv("x", 3, 8, name="stem")
    total = net.op("Add", trunk, net.conv(trunk, 8, 8), name="total")
    by_name = roles(net, net.conv(net.instance_norm(total, "norm"), 8, 3, name="head"))
    assert by_name["total"] is Role.RESIDUAL_ADD
    assert named(by_name, Role.STATISTICS) == {f"norm/{part}" for part in STATISTICS}


def deviation_first(net: Net, x: str, axes: str) -> tuple[str, set[str]]:
    """std = sqrt(E[x^2] - E[x]^2 + eps), centred a second time, and a reciprocal instead of a division."""
    mean = net.op("ReduceMean", x, axes, name="mean")
    of_squares = net.op("ReduceMean", net.op("Pow", x, net.const(2.0), name="pow"), axes, name="of_squares")
    variance = net.op("Sub", of_squares, net.op("Mul", mean, mean, name="mean2"), name="variance")
    root = net.op("Sqrt", net.op("Add", variance, net.const(1e-6), name="eps"), name="sqrt")
    inverse = net.op("Div", net.const(1.0), root, name="inverse")
    out = net.op("Mul", net.op("Sub", x, mean, name="centred"), inverse, name="out")
    return out, {"mean", "of_squares", "pow", "variance", "mean2", "eps", "sqrt", "inverse", "centred", "out"}


def pixel_norm(net: Net, x: str, _: str) -> tuple[str, set[str]]:
    """x * (mean over channels of x^2 + eps) ** -0.5"""
    mean = net.op("ReduceMean", net.op("Mul", x, x, name="square"), net.const([1], np.int64), name="mean")
    root = net.op("Pow", net.op("Add", mean, net.const(1e-8), name="eps"), net.const(-0.5), name="root")
    return net.op("Mul", x, root, name="out"), {"square", "mean", "eps", "root", "out"}


def unit_length(net: Net, x: str, _: str) -> tuple[str, set[str]]:
    """torch's F.normalize"""
    length = net.op(
        "Clip", net.op("ReduceL2", x, net.const([1], np.int64), name="length"), net.const(1e-12), name="clip"
    )
    return net.op("Div", x, length, name="out"), {"length", "clip", "out"}


@pytest.mark.parametrize("write", [deviation_first, pixel_norm, unit_length])
def test_other_ways_to_write_a_normalisation_are_found(write: object) -> None:
    net = Net()
    scaled = net.op("Mul", net.conv("x", 3, 8), net.const(0.5), name="scaled")
    out, statistics = write(net, scaled, net.const([2, 3], np.int64))
    by_name = roles(net, net.conv(out, 8, 3, name="head"))
    assert named(by_name, Role.STATISTICS) == statistics
    assert by_name["scaled"] is Role.ELEMENTWISE


def test_pooling_without_a_root_is_no_statistic() -> None:
    net = Net()
    x = net.conv("x", 3, 8, name="stem")
    gate = net.op("Sigmoid", net.conv(net.op("GlobalAveragePool", x, name="pool"), 8, 8, 1, "squeeze"))
    by_name = roles(net, net.conv(net.op("Mul", x, gate, name="gated"), 8, 3, name="head"))
    assert not named(by_name, Role.STATISTICS)
    assert by_name["squeeze"] is Role.CONV


@pytest.mark.parametrize("tail", ["none", "tanh_to_01", "clip", "skip", "blend"])
def test_the_head_is_found_through_whatever_follows_it(tail: str) -> None:
    net = Net()
    trunk = net.op("Relu", net.conv(net.conv("x", 3, 8, name="stem"), 8, 8, name="middle"))
    y = net.conv(trunk, 8, 3, name="head")
    heads, behind = {"head"}, set()
    if tail == "tanh_to_01":
        y = net.op("Add", net.op("Tanh", y, name="t"), net.const(1.0), name="t1")
        y = net.op("Clip", net.op("Mul", y, net.const(0.5), name="t2"), net.const(0.0), net.const(1.0), name="t3")
        behind = {"t", "t1", "t2", "t3"}
    elif tail == "clip":
        y, behind = net.op("Clip", y, net.const(0.0), net.const(1.0), name="clip"), {"clip"}
    elif tail == "skip":
        y, behind = net.op("Add", "x", y, name="skip"), {"skip"}
    elif tail == "blend":
        mask = net.op("Sigmoid", net.conv(trunk, 8, 1, name="mask"), name="m")
        masked = net.op("Mul", "x", net.op("Sub", net.const(1.0), mask, name="inverse"), name="kept")
        y = net.op("Add", net.op("Mul", y, mask, name="new"), masked, name="sum")
        heads, behind = {"head", "mask"}, {"m", "inverse", "kept", "new", "sum"}
    by_name = roles(net, y)
    assert named(by_name, Role.HEAD_CONV) == heads
    assert named(by_name, Role.HEAD_ACTIVATION) == behind
    assert named(by_name, Role.FIRST_CONV) == {"stem"}
    assert by_name["middle"] is Role.CONV


def test_a_second_output_has_its_own_head() -> None:
    net = Net()
    trunk = net.conv(net.conv("x", 3, 8), 8, 8, name="trunk")
    picture = net.op("Tanh", net.conv(trunk, 8, 3, name="picture_head"), name="picture")
    mask = net.op("Sigmoid", net.conv(trunk, 8, 1, name="mask_head"), name="mask")
    by_name = roles(net, picture, mask)
    assert named(by_name, Role.HEAD_CONV) == {"picture_head", "mask_head"}
    assert named(by_name, Role.HEAD_ACTIVATION) == {"picture", "mask"}


def test_a_style_behind_the_head_does_not_make_its_linear_a_head() -> None:
    net = Net()
    y = net.adain(net.conv(net.conv("x", 3, 8), 8, 3, name="head"), "s", 3, "last", 16)
    by_name = roles(net, net.op("Tanh", y), style=16)
    assert named(by_name, Role.HEAD_CONV) == {"head"}
    assert by_name["last/style"] is Role.STYLE_LINEAR


def test_joined_images_are_still_raw_at_the_first_convolution() -> None:
    net = Net()
    small = net.op("Mul", "x", net.const(2.0))
    first = net.conv(net.op("Concat", "x", small, axis=1), 6, 8, name="first")
    late = net.conv(net.op("Concat", "x", first, axis=1), 11, 8, name="late")
    by_name = roles(net, net.conv(late, 8, 3, name="head"))
    assert named(by_name, Role.FIRST_CONV) == {"first"}
    assert named(by_name, Role.CONV) == {"late"}


def test_attention_is_found_with_linears_and_a_mask() -> None:
    net = Net()
    x = net.conv("x", 3, 8, name="stem")
    tokens = net.op("Transpose", net.op("Reshape", x, net.const([0, 0, -1], np.int64)), perm=[0, 2, 1])
    q, k, v = (net.op("MatMul", tokens, net.const(np.eye(8)), name=name) for name in "qkv")
    logits = net.op("MatMul", net.op("Add", q, net.const(0.1)), net.op("Transpose", k, perm=[0, 2, 1]), name="qk")
    masked = net.op("Add", net.op("Mul", logits, net.const(0.35)), net.const(np.zeros((256, 256))))
    mixed = net.op("MatMul", net.op("Softmax", masked, name="softmax"), v, name="mixed")
    back = net.op("Reshape", net.op("Transpose", mixed, perm=[0, 2, 1]), net.const([0, 8, 16, 16], np.int64))
    by_name = roles(net, net.conv(net.op("Add", x, back, name="add"), 8, 3, name="head"))
    assert named(by_name, Role.ATTENTION_LOGITS) == {"q", "k"}
    assert named(by_name, Role.ATTENTION_PRODUCT) == {"qk", "mixed"}
    assert (by_name["v"], by_name["softmax"], by_name["add"]) == (Role.LINEAR, Role.SOFTMAX, Role.RESIDUAL_ADD)


def test_a_feature_map_grown_from_a_vector_is_no_style() -> None:
    net = Net()
    latent = net.op("Reshape", net.linear("s", 16, 64, name="latent"), net.const([-1, 4, 4, 4], np.int64))
    grown = net.op("Relu", latent)
    total = net.op("Add", grown, net.conv(grown, 4, 4, name="conv"), name="total")
    image = net.conv(net.upsample(net.upsample(total)), 4, 3, name="head")
    by_name = roles(net, net.op("Add", "x", image), style=16)
    assert by_name["latent"] is Role.STYLE_LINEAR
    assert (by_name["conv"], by_name["total"]) == (Role.CONV, Role.RESIDUAL_ADD)


def test_the_roles_of_a_cyclegan(shared_models: Path) -> None:
    model = load_model(shared_models / "generator" / "vintagify_cyclegan_A2B.onnx")
    by_name = classify(GraphView(prepare(model, {"input": (3, 64, 64)}).model))
    counts = {role: len(named(by_name, role)) for role in set(by_name.values())}
    assert counts == {
        Role.FIRST_CONV: 1,
        Role.CONV: 20,
        Role.CONV_TRANSPOSE: 2,
        Role.HEAD_CONV: 1,
        Role.HEAD_ACTIVATION: 1,
        Role.NORMALISATION: 23,
        Role.RESIDUAL_ADD: 9,
        Role.ACTIVATION: 14,
        Role.LAYOUT: 20,
    }


def test_the_roles_of_the_reference_generator() -> None:
    torch = pytest.importorskip("torch", reason="pip install 'trt-facefusion[torch]'")
    pytest.importorskip("onnxscript", reason="pip install 'trt-facefusion[torch]'")
    from trt_facefusion.model.export.torch_export import export_onnx
    from trt_facefusion.model.generators.reference import ReferenceGenerator

    torch.manual_seed(0)
    shapes = {"target": (3, 128, 128), "source": (128,)}
    net = ReferenceGenerator((8, 8, 8, 8), 16).eval()
    model = export_onnx(net, shapes, outputs=net.OUTPUTS)
    by_name = classify(GraphView(prepare(model, shapes).model))
    counts = {role: len(named(by_name, role)) for role in set(by_name.values())}
    assert counts[Role.FIRST_CONV] == counts[Role.SOFTMAX] == 1
    assert counts[Role.HEAD_CONV] == 2  # the paint's and the mask's
    assert counts[Role.HEAD_ACTIVATION] == 6  # two sigmoids, the mask's resize, the blend's three operators
    assert counts[Role.ATTENTION_LOGITS] == counts[Role.ATTENTION_PRODUCT] == 2
    assert counts[Role.RESIDUAL_ADD] == 5  # three blocks, the attention, the decoder
    assert counts[Role.CONCAT] == 3
    assert counts[Role.RESIZE] == 3
    assert counts[Role.STYLE_LINEAR] == 10  # the mapping, and one for each of nine styles
    assert counts[Role.STYLE] == 2 * 9
    assert Role.STATISTICS not in counts  # torch writes InstanceNormalization
    assert Role.OTHER not in counts
