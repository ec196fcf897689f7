"""The network as it was handed in, run untouched: its pictures are what everything else is held against."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from trt_facefusion.engine.runtime.base import Infers
from trt_facefusion.engine.runtime.onnxruntime import OnnxRuntimeRunner
from trt_facefusion.errors import BadInputError, ModelError
from trt_facefusion.model.export import ModelSource, load_model
from trt_facefusion.model.graph.noise import FIXABLE, Noise, draw_noise, find_random_nodes, fix_noise
from trt_facefusion.model.messages import LARGE, strip_weights
from trt_facefusion.types import Array, Feeds, TensorSpec


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

    def load_with_weights(self) -> onnx.ModelProto:
        """The loaded model with its weights."""
        path = self.source.original()
        if not self.lean or not isinstance(path, Path):
            return self.loaded
        model = load_model(path)
        return model if self.noise is None else fix_noise(model, self.noise)

    @property
    def fixed_nodes(self) -> tuple[str, ...]:
        """The nodes whose noise is fixed."""
        return () if self.noise is None else self.noise.nodes

    @property
    def label(self) -> str:
        """What makes the reference pictures, for manifests and reports."""
        if self._torch is not None:
            import torch

            return f"the torch network, run by torch {torch.__version__}"
        what = "the file as it was handed in" if isinstance(self.source.original(), Path) else "the exported network"
        noise = "" if self.noise is None else f", its noise fixed ({self.noise})"
        return f"{what}{noise}, run by onnxruntime {ort.__version__}"

    @property
    def _torch(self) -> Callable[[Feeds], Sequence[Array]] | None:
        """The network as a function; None for a file, and where noise is fixed: that is only done in ONNX."""
        network = self.source.original()
        return None if isinstance(network, Path) or self.noise is not None else network

    @contextmanager
    def open_runner(self, optimise: bool = True, tapped: Sequence[str] = ()) -> Iterator[Infers]:
        """A runner that takes the feeds of the prepared model, until the block ends.

        ``tapped`` tensors of the graph become outputs; torch is then replaced by the graph that was exported from it.
        """
        if self._torch is not None and not tapped:
            yield _TorchRunner(self._torch, [output.name for output in self.loaded.graph.output])
            return
        with self._open_onnx(optimise, tapped) as runner:
            yield _FeedAdapter(runner)

    def _open_onnx(self, optimise: bool, tapped: Sequence[str]) -> OnnxRuntimeRunner:
        path = self.source.original()
        if isinstance(path, Path):
            try:
                if self.noise is None and not tapped:
                    return OnnxRuntimeRunner(path, optimise=optimise)
                small = onnx.load(path, load_external_data=False)  # the weights may not fit into one message
                if self.noise is not None:
                    small = fix_noise(small, self.noise)
                serialised = add_outputs(small, tapped).SerializeToString()
                return OnnxRuntimeRunner(serialised, optimise=optimise, weights=path.absolute().parent)
            except ModelError:  # weights behind links, which onnxruntime does not follow: they are loaded by now
                pass
        return OnnxRuntimeRunner(add_outputs(self.load_with_weights(), tapped), optimise=optimise)


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
        with plain.open_runner(optimise=False, tapped=[node.output[0] for node in own]) as runner:
            feeds = {s.name: np.zeros(_choose_shape(s, shapes), s.dtype) for s in runner.inputs}
            noise = draw_noise(own, runner.infer(feeds), noise.seed)
    noise = replace(noise, nodes=tuple(node.name or node.output[0] for node in nodes))
    return Original(source, fix_noise(loaded, noise), noise)


def _choose_shape(spec: TensorSpec, shapes: Mapping[str, Sequence[int]]) -> list[int]:
    """The input's shape for one sample (or the batch that it insists on), other sizes being those described."""
    sample = list(shapes.get(spec.name, ()))
    described = [*([1] * (len(spec.shape) - len(sample))), *sample]
    return [fixed if isinstance(fixed, int) else size for fixed, size in zip(spec.shape, described, strict=True)]


def add_outputs(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """``model`` or, where ``names`` are given, a copy that has these tensors as outputs, too."""
    if not names:
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    present = {output.name for output in copy.graph.output}
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in present)
    return copy


@dataclass(frozen=True)
class _FeedAdapter:
    """Gives a model those feeds that it takes, in the types that it takes: preparing may have widened some."""

    runner: OnnxRuntimeRunner

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self.runner.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self.runner.outputs

    def infer(self, feeds: Feeds) -> dict[str, Array]:
        types = {spec.name: spec.dtype for spec in self.runner.inputs}
        return self.runner.infer({n: feeds[n].astype(types[n], copy=False) for n in types if n in feeds})


@dataclass(frozen=True)
class _TorchRunner:
    """A torch network; it says nothing of its inputs."""

    run: Callable[[Feeds], Sequence[Array]]
    names: Sequence[str]
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()

    def infer(self, feeds: Feeds) -> dict[str, Array]:
        return dict(zip(self.names, self.run(feeds), strict=False))


def computes_in_half(model: onnx.ModelProto) -> bool:
    """Whether a file computes in FP16 itself, so that its own pictures are rounded so."""
    kinds = {tensor.data_type for tensor in model.graph.initializer}
    casts = (a.i for node in model.graph.node if node.op_type == "Cast" for a in node.attribute if a.name == "to")
    return onnx.TensorProto.FLOAT16 in kinds or onnx.TensorProto.FLOAT16 in casts


def require_finite_pictures(pictures: NDArray[np.float32]) -> NDArray[np.float32]:
    """``pictures``; raises `ModelError` where the network itself gives NaN or infinity."""
    if not np.isfinite(pictures).all():
        raise ModelError(
            "the FP32 model itself gives NaN or infinite pictures on these faces",
            "check the inputs' range (--input NAME=image:SIZE:MIN:MAX), or use another checkpoint",
        )
    return pictures
