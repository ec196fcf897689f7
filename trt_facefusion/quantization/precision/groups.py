"""Candidates for INT8 in groups: layers that are decided on together.

Two layers share a group where a backend treats them as one anyway:

* they read the same tensor: it is quantised once for all of them, and a mixed choice writes it to memory twice;
* their outputs are the operands of one addition or one concatenation, with nothing in between: a backend fuses
  those only where both sides come in one type and scale.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

from trt_facefusion.model.graph import GraphView, Role, classify, count_macs

GroupSet = frozenset[int]
"""A plan: the indices of the groups that are in INT8."""

_JOINS = {Role.RESIDUAL_ADD: "are added", Role.CONCAT: "are concatenated"}


@dataclass(frozen=True)
class Group:
    """Nodes with one decision. ``macs`` for a batch of one, ``weights`` elements; ``why`` says what binds them."""

    nodes: tuple[str, ...]
    macs: int
    weights: int
    why: str = ""


def group_candidates(view: GraphView, candidates: Iterable[str], *, operands: bool = True) -> tuple[Group, ...]:
    """The ``candidates`` in groups, in graph order.

    Without ``operands`` only those that read the same tensor share one: for whoever asks the compiler itself what two
    operands of different types cost.
    """
    candidate_names = set(candidates)
    order = [node.name for node in view.model.graph.node if node.name in candidate_names]
    parent = {name: name for name in order}
    reasons: dict[str, list[str]] = {}
    joined = [*_join_readers(view, order), *(_join_operands(view, candidate_names) if operands else ())]
    for names, why in joined:
        first, *later_roots = sorted({_find_root(parent, name) for name in names}, key=order.index)
        for other in later_roots:
            parent[other] = first
            reasons.setdefault(first, []).extend([*reasons.pop(other, []), why])
        if not later_roots and len(names) > 1:
            reasons.setdefault(first, []).append(why)
    counts = count_macs(view)
    members: dict[str, list[str]] = {}
    for name in order:
        members.setdefault(_find_root(parent, name), []).append(name)
    return tuple(
        Group(
            tuple(names),
            sum(counts.get(name, 0) for name in names),
            sum(view.constant(view.nodes[name].input[1]).size for name in names),
            "; ".join(dict.fromkeys(reasons.get(root, []))),
        )
        for root, names in members.items()
    )


def find_neighbours(view: GraphView, groups: Sequence[Group]) -> tuple[tuple[int, int], ...]:
    """Pairs of groups with no third one on a way from a layer of the one to a layer of the other, or whose results
    are operands of one node."""
    group_of = {name: index for index, group in enumerate(groups) for name in group.nodes}
    met = (sorted({group_of[name] for name in names}) for names, _ in _join_operands(view, set(group_of)))
    pairs = dict.fromkeys(pair for indices in met for pair in combinations(indices, 2))
    for name, index in group_of.items():
        queue, seen = [*view.activations(view.nodes[name])], set[str]()
        while queue:
            maker = view.producer.get(queue.pop())
            if maker is None or maker.name in seen:
                continue
            seen.add(maker.name)
            other = group_of.get(maker.name)
            if other is None:
                queue += view.activations(maker)
            elif other != index:
                pairs[min(index, other), max(index, other)] = None
    return tuple(sorted(pairs))


def merge_quiet(
    groups: Sequence[Group], noise: Sequence[float], at_most: int, apart: Collection[int] = ()
) -> tuple[Group, ...]:
    """At most ``at_most`` groups: the quietest (least ``noise`` of their own) are decided on together.

    For networks of so many layers that not each can be measured by its picture. Those of ``apart`` (indices) are never
    merged with others while there are two groups at least: first they are decided on one by one, then together.
    """
    at_most = max(at_most, 1)
    if len(groups) <= at_most:
        return tuple(groups)
    kept_apart = set(apart) if at_most > 1 else set()
    order = sorted(range(len(groups)), key=lambda index: (index in kept_apart, noise[index], index))
    quiet = order[: len(groups) - at_most + 1]
    if quiet[0] not in kept_apart and quiet[-1] in kept_apart:  # they become two groups, so one more has to be merged
        quiet = order[: len(groups) - at_most + 2]
    parts = ([i for i in sorted(quiet) if i not in kept_apart], [i for i in sorted(quiet) if i in kept_apart])
    merged = [_merge([groups[index] for index in part]) for part in parts if part]
    return (*merged, *(group for index, group in enumerate(groups) if index not in quiet))


def _merge(groups: Sequence[Group]) -> Group:
    if len(groups) == 1:
        return groups[0]
    return Group(
        tuple(name for group in groups for name in group.nodes),
        sum(group.macs for group in groups),
        sum(group.weights for group in groups),
        "the least quantisation noise of their own, decided on together to save time",
    )


def _find_root(parent: dict[str, str], name: str) -> str:
    while parent[name] != name:
        name = parent[name]
    return name


def _join_readers(view: GraphView, order: list[str]) -> list[tuple[list[str], str]]:
    readers: dict[str, list[str]] = {}
    for name in order:
        readers.setdefault(view.nodes[name].input[0], []).append(name)
    return [(names, f"read {tensor}") for tensor, names in readers.items() if len(names) > 1]


def _join_operands(view: GraphView, candidates: set[str]) -> list[tuple[list[str], str]]:
    joined = []
    for name, role in classify(view).items():
        if role not in _JOINS:
            continue
        makers = [view.producer.get(tensor) for tensor in view.activations(view.nodes[name])]
        names = [maker.name for maker in makers if maker is not None and maker.name in candidates]
        if len(names) > 1:
            joined.append((names, f"{_JOINS[role]} by {name}"))
    return joined
