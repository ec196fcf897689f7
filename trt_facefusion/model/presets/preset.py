"""What a generator takes and gives, known or described by a user."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from trt_facefusion.errors import BadInputError
from trt_facefusion.model.presets.hints import PlanHint
from trt_facefusion.model.presets.inputs import (
    SOURCE,
    TARGET,
    EmbeddingInput,
    FileInput,
    ImageInput,
    InputSpec,
)
from trt_facefusion.model.presets.output import ImageOutput
from trt_facefusion.model.presets.syntax import parse_picture
from trt_facefusion.model.presets.terse import Terse

CUSTOM = "custom"
"""The name of a preset that a user described."""
USUAL_TEMPLATE = "arcface_128"
"""The crop template where nothing says another."""


@dataclass(frozen=True, repr=False)
class Preset(Terse):
    """Everything that calibration, verification and swapping must know about a generator's inputs and output.

    ``embedder`` is ``dlib`` (bundled, 128 values) or ``arcface`` (the user's own ONNX file, named with --embedder).
    ``hints`` say what plans must heed. ``origin`` is what was given to --preset, where that was given.
    """

    ADDED: ClassVar[frozenset[str]] = frozenset({"hints"})

    name: str
    inputs: tuple[InputSpec, ...]
    output: ImageOutput
    template: str = USUAL_TEMPLATE
    embedder: str = "dlib"
    hints: tuple[PlanHint, ...] = ()
    origin: str = field(default="", compare=False, repr=False)

    def __post_init__(self) -> None:
        if not any(isinstance(i, ImageInput) and i.shows(TARGET) for i in self.inputs):
            raise BadInputError(
                "no input of the model is described as an image of the target",
                "describe one with --input NAME=image:SIZE:MIN:MAX",
            )

    @property
    def images(self) -> tuple[ImageInput, ...]:
        """The inputs that are images."""
        return tuple(i for i in self.inputs if isinstance(i, ImageInput))

    @property
    def image(self) -> ImageInput:
        """The target crop (the first image input that shows the target)."""
        return next(i for i in self.images if i.shows(TARGET))

    @property
    def embedding(self) -> EmbeddingInput | None:
        """The identity input, if the generator has one."""
        return next((i for i in self.inputs if isinstance(i, EmbeddingInput)), None)

    @property
    def files(self) -> tuple[FileInput, ...]:
        """Inputs with fixed values from files."""
        return tuple(i for i in self.inputs if isinstance(i, FileInput))

    @property
    def swaps(self) -> bool:
        """Whether a second person takes part: one who lends an embedding or an image."""
        return self.embedding is not None or any(image.shows(SOURCE) for image in self.images)

    def crop(self, image: ImageInput) -> tuple[str, int]:
        """Template and side in pixels of the crop that ``image`` is made from."""
        return image.template or self.template, image.side

    @property
    def crops(self) -> tuple[tuple[str, int], ...]:
        """Template and side of every crop that is needed of a photo, the target's first."""
        return tuple(dict.fromkeys(self.crop(image) for image in (self.image, *self.images)))

    @classmethod
    def from_inputs(cls, inputs: Sequence[InputSpec], picture: str | None = None) -> Preset:
        """The preset that ``--input`` options and ``--picture`` describe.

        An image of which nobody said whose face it shows shows the target if it is called so, or else is the first;
        all others show the source. The picture is taken to have the target's range, unless ``picture`` says another.

        Raises:
            BadInputError: an input is described twice, none shows the target, or ``picture`` is not understood.
        """
        names = [i.name for i in inputs]
        if len(set(names)) != len(names):
            raise BadInputError(f"an input is described twice: {', '.join(names)}", "describe each input once")
        preset = cls(CUSTOM, _assign_persons(inputs), ImageOutput())
        image = preset.image
        return replace(preset, template=image.template or preset.template).with_picture(
            picture, ImageOutput.like(image)
        )

    def with_picture(self, text: str | None, like: ImageOutput | None = None) -> Preset:
        """This preset with the picture that ``--picture`` names; its range is that of ``like`` where it says none.

        Raises:
            BadInputError: ``text`` is not understood.
        """
        like = like or self.output
        return (
            replace(self, output=like) if text is None else replace(self, name=CUSTOM, output=parse_picture(text, like))
        )

    @property
    def known(self) -> bool:
        """Whether it is one of the known presets and not a user's description."""
        return self.name != CUSTOM


def _assign_persons(inputs: Sequence[InputSpec]) -> tuple[InputSpec, ...]:
    """``inputs``, with a person in every image."""
    unsaid = [i for i in inputs if isinstance(i, ImageInput) and not i.parts and not i.person]
    has_target = any(isinstance(i, ImageInput) and i not in unsaid and i.shows(TARGET) for i in inputs)
    target = None if has_target else min(unsaid, key=_rate_as_target, default=None)
    return tuple(
        replace(i, person=TARGET if i is target else SOURCE) if isinstance(i, ImageInput) and i in unsaid else i
        for i in inputs
    )


def _rate_as_target(image: ImageInput) -> int:
    """The input called target comes first, one called source last; otherwise the order of the inputs decides."""
    name = image.name.lower()
    return 0 if "target" in name else 2 if "source" in name else 1
