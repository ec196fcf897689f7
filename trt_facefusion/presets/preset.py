"""Known generators, and the description a user gives of an unknown one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trt_facefusion.errors import BadInputError
from trt_facefusion.presets.inputs import EmbeddingInput, FileInput, ImageInput, ImageOutput, InputSpec

_HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Preset:
    """Everything that calibration, verification and swapping must know about a generator's inputs and output.

    ``embedder`` is ``dlib`` (bundled, 128 values) or ``arcface`` (the user's own ONNX file, named with --embedder).
    """

    name: str
    inputs: tuple[InputSpec, ...]
    output: ImageOutput
    template: str = "arcface_128"
    embedder: str = "dlib"

    def __post_init__(self) -> None:
        if not any(isinstance(i, ImageInput) for i in self.inputs):
            raise BadInputError(
                "no input of the model is described as an image", "describe one with --input NAME=image:SIZE:MIN:MAX"
            )

    @property
    def image(self) -> ImageInput:
        """The target crop (the first image input)."""
        return next(i for i in self.inputs if isinstance(i, ImageInput))

    @property
    def embedding(self) -> EmbeddingInput | None:
        """The identity input, if the generator has one."""
        return next((i for i in self.inputs if isinstance(i, EmbeddingInput)), None)

    @property
    def files(self) -> tuple[FileInput, ...]:
        """Inputs with fixed values."""
        return tuple(i for i in self.inputs if isinstance(i, FileInput))

    @classmethod
    def from_inputs(cls, inputs: Sequence[InputSpec]) -> Preset:
        """The preset that ``--input`` options describe; the output is taken to have the image's range."""
        names = [i.name for i in inputs]
        if len(set(names)) != len(names):
            raise BadInputError(f"an input is described twice: {', '.join(names)}", "describe each input once")
        preset = cls("custom", tuple(inputs), ImageOutput())
        return cls("custom", tuple(inputs), ImageOutput.like(preset.image))


# The I/O contracts of the public swappers and restorers as their open-source users feed them. Only `reference` ships
# with weights; for the others bring your own file.
PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset("reference", (ImageInput("target", 128), EmbeddingInput("source")), ImageOutput("output")),
        Preset(
            "inswapper_128",
            (ImageInput("target", 128), EmbeddingInput("source", projection="buff2fs")),
            ImageOutput("output"),
            embedder="arcface",
        ),
        Preset(
            "hyperswap_256",
            (EmbeddingInput("source"), ImageInput("target", 256, _HALF, _HALF)),
            ImageOutput("output", _HALF, _HALF),
            embedder="arcface",
        ),
        Preset("gfpgan_512", (ImageInput("input", 512, _HALF, _HALF),), ImageOutput(None, _HALF, _HALF), "ffhq_512"),
        Preset("gpen_256", (ImageInput("input", 256, _HALF, _HALF),), ImageOutput(None, _HALF, _HALF)),
        Preset("gpen_512", (ImageInput("input", 512, _HALF, _HALF),), ImageOutput(None, _HALF, _HALF), "ffhq_512"),
    )
}


def get_preset(name: str) -> Preset:
    """The preset called ``name``.

    Raises:
        BadInputError: there is none.
    """
    if name not in PRESETS:
        raise BadInputError(
            f"there is no preset {name!r}",
            f"use one of {', '.join(PRESETS)}, or describe the model's inputs with --input",
        )
    return PRESETS[name]
