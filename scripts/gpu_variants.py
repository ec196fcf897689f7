"""Which form of the typed graph is fastest on this GPU: each is built, timed in turn with the best so far, and judged.

TensorRT 10 and 11 show their kernels only on a GPU, so which form they make most of is not known beforehand
(`docs/fusion.md` knows it of TensorRT-RTX). All variants have the plan of the INT8 engine that is there, so that only
the form differs. Forms are changed one after the other, and each change that is faster and right is kept: that is not
every combination, but a handful of builds. TensorRT 10 starts anew from the typed graph, because the other forms say
nothing to a builder that chooses types itself; the fastest of both ways is kept.

Used by `gpu_evidence.py`, which writes what comes out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from trt_facefusion.engine.store.store import Store
from trt_facefusion.storage.files import write_atomic

FORMS = ("shared-weight-scales", "flat-norms", "quantised-skips", "no-folded-scales", "shifts")
"""What is changed, in this order: TensorRT's engines have none of them, or shifts if the pictures of faces said so."""
TYPED = "typed"


class Runs(Protocol):
    """Runs one command of `trt-ff`; gives its JSON, None where it failed."""

    def run(self, *words: str | Path, codes: tuple[int, ...] = (0,)) -> Any:
        """``codes`` are the exit codes that are no failure."""


@dataclass(frozen=True)
class Variant:
    """One engine: ``forms`` as `--forms` takes them, ``path`` its folder, ``record`` what the evidence says of it.

    ``right``: it is INT8, and its pictures keep their limit on this GPU. ``faster``: than the best before it, with 95 %
    confidence.
    """

    forms: tuple[str, ...]
    path: Path
    record: dict[str, Any]
    right: bool
    faster: bool = False


@dataclass
class FormSearch:
    """Builds, times and judges variants of one INT8 engine.

    Attributes:
        steps: runs commands.
        build: options of `trt-ff build` that every variant has.
        work: folder for the variants, each in a store of its own.
        keep: store that gets the fastest, with its plan beside it.
        reference: the typed ONNX of the FP32 engine, which pictures are held against.
        compare: options of `trt-ff diff`.
        tried: all variants, in the order of building.
    """

    steps: Runs
    build: Sequence[str | Path]
    work: Path
    keep: Path
    reference: Path
    compare: Sequence[str | Path]
    tried: list[Variant] = field(default_factory=list)

    def run(self, engine: dict[str, Any]) -> dict[str, Any]:
        """Try all forms of the INT8 ``engine`` of the evidence; gives what the evidence says of them."""
        if engine["precision"] != "int8":
            return {"tried": [], "kept": None, "why": "there is no INT8 engine whose form could be changed"}
        first = self._describe((), engine, engine["measured"])
        if engine["profile"] is not None:
            first.record["p50_ms"] = engine["profile"]["latency_ms"]["p50"]
        self.tried.append(first)
        best = self._choose_typed(first) if engine["version"].startswith("10.") else self._descend(first)
        kept = None
        if best.right:
            kept = {**best.record, "stored": str(self._store(best))}
        return {"tried": [variant.record for variant in self.tried], "kept": kept}

    def _choose_typed(self, weak: Variant) -> Variant:
        """The fastest of the typed graph's forms, if it is faster than what TensorRT 10 makes of the plan itself."""
        typed = self._make((TYPED,), weak)
        if not typed.right:
            return weak
        best = self._descend(typed)
        faster = typed.faster if best is typed else self._time(best.path, weak.path, {})
        return best if faster or not weak.right else weak

    def _descend(self, best: Variant) -> Variant:
        for form in self._list_changes(best):
            variant = self._make((*best.forms, form), best)
            if variant.right and (variant.faster or not best.right):
                best = variant
        return best

    def _list_changes(self, start: Variant) -> Iterator[str]:
        for form in FORMS:
            yield f"no-{form}" if form == "shifts" and start.record["shifted"] else form

    def _make(self, forms: tuple[str, ...], best: Variant) -> Variant:
        """Build, judge and time one variant; a graph that was built before is not built up to the same again."""
        named, store = ",".join(forms), self.work / "-".join(forms)
        words = ("--int8", *self.build, "--plan", self._share_plan(), "--forms", named, "--output", store)
        built = self.steps.run("build", *words, codes=(0, 3))
        if built is None:
            variant = Variant(forms, store, {"forms": named, "right": False, "failed": True}, right=False)
        else:
            variant = self._judge(forms, built["engines"][0], best)
        self.tried.append(variant)
        return variant

    def _judge(self, forms: tuple[str, ...], built: dict[str, Any], best: Variant) -> Variant:
        path = Path(built["path"])
        like = next((v for v in self.tried if built["precision"] == "int8" and _have_same_graph(v, forms, path)), None)
        if like is not None:
            record = {**like.record, "forms": ",".join(forms), "same_graph_as": ",".join(like.forms)}
            return Variant(forms, path, record, like.right)
        measured = self.steps.run("diff", self.reference, path, *self.compare)
        variant = self._describe(forms, built, measured)
        if not variant.right:
            return variant
        faster = self._time(path, best.path, variant.record)
        return Variant(forms, path, variant.record, right=True, faster=faster)

    def _describe(self, forms: tuple[str, ...], built: dict[str, Any], measured: Any) -> Variant:
        """What is known of an engine before it is timed."""
        manifest = self.steps.run("inspect", built["path"]) or {}
        settings = manifest.get("inputs", {}).get("settings", {})
        drop = None if measured is None else measured["picture"]["ssim_drop"]
        most = settings.get("limits", {}).get("max_ssim_drop")
        right = built["precision"] == "int8" and drop is not None and most is not None and drop <= most
        record = {
            "forms": ",".join(forms),
            "path": built["path"],
            "precision": built["precision"],
            "fallback": built["fallback"],
            "macs_share": built["macs_share"],
            "int8_kernels": built["int8_kernels"],
            "kernels": len(manifest.get("kernels") or ()),
            "shifted": settings.get("calibration", {}).get("shifted", 0),
            "folded": settings.get("calibration", {}).get("folded", 0),
            "ssim_drop": drop,
            "max_ssim_drop": most,
            "right": right,
            "p50_ms": None,
        }
        return Variant(forms, Path(built["path"]), record, right)

    def _time(self, path: Path, best: Path, record: dict[str, Any]) -> bool:
        """Time an engine in turn with the best before it; whether it is faster, which chance would not explain."""
        profiled = self.steps.run("profile", path, "--against", best)
        if profiled is None:
            return False
        comparison = profiled["comparison"]
        record |= {"p50_ms": comparison["one_ms"], "best_before_ms": comparison["other_ms"], "turns": comparison}
        return bool(comparison["low"] > 1)

    def _share_plan(self) -> Path:
        """The plan that all variants have, where the commands that build them again find it."""
        text = (self.tried[0].path / "plan.yaml").read_bytes()
        path = self.keep / f"plan-{hashlib.sha256(text).hexdigest()[:8]}.yaml"
        if not path.exists():
            self.keep.mkdir(parents=True, exist_ok=True)
            write_atomic(path, text)
        return path

    def _store(self, variant: Variant) -> Path:
        manifest = Store(variant.path.parent.parent).load(variant.path)
        return Store(self.keep).save(manifest, {name: (variant.path / name).read_bytes() for name in manifest.files})


def _have_same_graph(variant: Variant, forms: tuple[str, ...], path: Path) -> bool:
    """Whether the library was given the same: a form may find nothing to change in a network."""
    if (TYPED in variant.forms) != (TYPED in forms) or not (variant.path / "typed.onnx").exists():
        return False
    return (variant.path / "typed.onnx").read_bytes() == (path / "typed.onnx").read_bytes()
