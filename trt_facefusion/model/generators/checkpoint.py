"""Loading a user's checkpoint without running code from it, in bounded time and memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trt_facefusion.errors import ModelError
from trt_facefusion.model.generators.checkpoint_file import limit_memory, read_checkpoint
from trt_facefusion.model.generators.torch_here import require_torch
from trt_facefusion.model.generators.user_code import run_user_code, split_lines
from trt_facefusion.model.generators.weight_sets import WeightSet, choose_weights, list_prefixes
from trt_facefusion.storage.files import require_regular_file

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["load_weights", "read_state", "read_weights", "require_torch"]

_ROOM_BYTES = 1 << 30
"""What reading may take beside the weights."""
_WIDENING = 8
"""How much larger a file's weights may be in FP32, tied ones counted twice."""
_SHOWN_CHARACTERS = 200


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
    with limit_memory(_WIDENING * size + _ROOM_BYTES):
        weight_set = choose_weights(read_checkpoint(path, size), key, path)
        total = 0
        for name, tensor in weight_set.tensors.items():
            _require_plain(name, tensor, path)
            total += tensor.numel()
        if total * 4 > _WIDENING * size + (64 << 20):
            raise ModelError(f"{path} claims {total:,} weights in {size:,} bytes", "download or save it again")
        tensors = {name: _widen(name, tensor, path) for name, tensor in weight_set.tensors.items()}
    return WeightSet(tensors, weight_set.where, weight_set.alternatives)


def _require_plain(name: str, tensor: Tensor, path: Path) -> None:
    """Refuse tensors that are no plain block of numbers."""
    import torch

    odd = None
    if torch.nn.parameter.is_lazy(tensor):
        odd = "has no shape yet (a lazy layer that never ran)"
    elif tensor.is_meta:
        odd = "has no values (it was saved from the device 'meta')"
    elif tensor.is_nested or tensor.layout != torch.strided:
        odd = "is sparse or nested"
    elif tensor.is_quantized:
        odd = "is quantised"
    elif tensor.is_complex():
        odd = "is complex"
    elif tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        odd = f"claims {tensor.numel():,} values and holds {tensor.untyped_storage().nbytes():,} bytes"
    if odd is not None:
        raise ModelError(
            f"{path}: the weight {name!r} {odd}", "save the weights as plain FP32 or FP16 tensors, or use safetensors"
        )


def _widen(name: str, tensor: Tensor, path: Path) -> Tensor:
    import torch

    if not tensor.is_floating_point():
        return tensor
    wide = tensor.float()
    if bool(torch.isfinite(wide).all()):
        return wide
    too_large = bool(torch.isfinite(tensor.double()).all())
    what = "values beyond FP32's range" if too_large else "NaN or infinite values"
    raise ModelError(
        f"{path}: the weight {name!r} holds {what}",
        "the checkpoint is broken (training diverged?): use another one",
    )


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
    from_nothing = any(tensor.is_meta for tensor in expected.values())
    try:
        with run_user_code(f"loading {path} into the network", remedy, ModelError):
            net.load_state_dict(dict(state), strict=True, assign=from_nothing)
    except ModelError as error:
        lines = split_lines(error.__cause__)[1:3] if isinstance(error.__cause__, RuntimeError) else []
        if not lines:
            raise
        mismatch = " ".join(lines)
        mismatch = mismatch if len(mismatch) <= _SHOWN_CHARACTERS else mismatch[:_SHOWN_CHARACTERS] + "..."
        raise ModelError(f"{path} does not fit the network: {mismatch}", remedy) from error
    empty = [name for name, tensor in (*net.named_parameters(), *net.named_buffers()) if tensor.is_meta]
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


def _require_kind(name: str, loaded: Tensor, expected: Tensor, path: Path) -> None:
    """Refuse what torch would silently turn into something else: quantised weights, masks, other numbers."""
    import torch

    if loaded.dtype == expected.dtype or loaded.shape != expected.shape:  # of shapes torch tells better
        return
    if expected.is_floating_point() and loaded.is_floating_point():
        return
    if not expected.is_floating_point() and not expected.is_meta and not loaded.is_complex():
        again = loaded.to(expected.dtype)
        if bool((again.to(loaded.dtype) == loaded).all()) and not torch.is_complex(again):
            return
    kinds = [str(tensor.dtype).removeprefix("torch.") for tensor in (loaded, expected)]
    raise ModelError(
        f"{path}: the weight {name!r} is {kinds[0]}, and the network's is {kinds[1]}",
        "is the checkpoint quantised or packed? use the one that was trained, in FP32 or FP16",
    )
