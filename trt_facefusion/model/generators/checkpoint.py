"""Loading a user's checkpoint without running code from it, in bounded time and memory."""

from __future__ import annotations

import pickle
import struct
import sys
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trt_facefusion.errors import ModelError
from trt_facefusion.model.generators.torch_here import require_torch
from trt_facefusion.model.generators.user_code import describe_cause, run_user_code, split_lines
from trt_facefusion.model.generators.weight_sets import WeightSet, choose_weights, list_prefixes
from trt_facefusion.storage.files import require_regular_file

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["load_weights", "read_state", "read_weights", "require_torch"]

_LARGEST_HEADER_BYTES = 64 << 20
"""Of what describes the tensors in a file: a state of a hundred thousand tensors takes 20 MB."""
_ROOM_BYTES = 1 << 30
"""What reading may take beside the weights."""
_WIDENING = 8
"""How much larger a file's weights may be in FP32, tied ones counted twice."""
_SHOWN_CHARACTERS = 200
_SAVE_ALONE = "save the weights alone: torch.save(net.state_dict(), FILE), or use safetensors"


def read_state(path: Path, key: str | None = None) -> Mapping[str, Tensor]:
    """The tensors that `read_weights` finds."""
    return read_weights(path, key).tensors


def read_weights(path: Path, key: str | None = None) -> WeightSet:
    """The weights in ``path`` (.safetensors, or .pth/.pt/.ckpt read with ``weights_only=True``), floats as FP32.

    ``key`` says which of several sets of weights (see `choose_weights`).

    Raises:
        ModelError: no such file, damaged, holds anything but plain tensors, claims more than it holds, has no weights
            under ``key``, or values that are not finite.
    """
    require_torch()
    require_regular_file(path, "checkpoint", ModelError)
    size = path.stat().st_size
    with _limit_memory(_WIDENING * size + _ROOM_BYTES):
        chosen = choose_weights(_read(path, size), key, path)
        total = 0
        for name, value in chosen.tensors.items():
            _require_plain(name, value, path)
            total += value.numel()
        if total * 4 > _WIDENING * size + (64 << 20):
            raise ModelError(f"{path} claims {total:,} weights in {size:,} bytes", "download or save it again")
        tensors = {name: _widen(name, value, path) for name, value in chosen.tensors.items()}
    return WeightSet(tensors, chosen.where, chosen.others)


def _read(path: Path, size: int) -> object:
    import torch

    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            _check_safetensors(path, size)
            return load_file(path)
        _check_archive(path, size)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except ModelError:
        raise
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path} holds Python objects, or is damaged: only plain weights are loaded", _SAVE_ALONE
        ) from error
    except (MemoryError, RecursionError) as error:
        raise ModelError(f"reading {path} takes more than its {size:,} bytes can need", _SAVE_ALONE) from error
    except Exception as error:
        raise ModelError(
            f"cannot read the checkpoint {path}: {describe_cause(error)}", "download or save it again"
        ) from error


def _check_archive(path: Path, size: int) -> None:
    """Refuse a zip file whose entries claim more than the file holds: torch would make room for all of it."""
    if not zipfile.is_zipfile(path):
        return  # torch's older format, which reads on
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if sum(entry.file_size for entry in entries) > size:
        raise ModelError(
            f"{path} unpacks to more than its {size:,} bytes: torch packs nothing", "download or save it again"
        )
    if any(e.filename.endswith(".pkl") and e.file_size > _LARGEST_HEADER_BYTES for e in entries):
        raise ModelError(f"{path}: what describes the weights is larger than any network needs", _SAVE_ALONE)


def _check_safetensors(path: Path, size: int) -> None:
    with path.open("rb") as file:
        start = file.read(8)
    if len(start) < 8:
        raise ModelError(f"cannot read the checkpoint {path}: it was cut off", "download or save it again")
    (header,) = struct.unpack("<Q", start)
    if header > min(_LARGEST_HEADER_BYTES, size - 8):
        raise ModelError(
            f"cannot read the checkpoint {path}: its header claims {header:,} bytes", "download or save it again"
        )


def _require_plain(name: str, value: Tensor, path: Path) -> None:
    """Refuse tensors that are no plain block of numbers."""
    import torch

    odd = None
    if torch.nn.parameter.is_lazy(value):
        odd = "has no shape yet (a lazy layer that never ran)"
    elif value.is_meta:
        odd = "has no values (it was saved from the device 'meta')"
    elif value.is_nested or value.layout != torch.strided:
        odd = "is sparse or nested"
    elif value.is_quantized:
        odd = "is quantised"
    elif value.is_complex():
        odd = "is complex"
    elif value.numel() * value.element_size() > value.untyped_storage().nbytes():
        odd = f"claims {value.numel():,} values and holds {value.untyped_storage().nbytes():,} bytes"
    if odd is not None:
        raise ModelError(
            f"{path}: the weight {name!r} {odd}", "save the weights as plain FP32 or FP16 tensors, or use safetensors"
        )


def _widen(name: str, value: Tensor, path: Path) -> Tensor:
    import torch

    if not value.is_floating_point():
        return value
    wide = value.float()
    if bool(torch.isfinite(wide).all()):
        return wide
    too_large = bool(torch.isfinite(value.double()).all())
    what = "values beyond FP32's range" if too_large else "NaN or infinite values"
    raise ModelError(
        f"{path}: the weight {name!r} holds {what}",
        "the checkpoint is broken (training diverged?): use another one",
    )


@contextmanager
def _limit_memory(extra_bytes: int) -> Iterator[None]:
    """Let the process grow by at most ``extra_bytes`` (Linux): what asks for more gets a MemoryError."""
    if not sys.platform.startswith("linux"):
        yield
        return
    import resource

    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = pages * resource.getpagesize() + extra_bytes
    limit = min((value for value in (wanted, soft, hard) if value != resource.RLIM_INFINITY), default=wanted)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def load_weights(net: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Put ``state`` into ``net`` and switch it to evaluation.

    Raises:
        ModelError: names, shapes or kinds do not fit (an INT8 or boolean tensor where the network has floats).
    """
    remedy = "name the factory that made the trained network"
    if prefix := _find_fitting_prefix(net, state):
        remedy = f"take the part of the weights that fits: --weights-key {prefix}"
    elif begin := list_prefixes(state):
        remedy += f", or take a part of the weights with --weights-key (they begin with {', '.join(begin)})"
    expected = net.state_dict()
    for name in [name for name in state if name in expected]:
        _require_kind(name, state[name], expected[name], path)
    from_nothing = any(value.is_meta for value in expected.values())
    try:
        with run_user_code(f"loading {path} into the network", remedy, ModelError):
            net.load_state_dict(dict(state), strict=True, assign=from_nothing)
    except ModelError as error:
        lines = split_lines(error.__cause__)[1:3] if isinstance(error.__cause__, RuntimeError) else []
        if not lines:
            raise
        told = " ".join(lines)
        told = told if len(told) <= _SHOWN_CHARACTERS else told[:_SHOWN_CHARACTERS] + "..."
        raise ModelError(f"{path} does not fit the network: {told}", remedy) from error
    empty = [name for name, value in (*net.named_parameters(), *net.named_buffers()) if value.is_meta]
    if empty:
        raise ModelError(
            f"{path} leaves {empty[0]!r} of the network without values ({len(empty)} in all)",
            "make the network on the CPU in the factory, not on the device 'meta'",
        )
    net.eval().requires_grad_(False)


def _find_fitting_prefix(net: nn.Module, state: Mapping[str, Any]) -> str | None:
    """The prefix under which ``state`` holds all that the network has; None where it fits as it is, or never."""
    names = list(net.state_dict())
    if not names or names[0] in state:
        return None
    ending = "." + names[0]
    for prefix in (name[: -len(ending)] + "." for name in state if name.endswith(ending)):
        if all(prefix + name in state for name in names):
            return prefix
    return None


def _require_kind(name: str, value: Tensor, wanted: Tensor, path: Path) -> None:
    """Refuse what torch would silently turn into something else: quantised weights, masks, other numbers."""
    import torch

    if value.dtype == wanted.dtype or value.shape != wanted.shape:  # of shapes torch tells better
        return
    if wanted.is_floating_point() and value.is_floating_point():
        return
    if not wanted.is_floating_point() and not wanted.is_meta and not value.is_complex():
        again = value.to(wanted.dtype)
        if bool((again.to(value.dtype) == value).all()) and not torch.is_complex(again):
            return
    kinds = [str(tensor.dtype).removeprefix("torch.") for tensor in (value, wanted)]
    raise ModelError(
        f"{path}: the weight {name!r} is {kinds[0]}, and the network's is {kinds[1]}",
        "is the checkpoint quantised or packed? use the one that was trained, in FP32 or FP16",
    )
