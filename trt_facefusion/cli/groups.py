"""Groups of options: a parameter of a command that is a dataclass stands for one option for each of its fields."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import wraps
from typing import Any, TypeVar, get_type_hints

T = TypeVar("T")


def expand_groups(command: Callable[..., T]) -> Callable[..., T]:
    """``command`` as typer is to see it: with the fields of its groups as parameters, where the groups stand.

    A field is declared as typer wants a parameter (``Annotated[type, typer.Option(...)]`` and a default); one that is
    itself a group is expanded in its place. When called, the command gets the groups, made of the options' values.

    Raises:
        TypeError: two fields, or a field and a parameter, have one name.
    """
    hints = get_type_hints(command, include_extras=True)
    parameters: dict[str, inspect.Parameter] = {}
    for name, parameter in inspect.signature(command).parameters.items():
        for option in _expand(name, hints[name], parameter.default):
            if option.name in parameters:
                raise TypeError(f"{command.__module__}: two options are called {option.name}")
            parameters[option.name] = option

    @wraps(command)
    def run(**values: Any) -> T:
        groups = {name: _collect(name, hint, values) for name, hint in hints.items() if name != "return"}
        return command(**groups)

    run.__signature__ = inspect.Signature(list(parameters.values()))  # type: ignore[attr-defined]
    run.__annotations__ = {name: option.annotation for name, option in parameters.items()}
    return run


def _expand(name: str, hint: Any, default: Any) -> Iterator[inspect.Parameter]:
    if not is_dataclass(hint):
        yield inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)
        return
    hints = get_type_hints(hint, include_extras=True)
    for field in fields(hint):
        yield from _expand(
            field.name, hints[field.name], inspect.Parameter.empty if field.default is MISSING else field.default
        )


def _collect(name: str, hint: Any, values: Mapping[str, Any]) -> Any:
    if not is_dataclass(hint) or not isinstance(hint, type):
        return values[name]
    hints = get_type_hints(hint, include_extras=True)
    return hint(**{field.name: _collect(field.name, hints[field.name], values) for field in fields(hint)})
