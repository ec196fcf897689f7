"""Damaged ONNX files: each from a seed, read and prepared in a process of its own.

    python tests/fuzz/onnx_files.py 0 5000

prints what became of those seeds' files; one that ends in anything but an error of ours is printed with its seed.
"""

from __future__ import annotations

import json
import math
import random
import resource
import select
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

import numpy as np  # noqa: E402
import onnx  # noqa: E402
from memory import peak_bytes  # noqa: E402
from nets import Net, swapper  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

SECONDS = 30.0
MEMORY_BYTES = 2 << 30
ADDRESS_BYTES = 8 << 30
"""What a worker may map: onnxruntime and numpy map far more than they use."""


@dataclass(frozen=True)
class Outcome:
    """What became of one file: ``fine``, ``refused``, or what must not be: an exception's name, ``crash``, ``hang``."""

    seed: int
    kind: str
    seconds: float = 0.0
    peak_bytes: int = 0
    said: str = ""

    @property
    def right(self) -> bool:
        """Whether the file was read or refused, in time and within the memory."""
        return self.kind in {"fine", "refused"} and self.seconds < SECONDS and self.peak_bytes <= MEMORY_BYTES


# --- files that are whole --------------------------------------------------------------------------------------------


def _shapes(net: Net) -> str:
    shape = net.op("Shape", "x")
    height = net.op("Gather", shape, net.const(2, np.int64))
    double = net.op("Mul", height, net.const(2, np.int64))
    rows = net.op("Unsqueeze", double, net.const([0], np.int64))
    head = net.op("Slice", shape, net.const([0], np.int64), net.const([2], np.int64))
    sizes = net.op("Concat", head, rows, rows, axis=0)
    y = net.op("Resize", net.conv("x", 3, 3), "", "", sizes, mode="linear")
    filled = net.op(
        "ConstantOfShape", net.const([1, 3, 1, 1], np.int64), value=numpy_helper.from_array(np.ones(1, np.float32))
    )
    tiled = net.op(
        "Expand", net.op("Tile", filled, net.const([1, 1, 2, 2], np.int64)), net.const([1, 3, 2, 2], np.int64)
    )
    return net.op("Add", y, net.op("ReduceMean", tiled, net.const([2, 3], np.int64)))


def _control(net: Net) -> str:
    info = helper.make_tensor_value_info
    one = net.op("Gather", net.op("Shape", "x"), net.const(1, np.int64))
    branches = {}
    for name, op in (("then_branch", "Relu"), ("else_branch", "Neg")):
        out = info(f"{name}.y", TensorProto.FLOAT, None)
        branches[name] = helper.make_graph([helper.make_node(op, ["x"], [out.name])], name, [], [out])
    y = net.op("If", net.op("Equal", one, net.const(3, np.int64)), **branches)
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go2"]), helper.make_node("Mul", ["v", "half"], ["v2"])],
        "body",
        [info("i", TensorProto.INT64, []), info("go", TensorProto.BOOL, []), info("v", TensorProto.FLOAT, None)],
        [info("go2", TensorProto.BOOL, []), info("v2", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.array(0.5, np.float32), "half")],
    )
    return net.op("Loop", net.const(3, np.int64), net.const(True, bool), y, body=body)


def _old(net: Net) -> str:
    y = net.op("Upsample", net.conv("x", 3, 4), net.const([1, 1, 2, 2]), mode="linear")
    values = [net.const(net.rng.uniform(0.5, 1.5, 4)) for _ in range(4)]
    y = net.op("Hardmax", net.op("BatchNormalization", y, *values), axis=1)
    return net.op("Pad", y, pads=[0, 0, 1, 1, 0, 0, 1, 1], mode="reflect")


def _half(net: Net) -> str:
    x = net.op("Cast", "x", to=TensorProto.FLOAT16)
    y = net.op("Conv", x, net.const(net.rng.normal(size=(4, 3, 3, 3)), np.float16), pads=[1] * 4)
    y = net.op(
        "GroupNormalization", y, net.const(np.ones(4), np.float16), net.const(np.zeros(4), np.float16), num_groups=2
    )
    return net.op("Cast", y, to=TensorProto.FLOAT)


def _functions() -> onnx.ModelProto:
    net = Net()
    y = net.op("Outer", net.conv("x", 3, 3), domain="local")
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("local", 1)]
    inner = helper.make_function(
        "local", "Inner", ["a"], ["c"],
        [helper.make_node("Relu", ["a"], ["b"]), helper.make_node("Add", ["a", "b"], ["c"])], opsets[:1],
    )  # fmt: skip
    outer = helper.make_function(
        "local", "Outer", ["a"], ["c"],
        [helper.make_node("Inner", ["a"], ["b"], domain="local"),
         helper.make_node("Inner", ["b"], ["c"], domain="local")], opsets,
    )  # fmt: skip
    model = net.model({"x": ["N", 3, 8, 8]}, {y: ["N", 3, 8, 8]})
    model.functions.extend([inner, outer])
    model.opset_import.append(opsets[1])
    return model


def whole_files() -> list[onnx.ModelProto]:
    """The files that are damaged: between them most of what the reader and `prepare` look at."""
    built: list[tuple[Callable[[Net], str], int]] = [(_shapes, 18), (_control, 17), (_old, 9), (_half, 21)]
    models = [swapper(4, 1, 16, 8), _functions()]
    for build, opset in built:
        net = Net()
        y = build(net)
        models.append(net.model({"x": ["N", 3, 8, 8]}, {y: ["N", "C", "H", "W"]}, opset=opset, ir=8))
    return models


# --- damage ----------------------------------------------------------------------------------------------------------

_NUMBERS = (0, 1, -1, 2, 3, 7, 64, 255, 65536, 1 << 20, 1 << 31, -(1 << 31), (1 << 63) - 1, -(1 << 63))
_OPERATORS = (
    "Relu", "Add", "Concat", "Conv", "MatMul", "Reshape", "Expand", "Tile", "ConstantOfShape", "Range", "Resize",
    "Pad", "OneHot", "If", "Loop", "Scan", "Shape", "Cast", "Gather", "Slice", "Split", "SequenceEmpty",
    "RegexFullMatch", "StringConcat", "QuantizeLinear", "TopK", "Einsum", "Unsqueeze", "Squeeze", "ReduceSum",
    "Transpose", "NonZero", "RandomNormal", "GroupNormalization", "Nothing", "",
)  # fmt: skip


def damaged(seed: int, models: list[onnx.ModelProto]) -> bytes:
    """The file of ``seed``: one of ``models`` with a few damages, in its bytes or in its meaning."""
    rng = random.Random(seed)
    model = onnx.ModelProto()
    model.CopyFrom(rng.choice(models))
    if rng.random() < 0.15:
        return _bytes(rng, bytearray(model.SerializeToString()))
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        rng.choice(_DAMAGES)(rng, model)
    return model.SerializeToString()


def _bytes(rng: random.Random, data: bytearray) -> bytes:
    for _ in range(rng.choice((1, 1, 3, 20))):
        place = rng.randrange(len(data) or 1)
        what = rng.randrange(5)
        if what == 0:
            data[place : place + 1] = bytes([rng.randrange(256)])
        elif what == 1:
            del data[place : place + rng.choice((1, 4, 100))]
        elif what == 2:
            data[place:place] = rng.randbytes(rng.choice((1, 4, 100)))
        elif what == 3:
            piece = data[place : place + 200]
            data[place:place] = piece * rng.choice((1, 3))
        elif rng.random() < 0.3:
            del data[place:]
    return bytes(data)


def _nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    found = list(model.graph.node) + [node for function in model.functions for node in function.node]
    for node in list(found):
        for attribute in node.attribute:
            found += list(attribute.g.node)
    return found


def _node(rng: random.Random, model: onnx.ModelProto) -> onnx.NodeProto:
    return rng.choice(_nodes(model))


def _tensor(rng: random.Random, model: onnx.ModelProto) -> onnx.TensorProto:
    return rng.choice(list(model.graph.initializer) or [TensorProto()])


def _operator(rng: random.Random, model: onnx.ModelProto) -> None:
    _node(rng, model).op_type = rng.choice(_OPERATORS)


def _domain(rng: random.Random, model: onnx.ModelProto) -> None:
    _node(rng, model).domain = rng.choice(("com.microsoft", "local", "ai.onnx.ml", "ai.onnx", "x"))


def _wire(rng: random.Random, model: onnx.ModelProto) -> None:
    node, other = _node(rng, model), _node(rng, model)
    names = [*other.output, *other.input, "", "x", "nowhere"]
    side = node.input if rng.random() < 0.7 and len(node.input) else node.output
    if len(side):
        side[rng.randrange(len(side))] = rng.choice(names)


def _fewer(rng: random.Random, model: onnx.ModelProto) -> None:
    node = _node(rng, model)
    side = rng.choice((node.input, node.output, node.attribute))
    if len(side):
        del side[rng.randrange(len(side))]


def _more(rng: random.Random, model: onnx.ModelProto) -> None:
    node = model.graph.node.add()
    node.CopyFrom(_node(rng, model))


def _dims(rng: random.Random, model: onnx.ModelProto) -> None:
    tensor = _tensor(rng, model)
    if len(tensor.dims) and rng.random() < 0.7:
        tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(_NUMBERS)
    else:
        tensor.dims.extend([rng.choice(_NUMBERS)] * rng.choice((1, 2, 70)))


def _is_sound(tensor: TensorProto) -> bool:
    """Whether earlier damage left the tensor readable."""
    inside = tensor.data_location != TensorProto.EXTERNAL and min(tensor.dims, default=0) >= 0
    return inside and len(tensor.raw_data) == 8 * math.prod(tensor.dims)


def _values(rng: random.Random, model: onnx.ModelProto) -> None:
    """Other numbers in a constant that decides sizes: shapes, pads, counts."""
    found = [t for t in model.graph.initializer if t.data_type == TensorProto.INT64 and _is_sound(t)]
    if found:
        tensor = rng.choice(found)
        values = numpy_helper.to_array(tensor).copy()
        values.reshape(-1)[rng.randrange(max(values.size, 1)) :][:1] = rng.choice(_NUMBERS)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _content(rng: random.Random, model: onnx.ModelProto) -> None:
    tensor = _tensor(rng, model)
    tensor.raw_data = rng.choice((b"", tensor.raw_data[:-1], tensor.raw_data * 2, rng.randbytes(8)))


def _type(rng: random.Random, model: onnx.ModelProto) -> None:
    if rng.random() < 0.5:
        _tensor(rng, model).data_type = rng.randrange(30)
    else:
        value = rng.choice([*model.graph.input, *model.graph.output])
        value.type.tensor_type.elem_type = rng.randrange(30)


def _sizes(rng: random.Random, model: onnx.ModelProto) -> None:
    value = rng.choice([*model.graph.input, *model.graph.output])
    dims = value.type.tensor_type.shape.dim
    if rng.random() < 0.3:
        dims.add().dim_value = rng.choice(_NUMBERS)
    elif len(dims):
        dims[rng.randrange(len(dims))].dim_value = rng.choice(_NUMBERS)


def _attribute(rng: random.Random, model: onnx.ModelProto) -> None:
    found = [a for node in _nodes(model) for a in node.attribute]
    if not found:
        return
    attribute = rng.choice(found)
    if rng.random() < 0.1:
        attribute.type = rng.randrange(15)
    elif attribute.type == onnx.AttributeProto.INT:
        attribute.i = rng.choice(_NUMBERS)
    elif attribute.type == onnx.AttributeProto.INTS and len(attribute.ints):
        attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice(_NUMBERS)
    elif attribute.type == onnx.AttributeProto.STRING:
        attribute.s = rng.choice((b"linear", b"reflect", b"\xff", b""))
    elif attribute.type == onnx.AttributeProto.FLOAT:
        attribute.f = rng.choice((0.0, -1.0, float("nan"), float("inf"), 1e38))


def _version(rng: random.Random, model: onnx.ModelProto) -> None:
    if rng.random() < 0.7:
        rng.choice(list(model.opset_import)).version = rng.choice(
            (-1, 0, 1, 5, 6, 7, 9, 12, 13, 18, 21, 26, 99, 1 << 40)
        )
    else:
        model.ir_version = rng.choice((-1, 0, 1, 3, 7, 99))


def _drop(rng: random.Random, model: onnx.ModelProto) -> None:
    field = rng.choice(
        (model.graph.initializer, model.graph.node, model.graph.input, model.graph.output, model.functions)
    )
    if len(field):
        del field[rng.randrange(len(field))]


def _outside(rng: random.Random, model: onnx.ModelProto) -> None:
    tensor = _tensor(rng, model)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (
        ("location", rng.choice(("w.bin", "../w", "/etc/passwd", ""))),
        ("offset", str(rng.choice(_NUMBERS))),
    ):
        tensor.external_data.add(key=key, value=value)


def _calls(rng: random.Random, model: onnx.ModelProto) -> None:
    """Functions that call each other, or each twice the next."""
    if not model.functions:
        return
    opsets = [*model.functions[0].opset_import, helper.make_opsetid("local", 1)]
    for i in range(rng.choice((3, 40))):
        name = "Inner" if i == 0 else f"Twice{i - 1}"
        nodes = [
            helper.make_node(name, ["a"], ["b"], domain="local"),
            helper.make_node(name, ["b"], ["c"], domain="local"),
        ]
        model.functions.append(helper.make_function("local", f"Twice{i}", ["a"], ["c"], nodes, opsets))
    _nodes(model)[rng.randrange(len(_nodes(model)))].op_type = f"Twice{i}"
    model.graph.node[-1].op_type, model.graph.node[-1].domain = f"Twice{i}", "local"


_DAMAGES: tuple[Callable[[random.Random, onnx.ModelProto], None], ...] = (
    _operator, _domain, _wire, _wire, _fewer, _more, _dims, _values, _values, _values, _values, _content, _type, _sizes,
    _attribute, _attribute, _attribute, _version, _drop, _outside, _calls,
)  # fmt: skip


# --- reading them ----------------------------------------------------------------------------------------------------


def survey(seeds: Iterable[int]) -> Iterator[Outcome]:
    """The outcome of each seed's file. A worker that crashes or hangs is replaced by another."""
    waiting = list(seeds)
    while waiting:
        with tempfile.TemporaryDirectory() as folder:
            worker = subprocess.Popen(
                [sys.executable, __file__, "--worker", folder, *map(str, waiting)],
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, bufsize=1,
            )  # fmt: skip
            assert worker.stdout is not None
            try:
                while waiting:
                    limit = SECONDS + (60 if worker.poll() is None else 0)
                    ready, _, _ = select.select([worker.stdout], [], [], limit)
                    line = worker.stdout.readline() if ready else ""
                    if not line:
                        worker.kill()
                        kind = f"crash ({worker.wait()})" if ready else "hang"
                        yield Outcome(waiting.pop(0), kind, 0 if ready else limit)
                        break
                    yield Outcome(**json.loads(line))
                    waiting.pop(0)
            finally:
                worker.kill()
                worker.wait()


def _work(folder: Path, seeds: Iterable[int]) -> None:
    from trt_facefusion.errors import TrtFaceFusionError
    from trt_facefusion.model.export import load_model
    from trt_facefusion.model.graph import prepare, read_input_specs

    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_BYTES, ADDRESS_BYTES))
    models = whole_files()
    for seed in seeds:
        (folder / "net.onnx").write_bytes(damaged(seed, models))
        started, kind, said = time.monotonic(), "fine", ""
        try:
            model = load_model(folder / "net.onnx")
            shapes = {
                s.name: tuple(n if isinstance(n, int) else 8 for n in s.shape[1:]) for s in read_input_specs(model)
            }
            prepare(model, shapes)
        except TrtFaceFusionError as error:
            kind, said = "refused", error.message
        except BaseException as error:  # all others are faults
            kind, said = type(error).__name__, str(error)
        peak = peak_bytes()
        outcome = Outcome(seed, kind, time.monotonic() - started, peak, said[:300])
        sys.stdout.write(json.dumps(asdict(outcome)) + "\n")
        sys.stdout.flush()


def main(first: int, last: int) -> None:
    """Print what is wrong, then the sums."""
    kinds, slowest, peak = Counter[str](), 0.0, 0
    for outcome in survey(range(first, last)):
        kinds[outcome.kind] += 1
        slowest, peak = max(slowest, outcome.seconds), max(peak, outcome.peak_bytes)
        if not outcome.right:
            sys.stdout.write(f"{outcome}\n")
            sys.stdout.flush()
    sys.stdout.write(f"{dict(kinds)}; slowest {slowest:.1f} s, peak {peak / 2**20:.0f} MiB\n")


if __name__ == "__main__":
    if sys.argv[1] == "--worker":
        _work(Path(sys.argv[2]), map(int, sys.argv[3:]))
    else:
        main(int(sys.argv[1]), int(sys.argv[2]))
