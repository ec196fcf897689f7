"""The one place where onnxruntime sessions are opened: quiet, from models of any size, mostly on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx

from trt_facefusion.errors import StoreError
from trt_facefusion.model.messages import count_weight_bytes, is_one_piece, write_with_data
from trt_facefusion.storage.leftovers import scratch_folder

IN_MEMORY_BYTES = 64 << 20
"""Weights of more than this go through a file: onnxruntime keeps the bytes that it is given for as long as a session
lives, and copies them while it loads; what lies in a file beside the model it only maps."""

_EXACT_INTEGERS = "session.x64quantprecision"
"""Without VNNI, onnxruntime adds products of uint8 and int8 in 16 bits, which overflow. With this it makes the weights
uint8, whose products it adds in 32 bits, on such processors only."""
_REST = "session.force_spinning_stop"
"""Otherwise threads wait actively for 35 ms behind each inference, and whatever runs then has a core less."""
_SILENT = 4
_SHARED_WEIGHT = "AddInitializedOrtValue"


def make_session_options(threads: int | None = None, *, spin: bool = True) -> Any:
    """Options of a session that prints nothing: errors are raised, and the console belongs to the command line.

    Args:
        threads: CPU threads of one inference; None leaves it to onnxruntime.
        spin: whether threads wait actively for work within an inference, which takes the cores from everything else.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = _SILENT
    options.add_session_config_entry(_EXACT_INTEGERS, "1")
    options.add_session_config_entry(_REST, "1")
    options.intra_op_num_threads = threads or 0
    if not spin:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def open_session(
    model: bytes | Path | onnx.ModelProto,
    options: Any | None = None,
    change: Callable[[onnx.GraphProto], None] | None = None,
) -> Any:
    """An onnxruntime session of ``model`` on the CPU.

    A model in memory whose weights are large goes through a temporary folder, which is gone afterwards. ``change`` is
    made to a copy of the graph of such a model, whose weights hold no values then.

    Raises:
        StoreError: the temporary folder cannot hold the weights.
        Exception: onnxruntime refuses the model; it has an exception for each kind of failure, with no common base.
    """
    options = make_session_options() if options is None else options
    if isinstance(model, Path):
        return _open(str(model), options)
    if isinstance(model, bytes):
        return _open(model, options)
    return open_from_builder(lambda: model, options, change)


def open_default_session(model: bytes) -> Any:
    """A session as tools open one that set no options: onnxruntime's defaults, but quiet, on the CPU.

    Raises:
        Exception: as `open_session`.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = _SILENT
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def open_device_session(model: bytes, options: Any) -> Any:
    """A session on the device that was added to its ``options``.

    Raises:
        Exception: as `open_session`.
    """
    import onnxruntime as ort

    return ort.InferenceSession(model, options)


def open_from_builder(
    make: Callable[[], onnx.ModelProto], options: Any, change: Callable[[onnx.GraphProto], None] | None = None
) -> Any:
    """`open_session` of the model that ``make`` gives, which is let go of before onnxruntime loads it.

    Raises: as `open_session`.
    """
    model = make()
    if count_weight_bytes(model) <= IN_MEMORY_BYTES and is_one_piece(model):
        serialised = _apply_change(model, change).SerializeToString()
        del model
        return _open(serialised, options)
    with scratch_folder() as folder:
        source = _write_model(model, Path(folder), change)
        del model
        return _open(source, options)


def _write_model(model: onnx.ModelProto, folder: Path, change: Callable[[onnx.GraphProto], None] | None) -> str | bytes:
    """The path of a large model inside ``folder``; its bytes where that has no room."""
    try:
        return str(write_with_data(model, folder, change))
    except OSError as error:
        if is_one_piece(model):
            return _apply_change(model, change).SerializeToString()
        raise StoreError(
            f"the temporary folder {folder} cannot hold the network's weights: {error.strerror or error}",
            "name a larger one with the environment variable TMPDIR",
        ) from error


def _apply_change(model: onnx.ModelProto, change: Callable[[onnx.GraphProto], None] | None) -> onnx.ModelProto:
    if change is None:
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    change(copy.graph)
    return copy


def _open(source: str | bytes, options: Any) -> Any:
    import onnxruntime as ort

    try:
        return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        if _SHARED_WEIGHT not in str(error):
            raise
        # It cannot do that where two nodes dequantise one weight, and then runs a file as it always did.
        ort.set_default_logger_severity(_SILENT)  # it would warn that the entry changes
        options.add_session_config_entry(_EXACT_INTEGERS, "0")
        return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
