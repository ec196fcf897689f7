"""What a generator takes and gives, as Triton counts: without the batch axis where Triton makes the batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trt_facefusion.engine.store.manifest import Manifest
from trt_facefusion.errors import BadInputError
from trt_facefusion.inference.open import OpenedModel
from trt_facefusion.model.export.onnx_file import load_model
from trt_facefusion.model.graph.border import read_input_specs, read_output_specs
from trt_facefusion.model.presets.contract import Contract
from trt_facefusion.model.presets.fit import fit_inputs
from trt_facefusion.types import TensorSpec


@dataclass(frozen=True)
class GeneratorBorder:
    """The tensors of a generator's graph; ``max_batch`` faces at a time, 0 where it has no batch axis to choose.

    ``takes`` and ``gives`` are the graph's: with the batch axis in front, sizes as the engine's profile has them (a
    name where it takes several).
    """

    takes: tuple[TensorSpec, ...]
    gives: tuple[TensorSpec, ...]
    max_batch: int

    def dims(self, spec: TensorSpec) -> tuple[int, ...]:
        """The dimensions of ``spec`` in the generator's configuration; -1 where several sizes are taken."""
        return _number(spec.shape[1:] if self.max_batch else spec.shape)

    def dims_of_one(self, spec: TensorSpec) -> tuple[int, ...]:
        """The dimensions of ``spec`` for one face, with its batch axis: what models without batching pass on."""
        return (1, *self.dims(spec)) if self.max_batch else _one_face(self.dims(spec))


def read_border(model: OpenedModel, manifest: Manifest, contract: Contract) -> GeneratorBorder:
    """The border of an engine, from its typed graph and the shapes of its profile.

    Raises:
        BadInputError: it does not take a single face.
    """
    graph = load_model(model.graph)
    takes, gives = read_input_specs(graph), read_output_specs(graph)
    fits = fit_inputs(contract.preset, takes, None)
    names = {spec.name for spec in takes if fits[spec.name].batched}
    free = len(names) == len(takes) and not any(isinstance(spec.shape[0], int) for spec in (*takes, *gives))
    least = max((manifest.shapes[name][0][0] for name in names if name in manifest.shapes), default=1)
    if least > 1:
        raise BadInputError(
            f"{model.label} takes at least {least} faces at a time, and a request brings one",
            "build an engine whose smallest batch is 1: --batch 1:4:8",
        )
    most = min((manifest.shapes[spec.name][2][0] for spec in takes if spec.name in manifest.shapes), default=1)
    return GeneratorBorder(tuple(_apply_profile(spec, manifest) for spec in takes), gives, most if free else 0)


def _apply_profile(spec: TensorSpec, manifest: Manifest) -> TensorSpec:
    """``spec`` with the sizes that the profile leaves no choice of; the batch axis stays as it is."""
    if spec.name not in manifest.shapes:
        return spec
    low, _, high = manifest.shapes[spec.name]
    sizes = [
        size if isinstance(size, int) or axis == 0 or low[axis] != high[axis] else low[axis]
        for axis, size in enumerate(spec.shape)
    ]
    return TensorSpec(spec.name, tuple(sizes), spec.dtype)


def _number(shape: Sequence[int | str]) -> tuple[int, ...]:
    return tuple(size if isinstance(size, int) else -1 for size in shape)


def _one_face(dims: tuple[int, ...]) -> tuple[int, ...]:
    return (1, *dims[1:]) if dims[:1] == (-1,) else dims
