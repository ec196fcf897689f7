"""What `diff`, `profile` and the runtime are pointed at: a stored engine, a model's folder, or an ONNX file."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

from trt_facefusion.engine.backends.base import Backend, RunOptions
from trt_facefusion.engine.backends.capabilities import Judged
from trt_facefusion.engine.backends.registry import get_backend
from trt_facefusion.engine.runtime.base import Runner, StatesShapes
from trt_facefusion.engine.runtime.onnxruntime import OnnxRuntimeRunner
from trt_facefusion.engine.store.fit import require_fit
from trt_facefusion.engine.store.identity import label_folder
from trt_facefusion.engine.store.machine import ask_machine, ask_machine_if_any, ask_processor
from trt_facefusion.engine.store.manifest import Manifest
from trt_facefusion.engine.store.store import MANIFEST, Store, damaged
from trt_facefusion.errors import BadInputError
from trt_facefusion.inference.select import select_engine
from trt_facefusion.model.presets.contract import Contract
from trt_facefusion.storage.files import make_store_error
from trt_facefusion.types import Precision

TYPED = "typed.onnx"


@dataclass(frozen=True)
class OpenedModel:
    """Something that runs.

    ``engine`` is the file that is run; ``graph`` the ONNX that says what is in it, and that stands in for it on a CPU.
    ``manifest`` and ``contract`` are None for an ONNX file that no store knows. ``notes`` say why this engine was taken
    where the path named a model; people should see them.
    """

    label: str
    engine: Path
    graph: Path
    manifest: Manifest | None = None
    contract: Contract | None = None
    notes: tuple[str, ...] = ()

    @property
    def backend(self) -> Backend | None:
        """What built it, None for an ONNX file. Raises BackendUnavailableError for a backend that there is not."""
        return None if self.manifest is None else get_backend(self.manifest.backend)

    @property
    def needs_gpu(self) -> bool:
        """Whether it runs on a GPU only."""
        return self.backend is not None and self.backend.capabilities.needs_gpu

    def open_runner(
        self,
        *,
        slots: int = 2,
        device: int = 0,
        stand_in: bool = False,
        threads: int | None = None,
        layers: bool = False,
    ) -> Runner:
        """A runner.

        Args:
            slots: inferences in flight.
            device: number of the GPU.
            stand_in: run the typed ONNX of an engine in onnxruntime on the CPU, with its FP16 rounding.
            threads: CPU threads (CPU only).
            layers: the runner is to tell times of layers, if it can.

        Raises:
            StoreError: the engine does not fit this machine, or is not what its manifest says; the remedy holds the
                command that builds one that does.
            BadInputError: there is no GPU of that number.
            BackendUnavailableError: no GPU, no pycuda, or the library of the engine is not installed.
            DeviceError: the library refused the engine.
            ModelError: ONNX Runtime cannot load the model.
        """
        manifest, backend = self.manifest, self.backend
        if manifest is None or backend is None:
            return OnnxRuntimeRunner(self.engine, threads=threads)
        if stand_in and backend.capabilities.judged is not Judged.TYPED_ONNX:
            return OnnxRuntimeRunner(self._read_stored_bytes(self.graph, manifest), threads=threads, stand_in=True)
        # An engine that is compatible with later versions brings its runtime along, and its digest is right.
        options = RunOptions(slots, device, threads, host_code=manifest.pins.version_compatible, layers=layers)
        content = self._read_stored_bytes(self.engine, manifest)
        _require_fit(manifest, backend, self.engine.parent, device)
        runner = backend.open(content, options)
        _require_stored_shapes(runner, manifest, self.engine)
        return runner

    def _read_stored_bytes(self, path: Path, manifest: Manifest) -> bytes:
        """A file of the engine's folder, which must be what was stored (it may have changed since it was looked at)."""
        try:
            content = path.read_bytes()
        except OSError as error:
            raise make_store_error(error, path, "read") from error
        stored = manifest.files.get(path.name)
        if stored is None or hashlib.sha256(content).hexdigest() != stored.sha256:
            raise damaged(path, manifest, "its content is not what was stored")
        return content


def _require_fit(manifest: Manifest, backend: Backend, folder: Path, device: int) -> None:
    """Refuse an engine that this machine (of those that need one: GPU ``device``) cannot run."""
    machine = ask_machine(device, [backend]) if backend.capabilities.needs_gpu else ask_processor([backend])
    if backend.name in machine.libraries:  # where it is not installed, loading says why
        require_fit(manifest, folder, machine)


def _require_stored_shapes(runner: Runner, manifest: Manifest, engine: Path) -> None:
    """Hold the shapes of an engine that states them against its manifest; closes a runner that is refused."""
    stored = {name: (low, high) for name, (low, _, high) in manifest.shapes.items()}
    if isinstance(runner, StatesShapes) and runner.shape_ranges != stored:
        ranges = runner.shape_ranges
        runner.close()
        raise damaged(engine, manifest, f"it takes {ranges}, and its manifest says {stored}")


def open_model(
    path: Path, precision: Precision | None = None, device: int = 0, *, stand_in: bool = False
) -> OpenedModel:
    """What ``path`` names: an engine's folder, a file in it, a model's folder in the store, or an ONNX file.

    Of a model's folder (``engines/MODEL``) the engine is taken that runs on GPU ``device`` of this machine, of
    ``precision`` if there is one that fits; without a GPU, an engine for the CPU, or with ``stand_in`` any.

    Raises:
        BadInputError: nothing of that kind is there.
        StoreError: the engine's folder is damaged, or no engine of the model fits this machine.
    """
    if path.name in {"", ".."}:
        path = path.resolve()
    if path.is_dir() and (path / MANIFEST).is_file():
        return _open_stored(path)
    if path.is_file() and path.name.startswith("engine.") and (path.parent / MANIFEST).is_file():
        return _open_stored(path.parent)
    if path.is_dir() and any(path.glob(f"*/{MANIFEST}")):
        selection = select_engine(path, ask_machine_if_any(device), precision, stand_in=stand_in)
        return replace(_open_stored(selection.folder), notes=selection.notes)
    if path.is_file() and path.suffix == ".onnx":
        folder = path.parent
        contract = Contract.load(folder) if path.name == TYPED and (folder / MANIFEST).is_file() else None
        return OpenedModel(path.name, path, path, None, contract)
    what = "there is nothing" if not path.exists() else "it is no engine's folder, no model's folder and no ONNX file"
    raise BadInputError(f"{path} cannot be run: {what}.", "Name an engine's folder (`trt-ff engines` lists them).")


def _open_stored(folder: Path) -> OpenedModel:
    manifest = Store(folder.parent.parent).load(folder)
    engine = next(folder / name for name in manifest.files if name.startswith("engine."))
    label = f"{label_folder(folder, manifest)}/{folder.name}"
    return OpenedModel(label, engine, folder / TYPED, manifest, Contract.load(folder))
