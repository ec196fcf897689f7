"""A backend as the recipe in docs/architecture.md has it: this file, and one line in the registry."""

from __future__ import annotations

import time

from trt_facefusion.engine.backends.base import BuildRequest, BuiltEngine, RunOptions
from trt_facefusion.engine.backends.capabilities import Capabilities, Library
from trt_facefusion.engine.backends.checks import load_checked
from trt_facefusion.engine.runtime.base import Runner
from trt_facefusion.engine.runtime.onnxruntime import OnnxRuntimeRunner
from trt_facefusion.errors import BackendUnavailableError, DeviceError, pip_install
from trt_facefusion.types import Progress, silent

MAGIC = b"toy engine\n"


class ToyRunner(OnnxRuntimeRunner):
    """Runs what follows the magic words of a toy engine."""

    def __init__(self, engine: bytes, options: RunOptions) -> None:
        if not engine.startswith(MAGIC):
            raise DeviceError("This is no toy engine.", "Build it again.")
        super().__init__(engine.removeprefix(MAGIC), threads=options.threads)


class Toy:
    name = "toy"
    suffix = "toy"
    library = Library("toy_compiler", "Toy", ("toy",), extra="toy")
    capabilities = Capabilities(needs_gpu=False)
    caution = "toys are for tests"

    def version(self) -> str:
        return "1.0"

    def targets(self) -> tuple[str, ...]:
        return ("toy1",)

    def default_target(self) -> str:
        return "toy1"

    def recommend(self, target: str) -> str | None:
        return "toys for toys" if target == "toy1" else None

    def require(self, target: str) -> None:
        if target != "toy1":
            raise BackendUnavailableError(f"toy does not build for {target!r}.", pip_install(self.library.extra))

    def check(self, model: bytes) -> None:
        load_checked(model)

    def build(self, request: BuildRequest, progress: Progress = silent) -> BuiltEngine:
        self.require(request.target)
        started = time.monotonic()
        progress("compile", 0, 100)
        data = MAGIC + request.model
        progress("compile", 100, 100)
        return BuiltEngine(
            data=data,
            backend=self.name,
            backend_version=self.version(),
            target=request.target,
            kernels=(),
            kernels_known=False,
            engine_bytes=len(data),
            weights_bytes=None,
            activations_bytes=None,
            seconds=time.monotonic() - started,
        )

    def open(self, engine: bytes, options: RunOptions) -> Runner:
        return ToyRunner(engine, options)
