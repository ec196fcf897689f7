from __future__ import annotations

import numpy as np
import pytest
from nets import SWAPPER_SHAPES, Net, swapper

from trt_facefusion.model.graph import GraphView, count_macs, prepare

SHAPES = {"x": (4, 8, 8), "s": (6,)}


def counts(net: Net, y: str) -> dict[str, int]:
    model = net.model({"x": ["N", 4, 8, 8], "s": ["N", 6]}, {y: ["N", "C", "H", "W"]})
    return count_macs(GraphView(prepare(model, SHAPES).model))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 8 * 64 * 4 * 9),
        ({"strides": [2, 2]}, 8 * 16 * 4 * 9),
        ({"group": 4}, 8 * 64 * 1 * 9),
        ({"dilations": [2, 2], "pads": [0] * 4}, 8 * 16 * 4 * 9),
    ],
)
def test_convolutions(options: dict[str, object], expected: int) -> None:
    net = Net()
    assert counts(net, net.conv("x", 4, 8, name="c", **options)) == {"c": expected}


def test_transposed_convolutions_count_the_smaller_side() -> None:
    net = Net()
    y = net.op("ConvTranspose", "x", net.const(np.ones((4, 5, 3, 3))), name="c", strides=[2, 2])
    assert counts(net, y) == {"c": 4 * 64 * 5 * 9}


def test_linears_and_products() -> None:
    net = Net()
    style = net.op("Reshape", net.linear("s", 6, 4, name="linear"), net.const([-1, 4, 1, 1], np.int64))
    product = net.op("MatMul", "x", net.op("Transpose", "x", perm=[0, 1, 3, 2]), name="product")
    fixed = net.op("MatMul", product, net.const(np.ones((8, 5))), name="fixed")
    y = net.op("Add", fixed, style)
    assert counts(net, y) == {"linear": 24, "product": 4 * 8 * 8 * 8, "fixed": 4 * 8 * 5 * 8}


def test_weights_of_unknown_size_do_not_crash() -> None:
    net = Net()
    weight = net.op("Reshape", "s", net.const([-1, 1, 1, 3], np.int64))  # as many kernels as twice the batch
    y = net.op("Conv", net.op("Reshape", "x", net.const([-1, 1, 8, 8], np.int64)), weight, name="c")
    assert counts(net, y).get("c", 0) >= 0


def test_a_swapper_has_the_macs_of_its_convolutions_and_linears() -> None:
    found = count_macs(GraphView(prepare(swapper(width=8), SWAPPER_SHAPES).model))
    assert found["stem"] == 8 * 32 * 32 * 3 * 49
    assert found["down2"] == 32 * 8 * 8 * 16 * 9
    assert found["block0a/adain/style"] == 64 * 64
    assert len(found) == 3 + 4 + 4 + 2 + 1


def test_an_exported_network_has_the_macs_that_torch_counts() -> None:
    torch = pytest.importorskip("torch", reason="pip install 'trt-facefusion[torch]'")
    pytest.importorskip("onnxscript", reason="pip install 'trt-facefusion[torch]'")
    from torch.utils.flop_counter import FlopCounterMode

    from trt_facefusion.model.export.torch_export import export_onnx

    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, stride=2, padding=1),
        torch.nn.Conv2d(8, 8, 3, padding=1, groups=4),
        torch.nn.ConvTranspose2d(8, 4, 3, stride=2, padding=1, output_padding=1),
        torch.nn.Flatten(2),
        torch.nn.Linear(256, 10),
    ).eval()
    with FlopCounterMode(display=False) as counter:
        net(torch.zeros(1, 3, 16, 16))
    exported = export_onnx(net, {"input": (3, 16, 16)})
    assert (
        sum(count_macs(GraphView(prepare(exported, {"input": (3, 16, 16)}).model)).values())
        == counter.get_total_flops() // 2
    )
