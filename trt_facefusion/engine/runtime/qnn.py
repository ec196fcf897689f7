"""Runs engines for Qualcomm's neural processor (HTP) in the simulator of Qualcomm's own library, on a CPU.

The library is an execution provider that onnxruntime loads beside its own. An engine is a small ONNX whose operator
`EPContext` holds the compiled context binary. What is written beside it (`EngineNote`) says for which chip and with
which version it was compiled, and the digest of the binary: Qualcomm's loader is given nothing but what was compiled.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import cache
from types import ModuleType
from typing import Any

import onnx

from trt_facefusion.engine.runtime.in_flight import require_slots
from trt_facefusion.engine.runtime.session import SessionRunner, join_lines
from trt_facefusion.errors import BackendUnavailableError, DeviceError, pip_install
from trt_facefusion.model.sessions import make_session_options, open_device_session

CONTEXT = "EPContext"
_BINARY = "ep_cache_context"
_PREFIX = "trt_ff_"
_REBUILD = "An engine runs only with the library's version that compiled it: build it again (`trt-ff build`)."


@dataclass(frozen=True)
class EngineNote:
    """What an engine says of itself.

    ``chip`` is the target, ``soc_model`` and ``htp_arch`` Qualcomm's numbers for it, ``library`` the version of
    onnxruntime-qnn, ``sdk`` that of Qualcomm's compiler in it, ``sha256`` the digest of the context binary.
    """

    chip: str
    soc_model: str
    htp_arch: str
    library: str
    sdk: str
    sha256: str


def write_note(model: onnx.ModelProto, chip: str, soc_model: int, htp_arch: int) -> EngineNote:
    """Write beside a compiled ``model`` for which chip and with what it was compiled; gives what was written."""
    module = import_qnn()
    digest = hashlib.sha256(read_binary(model)).hexdigest()
    sdk = str(module.build_and_package_info.qnn_version)
    note = EngineNote(chip, str(soc_model), str(htp_arch), str(module.__version__), sdk, digest)
    for key, text in asdict(note).items():
        model.metadata_props.add(key=_PREFIX + key, value=text)
    return note


def read_binary(model: onnx.ModelProto) -> bytes:
    """The context binary of a compiled model; empty where the compiler took nothing of it."""
    nodes = [node for node in model.graph.node if node.op_type == CONTEXT]
    return b"".join(a.s for node in nodes for a in node.attribute if a.name == _BINARY)


def read_note(engine: bytes) -> EngineNote:
    """What an engine says of itself; its binary is held against the digest there.

    Raises:
        DeviceError: it is no such engine, or is damaged.
    """
    try:
        model = onnx.load_model_from_string(engine)
        props = {entry.key: entry.value for entry in model.metadata_props}
        note = EngineNote(**{f.name: props[_PREFIX + f.name] for f in fields(EngineNote)})
        whole = hashlib.sha256(read_binary(model)).hexdigest() == note.sha256
    except Exception as error:  # protobuf's DecodeError, and what is missing in it
        raise DeviceError(f"This is no engine for a neural processor, or it is damaged: {error}", _REBUILD) from error
    if not whole:
        raise DeviceError("The engine is damaged: its context binary is not the one that was compiled.", _REBUILD)
    return note


class QnnRunner(SessionRunner):
    """Runs an engine in Qualcomm's simulator; any number of threads may call it, and it runs one inference at a time.

    The simulator computes what the chip computes, on the CPU and thousands of times slower.

    Args:
        engine: the engine, as the backend ``qnn`` built it.
        threads: CPU threads of what is left to the CPU.
        slots: inferences that ``infer_async`` and ``map`` take at once.

    Raises:
        BackendUnavailableError: onnxruntime-qnn is not installed.
        BadInputError: ``slots`` is below 1.
        DeviceError: the engine is damaged, of another version, or refused.
    """

    def __init__(self, engine: bytes, threads: int | None = None, slots: int = 2) -> None:
        require_slots(slots)
        note, version = read_note(engine), str(import_qnn().__version__)
        if note.library != version:
            raise DeviceError(
                f"The engine was compiled by onnxruntime-qnn {note.library}, and {version} is installed.", _REBUILD
            )
        options = {"soc_model": note.soc_model, "htp_arch": note.htp_arch}
        try:
            session = open_qnn_session(engine, options, threads=threads)
        except Exception as error:  # onnxruntime has a class of its own for each status code, with no common base
            raise DeviceError(f"Qualcomm's library refused the engine: {join_lines(error)}", _REBUILD) from error
        super().__init__(session, slots, one_at_a_time=True)

    @property
    def shape_ranges(self) -> Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]:
        """The one shape of each input, as smallest and largest."""
        shapes = {spec.name: tuple(int(size) for size in spec.shape) for spec in self._inputs}
        return {name: (shape, shape) for name, shape in shapes.items()}

    def explain_failure(self, error: Exception) -> Exception:
        """A DeviceError."""
        return DeviceError(
            f"Qualcomm's simulator failed: {join_lines(error)}",
            "Check the values that it is fed, or run its typed.onnx with onnxruntime.",
        )


def import_qnn() -> ModuleType:
    """The module ``onnxruntime_qnn``. Raises BackendUnavailableError when it cannot be loaded."""
    try:
        return importlib.import_module("onnxruntime_qnn")
    except (ImportError, OSError) as error:
        raise BackendUnavailableError(
            f"Qualcomm's compiler (onnxruntime-qnn) cannot be loaded: {error}",
            f"Install it with `{pip_install('qnn')}`; there are wheels for Linux with glibc 2.35 and Python 3.11 on.",
        ) from error


@cache
def _find_device() -> Any:
    """What onnxruntime calls the processor, of the provider's library that is registered once for this process.

    Raises:
        BackendUnavailableError: the library cannot be loaded.
    """
    import onnxruntime as ort

    module = import_qnn()
    name = module.get_ep_name()
    try:
        ort.register_execution_provider_library(name, module.get_library_path())
        return next(device for device in ort.get_ep_devices() if device.ep_name == name)
    except Exception as error:
        raise BackendUnavailableError(
            f"onnxruntime cannot load Qualcomm's library: {join_lines(error)}",
            f"Install tested versions with `{pip_install('qnn')}`.",
        ) from error


def open_qnn_session(
    model: bytes,
    options: Mapping[str, str],
    entries: Mapping[str, str] | None = None,
    threads: int | None = None,
) -> Any:
    """An onnxruntime session of ``model`` on the processor (its simulator), with the provider's ``options``.

    ``entries`` are those of the session's configuration. What the library writes to the console is left out.

    Raises:
        BackendUnavailableError: the library is not installed.
        Exception: the library refuses the model; onnxruntime's exceptions have no common base.
    """
    device = _find_device()
    session_options = make_session_options(threads)
    for key, text in (entries or {}).items():
        session_options.add_session_config_entry(key, text)
    session_options.add_provider_for_devices([device], {"backend_path": import_qnn().get_qnn_htp_path(), **options})
    with _silence():
        return open_device_session(model, session_options)


@contextmanager
def _silence() -> Iterator[None]:
    """Without what native code writes to standard output and error: the console belongs to the command line."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [(number, os.dup(number)) for number in (1, 2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        for number, _ in kept:
            os.dup2(nowhere, number)
        yield
    finally:
        for number, copy in kept:
            os.dup2(copy, number)
            os.close(copy)
        os.close(nowhere)
