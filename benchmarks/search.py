"""What a plan search costs, against a naive one: the sensitivity of every layer, by one onnxruntime session for each.

Both measure the same plans (each layer or group alone in INT8) on the same faces with the same metric, and must find
the same figures. The third row is the whole search: it also raises each group from all-INT8, walks the front and
corrects the plan, so it measures more. The last one, with ``--target``, is the search by predicted time, with the
compiler in the loop: engines that were compiled, and the seconds that took, are in columns of their own.

    python benchmarks/search.py --calib samples/faces --target sm86
    python benchmarks/search.py --onnx NET.onnx --input image=image:256:-1:1 --calib FOLDER --faces 4
"""

from __future__ import annotations

import json
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx
import onnxruntime as ort
import typer
from rich.console import Console
from rich.table import Table

from trt_facefusion.build.inputs import read_inputs
from trt_facefusion.build.job import open_job
from trt_facefusion.build.settings import BuildSettings
from trt_facefusion.build.stages import Stages
from trt_facefusion.build.tuning.plan_search import PlanSearch
from trt_facefusion.cli import model_choice, options
from trt_facefusion.evaluation.accuracy.metrics import measure_ssim
from trt_facefusion.quantization.lowering import lower
from trt_facefusion.types import Precision


@dataclass(frozen=True)
class Row:
    """One way of measuring: what it made, and what that took."""

    what: str
    plans: int
    sessions: int
    passes: int
    wall_s: float
    cpu_s: float
    drops: dict[str, float]
    engines: int = 0
    compile_s: float = 0.0
    times: dict[str, Any] = field(default_factory=dict)


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def timed(work: Callable[[], tuple[int, int, int, dict[str, float]]], what: str) -> Row:
    wall, cpu = time.perf_counter(), cpu_seconds()
    plans, sessions, passes, drops = work()
    return Row(what, plans, sessions, passes, time.perf_counter() - wall, cpu_seconds() - cpu, drops)


def pictures(search: PlanSearch, model: onnx.ModelProto, plain_options: ort.SessionOptions) -> np.ndarray:
    """A session of its own, onnxruntime's own threads, one batch after the other."""
    session = ort.InferenceSession(model.SerializeToString(), plain_options, providers=["CPUExecutionProvider"])
    renderer, made = search.evaluator.renderer, []
    size = renderer.feeder.fixed_batch or 1
    for start in range(0, len(search.evaluator.faces), size):
        part = search.evaluator.faces[start : start + size]
        tensor = session.run([renderer.output], dict(renderer.feeder(part)))[0]
        made.append(renderer.feeder.preset.output.decode(tensor)[: len(part)])
    return np.concatenate(made).clip(0, 1)


def naive(stages: Stages) -> tuple[int, int, int, dict[str, float]]:
    """Lower each plan, load it, run it, compare."""
    plain_options = ort.SessionOptions()
    plain_options.log_severity_level = 4
    plain_options.add_session_config_entry("session.disable_quant_qdq", "1")
    search, view, ranges = open_fresh(stages), stages.inputs.view, stages.choose_ranges()
    groups, widest = search.space.groups, search.space.widest
    corrections = stages.open_corrector().correct(widest)
    wanted = pictures(search, view.model, plain_options)
    drops = {}
    for group in groups:
        others = [name for name in widest.names(Precision.INT8) if name not in group.nodes]
        plan = widest.raised(dict.fromkeys(others, "not measured now"))
        model = lower(ranges.view, plan, ranges.amax, Precision.FP32, ranges.affines, corrections)
        drops[group.nodes[0]] = float(1 - measure_ssim(wanted, pictures(search, model, plain_options)).mean())
    sessions = len(groups) + 1
    return len(groups), sessions, sessions * len(search.evaluator.faces), drops


def ours(search: PlanSearch) -> tuple[int, int, int, dict[str, float]]:
    """The same plans as inputs of one session."""
    evaluator = search.evaluator
    figures = evaluator([frozenset({index}) for index in range(len(search.space.groups))])
    drops = {group.nodes[0]: f["ssim_drop"] or 0.0 for group, f in zip(search.space.groups, figures, strict=True)}
    return len(search.space.groups), 1, evaluator.passes, drops


def whole(search: PlanSearch) -> tuple[int, int, int, dict[str, float]]:
    """Everything that `trt-ff plan` measures."""
    result = search.run()
    return len(result.points) - 1, 1, search.evaluator.passes, {}


def by_time(stages: Stages) -> Row:
    """The whole search by predicted time: which layers pay at all, then the pictures, then the front's engines."""
    searches: list[PlanSearch] = []

    def search() -> tuple[int, int, int, dict[str, float]]:
        searches.append(open_fresh(stages))
        return whole(searches[0])

    row = timed(search, "the whole search by time")
    times = searches[0].as_dict()["times"]
    return replace(row, engines=times["builds"], compile_s=times["seconds"], times=times)


def open_fresh(stages: Stages) -> PlanSearch:
    """A search that knows no measurement yet."""
    stages.results.pop("open_search", None)
    return stages.open_search()


def show(rows: list[Row]) -> Table:
    table = Table(
        "", "plans", "sessions", "inferences", "engines", "compiling s", "wall s", "CPU s", "CPU ms / inference"
    )
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows:
        figures = f"{row.wall_s:.1f}", f"{row.cpu_s:.1f}", f"{1000 * row.cpu_s / max(row.passes, 1):.0f}"
        engines = str(row.engines or "-"), f"{row.compile_s:.1f}" if row.engines else "-"
        table.add_row(row.what, str(row.plans), str(row.sessions), str(row.passes), *engines, *figures)
    return table


def main(
    calib: Annotated[Path, typer.Option(help="Faces to calibrate on.")],
    onnx_file: Annotated[Path | None, typer.Option("--onnx", help="The generator (else the bundled one).")] = None,
    preset: Annotated[str | None, typer.Option(help="A known generator.")] = None,
    inputs: Annotated[list[str] | None, typer.Option("--input", help="Inputs of a model without a preset.")] = None,
    max_calib: int = 100,
    faces: Annotated[int, typer.Option(min=1, help="Faces that plans are measured on.")] = 8,
    target: Annotated[str | None, typer.Option(help="Also search by predicted time, for sm86 and the like.")] = None,
    as_json: options.AsJson = False,
) -> None:
    """Measure single layers both ways, then search."""
    source = model_choice.choose_source(onnx_file, None, None)
    described = model_choice.choose_preset(source, preset, inputs or [])
    with tempfile.TemporaryDirectory() as folder:
        settings = BuildSettings(
            source=source,
            preset=described,
            precisions=(Precision.INT8,),
            calib=calib,
            backend="onnxruntime",
            rule="entropy",
            max_calib=max_calib,
            search_faces=faces,
            cache=Path(folder),
        )
        stages = Stages(read_inputs(open_job(settings)))
        open_fresh(stages).evaluator.renderer.feeder(
            [0]
        )  # calibration and the embedding of faces are nobody's cost here
        rows = [
            timed(lambda: naive(stages), "a session for each layer"),
            timed(lambda: ours(open_fresh(stages)), "one session, plans as inputs"),
            timed(lambda: whole(open_fresh(stages)), "the whole search"),
        ]
        if target is not None:
            settings = replace(settings, backend="tensorrt-rtx", target=target, objective="time")
            stages = Stages(read_inputs(open_job(settings)))
            stages.choose_ranges()  # calibrated above
            rows.append(by_time(stages))
    first, second = rows[0].drops, rows[1].drops
    difference = max(abs(first[name] - second[name]) for name in first)
    if as_json:
        print(json.dumps({"difference": difference, "rows": [row.__dict__ for row in rows]}))
        return
    Console().print(show(rows))
    if rows[-1].times:
        print(", ".join(f"{name} {value:.4g}" for name, value in rows[-1].times.items() if not isinstance(value, str)))
    print(f"largest difference between both ways, in SSIM drop of a layer: {difference:.1e}")


if __name__ == "__main__":
    typer.run(main)
