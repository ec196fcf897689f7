"""Layers that a backend treats as one are decided on together."""

from __future__ import annotations

import nets

from trt_facefusion.model.graph import GraphView, prepare
from trt_facefusion.quantization.precision import quantisable
from trt_facefusion.quantization.precision.facts import KERNEL_FACTS, no_kernel
from trt_facefusion.quantization.precision.groups import find_neighbours, group_candidates


def view_of(net: nets.Net, output: str, channels: int = 8) -> GraphView:
    model = net.model({"x": ["N", 8, 16, 16]}, {net.op("Identity", output, name="out"): ["N", channels, 16, 16]})
    return GraphView(prepare(model, {"x": (8, 16, 16)}).model)


def test_readers_of_one_tensor_share_a_group() -> None:
    net = nets.Net()
    x = net.op("Relu", net.conv("x", 8, 8, name="first"))
    y = net.op("Mul", net.op("Sigmoid", net.conv(x, 8, 8, name="gate")), net.conv(x, 8, 8, name="value"))
    view = view_of(net, net.conv(y, 8, 8, name="last"))
    groups = group_candidates(view, ["first", "gate", "value", "last"])
    assert [group.nodes for group in groups] == [("first",), ("gate", "value"), ("last",)]
    assert groups[1].why.startswith("read ") and groups[1].macs == 2 * groups[0].macs


def test_operands_of_one_addition_or_concatenation_share_a_group() -> None:
    net = nets.Net()
    x = net.op("Relu", net.conv("x", 8, 8, name="first"))
    main = net.conv(net.op("Relu", net.conv(x, 8, 8, name="inner")), 8, 8, name="main")
    added = net.op("Add", main, net.conv(net.op("Tanh", x), 8, 8, 1, name="shortcut", pads=[0] * 4), name="add")
    left, right = (
        net.conv(net.op("Relu", added), 8, 8, name="left"),
        net.conv(net.op("Tanh", added), 8, 8, name="right"),
    )
    joined = net.op("Concat", left, right, axis=1, name="cat")
    view = view_of(net, net.conv(joined, 16, 8, name="last"))
    groups = group_candidates(view, ["first", "inner", "main", "shortcut", "left", "right", "last"])
    assert {group.nodes: group.why for group in groups if len(group.nodes) > 1} == {
        ("main", "shortcut"): "are added by add",
        ("left", "right"): "are concatenated by cat",
    }


def test_what_is_no_candidate_is_in_no_group() -> None:
    net = nets.Net()
    x = net.op("Relu", net.conv("x", 8, 8, name="first"))
    y = net.op("Add", net.conv(x, 8, 8, name="a"), net.conv(x, 8, 8, name="b"))
    groups = group_candidates(view_of(net, y), ["first", "b"])
    assert [group.nodes for group in groups] == [("first",), ("b",)] and not groups[1].why


def test_kernel_facts_have_a_source_and_rule_out_int8() -> None:
    net = nets.Net()
    weight = net.const(net.rng.normal(size=(8, 8, 3, 3)))
    up = net.op("ConvTranspose", "x", weight, name="up", pads=[1] * 4)
    view = view_of(net, net.conv(net.conv(up, 8, 8, name="depthwise", group=8), 8, 8, name="plain"))
    assert [quantisable(view, name) for name in ("up", "depthwise", "plain")] == [True, False, True]
    assert no_kernel(view, "plain") is None and no_kernel(view, "up") is not None
    assert no_kernel(view, "up", transposes=True) is None
    assert all("TensorRT-RTX" in fact.source for fact in KERNEL_FACTS)


def test_operands_are_neighbours_where_they_are_no_group_and_so_are_layers_behind_one_another() -> None:
    net = nets.Net()
    x = net.op("Relu", net.conv("x", 8, 8, name="first"))
    left = net.conv(net.op("Relu", x), 8, 8, name="left")
    right = net.conv(net.op("Tanh", x), 8, 8, name="right")
    added = net.op("Relu", net.op("Add", left, right, name="add"))
    view = view_of(net, net.conv(net.conv(added, 8, 8, name="behind"), 8, 8, name="last"))
    names = ["first", "left", "right", "behind", "last"]
    groups = group_candidates(view, names, operands=False)
    assert [group.nodes for group in groups] == [(name,) for name in names]
    assert find_neighbours(view, groups) == ((0, 1), (0, 2), (1, 2), (1, 3), (2, 3), (3, 4))
    joined = group_candidates(view, names)
    assert find_neighbours(view, joined) == ((0, 1), (1, 2), (2, 3))
