"""An option for each limit that a metric offers."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from trt_facefusion.build.options import ACCURACY
from trt_facefusion.cli import console
from trt_facefusion.errors import BadInputError
from trt_facefusion.evaluation.accuracy import registry
from trt_facefusion.evaluation.accuracy.metric import Limit, Tools

_PERCEPTUAL, _MAX_LPIPS = "max_perceptual_here", "--max-lpips"


def with_limits(command: Callable[..., None]) -> Callable[..., None]:
    """``command``, whose parameter ``limits`` becomes an option for each limit that a metric offers."""
    offered = {limit.name: limit for _, limit in registry.iterate_limits() if limit.help is not None}
    signature = inspect.signature(command, eval_str=True)

    @functools.wraps(command)
    def with_options(**arguments: Any) -> None:
        values = {name: arguments.pop(name) for name in offered}
        limits = {name: limit for name, limit in values.items() if limit is not None}
        perceptual = arguments.pop(_PERCEPTUAL)
        if perceptual is not None:
            limits |= _name_perceptual(perceptual, limits, arguments.get("lpips_backbone"))
        command(**arguments, limits=limits)

    parameters: list[inspect.Parameter] = []
    for parameter in signature.parameters.values():
        replaced = [_make_option(limit) for limit in (*offered.values(), _offer_perceptual())]
        parameters += replaced if parameter.name == "limits" else [parameter.replace(kind=parameter.KEYWORD_ONLY)]
    with_options.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return with_options


def _offer_perceptual() -> Limit:
    """``--max-lpips``: the limit of whichever perceptual distance judges here."""
    figure, limit = registry.find_perceptual(Tools())
    text = f"INT8: perceptual distance at most, by what judges: {figure.label} here ({limit.option})."
    return Limit(_PERCEPTUAL, figure.label, text, least=0.0, flag=_MAX_LPIPS)


def _name_perceptual(most: float, named: Mapping[str, float], backbone: Path | None) -> dict[str, float]:
    """The limit that ``--max-lpips`` is here, under its own name; a person is told which it is.

    Raises:
        BadInputError: that limit is named itself, too.
    """
    figure, limit = registry.find_perceptual(Tools(lpips_backbone=backbone))
    if limit.name in named:
        raise BadInputError(f"{_MAX_LPIPS} and {limit.option} limit the same here: {figure.label}", "name one of them")
    console.err.print(f"{_MAX_LPIPS} limits {figure.label} here, as {limit.option} does", soft_wrap=True)
    return {limit.name: most}


def _make_option(limit: Limit) -> inspect.Parameter:
    option = typer.Option(limit.option, min=limit.least, max=limit.most, help=limit.help, rich_help_panel=ACCURACY)
    return inspect.Parameter(
        limit.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[Optional[float], option]
    )
