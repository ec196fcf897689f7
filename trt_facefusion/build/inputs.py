"""What the steps of one build share, each made when first needed: faces, prepared model, reference pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trt_facefusion.build.cost import Paced, cost_of, task_of, timed
from trt_facefusion.build.effort import TOLD_SECONDS, Cost, Level
from trt_facefusion.build.looks import check_looks
from trt_facefusion.build.proof import Proof
from trt_facefusion.build.settings import BuildSettings
from trt_facefusion.engine.backends.registry import Choice, choose, default_target
from trt_facefusion.engine.backends.registry import get as get_backend
from trt_facefusion.engine.runtime.onnxruntime import OnnxRuntimeRunner
from trt_facefusion.errors import BackendUnavailableError, BadInputError, FacesError
from trt_facefusion.evaluation.accuracy.agreement import Agreement
from trt_facefusion.evaluation.accuracy.plausible import Look
from trt_facefusion.faces.embedder import Embedder
from trt_facefusion.faces.faceset import KINDS, MIN_FACES, FaceSet, require_enough
from trt_facefusion.faces.folder import digest_folder, read_faces
from trt_facefusion.faces.split import MIN_VERIFICATION, split_by_identity
from trt_facefusion.inference import feeder as feeding
from trt_facefusion.inference.described import DescribedModel, prepare_described, require_batch
from trt_facefusion.inference.feeder import Feeder, find_projection, list_input_shapes
from trt_facefusion.inference.original import Original, fix_original_noise, require_finite_pictures
from trt_facefusion.inference.renderer import PictureRenderer
from trt_facefusion.model.graph import GraphView, PreparedModel, read_input_specs
from trt_facefusion.model.graph.batch import require_samples_apart
from trt_facefusion.model.graph.noise import parse_noise, require_no_noise
from trt_facefusion.model.presets import Preset
from trt_facefusion.model.presets.contract import Contract
from trt_facefusion.model.presets.fit import batch_of, fit_inputs
from trt_facefusion.storage.files import read_regular
from trt_facefusion.types import Precision, Progress, silent

Note = Callable[[str], None]
"""Takes one message for the person who waits."""

_BATCH_BYTES = 128 << 20
"""What the largest activation of a batch may take: of networks for 512 px and more, single faces fill the cores."""

VALUES_OF = "values of "
"""How the digest of a file input's values is called: the preset only names the file."""

_CHECKED_FACES = 4
_SHOWN_SKIPS = 5


def _no_note(message: str) -> None:
    del message


@dataclass
class Context:
    """One build's shared state. Nothing is computed before it is asked for: an up-to-date engine costs little."""

    settings: BuildSettings
    progress: Progress = silent
    note: Note = _no_note
    one_at_a_time: bool = False
    """Whether the network's batch axis is dynamic in name only."""
    _warnings: list[tuple[Precision | None, str]] = field(default_factory=list)

    def warn(self, message: str, precision: Precision | None = None) -> None:
        """Tell the person now, and the manifest later: that of one precision, or every one."""
        self._warnings.append((precision, message))
        self.note(f"warning: {message}")

    def warnings(self, precision: Precision) -> tuple[str, ...]:
        """What the manifest of ``precision`` should warn of."""
        return tuple(message for about, message in self._warnings if about in {None, precision})

    @cached_property
    def choice(self) -> Choice:
        """The engine maker and the target."""
        target = self.settings.target or default_target(self.settings.backend)
        choice = choose(self.settings.backend, target)
        if choice.target != target:
            if self.settings.target is not None:
                raise BackendUnavailableError(
                    choice.reason, "install what is missing, or build for this machine's processor with --target cpu"
                )
            self.warn(choice.reason)
        return choice

    @cached_property
    def embedder(self) -> Embedder:
        """Embeds source faces, and measures identity."""
        return self.settings.open_embedder()

    @cached_property
    def digests(self) -> Mapping[str, str]:
        """Digests of everything that goes in, found without loading or decoding anything."""
        s = self.settings
        found = self._file_digests() | {"calib": self._folder_digest(s.calib)}
        if s.eval is not None:
            found["eval"] = self._folder_digest(s.eval)
        backend = get_backend(self.choice.backend.name)
        return found | {"backend": f"{backend.name} {backend.version()}", "target": self.choice.target}

    def _file_digests(self) -> dict[str, str]:
        s = self.settings
        found = {"model": s.source.digest()}
        files = [("plan", s.plan), ("table", s.table)]
        files += [(f"{VALUES_OF}{spec.name}", spec.path) for spec in s.preset.files]
        for name, path in files:
            if path is not None:
                found[name] = hashlib.sha256(read_regular(path)).hexdigest()
        return found

    def require_unchanged(self) -> None:
        """Raise `BadInputError` if the model or another file is no longer what this build's key was made of."""
        changed = [name for name, digest in self._file_digests().items() if digest != self.digests[name]]
        if changed:
            raise BadInputError(
                f"changed while the engine was being built: {', '.join(changed)}", "run the same command again"
            )

    def _folder_digest(self, folder: Path) -> str:
        s = self.settings
        template, size = s.preset.crops[0]
        return digest_folder(folder, template=template, size=size, embedder=self.embedder, aligned=s.aligned)

    @cached_property
    def faces(self) -> tuple[FaceSet, FaceSet]:
        """Faces to calibrate on and faces to verify on; nobody is in both when one folder was given."""
        s = self.settings
        calib = self._read(s.calib, "calib")
        warning = _enough(s.calib, calib)
        if warning:
            self.warn(f"{s.calib}: {warning}")
        if s.eval is not None:
            held_out = self._read(s.eval, "eval")
            _enough(s.eval, held_out, minimum=2)
            shared = set(calib.digests) & set(held_out.digests)
            if shared:
                self.warn(
                    f"{len(shared)} photos of {s.eval} are also in {s.calib}: the verdict is softer than it looks"
                )
        elif not s.hold_out:
            return calib.thin(s.max_calib), calib.subset([])
        else:
            comparable = self.embedder.make_comparable(calib.embeddings)
            first, second = split_by_identity(comparable, same_person=self.embedder.same_person)
            calib, held_out = calib.subset(first), calib.subset(second)
        calib, held_out = calib.thin(s.max_calib), held_out.thin(s.max_eval)
        if len(held_out) < MIN_VERIFICATION:
            self.warn(f"judged on {len(held_out)} faces only: {MIN_VERIFICATION} are the least that says something")
        return calib, held_out

    def _read(self, folder: Path, role: str) -> FaceSet:
        s = self.settings
        stage = {"calib": "calibration faces", "eval": "evaluation faces"}[role]
        faces = read_faces(
            folder,
            template=s.preset.crops[0][0],
            size=s.preset.crops[0][1],
            embedder=self.embedder,
            aligned=s.aligned,
            progress=lambda _, done, total: self.progress(stage, done, total),
        )
        if faces.folder_digest != self.digests[role]:
            raise FacesError(f"{folder} was changed while it was read", "run the same command again")
        self._tell_skipped(folder, faces)
        # By content, not by name: what is made from the faces must not depend on how the photos are called.
        return faces.subset(np.argsort(np.array(faces.digests), kind="stable"))

    def _tell_skipped(self, folder: Path, faces: FaceSet) -> None:
        for skip in faces.skipped[:_SHOWN_SKIPS]:
            self.note(f"skipped {skip.file}: {skip.reason}")
        more = len(faces.skipped) - _SHOWN_SKIPS
        if more > 0:
            kinds = ", ".join(f"{count} {KINDS[kind]}" for kind, count in faces.count_skipped().items())
            total = len(faces) + len(faces.skipped)
            self.note(f"and {more} more; skipped {len(faces.skipped)} of {total} photos in {folder}: {kinds}")
        if faces.note:
            self.note(f"{folder}: {faces.note}")

    @cached_property
    def original(self) -> Original:
        """The network as it was handed in, its noise fixed where that was asked for.

        Raises:
            BadInputError: an input is not what its description says.
            ModelError: its pictures are random, or one sample's depends on the others of its batch; names the node.
        """
        s = self.settings
        noise = None if s.noise is None else parse_noise(s.noise)
        self.progress("model", 0, 0)
        model = s.source.load(list_input_shapes(s.preset, self.embedder.dim))
        for note in s.source.notes:
            self.note(note)
        takes = read_input_specs(model)
        fits = fit_inputs(s.preset, takes, self.embedder.dim)
        shapes = {name: fit.shape for name, fit in fits.items()}
        self._projection = find_projection(s.preset, model)
        original = Original(s.source, model) if noise is None else fix_original_noise(s.source, model, noise, shapes)
        if noise is not None:
            self.warn(f"noise is fixed (--noise {noise}) in {', '.join(original.fixed)}, in the engine, too")
        require_no_noise(original.loaded)
        require_samples_apart(original.loaded, shapes, single=batch_of(s.preset, takes, fits) == 1)
        return original

    @cached_property
    def fitted(self) -> DescribedModel:
        """The model, prepared as its inputs and its picture are described."""
        s = self.settings
        found = prepare_described(self.original.loaded, s.preset, self.embedder.dim)
        self.original = self.original.without_weights()  # the prepared model has them now
        require_batch(found, s.batch)
        if found.dropped:
            self.note(f"the picture is {found.preset.output.name}; left out of the engine: {', '.join(found.dropped)}")
        return found

    @property
    def prepared(self) -> PreparedModel:
        """The model in the one form that all rooms work on."""
        return self.fitted.prepared

    @property
    def preset(self) -> Preset:
        """How the model is fed, with the picture's name, layout and range as they were found."""
        return self.fitted.preset

    @property
    def contract(self) -> Contract:
        """How the model is fed."""
        preset = self.preset  # loads the projection, too
        return Contract(preset, self._projection)

    @cached_property
    def view(self) -> GraphView:
        """The prepared graph, indexed."""
        return GraphView(self.prepared.model)

    def feeder(self, faces: FaceSet) -> Feeder:
        """Network inputs for ``faces``."""
        prepared = self.prepared  # loads the projection, too
        fixed_batch = None if prepared.dynamic_batch else prepared.fixed_batch
        return Feeder(self.preset, faces, self.embedder, self._projection, fixed_batch, prepared.inputs)

    @property
    def batch(self) -> int:
        """Samples per inference."""
        if self.one_at_a_time:
            return 1
        if not self.prepared.dynamic_batch:
            return self.prepared.fixed_batch
        names = (name for node in self.view.float_nodes() for name in node.output)
        largest = 4 * max((self.view.per_sample(name) for name in names), default=0)
        return max(min(feeding.BATCH, _BATCH_BYTES // max(largest, 1)), 1)

    @property
    def smallest_batch(self) -> int:
        """Samples per inference where every activation is kept, since that is what memory goes to."""
        return 1 if self.prepared.dynamic_batch else self.prepared.fixed_batch

    def renderer(self, faces: FaceSet) -> PictureRenderer:
        """Runs models on ``faces``."""
        return PictureRenderer(self.feeder(faces), str(self.preset.output.name), self.batch)

    @cached_property
    def cost(self) -> Cost:
        """What the build is expected to cost, and how much it therefore tries; told when first asked for."""
        calib, held_out = self.faces
        feeds = self.feeder(calib)(range(min(self.smallest_batch, len(calib))))
        self.progress("cost", 0, 0)
        timing = timed(self.prepared.model, feeds, self.smallest_batch)
        stores = self.choice.backend.name == "onnxruntime"
        task = task_of(self.settings, self.view, len(calib), len(held_out), stores)
        cost = cost_of(self.settings, task, timing)
        if cost.chosen.seconds >= TOLD_SECONDS or cost.cut:
            self.note(cost.told())
            self.progress = Paced(self.progress, self.note, cost.chosen.seconds)
        return cost

    @property
    def level(self) -> Level:
        """Limits of what is tried."""
        return self.cost.chosen.level

    @property
    def judged_batch(self) -> int:
        """Samples per inference where engines are judged: those that the engine is built for (its usual batch)."""
        return self.settings.batch.opt if self.prepared.dynamic_batch else self.prepared.fixed_batch

    def judge_renderer(self, faces: FaceSet) -> PictureRenderer:
        """Runs what is judged on ``faces``: always whole batches of the size that is built, filled up with repeats."""
        renderer, size = self.renderer(faces), self.judged_batch
        return replace(renderer, feeder=replace(renderer.feeder, fixed_batch=size), batch=size)

    def check_source(self, few: bool = False) -> None:
        """Hold the prepared graph against what was handed in, on the faces that engines are judged on.

        With ``few`` some faces have to do, where nothing is judged.

        Raises:
            ModelError: its pictures do not depend on the sample alone, or the exported graph is not the torch network.
            PreparationError: preparing it changed the picture.
            BadInputError: with ``strict``, the pictures are not what the description of the inputs would give.
        """
        model = self.prepared.model  # a model that does not fit is told before photos are read
        Proof(self).samples()
        if self.settings.noise is None:
            faces = self.faces[0]
            feeds = self.feeder(faces)(range(min(self.batch, _CHECKED_FACES, len(faces))))
            with OnnxRuntimeRunner(model, ours="the prepared graph") as runner:
                self.settings.source.check(runner.infer(feeds), feeds)
        if few:
            Proof(self).hold(few=True)
        else:
            self.agreement  # noqa: B018  # raises where preparing changed the picture
        self.look  # noqa: B018  # tells, or raises, where the pictures are no faces

    @cached_property
    def look(self) -> Look:
        """What the network's own pictures look like."""
        return check_looks(self)

    @cached_property
    def agreement(self) -> Agreement:
        """The prepared FP32 graph's pictures against those of what was handed in, on the faces that are judged."""
        return Proof(self).hold()

    @cached_property
    def reference(self) -> NDArray[np.float32]:
        """The pictures of the verification faces that what was handed in makes, run untouched."""
        faces = self.faces[1]
        with self.original.open_runner() as runner:
            pictures = self.judge_renderer(faces)(runner, None, self.progress, "reference pictures")
        return require_finite_pictures(pictures)

    def paint_reference(self, faces: FaceSet, stage: str, indices: Sequence[int] | None = None) -> NDArray[np.float32]:
        """The prepared FP32 graph's pictures of ``faces``: the yardstick of the search, and of corrections.

        Raises:
            ModelError: they hold NaN or infinity.
        """
        with OnnxRuntimeRunner(self.prepared.model, ours="the prepared graph") as runner:
            return require_finite_pictures(self.renderer(faces)(runner, indices, self.progress, stage))


def _enough(folder: Path, faces: FaceSet, minimum: int = MIN_FACES) -> str | None:
    try:
        return require_enough(faces, minimum)
    except FacesError as error:
        raise FacesError(f"{folder}: {error.message}", error.remedy) from error
