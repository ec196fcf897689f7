"""Many clients on one pycuda runner without a GPU: real pycuda and cuda-python, emulated driver, stand-in for TensorRT.

    python benchmarks/runtime_stress.py [--calls 10000] [--slots 4] [--clients 8] [--json]

Every client sends faces that no other one sends; half of the calls wait (``infer``), half do not (``infer_async``).
Four runs: with all batch sizes and with one (CUDA graphs are replayed then), each with work that the driver holds back
until something waits for it (lazy) and with work that runs by itself. Then the host's overhead per call, with an empty
network and copies that take no time. Exit code 1 where a face is wrong or out of order, or anything is left.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "benchmarks")]

import pycuda_overhead  # noqa: E402
from cuda_emulator.driver import EmulatedDriver, built, load  # noqa: E402
from twin.swap import Face, engine, face, is_swap_of  # noqa: E402

from trt_facefusion.engine.runtime.pycuda import PycudaRunner  # noqa: E402

MOST_WAITING = 16
"""Futures that a client lets stand before it looks at them."""
PAGE_MIB = 4096 / 2**20


class Client:
    """Sends ``calls`` faces of its own and looks at what comes back, and in which order."""

    def __init__(self, number: int, calls: int, one_size: bool) -> None:
        self.number, self.calls, self.one_size = number, calls, one_size
        self.answered, self.wrong, self.out_of_order = 0, 0, 0
        self._waiting: list[tuple[int, int, Future[dict[str, Face]]]] = []
        self._last = -1

    def run(self, runner: PycudaRunner) -> None:
        for turn in range(self.calls):
            value = self.number * 1_000_000 + turn
            batch = 1 if self.one_size else 1 + (turn + self.number) % 4
            if turn % 2:
                future = runner.infer_async(face(value, batch))
                future.add_done_callback(lambda _, turn=turn: self._came(turn))  # type: ignore[misc]
                self._waiting.append((value, batch, future))
            else:
                self._look(value, batch, runner.infer(face(value, batch)))
            if len(self._waiting) == MOST_WAITING:
                self._collect()
        self._collect()

    def _came(self, turn: int) -> None:
        self.out_of_order += turn < self._last
        self._last = turn

    def _collect(self) -> None:
        for value, batch, future in self._waiting:
            self._look(value, batch, future.result(60))
        self._waiting.clear()

    def _look(self, value: int, batch: int, outputs: dict[str, Face]) -> None:
        self.answered += 1
        self.wrong += not is_swap_of(value, outputs, batch)


def stress(
    emulator: EmulatedDriver, calls: int, slots: int, clients: int, lazy: bool, one_size: bool
) -> dict[str, Any]:
    """One run; ``left`` is what was allocated after it and not before."""
    emulator.begin()
    emulator.configure(lazy=lazy)
    before = emulator.held()
    share = [calls // clients + (number < calls % clients) for number in range(clients)]
    people = [Client(number, count, one_size) for number, count in enumerate(share)]
    started, cpu = time.perf_counter(), time.process_time()
    with PycudaRunner(engine(), slots=slots) as runner:
        _warm_up(runner)
        resident = _resident_mib()
        inside = emulator.held()
        threads = [threading.Thread(target=client.run, args=(runner,)) for client in people]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        held, use = emulator.held(), runner.graph_use
        grown = _resident_mib() - resident
    after = emulator.held()
    left = {name: count - before[name] for name, count in after.items() if count != before[name]}
    grew = {name: n - inside[name] for name, n in held.items() if n > inside[name] and name != "graphs"}
    return {
        "work": "lazy" if lazy else "eager",
        "batches": "1" if one_size else "1 to 4",
        "answered": sum(client.answered for client in people),
        "wrong": sum(client.wrong for client in people),
        "out_of_order": sum(client.out_of_order for client in people),
        "left": {**left, **grew},
        "freed_under_work": emulator["early_free"],
        "graphs_captured": use.captured,
        "graphs_launched": use.launched,
        "resident_growth_mib": round(grown, 1),
        "cpu_us_per_call": round((time.process_time() - cpu) / calls * 1e6),
        "calls_per_s": round(calls / (time.perf_counter() - started)),
    }


def _warm_up(runner: PycudaRunner) -> None:
    for batch in (1, 2, 3, 4):
        for _ in runner.map(face(0, batch) for _ in range(16)):
            pass


def _resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_MIB


def failed(run: dict[str, Any], calls: int) -> bool:
    return bool(
        run["answered"] != calls or run["wrong"] or run["out_of_order"] or run["left"] or run["freed_under_work"]
    )


def overhead(emulator: EmulatedDriver, rounds: int) -> dict[str, dict[str, float]]:
    """Microseconds of the host per call, for faces of 128 x 128."""
    emulator.begin()
    emulator.configure(lazy=False)
    pycuda_overhead.without_a_network()
    ways = {"plain": False, "graph": True}
    return {
        name: {k: round(v, 1) for k, v in pycuda_overhead.measure(128, on, rounds).items()} for name, on in ways.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    emulator = load(built())
    runs = []
    for lazy in (True, False):
        for one_size in (False, True):
            runs.append(stress(emulator, asked.calls, asked.slots, asked.clients, lazy, one_size))
            if not asked.json:
                print("   ".join(f"{name} {value}" for name, value in runs[-1].items()), flush=True)
    host = overhead(emulator, max(20, min(1000, asked.calls)))
    if asked.json:
        print(json.dumps({"calls": asked.calls, "runs": runs, "host_overhead_us": host}))
    else:
        print(f"host overhead per call, 128 x 128, us: {host}")
    sys.exit(any(failed(run, asked.calls) for run in runs))


if __name__ == "__main__":
    main()
