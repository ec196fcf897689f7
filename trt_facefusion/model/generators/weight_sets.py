"""The sets of weights in a checkpoint: which one is taken, and what the others are called.

Averaged weights (EMA) go first: they are those that a network is meant to be used with.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trt_facefusion.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

AVERAGED = ("params_ema", "ema_state_dict", "state_dict_ema", "model_ema", "netG_ema", "g_ema", "G_ema", "ema")
# Where training frameworks keep the weights inside a checkpoint; averaged weights first.
_NESTS = (*AVERAGED, "params", "state_dict", "model_state_dict", "generator", "netG", "model", "net", "weights")
_PREFIXES = ("module.", "_orig_mod.")
_DEEPEST = 16
_MOST_PLACES = 10_000
_SHOWN = 8


@dataclass(frozen=True)
class WeightSet:
    """One set of weights: ``where`` it lies in its file (empty: the file is the set), and what ``others`` are there."""

    tensors: Mapping[str, Tensor]
    where: str = ""
    others: tuple[str, ...] = ()

    @property
    def averaged(self) -> bool:
        """Whether these are averaged weights."""
        return any(part in AVERAGED for part in self.where.split("/"))


def choose_weights(content: object, key: str | None, path: Path) -> WeightSet:
    """The weights in ``content``, without what wrappers (data parallel, compiled) put before every name.

    Args:
        content: what a checkpoint holds: mappings in mappings, down to tensors.
        key: the set to take: its name, a path like ``outer/inner``, or the beginning of its tensors' names (``netG.``).
            None takes the first place in which frameworks keep weights.
        path: the file, for messages.

    Raises:
        ModelError: there are no weights, or not under ``key``; the remedy says what is there.
    """
    found = _find_first(content, (), set())
    if key is not None:
        found = _find_by_key(content, key) or _find_by_prefix(content, found, key)
    if found is None:
        raise _report_no_weights(content, key, path)
    where, tensors = found
    others = tuple(name for name, _ in _list_sets(content) if name and name != where)
    return WeightSet(_strip_wrappers(tensors), where, others[:_SHOWN])


def list_prefixes(tensors: Mapping[str, Any]) -> list[str]:
    """How the names of a set begin (``netG.``), the most frequent first; empty where there is no choice."""
    counts = Counter(name.partition(".")[0] + "." for name in tensors if "." in name)
    return [prefix for prefix, _ in counts.most_common(_SHOWN)] if len(counts) > 1 else []


_NamedSet = tuple[str, dict[str, "Tensor"]]


def _find_first(node: object, trail: tuple[str, ...], seen: set[int]) -> _NamedSet | None:
    if not isinstance(node, Mapping) or id(node) in seen or len(trail) > _DEEPEST:
        return None
    seen.add(id(node))
    for nest in _NESTS:
        found = _find_first(node.get(nest), (*trail, nest), seen)
        if found is not None:
            return found
    tensors = _select_tensors(node)
    # Counters and an epoch may stand beside the weights; other mappings with tensors may not.
    if tensors and (len(tensors) >= len(node) - 1 or not any(_select_tensors(value) for value in node.values())):
        return "/".join(trail), tensors
    return None


def _find_by_key(content: object, key: str) -> _NamedSet | None:
    parts = [part for part in key.split("/") if part]
    for where, node in _iterate_mappings(content):
        inner: object = node
        for part in parts:
            inner = inner.get(part) if isinstance(inner, Mapping) else None
        if not isinstance(inner, Mapping):
            continue
        trail = tuple(part for part in where.split("/") if part) + tuple(parts)
        found = _find_first(inner, trail, set())
        if found is not None:
            return found
        if tensors := _select_tensors(inner):
            return "/".join(trail), tensors
    return None


def _find_by_prefix(content: object, first: _NamedSet | None, key: str) -> _NamedSet | None:
    prefix = key if key.endswith(".") else f"{key}."
    sets = [first] if first is not None else []
    for where, tensors in (*sets, *((where, _select_tensors(node)) for where, node in _iterate_mappings(content))):
        for names in (tensors, _strip_wrappers(tensors)):
            part = {name.removeprefix(prefix): value for name, value in names.items() if name.startswith(prefix)}
            if part:
                return "/".join(filter(None, (where, prefix))), part
    return None


def _iterate_mappings(content: object) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Every mapping in ``content`` once, the outer ones first, with the path to it."""
    pending, seen = [("", content)], set[int]()
    while pending and len(seen) < _MOST_PLACES:
        where, node = pending.pop(0)
        if not isinstance(node, Mapping) or id(node) in seen:
            continue
        seen.add(id(node))
        yield where, node
        if where.count("/") < _DEEPEST:
            pending += [(f"{where}/{k}".lstrip("/"), v) for k, v in node.items() if isinstance(v, Mapping)]


def _list_sets(content: object) -> list[tuple[str, int]]:
    return [(where, len(found)) for where, node in _iterate_mappings(content) if (found := _select_tensors(node))]


def _select_tensors(node: object) -> dict[str, Tensor]:
    import torch

    if not isinstance(node, Mapping):
        return {}
    return {str(name): value for name, value in node.items() if isinstance(value, torch.Tensor)}


def _strip_wrappers(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """``weights`` without what wrappers put before every name, in whatever order."""
    while prefix := next((p for p in _PREFIXES if weights and all(key.startswith(p) for key in weights)), None):
        weights = {key.removeprefix(prefix): value for key, value in weights.items()}
    return weights


def _report_no_weights(content: object, key: str | None, path: Path) -> ModelError:
    sets = [f"{where or 'the file itself'} ({count} tensors)" for where, count in _list_sets(content)[:_SHOWN]]
    if not sets:
        return ModelError(f"{path} holds no weights", "save the weights alone: torch.save(net.state_dict(), FILE)")
    first = _find_first(content, (), set())
    begin = list_prefixes(first[1]) if first is not None else []
    there = f"it holds {', '.join(sets)}" + (f"; names begin with {', '.join(begin)}" if begin else "")
    under = "under any known key" if key is None else f"{key!r}"
    return ModelError(f"{path} holds no weights {under}", f"take one with --weights-key: {there}")
