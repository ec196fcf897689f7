"""Documents of our own, mutated from fixed seeds, and what the command line makes of each.

``python tests/fuzz/documents.py 1000 200`` tries a thousand documents and two hundred plans, and prints what came out.
"""

from __future__ import annotations

import copy
import io
import json
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "report"))
from manifests import FILES, manifest
from memory import peak_bytes
from nets import SWAPPER_SHAPES, swapper
from test_report import _record

from trt_facefusion.build.run_record import read_search
from trt_facefusion.cli.main import run
from trt_facefusion.engine.store.store import Store
from trt_facefusion.errors import PlanError, StoreError
from trt_facefusion.model.graph import GraphView, prepare
from trt_facefusion.model.presets import get_preset
from trt_facefusion.model.presets.contract import Contract
from trt_facefusion.quantization.calibration.cache import Calibration, save_as
from trt_facefusion.quantization.calibration.histogram import Histogram
from trt_facefusion.quantization.calibration.threshold_choice import TensorChoice, ThresholdChoice
from trt_facefusion.quantization.precision import loads, plan_by_rules, plan_rows
from trt_facefusion.report.runs import save_run

RIGHT_CODES = {0, 2, 6}
"""0: what was mutated did not matter, or is as good as before."""
LONGEST_S = 30.0
LARGEST_BYTES = 2 << 30

_DEEP: list[Any] = []
for _ in range(60):
    _DEEP = [_DEEP]
_VALUES = (
    None, True, False, -1, 0, 1, 2**63, 10**30, -(10**400), 1.5, -0.0, 1e308, float("nan"), float("inf"), "", "x",
    "int8", "fp16", "\x1b[31m", "[/x]", "\ud800", "a" * 5000, "../../x", "%s{}", [], [None], [[]], {}, {"x": {}}, _DEEP,
    "1e5",
)  # fmt: skip


def mutated_tree(value: Any, rng: random.Random) -> Any:
    """A copy of a JSON value in which one to three places hold something else, are missing, doubled or new."""
    value = copy.deepcopy(value)
    for _ in range(rng.randint(1, 3)):
        places = list(_places(value))
        if not places:
            return rng.choice(_VALUES)
        parent, key = rng.choice(places)
        what = rng.choice(("replace", "replace", "replace", "delete", "double", "new", "swap"))
        if what == "delete":
            del parent[key]
        elif what == "new" and isinstance(parent, dict):
            parent[rng.choice(("surprise", "", "schema", "\x1b", "from_"))] = rng.choice(_VALUES)
        elif what == "double" and isinstance(parent, list):
            parent.extend(copy.deepcopy(parent))
        elif what == "swap":
            other_parent, other_key = rng.choice(places)
            parent[key] = copy.deepcopy(other_parent[other_key]) if other_parent is not parent else rng.choice(_VALUES)
        else:
            parent[key] = rng.choice(_VALUES)
    return value


def mutated_bytes(data: bytes, rng: random.Random) -> bytes:
    """``data`` cut off, with bytes changed, left out, repeated or put in; or something else altogether."""
    text = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        at = rng.randrange(len(text) + 1)
        length = rng.choice((1, 1, 4, 100, 5000))
        what = rng.randrange(6)
        if what == 0:
            text[at : at + 1] = bytes([rng.randrange(256)])
        elif what == 1:
            del text[at : at + length]
        elif what == 2:
            text[at:at] = text[max(at - length, 0) : at]
        elif what == 3:
            text[at:at] = rng.choice(
                (b"{", b"[" * length, b'"', b"\x00", b"\xff", b"NaN", b"1e999", b"9" * length, b"&a *a")
            )
        elif what == 4 and rng.random() < 0.2:
            del text[at:]
        elif rng.random() < 0.05:
            return rng.choice((b"", b"null", b"[]", b"{}", b"7", b'"x"', b"\xef\xbb\xbf{}", rng.randbytes(200)))
    return bytes(text)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])


@dataclass(frozen=True)
class Outcome:
    """What became of one document."""

    kind: str
    seed: int
    code: int
    said: str
    seconds: float

    @property
    def wrong(self) -> bool:
        """Whether it is a fault of ours."""
        broken = any(word in self.said for word in ("Traceback", "a bug of trt-ff", "\x1b"))
        return self.code not in RIGHT_CODES or broken or self.seconds > LONGEST_S


class Documents:
    """One of each document under ``root``, and the command that reads it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        plan = plan_by_rules(_VIEW, {}, "swapper").dumps().encode()
        full = replace(manifest(), accuracy={"ssim_drop": 0.01, "psnr_db": 40.0, "faces": 3, "identity_cosine": 0.9})
        settings = {"calibration": {"rule": "mse", "shifted": 2, "ssim_drop": {"mse": 0.1}, "corrections": ["bias"]}}
        full = replace(full, inputs=replace(full.inputs, settings=settings))
        self.engine = Store(root / "engines").save(full, {**FILES, "plan.yaml": plan})
        self.report = save_run(_record(), root / "reports").parent
        self.cache = save_as(_calibration(), root / "c.cache")
        (root / "search.json").write_text(json.dumps(_record().facts["engines"][0]["search"]))
        for name, data in Contract(get_preset("inswapper_128"), np.eye(4, dtype=np.float32)).files().items():
            (root / name).write_bytes(data)
        engines = ["engines", "--output", str(root / "engines")]
        inspected = ["inspect", str(self.engine), "--kernels"]
        page = ["report", str(self.report), "--output", str(root / "page.html")]
        self.kinds: dict[str, tuple[Path, Callable[[], int]]] = {
            "manifest listed": (self.engine / "manifest.json", lambda: run(engines)),
            "manifest inspected": (
                self.engine / "manifest.json",
                lambda: run(inspected),
            ),
            "manifest as JSON": (self.engine / "manifest.json", lambda: run([*engines, "--json"])),
            "report's record": (self.report / "run.json", lambda: run(page)),
            "report's pictures": (self.report / "pictures.npz", lambda: run(page)),
            "calibration": (self.cache.with_suffix(".json"), lambda: run(["cache", "show", str(self.cache)])),
            "calibration as JSON": (
                self.cache.with_suffix(".json"),
                lambda: run(["cache", "show", str(self.cache), "--json"]),
            ),
            "table": (self.cache, lambda: run(["cache", "show", str(self.cache)])),
            "search": (root / "search.json", lambda: _code(lambda: read_search(self.root))),
            "preset": (root / "preset.json", lambda: _code(lambda: Contract.load(self.root))),
            "projection": (root / "projection.npy", lambda: _code(lambda: Contract.load(self.root))),
        }

    def tried(self, seed: int) -> Outcome:
        """The outcome of one mutated document; afterwards all files are as they were."""
        rng = random.Random(seed)
        kind = list(self.kinds)[seed % len(self.kinds)]
        path, read = self.kinds[kind]
        whole = path.read_bytes()
        if path.suffix == ".json" and rng.random() < 0.75:
            text = json.dumps(mutated_tree(json.loads(whole), rng)).encode()
        else:
            text = mutated_bytes(whole, rng)
        path.write_bytes(text)
        said = io.StringIO()
        started = time.perf_counter()
        try:
            with redirect_stdout(said), redirect_stderr(said):
                code = read()
        except Exception:
            code = 1
            said.write(traceback.format_exc())
        finally:
            path.write_bytes(whole)
        return Outcome(kind, seed, code, said.getvalue(), time.perf_counter() - started)


def _code(read: Callable[[], object]) -> int:
    """The exit code of a command that reads no more than this."""
    try:
        read()
    except StoreError as error:
        assert error.message and error.remedy
        return error.exit_code
    return 0


_VIEW = GraphView(prepare(swapper(blocks=1), SWAPPER_SHAPES).model)


def plan_tried(seed: int) -> Outcome:
    """The outcome of one mutated plan."""
    import yaml

    rng = random.Random(seed)
    whole = plan_by_rules(_VIEW, {}, "swapper")
    text = whole.dumps()
    if rng.random() < 0.5:
        text = yaml.dump(mutated_tree(yaml.safe_load(text), rng), Dumper=yaml.SafeDumper)
    else:
        text = mutated_bytes(text.encode(), rng).decode("utf-8", "replace")
    started, code = time.perf_counter(), 0
    for read in (plan_rows, lambda text: loads(text, _VIEW, whole.model_digest, "swapper")):
        try:
            read(text)  # type: ignore[operator]
        except PlanError as error:
            assert error.message and error.remedy
            code = error.exit_code
    return Outcome("plan", seed, code, "", time.perf_counter() - started)


def _calibration() -> Calibration:
    histograms = {}
    for name in ("a", "b:0"):
        histograms[name] = Histogram()
        histograms[name].add(np.linspace(-3, 5, 5000, dtype=np.float32))
    own = {"a": TensorChoice("max", "mse", 0.1, 0.05)}
    choice = ThresholdChoice("auto", "mse", True, {"mse": 0.01}, own, 16, 5, 0.01, ("a",), "key")
    return Calibration(
        "m", "ab" * 32, "cd" * 32, histograms, "mse", {"in": 1.0}, {"p": "q"}, {"a": (1, -2)}, {}, choice
    )


def main() -> None:
    """Try as many documents and plans as the command line says."""
    documents, plans = (int(word) for word in sys.argv[1:3])
    with tempfile.TemporaryDirectory() as folder:
        place = Documents(Path(folder))
        outcomes = [place.tried(seed) for seed in range(documents)] + [plan_tried(seed) for seed in range(plans)]
    for outcome in outcomes:
        if outcome.wrong:
            sys.stdout.write(f"WRONG {outcome.kind} seed {outcome.seed}: {outcome.code}\n{outcome.said}\n")
    codes = sorted(Counter((outcome.kind, outcome.code) for outcome in outcomes).items())
    slowest = max(outcome.seconds for outcome in outcomes)
    sys.stdout.write(f"{codes}\nwrong {sum(o.wrong for o in outcomes)} of {len(outcomes)}, slowest {slowest:.2f} s, ")
    sys.stdout.write(f"peak {peak_bytes() / 2**20:.0f} MiB\n")


if __name__ == "__main__":
    main()
