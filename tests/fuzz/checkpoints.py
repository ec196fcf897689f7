"""Mutated checkpoints and hostile factories from a fixed seed, through the command line.

    python tests/fuzz/checkpoints.py [COUNT [SEED]]

Each case runs in a forked process, and must end in time, in bounded memory, with the right exit code, with one JSON
object on stdout, and without a traceback.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import signal
import struct
import sys
import tempfile
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from memory import peak_bytes

from trt_facefusion.cli import build as build_command
from trt_facefusion.cli.main import run
from trt_facefusion.model.export import CheckpointSource
from trt_facefusion.model.export.torch_export import check_forward

SEED = 11
LIMIT_S = 30.0
LIMIT_BYTES = 2 << 30
NET = """
import torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 8, 3, padding=1)
        self.norm = torch.nn.BatchNorm2d(8)
        self.out = torch.nn.Conv2d(8, 3, 1)
    def forward(self, image):
        return torch.sigmoid(self.out(self.norm(self.conv(image))))
"""
HOSTILE = (
    "import sys\ndef build(): sys.exit({code})",
    "import os\ndef build(): os._exit({code})",
    "import sys\nsys.exit({code})",
    "raise {error}",
    "def build(): raise {error}",
    "def build():\n    print('x' * {number})\n    return None",
    "def build(a, b={number}): return None",
    "def build(): return build()",
    "import net\ndef build():\n    import os; os.chdir('/'); return net.Net()",
    "import net\ndef build():\n    print('{{\"ours\": true}}'); return net.Net()",
    "import net, os\ndef build():\n    os.write(1, b'noise' * {number}); return net.Net()",
    "import net, torch\ndef build():\n    torch.set_default_dtype(torch.float64); return net.Net()",
    "import net\nbuild = net.Net()",
    "import net\ndef build(): return net.Net",
    "import net\ndef build(): return [net.Net()] * {number}",
    "import net\nclass Net(net.Net):\n    def forward(self, image): raise {error}\nbuild = Net",
    "import net\nclass Net(net.Net):\n    def load_state_dict(self, *a, **k): raise {error}\nbuild = Net",
    "import net\nclass Net(net.Net):\n    def forward(self, picture): return picture\nbuild = Net",
    "import sys\nsys.stdout.close()\nimport net\nbuild = net.Net",
    "import sys\nsys.stdout = sys.stderr = None\nimport net\nbuild = net.Net",
    "import net, signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nbuild = net.Net",
    "def __getattr__(name): raise {error}",
    "def build(:",
    "import nothing_of_that_name_{number}",
    "import logging, sys\nlogging.basicConfig(stream=sys.stdout)\nlogging.error('x')\nimport net\nbuild = net.Net",
)
ERRORS = (
    "KeyboardInterrupt",
    "SystemExit(0)",
    "GeneratorExit",
    "BaseException('b')",
    "MemoryError",
    "RecursionError",
    "ValueError('x' * 10**6)",
    "ValueError('[red]\\x1b[31m\\n')",
    "StopIteration",
    "OSError(28, 'No space')",
    "type('Odd', (BaseException,), {'__str__': lambda self: 1 / 0})()",
)


@dataclass(frozen=True)
class Case:
    """One run: files (name -> content), the name of the checkpoint, the factory, further options."""

    name: str
    files: dict[str, bytes]
    checkpoint: str
    factory: str = "net:Net"
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What became of a case; ``faults`` is empty where all is right."""

    case: str
    code: int
    seconds: float
    peak_bytes: int
    message: str
    faults: tuple[str, ...]


def weights() -> dict[str, Any]:
    torch.manual_seed(SEED)
    names: dict[str, Any] = {}
    exec(NET, names)
    return dict(names["Net"]().state_dict())


def packed(content: object, older: bool = False) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(content, buffer, _use_new_zipfile_serialization=not older)
    return buffer.getvalue()


def bases() -> dict[str, bytes]:
    """Sound checkpoints of every kind."""
    state = weights()
    half = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    return {
        "flat.pth": packed(state),
        "ema.pt": packed({"params": half, "params_ema": state, "iteration": 7, "optimizer": {"lr": 0.1}}),
        "gan.ckpt": packed({"state_dict": {f"module.netG.{k}": v for k, v in state.items()}}),
        "older.pth": packed(half, older=True),
        "plain.safetensors": save({name: value.contiguous() for name, value in half.items()}),
    }


# Bytes


def flipped(data: bytes, random: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(random.choice((1, 2, 8, 64))):
        changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


def early(data: bytes, random: random.Random) -> bytes:
    """Changed where what describes the tensors is."""
    changed = bytearray(data)
    for _ in range(random.choice((1, 3, 9))):
        changed[random.randrange(min(1200, len(changed)))] = random.randrange(256)
    return bytes(changed)


def cut(data: bytes, random: random.Random) -> bytes:
    return data[: random.randrange(len(data))]


def grown(data: bytes, random: random.Random) -> bytes:
    at = random.randrange(len(data))
    return data[:at] + random.randbytes(random.choice((1, 100, 10_000))) + data[at:]


def moved(data: bytes, random: random.Random) -> bytes:
    one, two = sorted(random.randrange(len(data)) for _ in range(2))
    return data[:one] + data[two:] + data[one:two]


def zeroed(data: bytes, random: random.Random) -> bytes:
    at, count = random.randrange(len(data)), random.choice((4, 64, 4096))
    return data[:at] + bytes(len(data[at : at + count])) + data[at + count :]


# What is inside of the zip file, with right checksums


def inside(data: bytes, random: random.Random) -> bytes:
    if not zipfile.is_zipfile(io.BytesIO(data)):
        return early(data, random)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    except Exception:  # it was changed before
        return flipped(data, random)
    victim = random.choice([name for name in entries if name.endswith(".pkl")] * 4 + list(entries))
    change = random.choice((flipped, cut, grown, zeroed, numbers))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for name, content in entries.items():
            archive.writestr(name, change(content, random) if name == victim and content else content)
    return buffer.getvalue()


def numbers(data: bytes, random: random.Random) -> bytes:
    """A small number of a pickle becomes a huge or a negative one."""
    places = [at for at in range(len(data) - 1) if data[at : at + 1] == b"K"]
    if not places:
        return data
    at = random.choice(places)
    return data[:at] + b"J" + struct.pack("<i", random.choice((-1, 2**31 - 1, 2**20, 0))) + data[at + 2 :]


def header(data: bytes, random: random.Random) -> bytes:
    """The header of a safetensors file says something else."""
    (length,) = struct.unpack("<Q", data[:8])
    if length > len(data):
        return flipped(data, random)
    try:
        described = json.loads(data[8 : 8 + length])
    except (ValueError, RecursionError):
        return flipped(data, random)
    name = random.choice([key for key in described if key != "__metadata__"])
    odd: list[tuple[str, Any]] = [("dtype", d) for d in ("BOOL", "I8", "F64", "C64", "F8_E4M3", "U8", "??", None)]
    odd += [("shape", s) for s in ([], [-1], [2**62, 4], [10**9] * 4, "3")]
    odd += [("data_offsets", o) for o in ([0, 2**60], [-4, 8], [8, 4], [0])]
    field, value = random.choice(odd)
    described[name][field] = value
    text = json.dumps(described).encode()
    claimed = random.choice((len(text), len(text), len(text), 2**40, 0))
    return struct.pack("<Q", claimed) + text + data[8 + length :]


# What is a sound file and no sound checkpoint


def odd_content(random: random.Random) -> object:
    state = weights()
    name = random.choice(list(state))
    shape = state[name].shape
    looped: dict[str, Any] = {"epoch": 1}
    looped["model"] = looped["net"] = looped
    deep: Any = state
    for _ in range(random.choice((20, 300))):
        deep = {random.choice(("model", "net", "other")): deep}
    makers: tuple[Callable[[], object], ...] = (
        lambda: state | {name: torch.zeros(shape, dtype=torch.complex64)},
        lambda: state | {name: torch.zeros(shape, dtype=torch.int8)},
        lambda: state | {name: torch.zeros(shape, dtype=torch.bool)},
        lambda: state | {name: torch.full(shape, 1e300, dtype=torch.float64)},
        lambda: state | {name: torch.full(shape, float("nan"))},
        lambda: state | {name: torch.zeros(1).expand(*(shape or (1,)), 1 << 20)},
        lambda: state | {name: torch.zeros(1).as_strided((1 << 30,), (0,))},
        lambda: state | {name: torch.zeros(shape or (1,)).to_sparse()},
        lambda: state | {name: torch.empty(shape, device="meta")},
        lambda: state | {name: torch.empty((0,) * max(1, len(shape)))},
        lambda: {key: value for key, value in state.items() if key != name},
        lambda: state | {"more": torch.zeros(3)},
        lambda: {f"{random.choice(('net.', 'module.', 'a.b.'))}{key}": value for key, value in state.items()},
        lambda: looped,
        lambda: looped | {"state_dict": state},
        lambda: deep,
        lambda: [state] * 3,
        lambda: dict(enumerate(state.values())),
        lambda: {"ema": {}, "params": state},
        lambda: {"params_ema": {"decay": 0.9}, "weights": state},
    )
    return random.choice(makers)()


class Trap:
    """Unpickling this would end the process with a code that says so."""

    def __reduce__(self) -> tuple[object, tuple[int]]:
        return os._exit, (77,)


def checkpoint_case(number: int, random: random.Random) -> Case:
    files = {"net.py": NET.encode()}
    kind = random.random()
    if kind < 0.15:
        older = random.random() < 0.3
        content = odd_content(random)
        try:
            data = packed(content, older)
        except (RuntimeError, NotImplementedError, RecursionError, AttributeError):
            data = packed(weights())
        name = "odd.pth"
    elif kind < 0.2:
        data = random.choice((pickle.dumps(Trap(), 2), packed({"a": Trap()}), b"", b"PK\x05\x06" + bytes(18)))
        name = random.choice(("trap.pth", "trap.pt", "trap.safetensors"))
    else:
        name, data = random.choice(list(bases().items()))
        changes: list[Callable[..., bytes]] = [flipped, early, cut, grown, moved, zeroed]
        changes += [header] * 8 if name.endswith("safetensors") else [inside] * 8
        for _ in range(random.choice((1, 1, 2))):
            data = random.choice(changes)(data, random) if len(data) > 16 else data
        if random.random() < 0.05:
            name = "wrong_" + name.partition(".")[0] + random.choice((".safetensors", ".pth"))
    key = random.choice((None, None, None, "params", "netG.", "nothing", "a/b", "", ".", "\x1b[31m"))
    options = () if key is None else ("--weights-key", key)
    return Case(f"{number} {name}", files | {name: data}, name, options=options)


def factory_case(number: int, random: random.Random) -> Case:
    text = random.choice(HOSTILE).format(
        error=random.choice(ERRORS), code=random.choice((0, 1, 2, 130, "'text'")), number=random.choice((1, 7, 5000))
    )
    if "os._exit('text')" in text:
        text = text.replace("'text'", "0")
    files = {"net.py": NET.encode(), "hostile.py": text.encode(), "net.pth": packed(weights())}
    return Case(f"{number} factory: {text!r}", files, "net.pth", "hostile:build")


def cases(count: int, seed: int = SEED) -> list[Case]:
    """The cases of a seed; every fourth is a factory."""
    made = []
    for number in range(count):
        source = random.Random(seed * 1_000_003 + number)
        made.append(factory_case(number, source) if number % 4 == 3 else checkpoint_case(number, source))
    return made


def execute(case: Case) -> Outcome:
    """Run one case in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        folder = Path(name)
        for file, content in case.files.items():
            (folder / file).write_bytes(content)
        started = time.monotonic()
        child = os.fork()
        if child == 0:
            _child(case, folder)
        code, peak, in_time = _wait(child, started + LIMIT_S)
        seconds = time.monotonic() - started
        out, err = ((folder / stream).read_text(errors="replace") for stream in ("stdout", "stderr"))
    return _judged(case, code, seconds, peak, in_time, out, err)


def _child(case: Case, folder: Path) -> None:
    os.chdir(folder)
    for stream, number in (("stdout", 1), ("stderr", 2)):
        os.dup2(os.open(stream, os.O_CREAT | os.O_WRONLY), number)
    build_command.build = _only_load  # type: ignore[assignment]
    torch.set_num_threads(1)
    words = ["build", "--fp32", "--json", "--calib", ".", "--input", "image=image:16:0:1", "--no-report"]
    words += ["--checkpoint", case.checkpoint, "--model", case.factory, *case.options]
    code = 99
    try:
        code = run(words)
        sys.stdout.flush()
    finally:
        os._exit(code)


class _Loaded:
    """In place of a build's result: what was tried here ends where the network is ready."""

    engines = ()
    record = None

    def as_dict(self) -> dict[str, Any]:
        return {"loaded": True}


def _only_load(settings: Any, progress: object, note: Callable[[str], None]) -> _Loaded:
    source: CheckpointSource = settings.source
    source.digest()
    for message in source.notes:
        note(message)
    from trt_facefusion.errors import ModelError
    from trt_facefusion.model.generators.user_code import run_user_code

    with run_user_code("the network", "mend it", ModelError):
        check_forward(source.net, {"image": (3, 16, 16)})
    assert all(bool(torch.isfinite(p).all()) and p.dtype == torch.float32 for p in source.net.parameters())
    return _Loaded()


def _wait(child: int, deadline: float) -> tuple[int, int, bool]:
    while time.monotonic() < deadline:
        done, status, usage = os.wait4(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status), usage.ru_maxrss * 1024, True
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    _, status, usage = os.wait4(child, 0)
    return os.waitstatus_to_exitcode(status), usage.ru_maxrss * 1024, False


def _judged(case: Case, code: int, seconds: float, peak: int, in_time: bool, out: str, err: str) -> Outcome:
    faults = []
    if not in_time:
        faults.append(f"ran for more than {LIMIT_S} s")
    if peak > LIMIT_BYTES:
        faults.append(f"took {peak >> 20} MiB")
    if "Traceback" in err:
        faults.append("a traceback: " + err.strip().splitlines()[-1])
    if code not in {0, 2}:
        faults.append(f"exit code {code}")
    message = ""
    try:
        told = json.loads(out)
        message = told["error"]["message"] if code else ""
        if code == 0 and told != {"loaded": True}:
            faults.append(f"0, and stdout says {out[:80]!r}")
        if code and not told["error"]["remedy"]:
            faults.append("no remedy")
    except (ValueError, KeyError, TypeError):
        faults.append(f"stdout is not the one JSON object: {out[:80]!r}")
    return Outcome(case.name, code, seconds, peak, message, tuple(faults))


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else SEED
    outcomes = [execute(case) for case in cases(count, seed)]
    for outcome in outcomes:
        if outcome.faults:
            sys.stdout.write(f"{outcome.case}: {'; '.join(outcome.faults)} | {outcome.message[:200]}\n")
    codes = Counter(outcome.code for outcome in outcomes)
    slowest, largest = max(o.seconds for o in outcomes), max(o.peak_bytes for o in outcomes)
    faults = sum(bool(outcome.faults) for outcome in outcomes)
    base = peak_bytes() >> 20
    sys.stdout.write(
        f"{count} cases of seed {seed}: {faults} faults; exit codes {dict(codes)}; slowest {slowest:.1f} s; "
        f"largest {largest >> 20} MiB, of which {base} before the case\n"
    )
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
