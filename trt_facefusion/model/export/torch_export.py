"""torch -> ONNX by ``torch.onnx.export`` (dynamo), with a dynamic batch axis."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from trt_facefusion.errors import ModelError
from trt_facefusion.model.generators.user_code import describe_cause
from trt_facefusion.types import Array, Feeds

if TYPE_CHECKING:
    from torch import nn

EXPORT_OPSET = 20
TOLERANCE = 1e-3
"""Largest allowed difference between torch and the exported graph, relative to the output's largest magnitude."""

_MAX_BATCH = 1024
_SHOWN = 120


def export_onnx(net: nn.Module, shapes: Mapping[str, tuple[int, ...]], outputs: Sequence[str] = ()) -> onnx.ModelProto:
    """``net`` as ONNX. ``shapes`` maps each argument of ``forward`` to its shape without the batch axis; ``outputs``
    names the outputs, which otherwise bear the names of their nodes.

    Raises:
        ModelError: torch cannot trace the network, or the names are not those of its arguments.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    example = {name: torch.rand((2, *shape), generator=generator) for name, shape in shapes.items()}
    batch = torch.export.Dim("batch", min=1, max=_MAX_BATCH)
    with warnings.catch_warnings(), _quiet_logging():
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                net,
                (),
                kwargs=example,
                dynamo=True,
                opset_version=EXPORT_OPSET,
                input_names=list(shapes),
                output_names=list(outputs) or None,
                dynamic_shapes={name: {0: batch} for name in shapes},
                external_data=False,
                verbose=False,
            )
        except Exception as error:
            raise ModelError(
                f"torch cannot export the network: {_find_last_cause(error)}",
                "forward() must take the inputs by the names given with --input and be traceable by torch.export; "
                "or export it yourself and pass --onnx",
            ) from error
    assert program is not None
    return _drop_traces(program.model_proto)


def check_forward(net: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Run ``net`` once on random inputs, so that inputs that do not fit are told with the layer that refused them.

    Raises:
        ModelError: ``forward`` has no such arguments, needs others, or refuses the shapes.
    """
    import torch

    _check_names(net, shapes)
    generator = torch.Generator().manual_seed(0)
    example = {name: torch.rand((2, *shape), generator=generator) for name, shape in shapes.items()}
    inside: list[tuple[str, nn.Module, tuple[object, ...]]] = []
    names = {id(module): name for name, module in net.named_modules()}

    def enter(module: nn.Module, inputs: tuple[object, ...]) -> None:
        inside.append((names.get(id(module), ""), module, inputs))

    def leave(module: nn.Module, inputs: object, outputs: object) -> None:
        del module, inputs, outputs
        inside.pop()

    modules = list(net.modules())
    hooks = [m.register_forward_pre_hook(enter) for m in modules] + [m.register_forward_hook(leave) for m in modules]
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            net(**example)
    except Exception as error:
        given = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
        raise ModelError(
            f"the network does not take {given}: {_describe_refusal(inside, error)}",
            "give the sizes that it was trained with (--input NAME=image:SIZE:MIN:MAX); the length of an embedding is "
            "that of the embedder (--embedder)",
        ) from error
    finally:
        for hook in hooks:
            hook.remove()


def _check_names(net: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> None:
    try:
        parameters = inspect.signature(net.forward).parameters
    except (TypeError, ValueError):  # a scripted network: running it tells
        return
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    takes = {name: p for name, p in parameters.items() if p.kind in kinds}
    needed = [name for name, p in takes.items() if p.default is inspect.Parameter.empty]
    unknown, missing = shapes.keys() - takes.keys(), [name for name in needed if name not in shapes]
    if unknown or missing:
        what = [f"has no input {name!r}" for name in sorted(unknown)] + [f"needs the input {n!r}" for n in missing]
        raise ModelError(
            f"the network {' and '.join(what)}",
            f"describe each input of forward() by its name ({', '.join(takes)}) with --input",
        )


def _describe_refusal(inside: list[tuple[str, nn.Module, tuple[object, ...]]], error: Exception) -> str:
    """What refused, in one line: the innermost layer with what it got, and its reason."""
    reason = describe_cause(error)
    if not inside or not inside[-1][0]:
        return reason
    name, module, inputs = inside[-1]
    got = ", ".join(str(list(value.shape)) for value in inputs if hasattr(value, "shape"))
    described = " ".join(str(module).split())
    described = described if len(described) <= _SHOWN else f"{described[:_SHOWN]}..."
    return f"the layer {name!r}, {described}, got {got}: {reason}"


def _drop_traces(model: onnx.ModelProto) -> onnx.ModelProto:
    """Drop what torch notes of every node: paths of this machine, with which the model's digest changes on another."""
    for node in model.graph.node:
        del node.metadata_props[:]
    return model


def measure_difference(net: nn.Module, outputs: Mapping[str, Array], feeds: Feeds) -> float:
    """Largest difference between torch's first output and ``outputs``' first, relative to torch's largest magnitude."""
    expected = run_torch(net, feeds)[0]
    got = next(iter(outputs.values()))
    if got.shape != expected.shape:
        return float("inf")
    scale = float(np.abs(expected).max()) or 1.0
    return float(np.abs(expected - got).max()) / scale


def run_torch(net: nn.Module, feeds: Feeds) -> list[Array]:
    """Outputs of ``net``, which takes ``feeds`` by name, in the order in which an export has them."""
    import torch

    with torch.no_grad():
        result = net(**{name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in feeds.items()})
    return [tensor.detach().cpu().numpy() for tensor in _flatten(result)]


def _flatten(result: Any) -> list[Any]:
    if isinstance(result, Mapping):
        result = list(result.values())
    if isinstance(result, tuple | list):
        return [tensor for part in result for tensor in _flatten(part)]
    return [] if result is None else [result]


def _find_last_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


class _quiet_logging:  # noqa: N801 - used like a function
    """Keeps torch.onnx's progress and warnings off the terminal."""

    def __enter__(self) -> None:
        self.level = logging.root.manager.disable
        logging.disable(logging.WARNING)

    def __exit__(self, *_: object) -> None:
        logging.disable(self.level)
