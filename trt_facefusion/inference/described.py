"""A model that is prepared as its inputs and its picture are described."""

from __future__ import annotations

from dataclasses import dataclass, replace

import onnx

from trt_facefusion.errors import BadInputError
from trt_facefusion.faces.align import TEMPLATES
from trt_facefusion.inference.renderer import find_picture
from trt_facefusion.model.graph import PreparedModel, prepare, read_input_specs
from trt_facefusion.model.graph.border import infer_output_specs
from trt_facefusion.model.presets import EmbeddingInput, ImageInput, Preset
from trt_facefusion.model.presets.fit import find_fixed_batch, fit_inputs
from trt_facefusion.model.presets.output import list_picture_outputs
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
    model_inputs = read_input_specs(model)
    shapes = fit_input_shapes(model, preset, embedding)
    batch = find_fixed_batch(preset, model_inputs, fit_inputs(preset, model_inputs, embedding))
    file_outputs = infer_output_specs(model, shapes, batch) if len(model.graph.output) > 1 else None
    picture_and_masks = None
    if file_outputs is not None:
        picture_and_masks = list_picture_outputs(find_picture(preset, file_outputs), file_outputs)
    prepared = prepare(model, shapes, batch=batch, outputs=picture_and_masks)
    picture = find_picture(preset, prepared.outputs)
    picture_and_masks = list_picture_outputs(picture, prepared.outputs)
    if len(picture_and_masks) < len(prepared.outputs):
        prepared = prepare(model, shapes, batch=batch, outputs=picture_and_masks)
    dropped = tuple(output.name for output in model.graph.output if output.name not in picture_and_masks)
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


def require_batch(described: DescribedModel, batch: BatchRange) -> None:
    """Raise `BadInputError` if the model cannot be built for ``batch``."""
    prepared = described.prepared
    if prepared.dynamic_batch or {batch.min, batch.max} == {prepared.fixed_batch}:
        return
    of_faces = [spec.name for spec in described.preset.inputs if isinstance(spec, ImageInput | EmbeddingInput)]
    single = [name for name in of_faces if name in prepared.unbatched]
    why = f" ({', '.join(single)} has no batch axis)" if single and prepared.fixed_batch == 1 else ""
    raise BadInputError(
        f"the model has a fixed batch of {prepared.fixed_batch}{why}, so --batch {batch} cannot be built",
        f"use --batch {prepared.fixed_batch}, or export the model with a dynamic batch axis",
    )
