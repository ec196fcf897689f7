"""What one call of the pycuda runner costs on the host, without a GPU: real pycuda, emulated driver, empty network.

    python benchmarks/pycuda_overhead.py [SIDE ...]

Medians, each with and without CUDA graphs. ``submit`` and ``collect`` are this project's own work, checks aside, with
the copies to and from page-locked memory; ``infer`` has the emulated driver's changes of thread on top, which a GPU
does not have.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from cuda_emulator.driver import built, load  # noqa: E402
from twin import runtime as twin  # noqa: E402

from trt_facefusion.engine.runtime.pycuda import PycudaRunner  # noqa: E402

ROUNDS = 1000


def plan(side: int) -> bytes:
    image = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, side, side]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "empty", image[:1], image[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return twin.make_plan(model, twin.Runtime.version, {})


def p50_us(call: Callable[[], object], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e6


def measure(side: int, graphs: bool, rounds: int = ROUNDS) -> dict[str, float]:
    """Medians in microseconds: ``infer`` as a whole, and our own part of it, ``submit`` and ``collect``."""
    feeds = {"x": np.zeros((1, 3, side, side), np.float32)}
    loaded = twin.Runtime(twin.Logger()).deserialize_cuda_engine(plan(side))
    with PycudaRunner(loaded, slots=1, graphs=graphs) as runner:
        whole = p50_us(lambda: runner.infer(feeds), rounds)
        if graphs and not runner.graph_use.launched:
            raise SystemExit(f"no CUDA graphs: {runner.graph_use.off}")
        core = runner._core
        slot = core._take()
        submit, collect = [], []
        with core._at_work(slot):
            for _ in range(rounds):
                start = time.perf_counter()
                slot.submit(feeds)
                submitted = time.perf_counter()
                slot.settle()
                settled = time.perf_counter()
                slot.collect()
                submit.append(submitted - start)
                collect.append(time.perf_counter() - settled)
        core._pool.give(slot)
    own = {name: statistics.median(times) * 1e6 for name, times in (("submit", submit), ("collect", collect))}
    return {"infer": whole, **own}


def without_a_network() -> None:
    """Let the stand-in for TensorRT queue nothing at all."""
    twin.IExecutionContext.execute_async_v3 = lambda self, stream_handle: True  # type: ignore[method-assign]


def main() -> None:
    load(built()).configure(lazy=False)
    without_a_network()
    for side in map(int, sys.argv[1:] or ["16", "128", "256", "512"]):
        for graphs in (False, True):
            us = measure(side, graphs)
            line = "   ".join(f"{name} {value:6.0f} us" for name, value in us.items())
            print(f"{side:4} x {side:<4} {'graph' if graphs else 'plain'}   {line}")


if __name__ == "__main__":
    main()
