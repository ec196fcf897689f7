"""An option for each limit that a metric offers."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, Optional

import typer

from trt_facefusion.build.options import ACCURACY
from trt_facefusion.evaluation.accuracy import registry
from trt_facefusion.evaluation.accuracy.metric import Limit


def with_limits(command: Callable[..., None]) -> Callable[..., None]:
    """``command``, whose parameter ``limits`` becomes an option for each limit that a metric offers."""
    offered = {limit.name: limit for _, limit in registry.iterate_limits() if limit.help is not None}
    signature = inspect.signature(command, eval_str=True)

    @functools.wraps(command)
    def with_options(**arguments: Any) -> None:
        values = {name: arguments.pop(name) for name in offered}
        command(**arguments, limits={name: limit for name, limit in values.items() if limit is not None})

    parameters: list[inspect.Parameter] = []
    for parameter in signature.parameters.values():
        replaced = [_make_option(limit) for limit in offered.values()]
        parameters += replaced if parameter.name == "limits" else [parameter.replace(kind=parameter.KEYWORD_ONLY)]
    with_options.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return with_options


def _make_option(limit: Limit) -> inspect.Parameter:
    option = typer.Option(limit.option, min=limit.least, max=limit.most, help=limit.help, rich_help_panel=ACCURACY)
    return inspect.Parameter(
        limit.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[Optional[float], option]
    )
