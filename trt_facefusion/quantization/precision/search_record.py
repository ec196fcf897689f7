"""What a plan search measured, as JSON: `search.json` holds it, the report and the terminal show it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from types import MappingProxyType
from typing import Any

from trt_facefusion.quantization.precision.groups import GroupSet
from trt_facefusion.quantization.precision.search import MeasuredPlan, SearchResult


def describe_search(
    searched: SearchResult,
    plan: GroupSet,
    budget: Mapping[str, float],
    names: Mapping[str, str] = MappingProxyType({}),
    describe: Callable[[GroupSet], Mapping[str, Any]] = lambda in_int8: {},
) -> dict[str, Any]:
    """The search as JSON: the front, what each group costs, and the budget.

    ``budget`` are the limits by name; ``names`` call figures otherwise than their keys; ``describe`` says more of a
    plan than its figures.
    """

    def point(p: MeasuredPlan) -> dict[str, Any]:
        nodes = [name for g in sorted(p.groups) for name in searched.groups[g].nodes]
        raised = [name for g in range(len(searched.groups)) if g not in p.groups for name in searched.groups[g].nodes]
        figures = {names.get(key, key): measured for key, measured in p.figures.items() if measured is not None}
        return {
            "int8_macs_share": p.share,
            **describe(p.groups),
            **figures,
            "int8": len(nodes),
            "raised": raised,
            "chosen": p.groups == plan,
        }

    front = list(searched.front())
    if plan not in {p.groups for p in front}:
        front.append(searched.points[plan])
    rows = [
        {"nodes": list(group.nodes), "why": group.why, "macs": group.macs, "weights": group.weights, **asdict(cost)}
        for group, cost in zip(searched.groups, searched.costs, strict=True)
    ]
    return {
        "objective": searched.objective.name,
        "budget": dict(budget),
        "points": [point(p) for p in front],
        "groups": rows,
        "plans": len(searched.points) - 1,
    }
