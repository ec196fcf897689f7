"""The generator of `trt-ff faces curate`, over whose activations photos are spread."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from trt_facefusion.cli.model_choice import bind_to_file, describe_preset, recognise_file, require_one_description
from trt_facefusion.errors import BadInputError

if TYPE_CHECKING:
    from trt_facefusion.build.curate import Generator


@dataclass(frozen=True, kw_only=True)
class GeneratorOptions:
    """The generator over whose activations photos are spread."""

    onnx: Annotated[
        Optional[Path],
        typer.Option(help="Your generator: also spread over its activations (then describe its inputs)."),
    ] = None
    preset: Annotated[
        Optional[str],
        typer.Option(
            help="The generator's inputs, see `trt-ff presets`; without --onnx, `reference` is the bundled one."
        ),
    ] = None
    inputs: Annotated[
        Optional[list[str]], typer.Option("--input", help="One input of --onnx, as for `build`; repeat it.")
    ] = None
    picture: Annotated[Optional[str], typer.Option("--picture", help="The output of --onnx that is the picture.")] = (
        None
    )
    embedder: Annotated[
        Optional[Path], typer.Option(help="ArcFace ONNX that the generator's embeddings come from.")
    ] = None
    converter: Annotated[
        Optional[Path], typer.Option(help="ONNX that converts the embeddings first, as for `build`.")
    ] = None


def open_generator(generator: GeneratorOptions) -> Generator | None:
    """The generator that the options name; None where they name none.

    Raises:
        BadInputError: it is described twice, not at all, or lacks its embedder.
    """
    from trt_facefusion.build.curate import Generator
    from trt_facefusion.model.export import OnnxSource, ReferenceSource
    from trt_facefusion.model.graph import read_input_specs
    from trt_facefusion.model.presets import get_preset
    from trt_facefusion.model.presets.fit import suggest_inputs

    onnx, inputs = generator.onnx, generator.inputs or []
    require_one_description(generator.preset, inputs)
    if onnx is None:
        if generator.preset == "reference" and generator.embedder is None:
            return Generator(ReferenceSource(), get_preset("reference"))
        if generator.preset is not None or inputs or generator.embedder is not None or generator.picture is not None:
            raise BadInputError(
                "--preset, --input and --embedder describe a model, but none is named", "add --onnx FILE"
            )
        return None
    preset = describe_preset(generator.preset, inputs, generator.picture)
    preset = recognise_file(OnnxSource(onnx)) if preset is None else bind_to_file(preset, OnnxSource(onnx))
    if preset is None:
        example = suggest_inputs(read_input_specs(OnnxSource(onnx).model))
        raise BadInputError(
            f"nothing says what the inputs of {onnx.name} are",
            f"name a --preset, or describe each input, perhaps with {example}",
        )
    if preset.embedder == "arcface" and preset.embedding is not None and generator.embedder is None:
        raise BadInputError(
            f"the preset {preset.name!r} takes ArcFace embeddings, and that embedder is not bundled",
            "name its ONNX file with --embedder",
        )
    return Generator(OnnxSource(onnx), preset, generator.embedder, generator.converter)
