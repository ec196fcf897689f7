"""Reading documents of our own: strictly, and within bounds, whoever wrote them.

What does not fit is refused with the field and what is wrong with it. The reader is our own because it must say three
things at once that no library does: unknown fields of plain dataclasses are refused, keys of mappings are named, and
texts may hold bytes of file names that are no UTF-8.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import stat
import types
import typing
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, Union

T = TypeVar("T")
LARGEST_BYTES = 48 << 20
"""More than any document of ours; Python needs up to 25 times as much for one that is made of empty lists."""
_DEEPEST = 40
_LARGEST_INTEGER = 2**63
_MOST_DIGITS = 300
"""Of an integer: with more of them it could not even become a float."""


class DocumentError(ValueError):
    """What is wrong with a document; behind its name and a colon it is a sentence."""


LATER: Mapping[str, bool] = {"later": True}
"""Metadata of a field that documents may lack, such as those of earlier versions; it has its default then."""


def read_bytes(path: Path, largest: int = LARGEST_BYTES) -> bytes:
    """The content of an ordinary file.

    Raises:
        OSError: it is not there, or cannot be read.
        DocumentError: it is a folder, a pipe or a device, or larger than ``largest`` bytes.
    """
    if not stat.S_ISREG(path.stat().st_mode):  # reading a pipe would wait for ever, a device has no end
        raise DocumentError("it is no ordinary file")
    with path.open("rb") as file:
        content = file.read(largest + 1)
    if len(content) > largest:
        raise DocumentError(f"it is larger than {largest >> 20} MiB, no document of ours is")
    return content


def parse_json(text: str | bytes) -> Any:
    """A JSON document, by the letter: UTF-8, no key twice, no number that is not finite, not nested without end.

    Raises:
        DocumentError: it is no such thing.
    """
    try:
        text = text.decode("utf-8") if isinstance(text, bytes) else text
        document = json.loads(
            text, object_pairs_hook=_join_pairs, parse_constant=_refuse_constant, parse_int=_parse_integer
        )
    except DocumentError:
        raise
    except UnicodeDecodeError as error:
        raise DocumentError("it is not UTF-8") from error
    except RecursionError as error:
        raise DocumentError("it is nested without end") from error
    except ValueError as error:
        raise DocumentError(f"it is not JSON: {error}") from error
    _check_depth(document)
    return document


def decode(kind: type[T], document: Any, where: str, *, lenient: bool = False, defaults: bool = False) -> T:
    """``document`` from JSON or YAML as the type ``kind``: a dataclass of str, int, float, bool, tuples and mappings.

    Args:
        kind: what is wanted. Fields with the metadata `LATER` may be missing.
        document: what was read.
        where: what ``document`` is called in messages.
        lenient: take no offence at unknown fields, and at missing ones that have a default.
        defaults: take no offence at missing fields that have a default, but at unknown ones.

    Raises:
        DocumentError: a field is missing, unknown or of another type, a number too large or not finite.
    """
    decoded: T = _decode(kind, document, where, _Rules(unknown=lenient, defaults=lenient or defaults))
    return decoded


class _Rules(NamedTuple):
    """What is forgiven: unknown fields, and missing ones that have a default."""

    unknown: bool
    defaults: bool


def _join_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise DocumentError(f"it has {twice!r:.60} twice")
    return entries


def _parse_integer(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise DocumentError(f"it holds a number of {len(text)} digits")
    return int(text)


def _refuse_constant(text: str) -> Any:
    raise DocumentError(f"it holds {text}, which is no number in JSON")


def _check_depth(node: Any) -> None:
    level = [node]
    for _ in range(_DEEPEST):
        nested = [part for part in level if isinstance(part, dict | list)]
        if not nested:
            return
        level = [child for part in nested for child in (part.values() if isinstance(part, dict) else part)]
    raise DocumentError(f"it is nested more than {_DEEPEST} deep")


def _decode(kind: Any, node: Any, where: str, rules: _Rules) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        return None if node is None and type(None) in arguments else _decode_union(arguments, node, where, rules)
    if origin is tuple:
        return _decode_tuple(arguments, _expect(list, node, where), where, rules)
    if origin is not None:  # a Mapping
        items = _expect(dict, node, where).items()
        return {key: _decode(arguments[1], element, f"{where}.{key}", rules) for key, element in items}
    if dataclasses.is_dataclass(kind):
        return _decode_fields(kind, node, where, rules)
    if kind is float:
        return _decode_float(node, where)
    return node if kind is Any else _expect(kind, node, where)


def _decode_union(arguments: tuple[Any, ...], node: Any, where: str, rules: _Rules) -> Any:
    """``node`` as the first of the types, but a whole number stays one: X | None and float | int occur."""
    kinds = [kind for kind in arguments if kind is not type(None)]
    is_integer = int in kinds and isinstance(node, int)
    return _decode(int if is_integer else kinds[0], node, where, rules)


def _decode_fields(kind: Any, node: Any, where: str, rules: _Rules) -> Any:
    raw = _expect(dict, node, where)
    fields, hints = _list_fields(kind)
    missing = {name for name, f in fields.items() if name not in raw and not _may_lack(f, rules)}
    unknown = set() if rules.unknown else raw.keys() - fields.keys()
    for wrong, what in ((missing, "is missing"), (unknown, "is unknown")):
        if wrong:
            raise DocumentError(f"{where}.{min(map(str, wrong))} {what}")
    values = {fields[key].name: (key, element) for key, element in raw.items() if key in fields}
    return kind(
        **{name: _decode(hints[name], element, f"{where}.{key}", rules) for name, (key, element) in values.items()}
    )


@functools.cache
def _list_fields(kind: Any) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The fields of a dataclass by their key, and their types by their name: read once for all documents."""
    return {field.name.rstrip("_"): field for field in dataclasses.fields(kind)}, typing.get_type_hints(kind)


def _may_lack(field: Any, rules: _Rules) -> bool:
    has_default = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
    return ("later" in field.metadata) or (rules.defaults and has_default)


def _decode_tuple(arguments: tuple[Any, ...], node: list[Any], where: str, rules: _Rules) -> tuple[Any, ...]:
    kinds = [arguments[0]] * len(node) if arguments[-1] is Ellipsis else list(arguments)
    if len(kinds) != len(node):
        raise DocumentError(f"{where} has {len(node)} items, not {len(kinds)}")
    pairs = enumerate(zip(kinds, node, strict=True))
    return tuple(_decode(kind, element, f"{where}[{i}]", rules) for i, (kind, element) in pairs)


def _decode_float(raw: Any, where: str) -> float:
    if isinstance(raw, bool) or not isinstance(raw, int | float):
        raise DocumentError(f"{where} is {raw!r:.40}, not a number")
    try:
        number = float(raw)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise DocumentError(f"{where} is not finite")
    return number


def _expect(kind: type[T], node: Any, where: str) -> T:
    if not isinstance(node, kind) or (isinstance(node, bool) and kind is not bool):
        raise DocumentError(f"{where} is {_shorten(node)}, not {kind.__name__}")
    if isinstance(node, int) and abs(node) >= _LARGEST_INTEGER:
        raise DocumentError(f"{where} is too large a number")
    return node


def _shorten(node: Any) -> str:
    """A value in few words; the text of a number may have thousands of digits, and then Python refuses to write it."""
    if isinstance(node, int) and abs(node) >= _LARGEST_INTEGER:
        return "a huge number"
    if isinstance(node, Mapping | list):
        return f"{'an object' if isinstance(node, Mapping) else 'a list'} of {len(node)}"
    return f"{node!r:.40}"
