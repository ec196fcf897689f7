"""Tiny generators that differ in what they take and give: layouts, types, axes, numbers of images and outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIZE = 32
_INSIDE = 8


class Net:
    """Collects nodes; every method gives the name of what it makes."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []

    def takes(self, name: str, kind: str, *shape: int | str) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, getattr(TensorProto, kind), shape))
        return name

    def gives(self, source: str, name: str, kind: str, *shape: int | str) -> None:
        self.nodes.append(helper.make_node("Identity", [source], [name], name=f"{name}.is"))
        self.outputs.append(helper.make_tensor_value_info(name, getattr(TensorProto, kind), shape))

    def constant(self, *values: float, dtype: type = np.int64) -> str:
        name = f"constant{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.array(values, dtype), name))
        return name

    def node(self, op: str, *inputs: str, **attributes: object) -> str:
        name = f"{op.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [f"{name}_out"], name=name, **attributes))
        return f"{name}_out"

    def floats(self, source: str) -> str:
        return self.node("Cast", source, to=TensorProto.FLOAT)

    def weight(self, *shape: int, gain: float = 1.4) -> str:
        values = self.rng.standard_normal(shape) * gain / np.sqrt(np.prod(shape[1:]))
        self.constants.append(numpy_helper.from_array(values.astype(np.float32), f"weight{len(self.constants)}"))
        return self.constants[-1].name

    def conv(self, source: str, channels: int, into: int, gain: float = 1.4) -> str:
        return self.node("Conv", source, self.weight(into, channels, 3, 3, gain=gain), pads=[1] * 4)

    def first(self, image: str, channels: int = 3) -> str:
        """conv - relu."""
        return self.node("Relu", self.conv(image, channels, _INSIDE))

    def body(self, x: str) -> str:
        """conv - relu: what INT8 is for."""
        return self.node("Relu", self.conv(x, _INSIDE, _INSIDE))

    def head(self, x: str, channels: int = 3) -> str:
        """conv - sigmoid."""
        return self.node("Sigmoid", self.conv(x, _INSIDE, channels, gain=1.0))

    def model(self) -> onnx.ModelProto:
        graph = helper.make_graph(self.nodes, "border", self.inputs, self.outputs, self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
        onnx.checker.check_model(model, full_check=True)
        return model


def channels_last(net: Net) -> None:
    """DeepFaceLab's way: NHWC, a strength, a mask in front of the picture; and an output that nobody asked for."""
    face, morph = net.takes("in_face:0", "FLOAT", "N", SIZE, SIZE, 3), net.takes("morph_value:0", "FLOAT", 1)
    x = net.body(net.node("Mul", net.first(net.node("Transpose", face, perm=[0, 3, 1, 2])), morph))
    mask, picture = (net.node("Transpose", net.head(x, n), perm=[0, 2, 3, 1]) for n in (1, 3))
    net.gives(mask, "out_celeb_face_mask:0", "FLOAT", "N", SIZE, SIZE, 1)
    net.gives(picture, "out_celeb_face:0", "FLOAT", "N", SIZE, SIZE, 3)
    net.gives(net.node("ArgMax", x, axis=1), "code:0", "INT64", "N", 1, SIZE, SIZE)


def vector(net: Net) -> None:
    """An identity without a batch axis, height and width dynamic."""
    target, identity = net.takes("target", "FLOAT", "batch", 3, "height", "width"), net.takes("id", "FLOAT", 128)
    row = net.node("Unsqueeze", identity, net.constant(0))
    style = net.node("Gemm", row, net.weight(128, _INSIDE, gain=3.0))
    plane = net.node("Unsqueeze", style, net.constant(2, 3))
    net.gives(net.head(net.body(net.node("Mul", net.first(target), plane))), "output", "FLOAT", "b", 3, "h", "w")


def pixels(net: Net) -> None:
    """uint8 in and out, NHWC."""
    frame, most = net.takes("frame", "UINT8", 1, SIZE, SIZE, 3), net.constant(255, dtype=np.float32)
    x = net.node("Transpose", net.node("Div", net.floats(frame), most), perm=[0, 3, 1, 2])
    picture = net.node("Transpose", net.head(net.body(net.first(x))), perm=[0, 2, 3, 1])
    whole = net.node("Round", net.node("Mul", picture, most))
    net.gives(net.node("Cast", whole, to=TensorProto.UINT8), "out", "UINT8", 1, SIZE, SIZE, 3)


def half(net: Net) -> None:
    """FP16 at the border, no batch axis, not square, twice as large."""
    single = net.floats(net.takes("x", "FLOAT16", 3, 24, SIZE))
    x = net.body(net.first(net.node("Unsqueeze", single, net.constant(0))))
    grown = net.node("DepthToSpace", net.head(x, 12), blocksize=2)
    narrow = net.node("Cast", net.node("Squeeze", grown, net.constant(0)), to=TensorProto.FLOAT16)
    net.gives(narrow, "y", "FLOAT16", 3, 48, 2 * SIZE)


def lips(net: Net) -> None:
    """Wav2Lip's way: sound, and a face whose lower half is black on top of a whole one."""
    mel, face = net.takes("mel", "FLOAT", "N", 1, 20, 16), net.takes("face", "FLOAT", "N", 6, SIZE, SIZE)
    sound = net.node("GlobalAveragePool", net.conv(mel, 1, _INSIDE))
    net.gives(net.head(net.body(net.node("Add", net.first(face, 6), sound))), "pred", "FLOAT", "N", 3, SIZE, SIZE)


def two_people(net: Net) -> None:
    """The difference of two faces of unlike sizes: a flat grey where they are one and the same."""
    source, target = net.takes("source", "FLOAT", "N", 3, 24, 24), net.takes("target", "FLOAT", "N", 3, SIZE, SIZE)
    scales = net.constant(1, 1, SIZE / 24, SIZE / 24, dtype=np.float32)
    other = net.node("Resize", source, "", scales, mode="linear")
    x = net.body(net.first(net.node("Sub", target, other)))
    net.gives(net.head(x), "output", "FLOAT", "N", 3, SIZE, SIZE)


def numbers(net: Net) -> None:
    """Fixed values of every type: a scalar, one with a fixed axis, one with a batch axis."""
    image = net.takes("input", "FLOAT", "N", 3, SIZE, SIZE)
    x = net.first(image)
    for name, kind, shape in (
        ("weight", "DOUBLE", (1,)),
        ("scale", "FLOAT", ()),
        ("steps", "INT64", ("N",)),
        ("level", "INT32", (1, 1)),
        ("flag", "BOOL", (1,)),
    ):
        value = net.floats(net.takes(name, kind, *shape))
        shaped = net.node("Reshape", value, net.constant(-1, 1, 1, 1))
        x = net.node("Mul", x, shaped)
    net.gives(net.head(net.body(x)), "output", "FLOAT", "N", 3, SIZE, SIZE)


def made(kind: Callable[[Net], None], path: Path) -> Path:
    """The net ``kind`` as a file."""
    net = Net()
    kind(net)
    onnx.save(net.model(), path)
    return path


CASES: dict[str, tuple[Callable[[Net], None], Sequence[str]]] = {
    "nhwc": (channels_last, ("in_face:0=image:32:0:1:bgr:nhwc", "morph_value:0=value:0.7")),
    "vector": (vector, ("target=image:32:0:1", "id=embedding")),
    "pixels": (pixels, ("frame=image:32:0:255:nhwc",)),
    "half": (half, ("x=image:24x32:-1:1",)),
    "lips": (lips, ("mel=file:mel.npy", "face=image:32:0:1:bgr:stack=target/lower+target")),
    "people": (two_people, ("source=image:24:0:1:template=arcface_112_v2", "target=image:32:0:1:template=ffhq_512")),
    "numbers": (
        numbers,
        (
            "input=image:32:0:1",
            "weight=value:0.7",
            "scale=file:scale.npy",
            "steps=value:1",
            "level=value:1",
            "flag=value:1",
        ),
    ),
}
