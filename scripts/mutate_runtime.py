"""Break the runtime on purpose, one line at a time, and see whether the tests notice.

    scripts/mutate_runtime.py [NAME ...] [--list]

Each mutation is made in a copy of the package, and the tests that must fail are run there. Prints a table; exit code 1
if a mutation survives, or if the tests fail without any. Takes some minutes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("trt_facefusion", "tests", "benchmarks", "scripts", "docs", "pyproject.toml")
TIMEOUT_S, HARD_TIMEOUT_S = 60, 240
"""For one test, and for all of a mutation's: pytest cannot end a test that hangs with Python's lock held."""
PASSED, FAILED = 0, 1

RUNNER = "tests/engine/runtime/test_pycuda_runner.py"
GRAPHS = "tests/engine/runtime/test_graphs.py"
PROTOCOL = "tests/engine/runtime/test_protocol.py"
STORED = "tests/inference/test_open_gpu.py"
CHOICE = "tests/inference/test_engine_selection.py"
UPLOADER = "tests/engine/backends/test_uploader.py"
CACHE = "tests/quantization/calibration/test_cache.py"


@dataclass(frozen=True)
class Mutation:
    """``old`` becomes ``new`` in ``file``; of ``tests``, one has to fail."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


def _mutation(name: str, file: str, old: str, new: str, *tests: str) -> Mutation:
    return Mutation(name, f"trt_facefusion/{file}", old, new, tests)


SLOTS, PYCUDA, GRAPH = "engine/runtime/slots.py", "engine/runtime/pycuda.py", "engine/runtime/graphs.py"
SUBJECT = "inference/open.py"

MUTATIONS = (
    # -- waiting
    _mutation("results taken without waiting", SLOTS, "        self._done.synchronize()\n", "", RUNNER),
    _mutation("end of the work not marked", SLOTS, "        self._done.record(self._stream)\n", "", RUNNER),
    _mutation(
        "slot not at rest after an error",
        SLOTS,
        'when the context is broken."""\n        self._stream.synchronize()\n',
        'when the context is broken."""\n',
        RUNNER,
    ),
    _mutation(
        "profile not waited for",
        SLOTS,
        "        self._stream.synchronize()\n        self._set_shapes(self._io.largest)\n",
        "        self._set_shapes(self._io.largest)\n",
        RUNNER,
    ),
    _mutation(
        "error without settling",
        PYCUDA,
        "            failure = self._settled(slot, error)\n            if failure",
        "            failure = error\n            if failure",
        RUNNER,
    ),
    _mutation("stream waits for the default stream", SLOTS, "_NON_BLOCKING = 1", "_NON_BLOCKING = 0", RUNNER),
    _mutation(
        "batch handed out before its upload",
        "engine/backends/uploader.py",
        "            self._events[slot].synchronize()\n",
        "            pass\n",
        UPLOADER,
    ),
    _mutation(
        "batch's buffers freed under its upload",
        "engine/backends/uploader.py",
        "            self._stream.synchronize()  # no copy may still read or write what is freed now\n",
        "",
        UPLOADER,
    ),
    # -- slots and buffers
    _mutation("results of another slot", PYCUDA, "return slot.collect(), ", "return self._all[0].collect(), ", RUNNER),
    _mutation(
        "future gets another slot's result",
        PYCUDA,
        "outputs = slot.collect()",
        "outputs = self._all[-1].collect()",
        RUNNER,
    ),
    _mutation("one slot handed to two", SLOTS, "return self._free.popleft()", "return self._free[0]", RUNNER),
    _mutation(
        "slot given back while in flight",
        PYCUDA,
        "        self._in_flight.put((slot, future))\n",
        "        self._in_flight.put((slot, future))\n        self._pool.give(slot)\n",
        RUNNER,
    ),
    _mutation("slots freed while in flight", SLOTS, "and len(self._free) == len(self._all)", "", RUNNER),
    _mutation("results not copied out of the slot", SLOTS, "self._view(spec).copy()", "self._view(spec)", RUNNER),
    _mutation(
        "upload before the face is in the buffer",
        SLOTS,
        "            np.copyto(self._view(spec), feeds[spec.name])\n        if timed or self._graph is None:\n"
        "            self._queue(timed)\n        else:\n            self._graph.run(self._queue)\n",
        "            self._queue(timed)\n            np.copyto(self._view(spec), feeds[spec.name])\n",
        RUNNER,
    ),
    _mutation("device buffers not freed", SLOTS, "        while self._device:\n", "        while False:\n", RUNNER),
    _mutation("page-locked buffers not freed", SLOTS, "        while self._host:\n", "        while False:\n", RUNNER),
    _mutation(
        "context kept after the end",
        PYCUDA,
        "without this\n                self._context.detach()\n",
        "without this\n                pass\n",
        RUNNER,
    ),
    _mutation(
        "dropped runner not closed",
        PYCUDA,
        "        self._finalizer = weakref.finalize(self, self._core.close)\n",
        "        self._finalizer = self._core.close\n",
        RUNNER,
    ),
    _mutation("last result kept", PYCUDA, "            del call  #", "            pass  #", RUNNER),
    _mutation(
        "failed start leaves its slots",
        PYCUDA,
        "            self._free(slots)\n            self._started.set_exception(error)\n",
        "            self._started.set_exception(error)\n",
        RUNNER,
    ),
    # -- a lost device
    _mutation("lost context used again", PYCUDA, "        self._lost = True\n", "", RUNNER),
    _mutation(
        "lost device not told to others",
        PYCUDA,
        "        self._pool.refuse(lambda: DeviceLostError(loss.message, loss.remedy))\n",
        "",
        RUNNER,
    ),
    # -- graphs
    _mutation(
        "graph not captured anew for other shapes",
        SLOTS,
        "        if self._graph is not None:\n            self._graph.forget()\n        for name",
        "        for name",
        GRAPHS,
    ),
    _mutation(
        "graph not freed",
        SLOTS,
        "            self._graph.abandon() if context_is_lost else self._graph.forget()\n",
        "",
        GRAPHS,
    ),
    _mutation(
        "first graph not freed",
        GRAPH,
        '            self._call("cuGraphDestroy", graph)\n',
        "            pass\n",
        GRAPHS,
    ),
    _mutation("captured at the first call", GRAPH, "_PLAIN_CALLS = 2", "_PLAIN_CALLS = 0", GRAPHS),
    _mutation(
        "capture that other threads break",
        GRAPH,
        "CU_STREAM_CAPTURE_MODE_THREAD_LOCAL",
        "CU_STREAM_CAPTURE_MODE_GLOBAL",
        GRAPHS,
    ),
    _mutation(
        "broken capture not ended",
        GRAPH,
        '                self._call("cuGraphDestroy", self._call("cuStreamEndCapture", stream))\n',
        "                pass\n",
        GRAPHS,
    ),
    _mutation(
        "graph that failed counted as done", GRAPH, "            return False\n", "            return True\n", GRAPHS
    ),
    _mutation(
        "graph launched and the work queued again",
        GRAPH,
        "self._launch(queue):\n            return\n",
        "self._launch(queue):\n            pass\n",
        GRAPHS,
    ),
    _mutation("captures tried for ever", GRAPH, "self._failures >= _TRIES", "False", GRAPHS),
    # -- both runners
    _mutation("faces not copied for later", "engine/runtime/session.py", "np.array(tensor)", "tensor", PROTOCOL),
    _mutation(
        "map out of order",
        "engine/runtime/in_flight.py",
        "yield pending.popleft().result()\n        try",
        "yield pending.pop().result()\n        try",
        PROTOCOL,
    ),
    # -- what a manifest promises
    _mutation(
        "version and GPU not checked",
        SUBJECT,
        "        require_fit(manifest, folder, machine)\n",
        "        pass\n",
        STORED,
    ),
    _mutation("swapped engine not noticed", SUBJECT, "if stored is None or hashlib", "if False and hashlib", STORED),
    _mutation(
        "damaged folder not noticed",
        "engine/store/store.py",
        "if compute_sha256(folder / name) != file.sha256:",
        "if False:",
        STORED,
    ),
    _mutation("shapes not checked", SUBJECT, "and runner.shape_ranges != stored", "and False", STORED),
    _mutation(
        "every engine may bring code",
        SUBJECT,
        "host_code=manifest.pins.version_compatible",
        "host_code=True",
        STORED,
    ),
    _mutation(
        "wrong library loads it",
        "engine/backends/tensorrt_rtx.py",
        "library=self.library.module",
        'library="tensorrt"',
        STORED,
    ),
    _mutation(
        "engine chosen that does not fit",
        "inference/select.py",
        "for path, m in engines if path not in misfits",
        "for path, m in engines",
        CHOICE,
    ),
    _mutation(
        "versions not compared",
        "engine/store/fit.py",
        "        return built == installed\n",
        "        return True\n",
        "tests/engine/store/test_fit.py",
    ),
    _mutation(
        "compute capabilities not compared",
        "engine/store/fit.py",
        "    return built is None or built == here\n",
        "    return True\n",
        "tests/engine/store/test_fit.py",
    ),
    _mutation(
        "calibration of another model taken",
        "quantization/calibration/cache.py",
        "    if calibration.model_digest != model_digest:\n        return Stale",
        "    if False:\n        return Stale",
        CACHE,
    ),
    _mutation(
        "named cache of another model taken",
        "quantization/calibration/cache.py",
        "    if calibration.model_digest != model_digest:\n        raise",
        "    if False:\n        raise",
        CACHE,
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="parts of the names of the mutations to try (else all)")
    parser.add_argument("--list", action="store_true", help="only list them")
    asked = parser.parse_args()
    chosen = [m for m in MUTATIONS if not asked.names or any(name in m.name for name in asked.names)]
    if asked.list:
        print("\n".join(f"{m.name:44} {m.file}" for m in chosen))
        return
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy = Path(folder)
        for name in COPIED:
            (shutil.copytree if (ROOT / name).is_dir() else shutil.copy2)(ROOT / name, copy / name)
        everything = tuple(sorted({test for mutation in chosen for test in mutation.tests}))
        code, said = outcome(copy, everything)
        if code != PASSED:
            sys.exit(f"the tests fail without any mutation: {said or ' '.join(everything)}")
        survivors = [mutation.name for mutation in chosen if not killed(copy, mutation)]
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} mutations killed")
    sys.exit(bool(survivors))


def killed(copy: Path, mutation: Mutation) -> bool:
    """Whether a test fails with the mutation; prints which."""
    file = copy / mutation.file
    text = file.read_text()
    if text.count(mutation.old) != 1:
        sys.exit(f"{mutation.name}: its line is {text.count(mutation.old)} times in {mutation.file}")
    started = time.monotonic()
    file.write_text(text.replace(mutation.old, mutation.new))
    try:
        code, said = outcome(copy, mutation.tests)
    finally:
        file.write_text(text)
    verdict = {PASSED: "SURVIVED", FAILED: "killed"}.get(code, "CANNOT RUN")
    print(f"{verdict:10} {mutation.name:44} {time.monotonic() - started:4.0f} s  {said}", flush=True)
    return code == FAILED


def outcome(copy: Path, tests: tuple[str, ...]) -> tuple[int, str]:
    """pytest's exit code in ``copy``, and the first test that failed; a test that hangs has failed, too."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", f"--timeout={TIMEOUT_S}", *tests]
    environment = {
        **os.environ,
        "PYTHONPATH": str(copy),
        "TRT_FF_REQUIRE_EMULATOR": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    try:
        done = subprocess.run(
            command, cwd=copy, env=environment, capture_output=True, text=True, check=False, timeout=HARD_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        return FAILED, "hangs"
    failures = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    if any("::" in line for line in failures):  # whatever the process did when it ended
        return FAILED, failures[0].split(" - ")[0].partition("::")[2]
    if done.returncode not in {PASSED, FAILED}:  # killed by its timeout, or by the driver
        hung = "Timeout" in done.stdout + done.stderr or done.returncode < 0
        return (FAILED, "hangs or crashes") if hung else (done.returncode, done.stdout[-300:])
    return done.returncode, failures[0] if failures else ""


if __name__ == "__main__":
    main()
