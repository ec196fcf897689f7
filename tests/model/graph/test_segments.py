"""Cutting a graph at its tensors, so that each piece can be run by itself."""

from __future__ import annotations

import numpy as np
import pytest
from nets import SWAPPER_SHAPES, feeds, ranges, run, swapper

from trt_facefusion.model.graph import GraphView, prepare
from trt_facefusion.model.graph.segments import (
    GIVEN,
    find_segments,
    graft_segment,
    list_activations,
    read_precision,
    set_input_shapes,
    splice_segments,
    tap_tensors,
)
from trt_facefusion.quantization.lowering import lower
from trt_facefusion.quantization.precision import plan_by_rules

FEEDS = feeds(SWAPPER_SHAPES, batch=2)
SIZES = {name: value.shape for name, value in FEEDS.items()}


@pytest.fixture(scope="module")
def plain() -> GraphView:
    return GraphView(set_input_shapes(prepare(swapper(), SWAPPER_SHAPES).model, SIZES))


@pytest.fixture(scope="module")
def typed(plain: GraphView) -> GraphView:
    amax = ranges(plain.model, FEEDS)
    return GraphView(set_input_shapes(lower(plain, plan_by_rules(plain, amax, "net"), amax), SIZES))


def test_every_float_tensor_is_found_with_its_shape(plain: GraphView) -> None:
    found = list_activations(plain)
    assert list(found)[-1] == "output"
    computed = run(tap_tensors(plain, list(found)), FEEDS, exact=True)
    assert {name: value.shape for name, value in computed.items()} == found


def test_pieces_that_get_the_graphs_own_values_give_them_back(plain: GraphView) -> None:
    found = list_activations(plain)
    values = run(tap_tensors(plain, list(found)), FEEDS, exact=True) | FEEDS
    parts = find_segments(plain, found)
    model = splice_segments(plain, list(parts.values()), {**SIZES, **found})
    given = {value.name: values[value.name.removesuffix(GIVEN)] for value in model.graph.input}
    pieces = run(model, given, exact=True)
    assert pieces.keys() == found.keys()
    for name, piece in pieces.items():
        np.testing.assert_array_equal(piece, values[name])


def test_a_typed_graphs_piece_holds_its_casts_and_quantisers(plain: GraphView, typed: GraphView) -> None:
    common = [name for name in list_activations(plain) if name in list_activations(typed)]
    assert set(common) == set(list_activations(plain))
    parts, originals = find_segments(typed, common), find_segments(plain, common)
    assert all(parts[name].reads == originals[name].reads for name in common)
    precisions = {name: read_precision(typed, part) for name, part in parts.items()}
    assert precisions["block0a"] == "int8" and precisions["block0/add"] == "fp16"
    assert precisions["block0a/adain/div"] == "fp32"
    assert {read_precision(plain, part) for part in originals.values()} == {"fp32"}


def test_a_graft_of_the_graph_itself_changes_nothing(plain: GraphView) -> None:
    wanted = run(plain.model, FEEDS, exact=True)["output"]
    for name, part in find_segments(plain, list_activations(plain)).items():
        if name.startswith(("block0", "output", "Split")):
            np.testing.assert_array_equal(run(graft_segment(plain, plain, part), FEEDS, exact=True)["output"], wanted)
