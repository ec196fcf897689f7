"""A graph with scales of channels folded into its constants: the same graph in exact arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trt_facefusion.model.graph import GraphView
from trt_facefusion.quantization.correction.channel_affine import Affine, Affines
from trt_facefusion.quantization.folding.arithmetic import tie_products
from trt_facefusion.quantization.folding.constants import ConstantScaler, Exponents
from trt_facefusion.quantization.folding.operators import OPERATORS, tie_node
from trt_facefusion.quantization.folding.ties import ScaleTies
from trt_facefusion.quantization.folding.unfold import note_exponents


@dataclass(frozen=True)
class FoldedScales:
    """A graph with scales folded into it.

    Attributes:
        view: the graph; nodes and tensors bear the names that they had.
        exponents: tensor -> log2 of what each of its channels is divided by in ``view``, [C]; the others are as before.
        remaining: what is left to be done in front of the quantisers that read a tensor of ``view``.
        refused: tensor -> why no channel of it could be scaled, of those that were to be.
    """

    view: GraphView
    exponents: Mapping[str, Exponents]
    remaining: Affines
    refused: Mapping[str, str]


def find_scale_ties(view: GraphView) -> ScaleTies:
    """Which channels of ``view`` have to be scaled alike, and which not at all; inputs and outputs never are."""
    ties = ScaleTies(view)
    for name in view.input_names:
        ties.open(name)
    ties.fix(view.input_names, "it is an input of the network")
    for node in view.model.graph.node:
        tie_node(ties, node)
    ties.fix(view.output_names, "it is an output of the network")
    tie_products(ties)
    return ties


def find_exponents(view: GraphView, affines: Affines, ties: ScaleTies | None = None) -> dict[str, Exponents]:
    """What the channels of every tensor are divided by where the scales of ``affines`` are folded; log2, [C].

    Where two of them would scale one group of channels differently, the first one decides.
    """
    ties = find_scale_ties(view) if ties is None else ties
    by_group = _assign_exponents(ties, affines)
    exponents = {name: by_group[ties.groups(name)] for name in (*view.input_names, *view.producer)}
    return {name: values for name, values in exponents.items() if values.any()}


def fold_scales(view: GraphView, affines: Affines) -> FoldedScales:
    """``view`` with the scales of ``affines`` moved into its constants, as far as that is possible.

    Shifts stay, and so does what could not be folded: both are ``remaining``, so that a quantiser sees what it would
    have seen without folding.
    """
    ties = find_scale_ties(view)
    exponents = find_exponents(view, affines, ties)
    remaining = {name: _subtract(affine, exponents.get(name)) for name, affine in affines.items()}
    return FoldedScales(
        _scale_constants(view, exponents),
        exponents,
        {name: affine for name, affine in remaining.items() if affine.shifts or affine.scales},
        {name: reason for name in affines if (reason := ties.reason(name)) is not None},
    )


def _assign_exponents(ties: ScaleTies, affines: Affines) -> NDArray[np.int64]:
    """The exponent of every group."""
    by_group = np.zeros(ties.count, np.int64)
    decided = np.zeros(ties.count, np.bool_)
    for name, affine in affines.items():
        groups = ties.groups(name)
        if len(groups) != len(affine.exponents):
            continue
        free = ~ties.is_fixed(groups)
        for group, exponent in zip(groups[free].tolist(), affine.exponents[free].tolist(), strict=True):
            if not decided[group]:
                by_group[group], decided[group] = exponent, True
    return by_group


def _subtract(affine: Affine, exponents: Exponents | None) -> Affine:
    """What is left of ``affine`` behind a scale."""
    if exponents is None:
        return affine
    return Affine((affine.exponents - exponents).astype(np.int8), affine.offsets)


def _scale_constants(view: GraphView, exponents: Mapping[str, Exponents]) -> GraphView:
    scaler = ConstantScaler(view, exponents)
    for node in view.model.graph.node:
        passing = OPERATORS.get(node.op_type)
        touched = any(name in exponents for name in (*node.input, *node.output))
        if touched and passing is not None and passing.scale is not None:
            passing.scale(scaler, node)
    folded = scaler.assemble()
    note_exponents(folded.model, exponents)
    return folded
