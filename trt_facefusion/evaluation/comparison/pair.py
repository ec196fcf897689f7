"""Two models that can be run side by side: one contract, one batch size, one picture."""

from __future__ import annotations

from dataclasses import dataclass, replace

from trt_facefusion.errors import BadInputError, ModelError
from trt_facefusion.evaluation.comparison.sides import BatchSize, RunnableModel, choose_batch_size
from trt_facefusion.faces.embedder import Embedder
from trt_facefusion.faces.faceset import FaceSet
from trt_facefusion.inference.feeder import Feeder
from trt_facefusion.inference.renderer import PictureRenderer
from trt_facefusion.model.presets import ImageOutput
from trt_facefusion.model.presets.contract import Contract
from trt_facefusion.model.presets.output import choose_picture_output
from trt_facefusion.types import Note


@dataclass(frozen=True)
class ModelPair:
    """Two models of one generator, and how both are fed. ``picture`` is None where no output is a picture."""

    a: RunnableModel
    b: RunnableModel
    contract: Contract
    embedder: Embedder
    batch: BatchSize
    picture: ImageOutput | None

    @property
    def picture_output(self) -> str | None:
        """Name of the output that is the picture."""
        return None if self.picture is None else self.picture.name

    @property
    def titled(self) -> tuple[tuple[RunnableModel, str], tuple[RunnableModel, str]]:
        """Each model with the name that its values are saved under."""
        return (self.a, f"A: {self.a.opened.label}"), (self.b, f"B: {self.b.opened.label}")

    def make_feeder(self, faces: FaceSet, *, fixed: bool) -> Feeder:
        """Inputs of ``faces`` in the types that A takes; ``fixed`` fills every batch up."""
        preset = self.contract.preset
        preset = preset if self.picture is None else replace(preset, output=self.picture)
        fixed_batch = self.batch.size if fixed else None
        return Feeder(preset, faces, self.embedder, self.contract.projection, fixed_batch, self.a.runner.inputs)

    def make_renderer(self, feeder: Feeder) -> PictureRenderer:
        """Pictures of what ``feeder`` feeds. There must be a picture."""
        assert self.picture_output is not None
        return PictureRenderer(feeder, self.picture_output, self.batch.size)


def pair_models(
    a: RunnableModel,
    b: RunnableModel,
    contract: Contract,
    embedder: Embedder,
    note: Note,
    *,
    picture_needed: bool,
) -> ModelPair:
    """Settle on the batch and the picture of two models, and say where a stand-in runs in the place of an engine.

    Raises:
        BadInputError: no batch size fits both, no output is in both, or the picture that is needed is not there.
    """
    _tell_stand_ins(a, b, note)
    batch = choose_batch_size(a, b, contract.preset, embedder.fed_dim)
    return ModelPair(a, b, contract, embedder, batch, _find_common_picture(a, b, contract, note, picture_needed))


def _tell_stand_ins(a: RunnableModel, b: RunnableModel, note: Note) -> None:
    for letter, model in (("A", a), ("B", b)):
        if model.missing:
            note(
                f"warning: {letter} cannot run here ({model.missing}): its typed ONNX stands in for it on the CPU, "
                "rounded to FP16 as on a GPU. The figures are not the engine's own"
            )


def _find_common_picture(
    a: RunnableModel, b: RunnableModel, contract: Contract, note: Note, needed: bool
) -> ImageOutput | None:
    names = {spec.name for spec in a.runner.outputs}
    common = [spec for spec in b.runner.outputs if spec.name in names]
    if not common:
        listed = [", ".join(spec.name for spec in model.runner.outputs) for model in (a, b)]
        raise BadInputError(
            f"the two have no output in common: {a.opened.label} gives {listed[0]}, {b.opened.label} gives {listed[1]}",
            "compare two engines of the same model",
        )
    try:
        return choose_picture_output(contract.preset.output, common, first_is_right=contract.preset.known)
    except ModelError as error:
        if needed:
            raise BadInputError(
                f"--max-ssim-drop needs a picture: {error.message}", "use --atol, which holds for any output"
            ) from error
        note("no output is a picture, so there are no picture figures")
        return None
