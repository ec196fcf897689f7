"""The search for the fastest form, where a machine with known times answers in place of the commands of `trt-ff`."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from manifests import FILES, manifest

from trt_facefusion.engine.store.store import Store
from twin.machine import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
from gpu_variants import FORMS, TYPED, FormSearch

LIMIT = 0.01


class Machine:
    """Stores an engine for each build, and times it: 10 ms, and for each form what ``gains`` has.

    ``drops`` are SSIM drops by form, ``idle`` forms that change no graph, ``refused`` those that do not build.
    """

    def __init__(self, folder: Path, version: str, gains: dict[str, float], **traits: Any) -> None:
        self.folder, self.version, self.gains = folder, version, gains
        self.drops, self.idle, self.refused = (traits.get(name, {}) for name in ("drops", "idle", "refused"))
        self.forms: dict[Path, tuple[str, ...]] = {}
        self.built: list[str] = []

    def run(self, *words: Any, codes: tuple[int, ...] = (0,)) -> Any:
        command, options = words[0], dict(zip(map(str, words), words[1:], strict=False))
        if command == "build":
            return self.build(options["--forms"], Path(options["--output"]), options["--plan"])
        if command == "inspect":
            return json.loads(Store(Path(words[1]).parent.parent).load(Path(words[1])).to_json())
        if command == "diff":
            forms = self.forms[Path(words[2])]
            return {"picture": {"ssim_drop": 0.002 + sum(self.drops.get(form, 0.0) for form in forms)}}
        assert command == "profile"
        one, other = self.time(Path(words[1])), self.time(Path(options["--against"]))
        ratio = other / one
        return {"comparison": {"one_ms": one, "other_ms": other, "ratio": ratio, "low": ratio - 0.01}}

    def time(self, path: Path) -> float:
        return 10 - sum(self.gains.get(form, 0.0) for form in self.forms[path])

    def build(self, named: str, store: Path, plan: Path) -> Any:
        self.built.append(named)
        forms = tuple(form for form in named.split(",") if form)
        if set(forms) & set(self.refused):
            return None
        changing = [form for form in forms if form not in self.idle]
        files = {**FILES, "typed.onnx": ",".join(changing).encode()}
        inputs = dataclasses.replace(
            manifest().inputs, settings={"limits": {"max_ssim_drop": LIMIT}, "calibration": {"shifted": 3, "folded": 2}}
        )
        command = ("--forms", named, "--plan", str(plan))
        path = Store(store).save(manifest(precision="int8", inputs=inputs, fallback=(), command=command), files)
        self.forms[path] = forms
        engine = {"path": str(path), "precision": "int8", "version": self.version, "fallback": [], "macs_share": {}}
        return {"engines": [{**engine, "int8_kernels": {"planned": 1, "real": 1, "missing": []}}]}

    def search(self) -> dict[str, Any]:
        keep, work = self.folder / "kept", self.folder / "variants"
        (engine,) = self.build("", self.folder / "first", keep / "plan.yaml")["engines"]
        self.built.clear()
        engine |= {"measured": {"picture": {"ssim_drop": 0.002}}, "profile": {"latency_ms": {"p50": 10.0}}}
        return FormSearch(self, [], work, keep, self.folder / "typed.onnx", []).run(engine)


def test_changes_that_are_faster_and_right_are_kept_one_after_the_other(tmp_path: Path) -> None:
    gains = {"shared-weight-scales": 1.0, "flat-norms": -1.0, "quantised-skips": 2.0, "no-shifts": 1.0}
    found = Machine(tmp_path, "11.4", gains, drops={"quantised-skips": 0.02}).search()
    assert [variant["forms"] for variant in found["tried"]] == [
        "",
        *("shared-weight-scales", "shared-weight-scales,flat-norms", "shared-weight-scales,quantised-skips"),
        *("shared-weight-scales,no-folded-scales", "shared-weight-scales,no-shifts"),
    ]
    assert [variant["right"] for variant in found["tried"]] == [True, True, True, False, True, True]
    kept = found["kept"]
    assert (kept["forms"], kept["p50_ms"]) == ("shared-weight-scales,no-shifts", 8.0)
    stored = Store(tmp_path / "kept").load(Path(kept["stored"]))
    assert (
        stored.command[:2] == ("--forms", kept["forms"]) and Path(stored.command[3]).read_bytes() == FILES["plan.yaml"]
    )


@pytest.mark.parametrize(("typed", "kept"), [(-3.0, ""), (-1.5, "typed,flat-norms"), (0.5, "typed,flat-norms")])
def test_the_typed_graph_in_its_best_form_has_to_beat_what_tensorrt_10_types_itself(
    tmp_path: Path, typed: float, kept: str
) -> None:
    found = Machine(tmp_path, "10.16", {TYPED: typed, "flat-norms": 2.0}).search()
    assert found["tried"][1]["forms"] == TYPED and len(found["tried"]) == 2 + len(FORMS)
    assert found["kept"]["forms"] == kept


def test_what_fails_or_changes_no_graph_is_told_and_not_timed(tmp_path: Path) -> None:
    traits = {"idle": {"flat-norms"}, "refused": {"quantised-skips"}}
    found = Machine(tmp_path, "11.4", {"flat-norms": 5.0}, **traits).search()
    by_form = {variant["forms"]: variant for variant in found["tried"]}
    assert by_form["quantised-skips"] == {"forms": "quantised-skips", "right": False, "failed": True}
    assert by_form["flat-norms"]["same_graph_as"] == "" and found["kept"]["forms"] == ""


def test_without_an_int8_engine_nothing_is_tried(tmp_path: Path) -> None:
    search = FormSearch(Machine(tmp_path, "11.4", {}), [], tmp_path, tmp_path, tmp_path, [])
    assert search.run({"precision": "fp16"})["kept"] is None
