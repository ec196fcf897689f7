from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rtx_kernels import CONVOLUTIONS

from trt_facefusion.engine.backends.base import Kernel, TensorFormat
from trt_facefusion.engine.timing.attribution import NOBODY, PlannedGraph, attribute_time, collect_layers
from trt_facefusion.engine.timing.gpus import get_gpu
from trt_facefusion.engine.timing.roofline import predict_engine

A10G = get_gpu("a10g")
PICTURE = TensorFormat("x", "fp16", (1, 64, 64, 64))
WEIGHTS = TensorFormat("w", "fp16", (64, 64, 3, 3))

# cast -> quantise -> first -> relu -> scale -> second -> cast_out
GRAPH = PlannedGraph(
    {"first": 100, "relu": 0, "second": 300},
    {
        "cast": ("quantise",),
        "quantise": ("first",),
        "first": ("relu",),
        "relu": ("scale",),
        "scale": ("second",),
        "second": ("cast_out",),
        "cast_out": (),
        "alone": (),
    },
)


def multiply(*nodes: str) -> Kernel:
    return Kernel("+".join(nodes), "correlation", nodes, (PICTURE,), (WEIGHTS,), (PICTURE,))


def move(*nodes: str) -> Kernel:
    return Kernel("+".join(nodes), "kgen", nodes, (PICTURE,), (), (PICTURE,))


def parts_of(kernel: Kernel) -> dict[str, float]:
    engine = predict_engine([kernel], A10G)
    return {node: round(time / engine.total_ms, 6) for node, time in attribute_time(engine, GRAPH).items()}


def test_layers_of_one_kernel_share_its_time_by_multiplications() -> None:
    assert parts_of(multiply("first", "second")) == {"first": 0.25, "second": 0.75}


def test_what_is_fused_into_a_layer_costs_nothing_more() -> None:
    assert parts_of(multiply("first", "relu", "scale")) == {"first": 1.0}


def test_glue_is_charged_to_the_layer_that_it_feeds() -> None:
    assert parts_of(move("cast", "quantise")) == {"first": 1.0}
    assert parts_of(move("scale")) == {"second": 1.0}


def test_a_kernel_of_an_activation_and_glue_is_shared_by_both() -> None:
    assert parts_of(move("relu", "scale")) == {"relu": 0.5, "second": 0.5}


def test_what_feeds_nothing_is_charged_to_what_made_it_and_the_rest_to_nobody() -> None:
    assert parts_of(move("cast_out")) == {"second": 1.0}
    assert parts_of(move("alone")) == {NOBODY: 1.0}
    assert parts_of(move("unknown")) == {NOBODY: 1.0}


def test_a_kernel_without_a_name_is_charged_to_those_that_read_it() -> None:
    turned = TensorFormat("turned", "fp16", (1, 64, 64, 64))
    transpose = Kernel("t", "kgen", (), (PICTURE,), (), (turned,))
    layer = Kernel("second", "correlation", ("second",), (turned,), (WEIGHTS,), (PICTURE,))
    engine = predict_engine([transpose, layer], A10G)
    assert attribute_time(engine, GRAPH) == {"second": pytest.approx(engine.total_ms)}


def test_time_between_layers_is_gathered_at_the_layer_in_front() -> None:
    assert collect_layers({"first": 1.0, "relu": 2.0, NOBODY: 4.0}, GRAPH) == {"first": 3.0, "second": 0.0, NOBODY: 4.0}


NODES = ("cast", "quantise", "first", "relu", "scale", "second", "cast_out", "alone", "unknown")


@given(st.lists(st.tuples(st.booleans(), st.lists(st.sampled_from(NODES), max_size=4)), min_size=1, max_size=8))
def test_no_time_is_lost_or_made(chosen: list[tuple[bool, list[str]]]) -> None:
    engine = predict_engine([multiply(*nodes) if math else move(*nodes) for math, nodes in chosen], A10G)
    times = attribute_time(engine, GRAPH)
    assert sum(times.values()) == pytest.approx(engine.total_ms)
    assert sum(collect_layers(times, GRAPH).values()) == pytest.approx(engine.total_ms)


def test_the_kernels_of_a_real_engine_land_on_its_layers() -> None:
    engine = predict_engine(CONVOLUTIONS.values(), A10G)
    layers = {"first": 1, "mid": 1, "one": 1}
    readers = {"relu0": ("relu0_q",), "relu0_q": ("mid",)}
    times = attribute_time(engine, PlannedGraph(layers, readers))
    assert set(layers) <= set(times)
    assert sum(times.values()) == pytest.approx(engine.total_ms)
