"""The public generators in small: the operators, borders and names of each, a few channels wide, with random weights.

What a network of random weights gives is laid over the face that went in, so that a picture is a face. Most layers work
at 32 pixels, whatever the size of the picture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from nets import Net, Shape
from onnx import TensorProto, numpy_helper

from trt_facefusion.model.presets import PRESETS

WIDTH = 8
INSIDE = 32
_SHARE = 0.25
_VECTOR = 512


class Generator(Net):
    """Collects one generator: ``size`` is that of its picture."""

    def __init__(self, size: int, seed: int = 0) -> None:
        super().__init__(seed)
        self.size = size
        self.levels = int(np.log2(size // INSIDE))

    def act(self, x: str) -> str:
        return self.op("LeakyRelu", x, alpha=0.2)

    def encode(self, x: str, levels: int | None = None) -> list[str]:
        """Maps of the picture ``x``, each of half the size of the one before."""
        maps = [self.act(self.conv(x, 3, WIDTH))]
        for _ in range(self.levels if levels is None else levels):
            maps.append(self.act(self.conv(maps[-1], WIDTH, WIDTH, strides=[2, 2])))
        return maps

    def decode(self, x: str, shortcuts: Sequence[str] = ()) -> str:
        """A map of the picture's size."""
        for level in range(self.levels):
            x = self.act(self.conv(self.upsample(x), WIDTH, WIDTH))
            x = self.op("Add", x, shortcuts[-2 - level]) if shortcuts else x
        return x

    def lay_over(self, picture: str, face: str, name: str = "output") -> str:
        """A few parts of ``picture``, which is in the face's range, over the ``face``."""
        new, kept = (self.op("Mul", x, self.const(c)) for x, c in ((picture, _SHARE), (face, 1 - _SHARE)))
        return self.op("Add", new, kept, name=name)

    def head(self, x: str, low: float) -> str:
        """The picture in the range ``low``..1."""
        y = self.op("Tanh", self.conv(self.reflect_pad(x, 3), WIDTH, 3, 7, pads=[0] * 4))
        return y if low < 0 else self.op("Mul", self.op("Add", y, self.const(1.0)), self.const(0.5))

    def identify(self, image: str, levels: int) -> str:
        """A vector [N,512] of a source's picture."""
        pooled = self.op("Flatten", self.op("GlobalAveragePool", self.encode(image, levels)[-1]))
        return self.linear(pooled, WIDTH, _VECTOR)

    def plane(self, vector: str, channels: int) -> str:
        both = self.linear(vector, _VECTOR, channels)
        return self.op("Unsqueeze", both, self.const([2, 3], np.int64))

    def denormalise(self, x: str, attributes: str, vector: str) -> str:
        """FaceShifter's layer: maps of the target and the identity, blended by a mask."""
        normed = self.op(
            "InstanceNormalization", x, self.const(np.ones(WIDTH)), self.const(np.zeros(WIDTH)), epsilon=1e-5
        )
        by_map = self.op("Add", self.op("Mul", self.conv(attributes, WIDTH, WIDTH, 1), normed), attributes)
        own = self.op("Add", self.op("Mul", self.plane(vector, WIDTH), normed), self.plane(vector, WIDTH))
        mask = self.op("Sigmoid", self.conv(normed, WIDTH, 1, 1))
        rest = self.op("Sub", self.const(1.0), mask)
        return self.op("Add", self.op("Mul", rest, by_map), self.op("Mul", mask, own))

    def modulated(self, x: str, style: str, transposed: bool = False) -> str:
        """StyleGAN2's convolution: weights scaled by a style, each output's to length 1."""
        weight = self.const(self.rng.normal(0, 1, (1, WIDTH, WIDTH, 3, 3)))
        scale = self.op("Reshape", self.linear(style, _VECTOR, WIDTH), self.const([1, 1, WIDTH, 1, 1], np.int64))
        weight = self.op("Mul", weight, scale)
        squares = self.op("ReduceSum", self.op("Mul", weight, weight), self.const([2, 3, 4], np.int64), keepdims=1)
        length = self.op("Sqrt", self.op("Add", squares, self.const(1e-8)))
        kernel = self.op("Reshape", self.op("Div", weight, length), self.const([WIDTH, WIDTH, 3, 3], np.int64))
        if transposed:
            return self.op("ConvTranspose", x, kernel, strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1])
        return self.op("Conv", x, kernel, pads=[1, 1, 1, 1])

    def attend(self, x: str, side: int) -> str:
        """Self-attention over the pixels of a map, with a LayerNormalization."""
        tokens = self.op("Reshape", x, self.const([1, WIDTH, side * side], np.int64))
        tokens = self.op("Transpose", tokens, perm=[0, 2, 1])
        normed = self.op("LayerNormalization", tokens, self.const(np.ones(WIDTH)), self.const(np.zeros(WIDTH)))
        query, key, value = (
            self.op("MatMul", normed, self.const(self.rng.normal(0, 0.3, (WIDTH, WIDTH)))) for _ in range(3)
        )
        logits = self.op("MatMul", query, self.op("Transpose", key, perm=[0, 2, 1]))
        weights = self.op("Softmax", self.op("Mul", logits, self.const(WIDTH**-0.5)), axis=-1)
        mixed = self.op("Add", tokens, self.op("MatMul", weights, value))
        back = self.op("Transpose", mixed, perm=[0, 2, 1])
        return self.op("Reshape", back, self.const([1, WIDTH, side, side], np.int64))


@dataclass(frozen=True)
class Border:
    """Names of a public file, as it has them; shapes of inputs and outputs."""

    inputs: Mapping[str, Shape]
    outputs: Mapping[str, Shape]
    matrix: bool = False
    doubles: tuple[str, ...] = ()
    integers: tuple[str, ...] = field(default=())


def _image(size: int) -> Shape:
    return (1, 3, size, size)


def styled(net: Generator, target: str, source: str, face: str, low: float, output: str = "output") -> None:
    """inswapper and SimSwap: blocks with instance normalisation in primitive operators, styled by a vector."""
    x = net.encode(target)[-1]
    for block in range(2):
        y = net.conv(net.reflect_pad(x, 1), WIDTH, WIDTH, pads=[0] * 4)
        x = net.op("Add", x, net.op("Relu", net.adain(y, source, WIDTH, f"block{block}", _VECTOR)))
    net.lay_over(net.head(net.decode(x), low), face, output)


def denormalised(net: Generator, target: str, vector: str, output: str, masked: bool = False, low: float = -1) -> None:
    """Ghost, HyperSwap, HifiFace, BlendSwap and UniFace: the target's maps, denormalised with an identity."""
    maps = net.encode(target)
    x = maps[-1]
    for _ in range(2):
        x = net.conv(net.op("Relu", net.denormalise(x, maps[-1], vector)), WIDTH, WIDTH)
    x = net.decode(x, maps)
    picture = net.head(x, low)
    if not masked:
        net.lay_over(picture, target, output)
        return
    mask = net.op("Sigmoid", net.conv(x, WIDTH, 1), name="mask")
    inside, outside = net.op("Mul", picture, mask), net.op("Mul", target, net.op("Sub", net.const(1.0), mask))
    net.lay_over(net.op("Add", inside, outside), target, output)


def restore_by_style(net: Generator) -> None:
    """GPEN and GFPGAN: an encoder gives a style, by which a StyleGAN2 paints over the encoder's maps."""
    maps = net.encode("input")
    style = net.linear(net.op("Flatten", net.op("GlobalAveragePool", maps[-1])), WIDTH, _VECTOR)
    x = net.act(net.modulated(maps[-1], style))
    for level in range(net.levels):
        x = net.act(net.modulated(x, style, transposed=True))
        x = net.op("Add", x, maps[-2 - level])
    net.lay_over(net.head(x, -1), "input")


def restore_by_attention(net: Generator, image: str, output: str, weight: str = "", extras: bool = False) -> None:
    """CodeFormer and RestoreFormer: attention over a map, which a codebook's nearest entry is looked up for."""
    maps = net.encode(image)
    x = net.attend(maps[-1], INSIDE)
    if weight:
        number = net.op("Cast", weight, to=TensorProto.FLOAT)
        x = net.op("Add", x, net.op("Mul", net.conv(maps[-1], WIDTH, WIDTH), number))
    if extras:
        net.op("ArgMin", x, axis=1, keepdims=0, name="indices")
        net.op("ReduceMean", x, net.const([1], np.int64), keepdims=1, name="loss")
    net.lay_over(net.head(net.decode(x), -1), image, output)


def put_on(net: Generator) -> None:
    """DeepFaceLab: channels last and BGR outside, pixels shuffled inside; a face and two masks."""
    picture = net.op("Transpose", "in_face:0", perm=[0, 3, 1, 2])
    x = net.encode(picture, 2)[-1]
    for _ in range(2):
        x = net.op("DepthToSpace", net.act(net.conv(x, WIDTH, 4 * WIDTH)), blocksize=2, mode="DCR")
    face = net.lay_over(net.op("Sigmoid", net.conv(x, WIDTH, 3, 1)), picture, "face")
    masks = [net.op("Sigmoid", net.conv(x, WIDTH, 1)) for _ in range(2)]
    for source, name in ((masks[0], "out_face_mask"), (face, "out_celeb_face"), (masks[1], "out_celeb_face_mask")):
        net.op("Transpose", source, perm=[0, 2, 3, 1], name=f"{name}:0")


def _finish(net: Generator, border: Border) -> onnx.ModelProto:
    model = net.model(border.inputs, border.outputs, opset=17 if not _splits(net) else 18, ir=8)
    for value in (*model.graph.input, *model.graph.output):
        if value.name in border.doubles:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
        if value.name in border.integers:
            value.type.tensor_type.elem_type = TensorProto.INT64
    if border.matrix:
        emap = np.random.default_rng(1).normal(0, 0.05, (_VECTOR, _VECTOR)).astype(np.float32)
        model.graph.initializer.insert(3, numpy_helper.from_array(emap, "buff2fs"))
    onnx.checker.check_model(model)
    return model


def _splits(net: Net) -> bool:
    return any(node.op_type in {"Split", "ReduceMean"} for node in net.nodes)


def make_styled(size: int, target: str = "target", source: str = "source", matrix: bool = False) -> onnx.ModelProto:
    net = Generator(size)
    styled(net, target, source, target, 0)
    return _finish(net, Border({target: _image(size), source: (1, _VECTOR)}, {"output": _image(size)}, matrix))


def make_simswap_256() -> onnx.ModelProto:
    """Fed with ImageNet's mean and deviation, and giving 0..1."""
    net = Generator(256)
    mean, std = (net.const(np.array(v).reshape(1, 3, 1, 1)) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    face = net.op("Add", net.op("Mul", "target", std), mean)
    styled(net, "target", "source", face, 0)
    return _finish(net, Border({"source": (1, _VECTOR), "target": _image(256)}, {"output": _image(256)}))


def make_denormalised(output: str = "output", masked: bool = False) -> onnx.ModelProto:
    net = Generator(256)
    denormalised(net, "target", "source", output, masked)
    outputs = {output: _image(256), **({"mask": (1, 1, 256, 256)} if masked else {})}
    return _finish(net, Border({"source": (1, _VECTOR), "target": _image(256)}, outputs))


def make_of_two_images(source_size: int, low: float) -> onnx.ModelProto:
    net = Generator(256)
    denormalised(net, "target", net.identify("source", 3), "output", low=low)
    return _finish(net, Border({"source": _image(source_size), "target": _image(256)}, {"output": _image(256)}))


def make_by_style(size: int) -> onnx.ModelProto:
    net = Generator(size)
    restore_by_style(net)
    return _finish(net, Border({"input": _image(size)}, {"output": _image(size)}))


def make_codeformer() -> onnx.ModelProto:
    net = Generator(512)
    restore_by_attention(net, "x", "y", "w")
    return _finish(net, Border({"x": _image(512), "w": (1,)}, {"y": _image(512)}, doubles=("w",)))


def make_restoreformer() -> onnx.ModelProto:
    net = Generator(512)
    restore_by_attention(net, "input", "2359", extras=True)
    outputs = {"2359": _image(512), "indices": (1, INSIDE, INSIDE), "loss": (1, 1, INSIDE, INSIDE)}
    return _finish(net, Border({"input": _image(512)}, outputs, integers=("indices",)))


def make_dfm() -> onnx.ModelProto:
    net = Generator(224)
    put_on(net)
    sides = (1, 224, 224)
    outputs = {"out_face_mask:0": (*sides, 1), "out_celeb_face:0": (*sides, 3), "out_celeb_face_mask:0": (*sides, 1)}
    return _finish(net, Border({"in_face:0": (*sides, 3)}, outputs))


STAND_INS: Mapping[str, Callable[[], onnx.ModelProto]] = {
    "inswapper_128": lambda: make_styled(128, matrix=True),
    "simswap_256": make_simswap_256,
    "simswap_unofficial_512": lambda: make_styled(512, "input", "onnx::Gemm_1"),
    "hyperswap_1a_256": lambda: make_denormalised(masked=True),
    "hyperswap_1b_256": lambda: make_denormalised(masked=True),
    "hyperswap_1c_256": lambda: make_denormalised(masked=True),
    "uniface_256": lambda: make_of_two_images(256, -1),
    "ghost_1_256": lambda: make_denormalised("781"),
    "ghost_2_256": lambda: make_denormalised("1165"),
    "ghost_3_256": lambda: make_denormalised("1549"),
    "hififace_unofficial_256": make_denormalised,
    "blendswap_256": lambda: make_of_two_images(112, 0),
    "gfpgan_1.4": lambda: make_by_style(512),
    "gpen_bfr_256": lambda: make_by_style(256),
    "gpen_bfr_512": lambda: make_by_style(512),
    "gpen_bfr_1024": lambda: make_by_style(1024),
    "gpen_bfr_2048": lambda: make_by_style(2048),
    "codeformer": make_codeformer,
    "restoreformer_plus_plus": make_restoreformer,
    "dfm": make_dfm,
}
TOO_LARGE = frozenset({"gpen_bfr_2048"})
"""A build of it takes 12 GiB, most of them for the learned distance of pictures of this size."""
BUNDLED = "reference"
assert STAND_INS.keys() | {BUNDLED} == set(PRESETS), "each known generator has a stand-in"
