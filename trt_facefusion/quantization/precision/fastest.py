"""The search for the fastest plan, whatever pictures it makes: pure logic, compiling is the caller's.

What a layer spares in INT8 is known only of compiled engines, and depends on its neighbours. So the plan that a model
of times holds for the fastest is compiled, the model learns from it, and so on. Beside it, groups whose gain is near
nothing are tried both ways, alone and in pairs of neighbours: whatever may be faster than the best, as far as the model
can be off, is worth compiling, the most promising first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from trt_facefusion.quantization.precision.groups import GroupSet
from trt_facefusion.quantization.precision.time_model import TimeModel

CompileAndTime = Callable[[GroupSet], float | None]
"""Milliseconds of the engine of a plan; None where it cannot be compiled."""


def find_fastest(model: TimeModel, compile_and_time: CompileAndTime, builds: int) -> GroupSet:
    """Compile at most ``builds`` plans, from which ``model`` learns; gives the fastest of all that were compiled.

    A plan with more in INT8 has to be faster by `TimeModel.least_gain` for each group; so it is never slower than the
    plan without INT8.
    """
    for _ in range(builds):
        candidate = _choose_next(model)
        if candidate is None:
            break
        time_ms = compile_and_time(candidate)
        if time_ms is None:
            model.refuse(candidate)
        else:
            model.learn(candidate, time_ms)
    return find_best(model)


def find_best(model: TimeModel) -> GroupSet:
    """The fastest compiled plan."""
    return min(model.compiled, key=lambda plan: (model.cost(plan), sorted(plan)))


def _choose_next(model: TimeModel) -> GroupSet | None:
    """The plan to compile next; None where none is likely to be faster than the best."""
    best = find_best(model)
    lowest = model.cost(best)
    starts: tuple[GroupSet, ...] = (best, frozenset(), frozenset(range(len(model.gains))))
    candidates = [_descend(model, start) for start in starts] + list(_change(model, best))
    likely = {
        plan: model.cost(plan) - model.compute_doubt(plan)
        for plan in dict.fromkeys(candidates)
        if plan not in model.compiled and plan not in model.refused
    }
    likely = {plan: cost for plan, cost in likely.items() if cost < lowest - model.least_gain}
    return min(likely, key=lambda plan: (likely[plan], sorted(plan))) if likely else None


def _descend(model: TimeModel, plan: GroupSet) -> GroupSet:
    """Change group by group, or pair by pair, what the model says is faster, until nothing is."""
    while True:
        better = min(_change(model, plan), key=lambda changed: (model.cost(changed), sorted(changed)), default=plan)
        if model.cost(better) >= model.cost(plan):
            return plan
        plan = better


def _change(model: TimeModel, plan: GroupSet) -> Iterator[GroupSet]:
    """``plan`` with each group the other way, and with each pair of neighbours."""
    for group in range(len(model.gains)):
        yield plan ^ {group}
    for a, b in model.neighbours:
        yield plan ^ {a, b}
