"""`trt-ff serve` under load, over loopback: throughput, latency, wrong and lost answers, memory.

    python benchmarks/serving.py [--seconds 60] [--clients 1,8,64] [--engine FOLDER] [--json FILE]

The generator is the bundled one (exported here), in onnxruntime, unless an engine or an ONNX file is named. Each client
sends its next request when it has the answer to the last one, over a connection that it keeps. Every answer is held
against its own question: what `Swapper.swap` makes of the same photos, of which no two are alike, and at most
`TOLERANCE` of 255 may differ, since batches round differently. Before each round the bare pipeline (`Swapper.swap`,
with reading and writing the files) runs as long in this process with the service idle, and so does the bare runner
before the raw tensors of the inference protocol; shares are of these. At the end, four times as many clients as the
service takes requests ask at once, and come back a moment after each 503. Memory is the service's, once a second.
"""

from __future__ import annotations

import hashlib
import http.client
import io
import itertools
import json
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx
import PIL.Image
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from trt_facefusion.inference.open import open_model
from trt_facefusion.model.export import ReferenceSource
from trt_facefusion.model.presets import get_preset
from trt_facefusion.model.presets.contract import Contract
from trt_facefusion.swap.photo_file import PNG, encode_photo
from trt_facefusion.swap.swapper import Swapper

ROOT = Path(__file__).resolve().parents[1]
TOLERANCE = 2
BOUNDARY = "question"
FORM = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
OVERLOAD, OVERLOAD_QUEUE, PAUSE_S = 4, 16, 0.2


@dataclass(eq=False)
class Question:
    """A request, and what the answer has to be; ``right`` are digests of answers that were found to be so."""

    path: str
    body: bytes
    headers: dict[str, str]
    check: Callable[[bytes], bool]
    right: set[bytes] = field(default_factory=set)

    def is_answer(self, body: bytes) -> bool:
        digest = hashlib.sha256(body).digest()
        if digest not in self.right and self.check(body):
            self.right.add(digest)
        return digest in self.right


@dataclass
class Round:
    """What came of one round; ``share`` is of the throughput of the bare thing."""

    what: str
    clients: int
    seconds: float
    answered: int
    wrong: int
    lost: int
    refused: dict[str, int]
    per_s: float
    p50_ms: float
    p99_ms: float
    bare_per_s: float | None = None
    share: float | None = None
    rss_mib: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """At the beginning, at the end, and the most."""


class Load:
    """Clients that ask until the time is up."""

    def __init__(self, port: int, questions: Sequence[Question]) -> None:
        self.port, self.questions = port, questions
        self.latencies_s: list[float] = []
        self.counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def run(self, clients: int, seconds: float) -> float:
        """Seconds from the first question to the last answer."""
        started = time.perf_counter()
        until = started + seconds
        threads = [threading.Thread(target=self._ask, args=(number, until)) for number in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return time.perf_counter() - started

    def _ask(self, number: int, until: float) -> None:
        order = random.Random(number)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        while time.perf_counter() < until:
            question = order.choice(self.questions)
            asked = time.perf_counter()
            try:
                connection.request("POST", question.path, question.body, question.headers)
                reply = connection.getresponse()
                body = reply.read()
            except (OSError, http.client.HTTPException):
                connection.close()
                self._count("lost")
                continue
            elapsed = time.perf_counter() - asked
            if reply.status != 200:
                self._count(str(reply.status))
                if reply.status == 503 and reply.headers["Retry-After"] is None:
                    self._count("503 without Retry-After")
                time.sleep(PAUSE_S)
                continue
            self._count("right" if question.is_answer(body) else "wrong", elapsed)
        connection.close()

    def _count(self, what: str, elapsed_s: float | None = None) -> None:
        with self._lock:
            self.counts[what] += 1
            if elapsed_s is not None:
                self.latencies_s.append(elapsed_s)


class Memory:
    """Resident memory of a process, once a second."""

    def __init__(self, process: int) -> None:
        self._file = Path(f"/proc/{process}/status")
        self.mib: list[float] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def read(self) -> float:
        text = self._file.read_text()
        match = re.search(r"VmRSS:\s+(\d+) kB", text)
        return int(match[1]) / 1024 if match else 0.0

    def _watch(self) -> None:
        while not self._ended.wait(1.0):
            with suppress(OSError):
                self.mib.append(self.read())


@contextmanager
def serve(words: Sequence[str]) -> Iterator[tuple[int, Memory]]:
    """A service in a process of its own: its port, and its memory."""
    code = "import sys; sys.argv[0] = 'trt-ff'; from trt_facefusion.cli.main import main; main()"
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", code, "serve", "--port", "0", *words], stdout=subprocess.PIPE, stderr=log, text=True
        )
        assert process.stdout is not None
        line = process.stdout.readline()
        match = re.search(r"http://[^/]*:(\d+)/", line)
        if match is None:
            log.seek(0)
            raise SystemExit(f"the service did not start: {line}{log.read()[-2000:]}")
        try:
            yield int(match[1]), Memory(process.pid)
        finally:
            process.terminate()
            code_of_exit = process.wait(120)
            if code_of_exit:
                log.seek(0)
                sys.stderr.write(f"the service ended with {code_of_exit}: {log.read()[-2000:]}\n")


def make_swap_questions(swapper: Swapper, faces: Sequence[bytes]) -> list[Question]:
    """Swaps of neighbours among ``faces``, with what the swapper itself makes of them."""
    questions = []
    pictures: list[NDArray[np.int16]] = []
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{number}.jpg" for number in range(len(faces))]
        for file, face in zip(files, faces, strict=True):
            file.write_bytes(face)
        for source, target in zip(files, files[1:] + files[:1], strict=True):
            pictures.append(swapper.swap(source, target).pixels.astype(np.int16))
            parts = [("source", source.read_bytes()), ("target", target.read_bytes()), ("format", b"png")]
            right = pictures[-1]
            questions.append(
                Question("/v1/swap", make_form(parts), FORM, lambda body, right=right: is_near(body, right))
            )
    for one, other in itertools.combinations(pictures, 2):
        if one.shape == other.shape and np.abs(one - other).max() <= 8 * TOLERANCE:
            raise SystemExit("two questions have nearly one answer, so a swapped answer would not be noticed")
    return questions


def is_near(body: bytes, right: NDArray[np.int16]) -> bool:
    picture = np.asarray(PIL.Image.open(io.BytesIO(body)).convert("RGB"), np.int16)
    return picture.shape == right.shape and int(np.abs(picture - right).max()) <= TOLERANCE


def make_form(parts: Sequence[tuple[str, bytes]]) -> bytes:
    heads = [f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode() for name, _ in parts]
    content = b"".join(head + part + b"\r\n" for head, (_, part) in zip(heads, parts, strict=True))
    return content + f"--{BOUNDARY}--\r\n".encode()


def make_tensor_questions(swapper: Swapper, count: int = 16) -> list[Question]:
    """Raw inputs of the network, each with what the runner gives for it."""
    runner = swapper.engines.first.runner
    rng = np.random.default_rng(0)
    questions = []
    for _ in range(count):
        shapes = {s.name: [n if isinstance(n, int) else 1 for n in s.shape] for s in runner.inputs}
        feeds = {s.name: rng.random(shapes[s.name]).astype(s.dtype) for s in runner.inputs}
        name = runner.outputs[0].name
        right = runner.infer(feeds)[name]
        entries = [
            {
                "name": s.name,
                "datatype": {"float32": "FP32", "float16": "FP16"}[s.dtype],
                "shape": shapes[s.name],
                "parameters": {"binary_data_size": feeds[s.name].nbytes},
            }
            for s in runner.inputs
        ]
        head = json.dumps({"inputs": entries, "outputs": [{"name": name, "parameters": {"binary_data": True}}]})
        body = head.encode() + b"".join(feeds[s.name].tobytes() for s in runner.inputs)
        questions.append(
            Question(
                "/v2/models/swap/infer",
                body,
                {"Inference-Header-Content-Length": str(len(head))},
                lambda body, right=right: is_same_tensor(body, right),
            )
        )
    return questions


def is_same_tensor(body: bytes, right: NDArray[Any]) -> bool:
    values = np.frombuffer(body[-right.nbytes :], right.dtype)
    return bool(np.allclose(values, right.ravel(), atol=TOLERANCE / 255))


def measure_bare_pipeline(swapper: Swapper, faces: Sequence[bytes], seconds: float) -> float:
    """Swaps a second of one thread that reads files and writes PNGs, as a script would."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{number}.jpg" for number in range(len(faces))]
        for file, face in zip(files, faces, strict=True):
            file.write_bytes(face)
        pairs = itertools.cycle(zip(files, files[1:] + files[:1], strict=True))

        def step() -> None:
            source, target = next(pairs)
            swapped = swapper.swap(source, target)
            encode_photo(swapped.photo, PNG, swapped.provenance.mark)

        return repeat(step, seconds)


def measure_bare_runner(swapper: Swapper, seconds: float) -> float:
    """Samples a second of the runner, in batches as the service makes them."""
    engine = swapper.engines.first
    rng = np.random.default_rng(0)
    shapes = {s.name: [n if isinstance(n, int) else engine.batch for n in s.shape] for s in engine.runner.inputs}
    feeds = {s.name: rng.random(shapes[s.name]).astype(s.dtype) for s in engine.runner.inputs}
    return repeat(lambda: engine.runner.infer(feeds), seconds) * engine.batch


def repeat(step: Callable[[], object], seconds: float) -> float:
    step()
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        step()
        count += 1
    return count / (time.perf_counter() - started)


def run_round(
    what: str, questions: Sequence[Question], port: int, memory: Memory, clients: int, seconds: float
) -> Round:
    load, before = Load(port, questions), len(memory.mib)
    first = memory.read()
    elapsed = load.run(clients, seconds)
    counts = load.counts
    answered = counts["right"] + counts["wrong"]
    p50, p99 = np.percentile(load.latencies_s or [0.0], [50, 99]) * 1000
    return Round(
        what,
        clients,
        round(elapsed, 2),
        answered,
        counts["wrong"],
        counts["lost"],
        {name: number for name, number in counts.items() if name not in {"right", "wrong", "lost"}},
        answered / elapsed,
        float(p50),
        float(p99),
        rss_mib=(first, memory.read(), max([first, *memory.mib[before:]])),
    )


def show(rounds: Sequence[Round], console: Console) -> None:
    table = Table(title="trt-ff serve over loopback")
    for title in (
        "what",
        "clients",
        "answers",
        "wrong",
        "lost",
        "refused",
        "a second",
        "bare",
        "share",
        "p50 ms",
        "p99 ms",
    ):
        table.add_column(title, justify="left" if title in {"what", "refused"} else "right")
    table.add_column("RSS MiB first/last/most")
    for r in rounds:
        refused = ", ".join(f"{number} x {name}" for name, number in r.refused.items()) or "-"
        bare = "-" if r.bare_per_s is None else f"{r.bare_per_s:.1f}"
        share = "-" if r.share is None else f"{r.share:.0%}"
        rss = " / ".join(f"{mib:.0f}" for mib in r.rss_mib)
        table.add_row(
            r.what, str(r.clients), str(r.answered), str(r.wrong), str(r.lost), refused, f"{r.per_s:.1f}", bare, share,
            f"{r.p50_ms:.0f}", f"{r.p99_ms:.0f}", rss,
        )  # fmt: skip
    console.print(table)


def main(
    seconds: Annotated[float, typer.Option(help="Of each round, and of each bare run.")] = 60.0,
    clients: Annotated[str, typer.Option(help="Numbers of clients.")] = "1,8,64",
    engine: Annotated[Path | None, typer.Option(help="An engine's folder, else the bundled generator.")] = None,
    onnx_file: Annotated[Path | None, typer.Option("--onnx", help="An ONNX file, with --preset.")] = None,
    preset: Annotated[str, typer.Option(help="Of the ONNX file.")] = "reference",
    faces: Annotated[Path, typer.Option(help="Photos, each with one face.")] = ROOT / "samples" / "faces",
    photos: Annotated[int, typer.Option(help="As many of them are used.")] = 24,
    threads: Annotated[int, typer.Option(help="--worker-threads of the service.")] = 2,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures there, too.")] = None,
) -> None:
    """Measure."""
    console = Console(width=170)
    encoded = [path.read_bytes() for path in sorted(faces.glob("*.jpg"))[30 : 30 + photos]]
    with tempfile.TemporaryDirectory() as folder:
        contract, words = None, [f"--engine={engine}"]
        if engine is None:
            if onnx_file is None:
                onnx_file = Path(folder) / "generator.onnx"
                onnx.save(ReferenceSource().load({"target": (3, 128, 128), "source": (128,)}), onnx_file)
            engine, contract = onnx_file, Contract(get_preset(preset))
            words = [f"--engine={onnx_file}", f"--preset={preset}"]
        label = open_model(engine).label
        rounds: list[Round] = []
        with Swapper(engine, contract=contract) as swapper:
            swaps, tensors = make_swap_questions(swapper, encoded), make_tensor_questions(swapper)
            with serve([*words, f"--worker-threads={threads}"]) as (port, memory):
                Load(port, swaps).run(4, min(seconds, 3.0))  # what loads itself at first
                for count in map(int, clients.split(",")):
                    bare = measure_bare_pipeline(swapper, encoded, seconds)
                    swap_round = run_round("swap", swaps, port, memory, count, seconds)
                    swap_round.bare_per_s, swap_round.share = bare, swap_round.per_s / bare
                    rounds.append(swap_round)
                    console.print(asdict(swap_round))
                for count in map(int, clients.split(",")):
                    bare = measure_bare_runner(swapper, seconds)
                    tensor_round = run_round("tensors", tensors, port, memory, count, seconds)
                    tensor_round.bare_per_s, tensor_round.share = bare, tensor_round.per_s / bare
                    rounds.append(tensor_round)
                    console.print(asdict(tensor_round))
            with serve([*words, f"--worker-threads={threads}", f"--queue={OVERLOAD_QUEUE}"]) as (port, memory):
                Load(port, swaps).run(4, min(seconds, 3.0))
                what = f"swap, {OVERLOAD}x overload, --queue {OVERLOAD_QUEUE}"
                rounds.append(run_round(what, swaps, port, memory, OVERLOAD * OVERLOAD_QUEUE, seconds))
    show(rounds, console)
    figures = {"engine": label, "seconds": seconds, "threads": threads, "rounds": [asdict(r) for r in rounds]}
    text = json.dumps(figures, indent=2)
    if json_file is not None:
        json_file.write_text(text + "\n")
    console.print(text)
    if any(r.wrong or r.lost or "503 without Retry-After" in r.refused for r in rounds):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
