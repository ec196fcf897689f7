"""What `diff`, `profile` and the runtime are pointed at: a stored engine, a model's folder, or an ONNX file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trt_facefusion.errors import BadInputError
from trt_facefusion.presets.contract import Contract
from trt_facefusion.runtime.base import Runner
from trt_facefusion.runtime.onnxruntime import OnnxRuntimeRunner
from trt_facefusion.store.manifest import Manifest
from trt_facefusion.store.store import MANIFEST, Store

TYPED = "typed.onnx"


@dataclass(frozen=True)
class Subject:
    """Something that runs.

    ``engine`` is the file that is run; ``graph`` the ONNX that says what is in it, and that stands in for it on a CPU.
    ``manifest`` and ``contract`` are None for an ONNX file that no store knows.
    """

    label: str
    engine: Path
    graph: Path
    manifest: Manifest | None = None
    contract: Contract | None = None

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
            StoreError: the engine does not fit this machine; the remedy holds the command that builds one that does.
            BackendUnavailableError: no GPU, no pycuda or no TensorRT.
            DeviceError: TensorRT refused the engine.
            ModelError: ONNX Runtime cannot load the model.
        """
        if not self.needs_gpu or stand_in:
            return OnnxRuntimeRunner(self.graph, threads=threads, stand_in=stand_in and self.needs_gpu)
        from trt_facefusion.runtime.pycuda import PycudaRunner

        return PycudaRunner(self.engine.read_bytes(), slots=slots, device=device)


def subject(path: Path) -> Subject:
    """What ``path`` names: an engine's folder, a file in it, or an ONNX file.

    Raises:
        BadInputError: nothing of that kind is there.
        StoreError: the engine's folder is damaged.
    """
    if path.is_dir() and (path / MANIFEST).is_file():
        return _stored(path)
    if path.is_file() and path.name.startswith("engine.") and (path.parent / MANIFEST).is_file():
        return _stored(path.parent)
    if path.is_file() and path.suffix == ".onnx":
        folder = path.parent
        contract = Contract.load(folder) if path.name == TYPED and (folder / MANIFEST).is_file() else None
        return Subject(path.name, path, path, None, contract)
    what = "there is nothing" if not path.exists() else "it is no engine's folder and no ONNX file"
    raise BadInputError(f"{path} cannot be run: {what}.", "Name an engine's folder (`trt-ff engines` lists them).")


def _stored(folder: Path) -> Subject:
    manifest = Store(folder.parent.parent).load(folder)
    engine = next(folder / name for name in manifest.files if name.startswith("engine."))
    label = f"{manifest.model}/{folder.name}"
    return Subject(label, engine, folder / TYPED, manifest, Contract.load(folder))
