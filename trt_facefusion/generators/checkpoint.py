"""Loading a user's checkpoint without running code from it, and building the network it belongs to."""

from __future__ import annotations

import importlib
import pickle
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from trt_facefusion.errors import BackendUnavailableError, BadInputError, ModelError

if TYPE_CHECKING:
    from torch import Tensor, nn

# Where training frameworks keep the weights inside a checkpoint; averaged weights first.
_NESTS = ("params_ema", "g_ema", "ema", "params", "state_dict", "generator", "model", "net")
_PREFIXES = ("module.", "_orig_mod.")


def require_torch() -> None:
    """Raise `BackendUnavailableError` when torch is not installed."""
    try:
        import onnxscript
        import torch  # noqa: F401

        del onnxscript
    except ImportError as error:
        raise BackendUnavailableError(
            f"exporting a torch network needs torch and onnxscript ({error})",
            "pip install 'trt-facefusion[torch]', or give the model as ONNX with --onnx",
        ) from error


def read_state(path: Path) -> dict[str, Tensor]:
    """The weights in ``path`` (.safetensors, or .pth/.pt/.ckpt read with ``weights_only=True``), as FP32 tensors.

    Raises:
        ModelError: no such file, damaged, holds anything but tensors, or holds values that are not finite.
    """
    require_torch()
    import torch

    if not path.is_file():
        raise ModelError(f"the checkpoint {path} does not exist", "name a .safetensors, .pth or .pt file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: object = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path} holds Python objects, or is damaged: only plain weights are loaded",
            "save the weights alone: torch.save(net.state_dict(), FILE), or use safetensors",
        ) from error
    except Exception as error:
        raise ModelError(
            f"cannot read the checkpoint {path}: {(str(error) or type(error).__name__).splitlines()[0]}",
            "download or save it again",
        ) from error
    weights = _find_weights(state, path)
    broken = [k for k, v in weights.items() if v.is_floating_point() and not bool(torch.isfinite(v).all())]
    if broken:
        raise ModelError(
            f"{path}: the weights {broken[0]!r} ({len(broken)} in all) hold NaN or infinite values",
            "the checkpoint is broken (training diverged?): use another one",
        )
    return {k: v.float() if v.is_floating_point() else v for k, v in weights.items()}


def _find_weights(state: object, path: Path) -> dict[str, Tensor]:
    import torch

    while isinstance(state, Mapping):
        nest = next((key for key in _NESTS if isinstance(state.get(key), Mapping)), None)
        if nest is not None:
            state = state[nest]
            continue
        tensors = {str(k): v for k, v in state.items() if isinstance(v, torch.Tensor)}
        if tensors and len(tensors) >= len(state) - 1:  # an epoch beside the weights
            return _without_prefixes(tensors)
        break
    raise ModelError(
        f"{path} holds no weights under any known key ({', '.join(_NESTS)})",
        "save the weights alone: torch.save(net.state_dict(), FILE)",
    )


def _without_prefixes(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """``weights`` without what a wrapper (data parallel, compiled) puts before every key, in whatever order."""
    while prefix := next((p for p in _PREFIXES if all(key.startswith(p) for key in weights)), None):
        weights = {key.removeprefix(prefix): value for key, value in weights.items()}
    return weights


def build_from_factory(reference: str) -> nn.Module:
    """The network that ``module:factory`` makes when called without arguments (the module is looked up from the
    current folder, too).

    Raises:
        BadInputError: no such module or factory, or it did not return a torch module.
    """
    require_torch()
    from torch import nn

    module_name, colon, factory_name = reference.partition(":")
    if not colon or not module_name or not factory_name:
        raise BadInputError(f"--model {reference!r} is not of the form module:factory", "for example mynets.swap:build")
    sys.path.insert(0, str(Path.cwd()))
    try:
        factory = getattr(importlib.import_module(module_name), factory_name)
        net = factory()
    except Exception as error:
        raise BadInputError(
            f"--model {reference}: {type(error).__name__}: {error}",
            "check the spelling; the factory is called without arguments and must return the network",
        ) from error
    finally:
        sys.path.pop(0)
    if not isinstance(net, nn.Module):
        raise BadInputError(f"--model {reference} gave a {type(net).__name__}", "return a torch.nn.Module")
    return net


def load_weights(net: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Put ``state`` into ``net`` and switch it to evaluation.

    Raises:
        ModelError: keys or shapes do not fit.
    """
    try:
        net.load_state_dict(dict(state), strict=True)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:3]]
        raise ModelError(
            f"{path} does not fit the network: {' '.join(lines)}", "name the factory that made the trained network"
        ) from error
    net.eval().requires_grad_(False)
