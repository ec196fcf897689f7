"""What one call of the pycuda runner costs on the host, without a GPU: real pycuda, emulated driver, empty network.

    python benchmarks/pycuda_overhead.py [SIDE ...]

``submit`` and ``collect`` are this project's own work, checks aside, with the copies to and from page-locked memory;
``infer`` has the emulated driver's changes of thread on top, which a GPU does not have.
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

from trt_facefusion.runtime.pycuda import PycudaRunner  # noqa: E402

ROUNDS = 1000


def plan(side: int) -> bytes:
    image = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, side, side]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "empty", image[:1], image[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return twin.make_plan(model, twin.Runtime.version, {})


def p50_us(call: Callable[[], object]) -> float:
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e6


def measure(side: int) -> None:
    feeds = {"x": np.zeros((1, 3, side, side), np.float32)}
    loaded = twin.Runtime(twin.Logger()).deserialize_cuda_engine(plan(side))
    with PycudaRunner(loaded, slots=1) as runner:
        whole = p50_us(lambda: runner.infer(feeds))
        core = runner._core
        slot = core._take()
        submit, collect = [], []
        with core._at_work(slot):
            for _ in range(ROUNDS):
                start = time.perf_counter()
                slot.submit(feeds)
                submitted = time.perf_counter()
                slot.settle()
                settled = time.perf_counter()
                slot.collect()
                submit.append(submitted - start)
                collect.append(time.perf_counter() - settled)
        core._pool.give(slot)
    own = [statistics.median(times) * 1e6 for times in (submit, collect)]
    print(f"{side:4} x {side:<4} infer {whole:6.0f} us   submit {own[0]:5.0f} us   collect {own[1]:5.0f} us")


def main() -> None:
    load(built()).configure(lazy=False)
    twin.IExecutionContext.execute_async_v3 = lambda self, stream_handle: True  # type: ignore[method-assign]
    for side in map(int, sys.argv[1:] or ["16", "256", "512"]):
        measure(side)


if __name__ == "__main__":
    main()
