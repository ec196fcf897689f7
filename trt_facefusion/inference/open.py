"""What `diff`, `profile` and the runtime are pointed at: a stored engine, a model's folder, or an ONNX file."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

from trt_facefusion.engine.backends.pins import LIBRARIES
from trt_facefusion.engine.runtime.base import Runner
from trt_facefusion.engine.runtime.machine import machine_as_far_as_known, this_machine
from trt_facefusion.engine.runtime.onnxruntime import OnnxRuntimeRunner
from trt_facefusion.engine.store.fit import require_fit
from trt_facefusion.engine.store.identity import folder_label
from trt_facefusion.engine.store.manifest import Manifest
from trt_facefusion.engine.store.store import MANIFEST, Store, damaged
from trt_facefusion.errors import BadInputError
from trt_facefusion.inference.select import choose
from trt_facefusion.model.presets.contract import Contract
from trt_facefusion.storage.files import store_error
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
    def needs_gpu(self) -> bool:
        """Whether it is a TensorRT engine."""
        return self.engine.suffix != ".onnx"

    def open(self, *, slots: int = 2, device: int = 0, stand_in: bool = False, threads: int | None = None) -> Runner:
        """A runner.

        Args:
            slots: inferences in flight (GPU only).
            device: number of the GPU.
            stand_in: run the typed ONNX of a GPU engine on the CPU, with its FP16 rounding.
            threads: CPU threads (CPU only).

        Raises:
            StoreError: the engine does not fit this machine, or is not what its manifest says; the remedy holds the
                command that builds one that does.
            BadInputError: there is no GPU of that number.
            BackendUnavailableError: no GPU, no pycuda or no TensorRT.
            DeviceError: TensorRT refused the engine.
            ModelError: ONNX Runtime cannot load the model.
        """
        if not self.needs_gpu or self.manifest is None:
            return OnnxRuntimeRunner(self._stored_bytes(self.engine) or self.engine, threads=threads)
        if stand_in:
            return OnnxRuntimeRunner(self._stored_bytes(self.graph) or self.graph, threads=threads, stand_in=True)
        return _on_the_gpu(self.manifest, self.engine, self._stored_bytes(self.engine) or b"", slots, device)

    def _stored_bytes(self, path: Path) -> bytes | None:
        """A file of the engine's folder, which must be what was stored (it may have changed since it was looked at)."""
        if self.manifest is None:
            return None
        try:
            data = path.read_bytes()
        except OSError as error:
            raise store_error(error, path, "read") from error
        stored = self.manifest.files.get(path.name)
        if stored is None or hashlib.sha256(data).hexdigest() != stored.sha256:
            raise damaged(path, self.manifest, "its content is not what was stored")
        return data


def _on_the_gpu(manifest: Manifest, engine: Path, data: bytes, slots: int, device: int) -> Runner:
    from trt_facefusion.engine.runtime.pycuda import PycudaRunner

    machine = this_machine(device, [manifest.backend])
    if manifest.backend in machine.libraries:  # where it is not installed, loading says why
        require_fit(manifest, engine.parent, machine)
    library, _ = LIBRARIES[manifest.backend]
    host_code = manifest.pins.version_compatible  # such an engine brings its runtime along, and its digest is right
    runner = PycudaRunner(data, slots=slots, device=device, library=library, host_code=host_code)
    stored = {name: (low, high) for name, (low, _, high) in manifest.shapes.items()}
    if runner.shape_ranges != stored:
        found = runner.shape_ranges
        runner.close()
        raise damaged(engine, manifest, f"it takes {found}, and its manifest says {stored}")
    return runner


def open_model(path: Path, precision: Precision | None = None, device: int = 0) -> OpenedModel:
    """What ``path`` names: an engine's folder, a file in it, a model's folder in the store, or an ONNX file.

    Of a model's folder (``engines/MODEL``) the engine is taken that runs on GPU ``device`` of this machine, of
    ``precision`` if there is one that fits; without a GPU, an engine for the CPU.

    Raises:
        BadInputError: nothing of that kind is there.
        StoreError: the engine's folder is damaged, or no engine of the model fits this machine.
    """
    if path.name in {"", ".."}:
        path = path.resolve()
    if path.is_dir() and (path / MANIFEST).is_file():
        return _stored(path)
    if path.is_file() and path.name.startswith("engine.") and (path.parent / MANIFEST).is_file():
        return _stored(path.parent)
    if path.is_dir() and any(path.glob(f"*/{MANIFEST}")):
        choice = choose(path, machine_as_far_as_known(device), precision)
        return replace(_stored(choice.folder), notes=choice.notes)
    if path.is_file() and path.suffix == ".onnx":
        folder = path.parent
        contract = Contract.load(folder) if path.name == TYPED and (folder / MANIFEST).is_file() else None
        return OpenedModel(path.name, path, path, None, contract)
    what = "there is nothing" if not path.exists() else "it is no engine's folder, no model's folder and no ONNX file"
    raise BadInputError(f"{path} cannot be run: {what}.", "Name an engine's folder (`trt-ff engines` lists them).")


def _stored(folder: Path) -> OpenedModel:
    manifest = Store(folder.parent.parent).load(folder)
    engine = next(folder / name for name in manifest.files if name.startswith("engine."))
    label = f"{folder_label(folder, manifest)}/{folder.name}"
    return OpenedModel(label, engine, folder / TYPED, manifest, Contract.load(folder))
