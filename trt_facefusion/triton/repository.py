"""Engines -> a model repository, or a new version in one that is there; written whole or not at all.

A new repository appears by one rename. Of a version that joins others all models are filled before the first appears,
by one rename each, the ensemble last; nothing of it is loaded before Triton is told to.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trt_facefusion.dropin.graph import find_opset
from trt_facefusion.engine.store.atomic import commit_folder
from trt_facefusion.engine.store.lock import build_lock
from trt_facefusion.engine.store.manifest import Manifest
from trt_facefusion.errors import BadInputError, StoreError
from trt_facefusion.inference.open import TYPED, OpenedModel, open_model
from trt_facefusion.model.export.onnx_file import load_model
from trt_facefusion.model.presets.contract import Contract
from trt_facefusion.storage.files import write_atomic, write_synced
from trt_facefusion.swap.provenance import METADATA
from trt_facefusion.triton.border import read_border
from trt_facefusion.triton.configs import (
    CI_FILE,
    ONNX,
    ONNX_FILE,
    TENSORRT,
    ServedModel,
    ServingSettings,
    describe_ci,
    describe_ensemble,
    describe_generator,
    describe_postprocess,
    describe_preprocess,
)
from trt_facefusion.triton.deploy import Deployment, list_arguments, make_files
from trt_facefusion.triton.gpus import assign_engines
from trt_facefusion.triton.messages import read_config, write_config
from trt_facefusion.triton.releases import RELEASE, list_onnx_doubts, list_tensorrt_doubts, name_image
from trt_facefusion.triton.steps import STEPS_FILE, PhotoSteps, StepsDocument, StoredTensor
from trt_facefusion.triton.warmup import make_warmup
from trt_facefusion.types import Note, Precision, drop_note

CONFIG = "config.pbtxt"
CI_CONFIG = "configs/ci.pbtxt"
"""What ``tritonserver --model-config-name=ci`` reads in place of `CONFIG`."""
MODEL_FILE = "model.py"
_OPTION = "-o"
_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_MODEL = '''"""{job}: see trt_facefusion.triton.python_models."""

from trt_facefusion.triton.python_models import {name} as TritonPythonModel

__all__ = ["TritonPythonModel"]
'''
Content = bytes | Path
"""A file's content, or the file that it is copied from."""


@dataclass(frozen=True)
class PackageRequest:
    """What is asked for.

    ``gpus`` (like ``a10g``) must each have an engine. ``version`` is the next one where none is named; one that is
    there is replaced with ``force`` only. ``networks`` are files of embedder, converter and detector, where not the
    bundled ones are used; ``sample`` is the photo that warms the generator up.
    """

    engines: tuple[Path, ...]
    output: Path
    name: str | None = None
    gpus: tuple[str, ...] = ()
    settings: ServingSettings = field(default_factory=ServingSettings)
    version: int | None = None
    ensemble: bool = True
    force: bool = False
    release: str = RELEASE
    image: str | None = None
    networks: Mapping[str, Path] = field(default_factory=dict)
    sample: Path | None = None
    provenance: str = METADATA


@dataclass(frozen=True)
class PackagedModel:
    """What was written: names of ``models``, the public one last; ``arguments`` start Triton with them."""

    repository: Path
    models: tuple[str, ...]
    version: int
    arguments: tuple[str, ...]
    kept: tuple[str, ...]


@dataclass(frozen=True)
class _Engine:
    opened: OpenedModel
    manifest: Manifest
    contract: Contract


@dataclass(frozen=True)
class _ModelFiles:
    """A model's folder: files of one version, by name, and those beside the versions."""

    version: Mapping[str, Content]
    others: Mapping[str, Content]


def package_engines(request: PackageRequest, note: Note = drop_note) -> PackagedModel:
    """Write the repository.

    Raises:
        BadInputError: engines do not belong together, a GPU that is named has none, a name cannot be used, the version
            is there already, or the repository holds another model of that name.
        BackendUnavailableError: tritonclient is not installed.
        FacesError: the sample photo shows no face.
        StoreError: an engine is damaged, or the repository cannot be written; it is as it was then.
    """
    name_image(request.release)
    engines = _open_engines(request.engines)
    model = _describe(request, engines)
    for doubt in _list_doubts(request, engines, model):
        note(doubt)
    steps = _make_steps(request, engines[0], model)
    root = request.output
    with build_lock(root.absolute()):
        version = _choose_version(request, model)
        models = _list_models(request, engines, model, steps)
        _refuse_other_models(root, models)
        deployment = _describe_deployment(request, engines, model)
        kept = _write(root, version, models, make_files(deployment), force=request.force)
    return PackagedModel(root, tuple(models), version, tuple(list_arguments(deployment, str(root))), kept)


def _open_engines(folders: Sequence[Path]) -> list[_Engine]:
    engines = []
    for folder in folders:
        opened = open_model(folder)
        if opened.manifest is None or opened.contract is None or opened.backend is None:
            raise BadInputError(f"{folder} is no engine that trt-ff built", "name an engine's folder")
        engines.append(_Engine(opened, opened.manifest, opened.contract))
    first = engines[0]
    for other in engines[1:]:
        _require_alike(first, other)
    return engines


def _require_alike(first: _Engine, other: _Engine) -> None:
    """Engines in one repository are of one model, fed alike, and of one version of one library."""
    for what, read in _ALIKE.items():
        if read(first) != read(other):
            raise BadInputError(
                f"{first.opened.label} and {other.opened.label} differ in {what}",
                "name engines of one model that were built alike for several GPUs",
            )


_ALIKE: Mapping[str, Callable[[_Engine], object]] = {
    "the model that they were built from": lambda engine: engine.manifest.inputs.model_sha256,
    "what builds them": lambda engine: engine.manifest.backend,
    "the version of what builds them": lambda engine: engine.manifest.backend_version,
    "how they are fed": lambda engine: engine.contract.files(),
}


def _describe(request: PackageRequest, engines: Sequence[_Engine]) -> ServedModel:
    first = engines[0]
    platform = _find_platform(first)
    borders = [read_border(engine.opened, engine.manifest, engine.contract) for engine in engines]
    narrowest = min(borders, key=lambda border: border.max_batch)
    files = None
    if platform == TENSORRT:
        manifests, folders = [e.manifest for e in engines], [e.opened.engine.parent for e in engines]
        files = assign_engines(manifests, folders, request.gpus)
    elif len(engines) > 1 or request.gpus:
        raise BadInputError("several engines, and GPUs, are for TensorRT only", "name one engine, and no --gpus")
    return ServedModel(
        _choose_name(request, first.manifest),
        first.contract.preset,
        narrowest,
        files,
        request.settings,
        _list_facts(first),
    )


def _find_platform(engine: _Engine) -> str:
    backend = engine.opened.backend
    platform = backend.capabilities.triton_platform if backend is not None else ""
    if platform not in {TENSORRT, ONNX}:
        raise BadInputError(
            f"Triton has nothing that loads an engine of {engine.manifest.backend}",
            "build one with --backend tensorrt on the GPU, or with --backend onnxruntime for the CPU",
        )
    return platform


def _choose_name(request: PackageRequest, manifest: Manifest) -> str:
    name = request.name or re.sub(r"[^a-z0-9]+", "_", manifest.model.lower()).strip("_")
    if not _NAME.fullmatch(name):
        raise BadInputError(
            f"{name!r} cannot be a model's name",
            "name one with --name: a letter, then letters, digits and _, 40 at most",
        )
    return name


def _list_facts(engine: _Engine) -> dict[str, str]:
    manifest = engine.manifest
    return {
        "precision": manifest.precision,
        "built_with": f"{manifest.backend} {manifest.backend_version}",
        "preset": engine.contract.preset.name,
        "model_sha256": manifest.inputs.model_sha256,
    }


def _list_doubts(request: PackageRequest, engines: Sequence[_Engine], model: ServedModel) -> Iterator[str]:
    first = engines[0]
    if model.files is not None:
        yield from list_tensorrt_doubts(first.manifest, request.release)
    else:
        yield from list_onnx_doubts(first.manifest, request.release, find_opset(load_model(first.opened.graph)))
    if len({engine.manifest.precision for engine in engines}) > 1:
        yield "warning: the engines differ in precision, so pictures will differ with the GPU"
    if model.files is not None and len(model.files.by_capability) > 1:
        yield "GPUs of different kinds in one server are not supported well by Triton: start one server for each kind"
    if model.border.max_batch < 2:
        yield "the engine takes one face at a time, so Triton merges nothing: build with --batch 1:4:8 for that"


def _make_steps(request: PackageRequest, engine: _Engine, model: ServedModel) -> tuple[StepsDocument, PhotoSteps]:
    document = StepsDocument(
        tuple(StoredTensor.of(spec) for spec in model.border.takes),
        tuple(StoredTensor.of(spec) for spec in model.border.gives),
        engine.manifest.precision != Precision.FP32.value,
        request.provenance,
        {kind: f"{kind}.onnx" for kind in request.networks},
    )
    return document, PhotoSteps(document, engine.contract, request.networks)


def _choose_version(request: PackageRequest, model: ServedModel) -> int:
    folder = request.output / model.name
    versions = sorted(int(path.name) for path in folder.glob("*") if path.name.isdigit())
    version = request.version if request.version is not None else max(versions, default=0) + 1
    if version < 1:
        raise BadInputError(f"there is no version {version}", "versions count from 1")
    if version in versions and not request.force:
        raise BadInputError(
            f"{folder / str(version)} is there already",
            f"leave --version out for version {versions[-1] + 1}, or replace it with --force",
        )
    return version


def _list_models(
    request: PackageRequest, engines: Sequence[_Engine], model: ServedModel, steps: tuple[StepsDocument, PhotoSteps]
) -> dict[str, _ModelFiles]:
    """The models in the order in which they appear; the ensemble last, because it needs the others."""
    models = {model.name: _list_generator_files(request, engines, model, steps[1])}
    if not request.ensemble:
        return models
    shared: dict[str, Content] = {
        STEPS_FILE: steps[0].as_json(),
        **engines[0].contract.files(),
        **{f"{kind}.onnx": path for kind, path in request.networks.items()},
    }
    before, behind = describe_preprocess(model), describe_postprocess(model)
    models[model.preprocess] = _ModelFiles({**shared, MODEL_FILE: _write_model("Preprocess")}, _config(before))
    models[model.postprocess] = _ModelFiles({**shared, MODEL_FILE: _write_model("Postprocess")}, _config(behind))
    versions = b"An ensemble has no files; Triton wants the folder.\n"
    models[model.ensemble] = _ModelFiles({"README": versions}, _config(describe_ensemble(model)))
    return models


def _list_generator_files(
    request: PackageRequest, engines: Sequence[_Engine], model: ServedModel, steps: PhotoSteps
) -> _ModelFiles:
    samples = make_warmup(steps, () if request.sample is None else (request.sample,))
    names = {name: f"input_{number}.raw" for number, name in enumerate(samples)}
    config = describe_generator(model, names)
    warmups: dict[str, Content] = {f"warmup/{names[name]}": values.tobytes() for name, values in samples.items()}
    version: dict[str, Content] = {}
    for number, engine in enumerate(engines):
        file = ONNX_FILE if model.files is None else model.files.files[number]
        version[file] = engine.opened.engine
        version[f"{Path(file).stem}.manifest.json"] = engine.manifest.to_json().encode()
    if model.files is not None:
        version[CI_FILE] = engines[0].opened.engine.parent / TYPED
        warmups[CI_CONFIG] = write_config(describe_ci(config))
    return _ModelFiles(version, {**warmups, **_config(config)})


def _config(config: Any) -> dict[str, Content]:
    return {CONFIG: write_config(config)}


def _write_model(name: str) -> bytes:
    return _MODEL.format(
        name=name, job="Before the generator" if name == "Preprocess" else "Behind the generator"
    ).encode()


def _refuse_other_models(root: Path, models: Mapping[str, _ModelFiles]) -> None:
    """A new version must take and give what the others do: clients, and the ensemble, count on it."""
    for name, files in models.items():
        folder = root / name
        if not folder.exists():
            continue
        try:
            present = read_config((folder / CONFIG).read_bytes())
        except Exception as error:  # OSError, UnicodeDecodeError, text_format's own
            raise StoreError(f"{folder / CONFIG} cannot be read: {error}", "take another --name or -o") from error
        config = files.others[CONFIG]
        assert isinstance(config, bytes)
        if _describe_border(present) != _describe_border(read_config(config)):
            raise BadInputError(
                f"{folder} takes or gives other tensors than this engine", "take another --name, or another repository"
            )


def _describe_border(config: Any) -> list[tuple[str, int, tuple[int, ...]]]:
    return [(tensor.name, tensor.data_type, tuple(tensor.dims)) for tensor in (*config.input, *config.output)]


def _describe_deployment(request: PackageRequest, engines: Sequence[_Engine], model: ServedModel) -> Deployment:
    loaded = (model.ensemble,) if request.ensemble else (model.name,)
    compatible = model.files is not None and any(engine.manifest.pins.version_compatible for engine in engines)
    return Deployment(request.release, model.name, loaded, model.files is not None, compatible, request.image)


def _write(
    root: Path, version: int, models: Mapping[str, _ModelFiles], deploy: Mapping[str, bytes], *, force: bool
) -> tuple[str, ...]:
    """Write what is asked for; gives the names of files that were there and stayed."""
    if not root.exists():
        with commit_folder(root) as folder:
            for name, files in models.items():
                _fill_model(folder / name, version, files)
            _fill(folder, deploy)
        return ()
    present = {name for name in models if (root / name).exists()}
    with ExitStack() as stack:  # all are filled before one appears; what was entered last appears first
        for name, files in reversed(list(models.items())):
            if name in present:
                folder = stack.enter_context(commit_folder(root / name / str(version)))
                _fill(folder, files.version)
            else:
                _fill_model(stack.enter_context(commit_folder(root / name)), version, files)
    for name in present:
        for file, content in models[name].others.items():
            assert isinstance(content, bytes)
            write_atomic(root / name / file, content, _OPTION)
    kept = [name for name, content in deploy.items() if not force and _is_another(root / name, content)]
    for name, content in deploy.items():
        if name not in kept:
            write_atomic(root / name, content, _OPTION)
    return tuple(kept)


def _is_another(path: Path, content: bytes) -> bool:
    return path.is_file() and path.read_bytes() != content


def _fill_model(folder: Path, version: int, files: _ModelFiles) -> None:
    _fill(folder, files.others)
    _fill(folder / str(version), files.version)


def _fill(folder: Path, files: Mapping[str, Content]) -> None:
    for name, content in files.items():
        _put(folder / name, content)


def _put(path: Path, content: Content) -> None:
    """Write a file, or copy one of any size; `commit_folder` forces both to the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        write_synced(path, content)
    else:
        shutil.copyfile(content, path)
