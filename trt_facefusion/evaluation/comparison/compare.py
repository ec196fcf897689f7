"""`trt-ff diff`: two engines or ONNX models on the same faces, output by output, picture by picture, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from polygraphy.comparator import Comparator

from trt_facefusion.engine.runtime.base import Runner
from trt_facefusion.engine.runtime.polygraphy import PolygraphyRunner, silence
from trt_facefusion.engine.runtime.run_results import save_inputs, save_outputs
from trt_facefusion.engine.store.atomic import commit_folder
from trt_facefusion.errors import BadInputError, FacesError, ModelError, StoreError
from trt_facefusion.evaluation.accuracy.judge import Accuracy, judge
from trt_facefusion.evaluation.accuracy.metric import Tools
from trt_facefusion.evaluation.accuracy.registry import open_metrics
from trt_facefusion.evaluation.comparison.handed_in import AgainstFile, against_file, file_of
from trt_facefusion.evaluation.comparison.layer_error import LayerError
from trt_facefusion.evaluation.comparison.layers import BUDGET_BYTES, LayerComparison, Values
from trt_facefusion.evaluation.comparison.outputs import OutputComparison, OutputDifference
from trt_facefusion.evaluation.comparison.sides import BatchSize, Side, batch_of, check_side, contract_of, open_side
from trt_facefusion.faces.embedder import Embedder
from trt_facefusion.faces.faceset import FaceSet, require_enough
from trt_facefusion.faces.folder import read_faces
from trt_facefusion.inference.described import require_templates
from trt_facefusion.inference.embedders import open_embedder
from trt_facefusion.inference.feeder import Feeder, list_input_shapes
from trt_facefusion.inference.open import open_model
from trt_facefusion.inference.original import require_finite_pictures
from trt_facefusion.inference.renderer import PictureRenderer
from trt_facefusion.inference.type_adapter import TypeAdapter
from trt_facefusion.model.export.onnx_file import load_model
from trt_facefusion.model.presets import ImageOutput, Preset
from trt_facefusion.model.presets.contract import Contract
from trt_facefusion.model.presets.output import picture_of
from trt_facefusion.quantization.calibration.reader import Batches
from trt_facefusion.types import Progress, TensorSpec, silent

MIN_FACES = 2
_LOCAL = "B's node on A's inputs"


@dataclass(frozen=True)
class DiffSettings:
    """What ``trt-ff diff`` was told. ``a`` is the reference.

    ``preset`` describes the inputs of bare ONNX files; ``max_faces`` and ``layer_faces`` of 0 take every face.
    ``stand_in`` None lets the typed ONNX stand in for a GPU engine where there is no GPU. ``layer_faces`` are the faces
    that layers are compared on, ``raised`` is the number of layers whose gain is measured.
    """

    a: Path
    b: Path
    faces: Path
    preset: Preset | None = None
    aligned: bool = False
    embedder: Path | None = None
    max_faces: int = 64
    stand_in: bool | None = None
    device: int = 0
    layers: bool = False
    layer_faces: int = 8
    raised: int = 12
    budget_bytes: int = BUDGET_BYTES
    max_ssim_drop: float | None = None
    atol: float | None = None
    save: Path | None = None


@dataclass(frozen=True)
class Check:
    """One tolerance: what was allowed and what was found (None: nothing finite was)."""

    name: str
    limit: float
    value: float | None

    @property
    def passed(self) -> bool:
        """Whether it was kept."""
        return self.value is not None and self.value <= self.limit


@dataclass(frozen=True)
class Layers:
    """The comparison of all tensors that both graphs know, the worst first."""

    faces: int
    errors: tuple[LayerError, ...]
    reshaped: tuple[str, ...]


@dataclass(frozen=True)
class DiffResult:
    """What `diff` found; ``picture`` is None where no output is a picture."""

    a: dict[str, Any]
    b: dict[str, Any]
    faces: int
    batch: int
    outputs: tuple[OutputDifference, ...]
    picture: Accuracy | None
    picture_output: str | None
    layers: Layers | None
    checks: tuple[Check, ...]
    saved: Path | None
    file: AgainstFile | None = None
    """Both sides against the file that A (else B) was built from; None where no manifest names one that is there."""

    @property
    def passed(self) -> bool:
        """Whether every tolerance was kept."""
        return all(check.passed for check in self.checks)

    def as_dict(self) -> dict[str, Any]:
        """The result as ``--json`` prints it."""
        picture = None if self.picture is None else {"output": self.picture_output, **self.picture.as_dict()}
        return {
            "schema": 1,
            "a": self.a,
            "b": self.b,
            "faces": self.faces,
            "batch": self.batch,
            "outputs": [output.as_dict() for output in self.outputs],
            "picture": picture,
            "against_file": None if self.file is None else self.file.as_dict(),
            "layers": None if self.layers is None else asdict(self.layers),
            "checks": [{**asdict(check), "passed": check.passed} for check in self.checks],
            "passed": self.passed,
            "saved": None if self.saved is None else str(self.saved),
        }


def diff(
    settings: DiffSettings, progress: Progress = silent, note: Callable[[str], None] = lambda _: None
) -> DiffResult:
    """Compare two subjects on the faces of a folder.

    Raises:
        TrtFaceFusionError: what cannot be read, run or compared; a tolerance that is not kept is no error but in the
            result.
    """
    a, b = (open_model(path, device=settings.device) for path in (settings.a, settings.b))
    for message in (*a.notes, *b.notes):
        note(message)
    contract = contract_of(a, b, settings.preset)
    require_templates(contract.preset)
    embedder = open_embedder(contract.preset, settings.embedder)
    with ExitStack() as stack:
        sides = [open_side(side, stack, stand_in=settings.stand_in, device=settings.device) for side in (a, b)]
        for side in sides:
            check_side(side, contract.preset, embedder.dim)
        folder = stack.enter_context(_saving(settings.save))
        run = _Run(settings, contract, embedder, sides[0], sides[1], folder, progress, note)
        return run.result()


@contextmanager
def _saving(final: Path | None) -> Iterator[Path | None]:
    """A folder to fill, which is ``final`` in the end; nothing is ever replaced."""
    if final is None:
        yield None
        return
    if final.exists() and (not final.is_dir() or any(final.iterdir())):
        raise BadInputError(f"--save {final}: something is there already", "name a folder that does not exist yet")
    try:
        with commit_folder(final) as folder:
            yield folder
    except StoreError as error:
        raise StoreError(error.message, error.remedy.replace("--output", "--save")) from error


def _opened(side: Side, takes: Sequence[TensorSpec]) -> Callable[[], Runner]:
    """The runner of ``side``, which takes the types of ``takes``."""
    runner = side.runner
    same = {spec.name: spec.dtype for spec in takes} == {spec.name: spec.dtype for spec in runner.inputs}
    return lambda: runner if same else TypeAdapter(runner, takes)


class _Run:
    """One comparison; what its steps share."""

    def __init__(
        self,
        settings: DiffSettings,
        contract: Contract,
        embedder: Embedder,
        a: Side,
        b: Side,
        folder: Path | None,
        progress: Progress,
        note: Callable[[str], None],
    ) -> None:
        self.settings, self.contract, self.embedder = settings, contract, embedder
        self.a, self.b, self.folder = a, b, folder
        self.progress, self.note = progress, note
        self._tell_stand_ins()
        self.batch: BatchSize = batch_of(a, b, contract.preset, embedder.dim)
        self.picture = self._picture()
        self.output = None if self.picture is None else self.picture.name

    def _tell_stand_ins(self) -> None:
        for letter, side in (("A", self.a), ("B", self.b)):
            if side.missing:
                self.note(
                    f"warning: {letter} cannot run here ({side.missing}): its typed ONNX stands in for it on the CPU, "
                    "rounded to FP16 as on a GPU. The figures are not the engine's own"
                )

    def _picture(self) -> ImageOutput | None:
        names = {spec.name for spec in self.a.runner.outputs}
        common = [spec for spec in self.b.runner.outputs if spec.name in names]
        if not common:
            listed = [", ".join(spec.name for spec in side.runner.outputs) for side in (self.a, self.b)]
            raise BadInputError(
                f"the two have no output in common: {self.a.subject.label} gives {listed[0]}, "
                f"{self.b.subject.label} gives {listed[1]}",
                "compare two engines of the same model",
            )
        try:
            return picture_of(self.contract.preset.output, common, known=self.contract.preset.known)
        except ModelError as error:
            if self.settings.max_ssim_drop is not None:
                raise BadInputError(
                    f"--max-ssim-drop needs a picture: {error.message}", "use --atol, which holds for any output"
                ) from error
            self.note("no output is a picture, so there are no picture figures")
            return None

    def result(self) -> DiffResult:
        """Run everything that was asked for."""
        faces = self._faces()
        outputs, pictures = self._compare(faces)
        picture = None if self.output is None else self._judge(*pictures)
        file = None if self.output is None else self._against_file(faces, *pictures)
        layers = self._layers(faces) if self.settings.layers else None
        return DiffResult(
            a=self.a.as_dict(),
            b=self.b.as_dict(),
            faces=len(faces),
            batch=self.batch.size,
            outputs=outputs,
            picture=picture,
            picture_output=self.output,
            layers=layers,
            checks=self._checks(outputs, picture),
            saved=self.settings.save,
            file=file,
        )

    def _faces(self) -> FaceSet:
        preset, folder = self.contract.preset, self.settings.faces
        faces = read_faces(
            folder,
            template=preset.crops[0][0],
            size=preset.crops[0][1],
            embedder=self.embedder,
            aligned=self.settings.aligned,
            progress=self.progress,
        )
        try:
            require_enough(faces, MIN_FACES if preset.swaps else 1, advised=0)
        except FacesError as error:
            raise FacesError(f"{folder}: {error.message}", error.remedy) from error
        if faces.skipped:
            self.note(f"skipped {len(faces.skipped)} of {len(faces) + len(faces.skipped)} photos in {folder}")
        if faces.note:
            self.note(f"{folder}: {faces.note}")
        return faces.thin(self.settings.max_faces)

    def _feeder(self, faces: FaceSet, fixed: bool) -> Feeder:
        fixed_batch = self.batch.size if fixed else None
        preset = self.contract.preset
        preset = preset if self.picture is None else replace(preset, output=self.picture)
        takes = self.a.runner.inputs
        return Feeder(preset, faces, self.embedder, self.contract.projection, fixed_batch, takes)

    def _compare(
        self, faces: FaceSet
    ) -> tuple[tuple[OutputDifference, ...], tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """All outputs by Polygraphy, and both sides' pictures [N,H,W,3] (empty where no output is one)."""
        collected = OutputComparison()
        pictures: tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]] = ([], [])
        done = 0
        with closing(self._runs(faces)) as runs:
            for number, (feeds, outputs) in enumerate(runs):
                size = self.batch.size if self.batch.fixed else min(self.batch.size, len(faces) - done)
                count = min(size, len(faces) - done)
                collected.add(*outputs, faces=count, batch=size)
                for kept, values in zip(pictures, outputs, strict=True):
                    if self.picture is not None and self.output is not None:
                        kept.append(self.picture.decode(values[self.output])[:count])
                self._save(number, feeds, outputs)
                done += count
                self.progress("outputs", done, len(faces))
        a, b = (np.concatenate(kept) if kept else np.zeros((0, 0, 0, 3), np.float32) for kept in pictures)
        return collected.result(), (a, b)

    def _runs(self, faces: FaceSet) -> Generator[tuple[Values, tuple[Values, Values]], None, None]:
        """Each batch: what is fed, and what A and B give. One batch is held at a time."""
        fed: list[Values] = []
        feeder = self._feeder(faces, self.batch.fixed)

        def feed(indices: Any) -> Values:
            fed.append(dict(feeder(indices)))
            return fed[-1]

        takes = self.a.runner.inputs
        runners = [PolygraphyRunner(_opened(side, takes), name) for side, name in self._named()]
        with (
            silence(),
            closing(Comparator.run(runners, Batches(feed, len(faces), self.batch.size), streaming=True)) as stream,
        ):
            for results in stream:
                a, b = (dict(iterations[0].items()) for iterations in results.values())
                yield fed.pop(), (a, b)

    def _named(self) -> tuple[tuple[Side, str], tuple[Side, str]]:
        return (self.a, f"A: {self.a.subject.label}"), (self.b, f"B: {self.b.subject.label}")

    def _save(self, number: int, feeds: Values, outputs: tuple[Values, Values]) -> None:
        if self.folder is None:
            return
        save_inputs(self.folder, number, feeds)
        for (_, name), values, side in zip(self._named(), outputs, "ab", strict=True):
            save_outputs(self.folder / side, number, {name: values})

    def _judge(self, reference: NDArray[np.float32], candidate: NDArray[np.float32]) -> Accuracy:
        broken = int((~np.isfinite(reference).all(axis=(1, 2, 3))).sum())
        if broken:
            raise ModelError(
                f"{self.a.subject.label}, the reference, gives NaN or infinity on {broken} of {len(reference)} faces",
                "name a sound model first: A is what B is held against",
            )
        self.progress("judge", 0, 0)
        height, width = reference.shape[1:3]
        tools = Tools(self.embedder, self.contract.preset.template if height == width else None)
        return judge(reference, candidate, open_metrics(tools, min(height, width)))

    def _against_file(self, faces: FaceSet, a: NDArray[np.float32], b: NDArray[np.float32]) -> AgainstFile | None:
        """Both sides' pictures against those of the file that the first stored one of them was built from."""
        shapes = list_input_shapes(self.contract.preset, self.embedder.dim)
        for manifest in (side.subject.manifest for side in (self.a, self.b)):
            original = None if manifest is None else file_of(manifest, shapes, self.note)
            if manifest is None or original is None or self.output is None:
                continue
            renderer = PictureRenderer(self._feeder(faces, self.batch.fixed), self.output, self.batch.size)
            with original.open_runner() as runner:
                pictures = require_finite_pictures(renderer(runner, None, self.progress, "the file"))
            return against_file(original, manifest, pictures, a, b)
        return None

    def _layers(self, faces: FaceSet) -> Layers:
        few = faces.thin(self.settings.layer_faces)
        whole = len(few) - len(few) % self.batch.size  # repeats would count double
        few = few.subset(range(whole)) if whole else few
        if self.a.subject.needs_gpu or self.b.subject.needs_gpu:
            self.note("layers are compared on the typed ONNX: a TensorRT engine shows its outputs only")
        feeder = self._feeder(few, fixed=True)
        comparison = LayerComparison(
            load_model(self.a.subject.graph),
            load_model(self.b.subject.graph),
            Batches(feeder, len(few), self.batch.size),
            self.settings.budget_bytes,
        )
        errors = comparison.errors(self.progress, self._save_layers)
        if self.output is not None:
            renderer = PictureRenderer(feeder, self.output, self.batch.size)
            errors = comparison.with_gains(errors, renderer, self.settings.raised, self.progress)
        return Layers(len(few), errors, comparison.reshaped)

    def _save_layers(self, number: int, a: Values, b: Values, local: Values) -> None:
        if self.folder is None:
            return
        (_, first), (_, second) = self._named()
        of_one_face = [{name: values[name][:1] for name in b} for values in (a, b, local)]
        save_outputs(self.folder / "layers", number, dict(zip((first, second, _LOCAL), of_one_face, strict=True)))

    def _checks(self, outputs: tuple[OutputDifference, ...], picture: Accuracy | None) -> tuple[Check, ...]:
        checks = []
        if self.settings.max_ssim_drop is not None and picture is not None:
            checks.append(Check("--max-ssim-drop", self.settings.max_ssim_drop, picture.ssim_drop))
        if self.settings.atol is not None:
            for output in outputs:
                value = None if output.nonfinite else output.max_abs
                checks.append(Check(f"--atol of {output.name}", self.settings.atol, value))
        return tuple(checks)
