"""The network that a user's factory makes."""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING

from trt_facefusion.errors import BadInputError
from trt_facefusion.model.generators.torch_here import require_torch
from trt_facefusion.model.generators.user_code import run_user_code

if TYPE_CHECKING:
    from torch import nn

_REMEDY = "check the spelling; the factory is called without arguments and must return the network"


def build_from_factory(reference: str) -> nn.Module:
    """The network that ``module:factory`` makes when called without arguments (the module is looked up from the
    current folder, too), on the CPU and in FP32.

    Raises:
        BadInputError: no such module or factory, or it failed, ended the program, or did not return a torch module.
    """
    require_torch()
    module_name, colon, factory_name = reference.partition(":")
    if not colon or not module_name or not factory_name:
        raise BadInputError(f"--model {reference!r} is not of the form module:factory", "for example mynets.swap:build")
    with run_user_code(f"--model {reference}", _REMEDY):
        factory = getattr(importlib.import_module(module_name), factory_name)
        _require_no_arguments(reference, factory)
        return _require_network(reference, factory())
    raise AssertionError  # user_code swallows nothing


def _require_no_arguments(reference: str, factory: object) -> None:
    if not callable(factory):
        raise BadInputError(f"--model {reference} is a {type(factory).__name__}, and cannot be called", _REMEDY)
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):  # written in C: calling it tells
        return
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [p.name for p in parameters if p.default is inspect.Parameter.empty and p.kind not in kinds]
    if needed:
        raise BadInputError(
            f"--model {reference} needs the arguments {', '.join(needed)}",
            "write a factory that takes none and gives the network as it was trained, for example: "
            "def build(): return Net(64)",
        )


def _require_network(reference: str, made: object) -> nn.Module:
    from torch import nn
    from torch.nn.parameter import is_lazy

    if isinstance(made, nn.Module):
        values = list(made.parameters())
        if any(is_lazy(value) for value in values):  # it takes its shapes from the weights
            return made
        return made.float() if any(value.is_meta for value in values) else made.cpu().float()
    what = f"the class {made.__name__}" if isinstance(made, type) else f"a {type(made).__name__}"
    raise BadInputError(f"--model {reference} gave {what}", "return a torch.nn.Module: the network itself")
