"""Two calibration tables held against each other, and a table held against a model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from trt_facefusion.model.graph import GraphView
from trt_facefusion.model.graph.layout import MOVING_OPERATORS

_COPYING_OPERATORS = MOVING_OPERATORS | {"Dropout"}
"""A file may hold dropout, which an engine computes as a copy."""


@dataclass(frozen=True)
class AmaxChange:
    """One tensor's amax in both tables; ``ratio`` is the second over the first."""

    name: str
    first: float
    second: float

    @property
    def ratio(self) -> float:
        """Second over first: above 1 the second clips less and rounds more coarsely."""
        return self.second / self.first


@dataclass(frozen=True)
class TableComparison:
    """Tensors of both tables, the largest change first, and those of only one."""

    changes: tuple[AmaxChange, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]


def compare_tables(first: Mapping[str, float], second: Mapping[str, float]) -> TableComparison:
    """Hold two tables (tensor -> amax, above 0) against each other."""
    changes = [AmaxChange(name, first[name], second[name]) for name in first if name in second]
    changes.sort(key=lambda change: -abs(math.log(change.ratio)))
    return TableComparison(
        tuple(changes),
        tuple(name for name in first if name not in second),
        tuple(name for name in second if name not in first),
    )


@dataclass(frozen=True)
class AssignedRanges:
    """A foreign table in the names of a model.

    ``amax`` has a range for every float tensor but those in ``missing``; ``derived`` says whose range a tensor took
    over. ``constants`` are names of the table that stand for weights, which are quantised from their own values;
    ``unknown`` are all others that the model does not have.
    """

    amax: Mapping[str, float]
    derived: Mapping[str, str]
    missing: tuple[str, ...]
    constants: tuple[str, ...]
    unknown: tuple[str, ...]


def assign_ranges(table: Mapping[str, float], view: GraphView) -> AssignedRanges:
    """Find the tensors of a prepared model in a table that another tool made, such as a cache of TensorRT 8 or 10.

    TensorRT's parser keeps the names of inputs and of the outputs of nodes. It adds tensors of its own: constants
    (``NAME_output`` for an initializer NAME) and what lies between the layers of one node (``(Unnamed Layer* 7) ...``).
    A tensor that is missing takes over the range of the tensor that it is a copy of.
    """
    outputs = (name for node in view.float_nodes() for name in node.output)
    float_tensors = [name for name in (*view.input_names, *outputs) if name and view.is_float(name)]
    amax = {name: table[name] for name in float_tensors if name in table}
    derived: dict[str, str] = {}
    copies = [(n.input[0], n.output[0]) for n in view.model.graph.node if n.op_type in _COPYING_OPERATORS]
    for pairs in (copies, [(copy, source) for source, copy in reversed(copies)]):
        for source, copy in pairs:
            if copy not in amax and source in amax:
                amax[copy], derived[copy] = amax[source], source
    unmatched = [name for name in table if name not in amax]
    constants = tuple(n for n in unmatched if view.is_constant(n) or view.is_constant(n.removesuffix("_output")))
    return AssignedRanges(
        {name: amax[name] for name in float_tensors if name in amax},
        derived,
        tuple(name for name in float_tensors if name not in amax),
        constants,
        tuple(name for name in unmatched if name not in constants),
    )
