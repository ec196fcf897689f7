"""A model that is prepared as its inputs and its picture are described."""

from __future__ import annotations

from dataclasses import dataclass, replace

import onnx

from trt_facefusion.errors import BadInputError
from trt_facefusion.faces.align import TEMPLATES
from trt_facefusion.model.graph import PreparedModel, prepare, read_input_specs
from trt_facefusion.model.graph.border import infer_output_specs
from trt_facefusion.model.presets import EmbeddingInput, ImageInput, Preset
from trt_facefusion.model.presets.fit import batch_of, fit_inputs
from trt_facefusion.model.presets.output import kept_outputs, picture_of
from trt_facefusion.types import BatchRange


@dataclass(frozen=True)
class DescribedModel:
    """A prepared model; ``preset`` is the description, settled on the output that is the picture.

    ``dropped`` are the file's other outputs, which the engine does not have.
    """

    prepared: PreparedModel
    preset: Preset
    dropped: tuple[str, ...]


def prepare_described(model: onnx.ModelProto, preset: Preset, embedding: int) -> DescribedModel:
    """Prepare ``model`` for what ``preset`` describes; ``embedding`` is the length of the embedder's vectors.

    Only the picture and its masks are kept of several outputs, before anything else is done to the graph.

    Raises:
        BadInputError: an input is not what its description says, or nothing says which output is the picture.
        ModelError: as `prepare`, or no output is a picture.
    """
    takes = read_input_specs(model)
    shapes = fit_input_shapes(model, preset, embedding)
    batch = batch_of(preset, takes, fit_inputs(preset, takes, embedding))
    known = infer_output_specs(model, shapes, batch) if len(model.graph.output) > 1 else None
    wanted = None
    if known is not None:
        wanted = kept_outputs(picture_of(preset.output, known, known=preset.known), known)
    prepared = prepare(model, shapes, batch=batch, outputs=wanted)
    picture = picture_of(preset.output, prepared.outputs, known=preset.known)
    kept = kept_outputs(picture, prepared.outputs)
    if len(kept) < len(prepared.outputs):
        prepared = prepare(model, shapes, batch=batch, outputs=kept)
    dropped = tuple(value.name for value in model.graph.output if value.name not in kept)
    return DescribedModel(prepared, replace(preset, output=picture), dropped)


def fit_input_shapes(model: onnx.ModelProto, preset: Preset, embedding: int) -> dict[str, tuple[int, ...]]:
    """The shape of every input: of one sample where it has a batch axis, else of the whole.

    Raises:
        BadInputError: an input is not what its description says.
    """
    require_templates(preset)
    return {name: fit.shape for name, fit in fit_inputs(preset, read_input_specs(model), embedding).items()}


def require_templates(preset: Preset) -> None:
    """Raise `BadInputError` for a crop template that there is not."""
    for template, _ in preset.crops:
        if template not in TEMPLATES:
            raise BadInputError(f"there is no crop template {template!r}", f"use one of {', '.join(TEMPLATES)}")


def require_batch(fitted: DescribedModel, batch: BatchRange) -> None:
    """Raise `BadInputError` if the model cannot be built for ``batch``."""
    prepared = fitted.prepared
    if prepared.dynamic_batch or {batch.min, batch.max} == {prepared.fixed_batch}:
        return
    of_faces = [spec.name for spec in fitted.preset.inputs if isinstance(spec, ImageInput | EmbeddingInput)]
    single = [name for name in of_faces if name in prepared.unbatched]
    why = f" ({', '.join(single)} has no batch axis)" if single and prepared.fixed_batch == 1 else ""
    raise BadInputError(
        f"the model has a fixed batch of {prepared.fixed_batch}{why}, so --batch {batch} cannot be built",
        f"use --batch {prepared.fixed_batch}, or export the model with a dynamic batch axis",
    )
