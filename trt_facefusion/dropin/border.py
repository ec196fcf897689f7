"""The border of a drop-in file: what it takes and gives, in which order, types and shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from trt_facefusion.engine.store.manifest import Manifest
from trt_facefusion.errors import BadInputError, TrtFaceFusionError
from trt_facefusion.model.export import OnnxSource
from trt_facefusion.model.graph.border import read_input_specs, read_output_specs
from trt_facefusion.types import TensorSpec


@dataclass(frozen=True)
class Border:
    """Inputs and outputs of a file, in order; ``original`` is the file that they are those of, if it was at hand."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    original: Path | None = None


def find_original(manifest: Manifest, named: Path | None) -> OnnxSource | None:
    """The file that an engine was made from: the one that is named, else the one of its command, if it is unchanged.

    Raises:
        BadInputError: the file that is named is another one.
        ModelError: it cannot be read.
    """
    if named is not None:
        source = OnnxSource(named)
        if source.digest() != manifest.inputs.model_sha256:
            raise BadInputError(
                f"{named} is not the file that the engine was made from (sha256 {manifest.inputs.model_sha256[:8]}...)",
                "name that file, or leave --original out",
            )
        return source
    words = list(manifest.command)
    if "--onnx" not in words[:-1]:
        return None
    source = OnnxSource(Path(words[words.index("--onnx") + 1]))
    try:
        return source if source.digest() == manifest.inputs.model_sha256 else None
    except TrtFaceFusionError:  # it was built elsewhere
        return None


def choose_border(typed: Border, original: OnnxSource | None, shapes: Mapping[str, Sequence[int]]) -> Border:
    """The border of the drop-in file: the original's where that is at hand, else the typed graph's.

    Sizes that are open are those of ``shapes``: what the engine takes, where it takes one size only. Outputs that the
    engine does not have are left out.
    """
    inputs, outputs, path = typed.inputs, typed.outputs, None
    if original is not None:
        kept = {spec.name for spec in typed.outputs}
        inputs = read_input_specs(original.model)
        by_name = {spec.name: spec for spec in read_output_specs(original.model)}
        outputs = tuple(
            replace(spec, dtype=by_name[spec.name].dtype) if spec.name in by_name else spec for spec in typed.outputs
        )
        outputs = tuple(sorted(outputs, key=lambda spec: list(by_name).index(spec.name) if spec.name in by_name else 0))
        path = original.path
        assert {spec.name for spec in outputs} == kept
    fixed = tuple(_fix_sizes(spec, shapes.get(spec.name)) for spec in inputs)
    batch = _find_batch(inputs, fixed)
    return Border(fixed, tuple(_fix_batch(spec, batch) for spec in outputs), path)


def _fix_sizes(spec: TensorSpec, shape: Sequence[int] | None) -> TensorSpec:
    if shape is None or len(shape) != len(spec.shape):
        return spec
    sizes = tuple(old if isinstance(old, int) else new for old, new in zip(spec.shape, shape, strict=True))
    return replace(spec, shape=sizes)


def _find_batch(before: Sequence[TensorSpec], after: Sequence[TensorSpec]) -> int | None:
    """The size that an open batch axis has got."""
    for old, new in zip(before, after, strict=True):
        if old.shape and not isinstance(old.shape[0], int) and isinstance(new.shape[0], int):
            return new.shape[0]
    return None


def _fix_batch(spec: TensorSpec, batch: int | None) -> TensorSpec:
    if batch is None or not spec.shape or isinstance(spec.shape[0], int):
        return spec
    return replace(spec, shape=(batch, *spec.shape[1:]))
