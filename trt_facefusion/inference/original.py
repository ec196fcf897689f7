"""The network as it was handed in, run untouched: its pictures are what everything else is held against."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto

from trt_facefusion.engine.runtime.base import Infers
from trt_facefusion.engine.runtime.onnxruntime import OnnxRuntimeRunner
from trt_facefusion.errors import BadInputError, ModelError
from trt_facefusion.model.export import ModelSource, load_model
from trt_facefusion.model.graph import GraphView
from trt_facefusion.model.graph.noise import FIXABLE, Noise, draw_noise, find_random_nodes, fix_noise
from trt_facefusion.model.graph.segments import list_activations, set_input_shapes
from trt_facefusion.model.messages import LARGE, strip_weights
from trt_facefusion.types import Array, Feeds, TensorSpec

_BUDGET_BYTES = 256 << 20
"""Values of tensors that are compared at a time, of both graphs together."""
_DIFFERENT = 1e-3
"""Share of a tensor's largest value: above it two graphs compute different things, below it is rounding."""


@dataclass(frozen=True)
class Original:
    """What was handed in.

    Args:
        source: where it comes from.
        loaded: the checked model that ``source`` loaded, with its weights; without large ones where it is `lean`.
        noise: how its random nodes are fixed, where that was asked for; ``loaded`` has it fixed already.
        lean: whether the weights were let go of: they are read from the file again where they are needed.
    """

    source: ModelSource
    loaded: onnx.ModelProto
    noise: Noise | None = None
    lean: bool = False

    def without_weights(self) -> Original:
        """The same without large weights in memory, where they can be read again: those of a file."""
        if not isinstance(self.source.original(), Path):
            return self
        return replace(self, loaded=strip_weights(self.loaded, LARGE), lean=True)

    def whole(self) -> onnx.ModelProto:
        """The loaded model with its weights."""
        path = self.source.original()
        if not self.lean or not isinstance(path, Path):
            return self.loaded
        model = load_model(path)
        return model if self.noise is None else fix_noise(model, self.noise)

    @property
    def fixed(self) -> tuple[str, ...]:
        """The nodes whose noise is fixed."""
        return () if self.noise is None else self.noise.nodes

    @property
    def label(self) -> str:
        """What makes the reference pictures, for manifests and reports."""
        if self._torch is not None:
            import torch

            return f"the torch network, run by torch {torch.__version__}"
        what = "the file as it was handed in" if isinstance(self.source.original(), Path) else "the exported network"
        fixed = "" if self.noise is None else f", its noise fixed ({self.noise})"
        return f"{what}{fixed}, run by onnxruntime {ort.__version__}"

    @property
    def _torch(self) -> Callable[[Feeds], Sequence[Array]] | None:
        """The network as a function; None for a file, and where noise is fixed: that is only done in ONNX."""
        found = self.source.original()
        return None if isinstance(found, Path) or self.noise is not None else found

    @contextmanager
    def opened(self, optimise: bool = True, tapped: Sequence[str] = ()) -> Iterator[Infers]:
        """A runner that takes the feeds of the prepared model, until the block ends.

        ``tapped`` tensors of the graph become outputs; torch is then replaced by the graph that was exported from it.
        """
        if self._torch is not None and not tapped:
            yield _Torch(self._torch, [value.name for value in self.loaded.graph.output])
            return
        with self._onnx(optimise, tapped) as runner:
            yield _Fitting(runner)

    def _onnx(self, optimise: bool, tapped: Sequence[str]) -> OnnxRuntimeRunner:
        path = self.source.original()
        if isinstance(path, Path):
            try:
                if self.noise is None and not tapped:
                    return OnnxRuntimeRunner(path, optimise=optimise)
                small = onnx.load(path, load_external_data=False)  # the weights may not fit into one message
                if self.noise is not None:
                    small = fix_noise(small, self.noise)
                data = _with_outputs(small, tapped).SerializeToString()
                return OnnxRuntimeRunner(data, optimise=optimise, weights=path.absolute().parent)
            except ModelError:  # weights behind links, which onnxruntime does not follow: they are loaded by now
                pass
        return OnnxRuntimeRunner(_with_outputs(self.whole(), tapped), optimise=optimise)


def fix_original_noise(
    source: ModelSource, loaded: onnx.ModelProto, noise: Noise, shapes: Mapping[str, Sequence[int]]
) -> Original:
    """The network with its noise fixed; a seeded generator gives each sample of a batch the same noise.

    Raises:
        BadInputError: it has no noise that could be fixed.
        ModelError: as `fix_noise`.
    """
    nodes = [node for node in find_random_nodes(loaded) if node.op_type in FIXABLE]
    if not nodes:
        raise BadInputError("--noise is given, but the network has no random normal or uniform node", "leave it out")
    if noise.seed is not None:
        own = [node for node in loaded.graph.node if node in nodes]
        plain = Original(source, loaded)
        with plain.opened(optimise=False, tapped=[node.output[0] for node in own]) as runner:
            feeds = {s.name: np.zeros(_one(s, shapes), s.dtype) for s in runner.inputs}
            noise = draw_noise(own, runner.infer(feeds), noise.seed)
    noise = replace(noise, nodes=tuple(node.name or node.output[0] for node in nodes))
    return Original(source, fix_noise(loaded, noise), noise)


def _one(spec: TensorSpec, shapes: Mapping[str, Sequence[int]]) -> list[int]:
    """The input's shape for one sample (or the batch that it insists on), other sizes being those described."""
    rest = list(shapes.get(spec.name, ()))
    known = [*([1] * (len(spec.shape) - len(rest))), *rest]
    return [have if isinstance(have, int) else want for have, want in zip(spec.shape, known, strict=True)]


def _with_outputs(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    if not names:
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    have = {value.name for value in copy.graph.output}
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in have)
    return copy


@dataclass(frozen=True)
class _Fitting:
    """Gives a model those feeds that it takes, in the types that it takes: preparing may have widened some."""

    runner: OnnxRuntimeRunner

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self.runner.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self.runner.outputs

    def infer(self, feeds: Feeds) -> dict[str, Array]:
        wanted = {spec.name: spec.dtype for spec in self.runner.inputs}
        return self.runner.infer({n: feeds[n].astype(wanted[n], copy=False) for n in wanted if n in feeds})


@dataclass(frozen=True)
class _Torch:
    """A torch network; it says nothing of its inputs."""

    run: Callable[[Feeds], Sequence[Array]]
    names: Sequence[str]
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()

    def infer(self, feeds: Feeds) -> dict[str, Array]:
        return dict(zip(self.names, self.run(feeds), strict=False))


@dataclass(frozen=True)
class NodeDifference:
    """The first node, in the order of the original graph, whose result is not what it was.

    ``share`` is the largest difference over the largest value; None where the shapes or types differ.
    """

    node: str
    op: str
    tensor: str
    share: float | None

    def __str__(self) -> str:
        how = "in its shape" if self.share is None else f"by {self.share:.2g} of its largest value"
        return f"node {self.node!r} ({self.op}) is the first whose result differs, {how}"


def find_first_difference(original: Original, prepared: onnx.ModelProto, feeds: Feeds) -> NodeDifference | None:
    """The node at which preparing a graph went wrong, found by the tensors that both graphs name.

    None where no common tensor differs: then the difference enters between the last of them and the output.
    """
    shapes = {name: value.shape for name, value in feeds.items()}
    sizes = list_activations(GraphView(set_input_shapes(prepared, shapes)))
    nodes = {name: node for node in original.loaded.graph.node for name in node.output if name in sizes}
    for group in _groups(list(nodes), sizes):
        with original.opened(optimise=False, tapped=group) as runner:
            was = runner.infer(feeds)
        with OnnxRuntimeRunner(_with_outputs(prepared, group), optimise=False, ours="the prepared graph") as runner:
            now = runner.infer(feeds)
        for name in group:
            share = _share(was[name], now[name])
            if share is None or not share <= _DIFFERENT:
                node = _changed(original.loaded.graph, nodes[name], set(nodes))
                return NodeDifference(node.name or name, node.op_type, name, share)
    return None


def _changed(graph: onnx.GraphProto, node: onnx.NodeProto, common: set[str]) -> onnx.NodeProto:
    """``node``, or what stands in front of it and that preparing has replaced: the first whose result has gone."""
    maker = {name: made for made in graph.node for name in made.output if name}
    gone: list[onnx.NodeProto] = []
    waiting = [node]
    while waiting:
        for name in waiting.pop().input:
            before = maker.get(name)
            if before is not None and name not in common and before not in gone and before.op_type != "Constant":
                gone.append(before)
                waiting.append(before)
    return next((made for made in graph.node if made in gone and not common.isdisjoint(_reads(made, maker))), node)


def _reads(node: onnx.NodeProto, maker: Mapping[str, onnx.NodeProto]) -> list[str]:
    """What ``node`` reads that other nodes made."""
    return [name for name in node.input if name in maker]


def find_first_mixing(original: Original, alone: Feeds, among: Feeds, sizes: Mapping[str, Sequence[int]]) -> str | None:
    """The first node (in graph order) whose result for the first sample depends on the others of the batch.

    Args:
        original: the network.
        alone: feeds that begin with the sample.
        among: feeds that begin with the same sample and go on with others.
        sizes: the graph's float tensors and their shapes for ``among``.
    """
    nodes = {name: node for node in original.loaded.graph.node for name in node.output if name in sizes}
    for group in _groups(list(nodes), sizes):
        with original.opened(optimise=False, tapped=group) as runner:
            first, second = runner.infer(alone), runner.infer(among)
        for name in group:
            a, b = first[name], second[name]
            if not a.ndim or not b.ndim or a.shape[1:] != b.shape[1:]:
                continue  # the batch was folded into another axis: nothing can be said of this one
            share = _share(a[:1], b[:1])
            if share is not None and not share <= _DIFFERENT:
                return nodes[name].name or name
    return None


def _groups(names: Sequence[str], sizes: Mapping[str, Sequence[int]]) -> Iterator[list[str]]:
    group: list[str] = []
    held = 0
    for name in names:
        cost = 2 * 4 * math.prod(sizes[name])
        if group and held + cost > _BUDGET_BYTES:
            yield group
            group, held = [], 0
        group.append(name)
        held += cost
    if group:
        yield group


def _share(was: Array, now: Array) -> float | None:
    """Largest difference over the largest value of ``was``; infinite where one is not finite and the other is."""
    if was.shape != now.shape:
        return None
    a, b = was.astype(np.float64), now.astype(np.float64)
    with np.errstate(invalid="ignore"):
        apart = np.abs(a - b)[~((a == b) | (np.isnan(a) & np.isnan(b)))]  # equal infinities have no difference
    if not apart.size:
        return 0.0
    largest = float(np.abs(a[np.isfinite(a)]).max(initial=0.0)) or 1.0
    share = float(apart.max()) / largest
    return share if np.isfinite(share) else float("inf")


def computes_in_half(model: onnx.ModelProto) -> bool:
    """Whether a file computes in FP16 itself, so that its own pictures are rounded so."""
    kinds = {tensor.data_type for tensor in model.graph.initializer}
    casts = (a.i for node in model.graph.node if node.op_type == "Cast" for a in node.attribute if a.name == "to")
    return TensorProto.FLOAT16 in kinds or TensorProto.FLOAT16 in casts


def require_finite_pictures(pictures: NDArray[np.float32]) -> NDArray[np.float32]:
    """``pictures``; raises `ModelError` where the network itself gives NaN or infinity."""
    if not np.isfinite(pictures).all():
        raise ModelError(
            "the FP32 model itself gives NaN or infinite pictures on these faces",
            "check the inputs' range (--input NAME=image:SIZE:MIN:MAX), or use another checkpoint",
        )
    return pictures
