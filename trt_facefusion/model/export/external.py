"""Weights that lie in files beside the model.

A file must lie in the model's own folder. Hubs keep a cache of links: `snapshots/REVISION/x.onnx` and the weights
beside it both lead into `blobs/`. Such a link is followed where it leads into the folder of the model's real file, or
into the `blobs` of the hub that the model's folder is part of; every other is refused, naming where it leads.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from onnx import TensorProto

from trt_facefusion.errors import ModelError
from trt_facefusion.model.messages import count_element_bits, count_tensor_bytes

_SLACK_BYTES = 64 << 20


@dataclass(frozen=True)
class ExternalPiece:
    """Where the values of one tensor lie."""

    location: str
    offset: int
    length: int | None


def is_external(tensor: TensorProto) -> bool:
    """Whether the values lie outside of the model's file."""
    return tensor.data_location == TensorProto.EXTERNAL


def locate_data_files(tensors: Iterable[TensorProto], path: Path) -> dict[str, Path]:
    """The real files by the location that the model in ``path`` names.

    Raises:
        ModelError: a location outside of the model's folder, a link that leaves it, a file that is missing or none.
    """
    locations = dict.fromkeys(_parse_piece(tensor, path).location for tensor in tensors if is_external(tensor))
    return {location: _locate_file(location, path) for location in locations}


def load_external_data(tensors: Iterable[TensorProto], path: Path) -> None:
    """Read the values of all ``tensors`` that lie outside of the model in ``path``.

    Raises:
        ModelError: as `locate_data_files`; a file that is too short, or a tensor whose bytes do not fit its shape.
    """
    outside = [tensor for tensor in tensors if is_external(tensor)]
    files = locate_data_files(outside, path)
    _require_plausible(outside, files, path)
    for tensor in outside:
        piece = _parse_piece(tensor, path)
        tensor.raw_data = _read(files[piece.location], piece, tensor, path)
        tensor.data_location = TensorProto.DEFAULT
        del tensor.external_data[:]


def _parse_piece(tensor: TensorProto, path: Path) -> ExternalPiece:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    try:
        offset, length = int(entries.get("offset", 0)), entries.get("length")
        piece = ExternalPiece(entries.get("location", ""), offset, None if length is None else int(length))
    except ValueError as error:
        raise ModelError(
            f"{path}: where the weights {tensor.name!r} lie is no number ({error})", "export the model again"
        ) from error
    if piece.offset < 0 or (piece.length or 0) < 0:
        raise ModelError(f"{path}: the weights {tensor.name!r} lie at a negative place", "export the model again")
    return piece


def _locate_file(location: str, path: Path) -> Path:
    beside = "put the weights beside the model; a file that points elsewhere is not read"
    if not location or "\0" in location or Path(location).is_absolute() or ".." in Path(location).parts:
        raise ModelError(f"{path} wants weights from {location!r}, outside its own folder", beside)
    named = path.parent / location
    folders = _list_allowed_folders(path)
    for candidate in (named, path.resolve().parent / location):
        if not os.path.lexists(candidate):
            continue
        real = candidate.resolve()
        if not any(real.is_relative_to(folder) for folder in folders):
            raise ModelError(
                f"{path} wants weights from {location!r}, which is a link to {real}, outside the model's own folder",
                "put the weights themselves beside the model; only links inside the model's folder, or inside the "
                "hub's cache that it lies in, are followed",
            )
        if real.is_file():
            return real
        what = "leads to nothing" if not real.exists() else "is no regular file"
        raise ModelError(f"{path} needs the weights file {location!r}, which {what}", beside)
    raise ModelError(f"{path} needs the weights file {location!r}, which is missing", "put it beside the model")


def _list_allowed_folders(path: Path) -> list[Path]:
    """Where weights may really lie."""
    here = Path(os.path.abspath(path.parent))  # noqa: PTH100  # `resolve` would follow the links that tell of a hub
    folders = [path.resolve().parent, path.parent.resolve()]
    for snapshots in (part for part in (here, *here.parents) if part.name == "snapshots"):
        folders.append((snapshots.parent / "blobs").resolve())
    return folders


def _require_plausible(tensors: list[TensorProto], files: Mapping[str, Path], path: Path) -> None:
    """A small file that is read many times over is an attack on the memory."""
    asked = sum(count_tensor_bytes(tensor) for tensor in tensors)
    there = sum(file.stat().st_size for file in set(files.values()))
    if asked > 2 * there + _SLACK_BYTES:
        raise ModelError(
            f"{path} asks for {asked / 1e9:.1f} GB of weights from files that hold {there / 1e9:.1f} GB",
            "the weights were cut off, or the model is damaged: export or download both again",
        )


def _read(file: Path, piece: ExternalPiece, tensor: TensorProto, path: Path) -> bytes:
    needed = count_tensor_bytes(tensor)
    length = needed if piece.length is None else piece.length
    if not count_element_bits(tensor.data_type) or length != needed:
        raise ModelError(
            f"{path}: the weights {tensor.name!r} take {needed} bytes by their shape {list(tensor.dims)}, "
            f"but {length} are said to lie in {piece.location!r}",
            "export the model again",
        )
    try:
        with file.open("rb") as opened:
            if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
                raise ModelError(f"{path}: the weights file {piece.location!r} is no regular file", "export it again")
            opened.seek(piece.offset)
            data = opened.read(length)
    except OSError as error:
        raise ModelError(f"cannot read the weights of {path}: {error}", "check the file's rights") from error
    if len(data) < length:
        raise ModelError(
            f"the weights file {piece.location!r} of {path} is cut off: {tensor.name!r} lies behind its end",
            "export or download the weights again",
        )
    return data
