"""What curation buys: INT8 calibrated on curated photos against random draws of as many from the same folder.

The whole folder goes through the FP32 model once, and a histogram is kept for each photo and tensor. Histograms add up,
so each set's thresholds are exactly those of a calibration on that set. Each set is judged on the same faces of another
folder, by the SSIM drop of INT8 against FP32. Plan and weights are the same for all; channels are not equalised.

The rule `build` stands for all that a build does by default (plan by rules): each set then has its own choice of
thresholds, scales and shifts of channels, and corrections of layers. That takes about a minute for each set.

    python benchmarks/curation.py CALIB_FOLDER --eval EVAL_FOLDER [--onnx MODEL.onnx --preset NAME] [--rule build]
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from trt_facefusion.build.activations import compute_level, list_driven_tensors
from trt_facefusion.build.face_sets import FaceSets
from trt_facefusion.build.inputs import read_inputs
from trt_facefusion.build.job import open_job
from trt_facefusion.build.settings import BuildSettings
from trt_facefusion.build.stages import Stages
from trt_facefusion.build.tuning.histograms import find_int8_inputs, pin_image_ranges
from trt_facefusion.engine.runtime.onnxruntime import OnnxRuntimeRunner
from trt_facefusion.evaluation.accuracy.metrics import measure_ssim
from trt_facefusion.faces.curation.select import select
from trt_facefusion.faces.curation.survey import Survey, survey_folder
from trt_facefusion.faces.embedder import DlibEmbedder
from trt_facefusion.faces.faceset import FaceSet
from trt_facefusion.faces.folder import read_faces
from trt_facefusion.inference.feeder import Feeder, list_input_shapes
from trt_facefusion.inference.identity import find_projection
from trt_facefusion.inference.renderer import PictureRenderer, find_picture_output
from trt_facefusion.model.export import ModelSource, OnnxSource, ReferenceSource
from trt_facefusion.model.graph import GraphView, PreparedModel, prepare
from trt_facefusion.model.presets import Preset, get_preset
from trt_facefusion.quantization.calibration import CalibrationTable, Histogram, parse_rule
from trt_facefusion.quantization.calibration.collect import open_tapped_session, run_batch
from trt_facefusion.quantization.lowering import lower
from trt_facefusion.quantization.lowering.scales import add_scale_inputs, make_scale_feeds
from trt_facefusion.quantization.precision import plan_by_rules
from trt_facefusion.types import Precision

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
console = Console(stderr=True)

BUILD = "build"

Histograms = list[dict[str, Histogram]]
"""By photo and tensor."""


@dataclass(frozen=True)
class Net:
    """A generator, ready to be fed."""

    preset: Preset
    prepared: PreparedModel
    embedder: DlibEmbedder
    projection: NDArray[np.float32] | None

    @classmethod
    def load(cls, source: ModelSource, preset: Preset) -> Net:
        embedder = DlibEmbedder()
        shapes = list_input_shapes(preset, embedder.dim)
        model = source.load(shapes)
        return cls(preset, prepare(model, shapes), embedder, find_projection(preset, model))

    def feeder(self, faces: FaceSet) -> Feeder:
        fixed = None if self.prepared.dynamic_batch else self.prepared.fixed_batch
        return Feeder(self.preset, faces, self.embedder, self.projection, fixed)


def histograms_by_photo(net: Net, view: GraphView, faces: FaceSet) -> Histograms:
    """A pass for each photo: what `collect` gives for a set is the sum over its photos."""
    tensors = find_int8_inputs(view) | set(list_driven_tensors(view))
    feeder = net.feeder(faces)
    fed = [name for name in view.input_names if name in tensors]
    tapped = [name for node in view.float_nodes() for name in node.output if name in tensors]
    session = open_tapped_session(net.prepared.model, tapped, None)
    found: Histograms = []
    for index in track(range(len(faces)), "histograms", console=console):
        values = run_batch(session, fed, tapped, feeder([index]))
        found.append({name: Histogram() for name in values})
        for name, value in values.items():
            found[-1][name].add(value[:1])
    return found


def merged(found: Iterable[dict[str, Histogram]]) -> dict[str, Histogram]:
    total: dict[str, Histogram] = {}
    for histograms in found:
        for name, histogram in histograms.items():
            total.setdefault(name, Histogram()).merge(histogram)
    return total


class Judge:
    """The SSIM drop of INT8 on the same faces under any thresholds: one session for all sets."""

    def __init__(self, net: Net, view: GraphView, faces: FaceSet, everything: dict[str, Histogram]) -> None:
        self.pinned = pin_image_ranges(net.preset, view)
        plan = plan_by_rules(view, {name: found.amax for name, found in everything.items()}, "")
        table = self.table(everything, "max")
        model, self.scales = add_scale_inputs(lower(view, plan, table, Precision.FP32, {}))
        self.int8 = len(plan.names(Precision.INT8))
        self.feeder, self.runner = net.feeder(faces), OnnxRuntimeRunner(model, stand_in=True)
        self.output, self.preset = find_picture_output(net.preset, net.prepared.outputs), net.preset
        with OnnxRuntimeRunner(net.prepared.model) as fp32:
            self.wanted = PictureRenderer(self.feeder, self.output, 1)(fp32).clip(0, 1)

    def table(self, histograms: dict[str, Histogram], rule: str) -> CalibrationTable:
        thresholds = {name: parse_rule(rule)(found) for name, found in histograms.items()}
        return CalibrationTable(thresholds | self.pinned)

    def drops(self, histograms: dict[str, Histogram], rule: str) -> NDArray[np.float64]:
        """SSIM drop [N] of each face."""
        feeds = make_scale_feeds(self.scales, self.table(histograms, rule), {})
        pictures = []
        for index in range(len(self.wanted)):
            made = self.runner.infer({**self.feeder([index]), **feeds})[self.output][:1]
            pictures.append(self.preset.output.decode(made))
        return 1 - measure_ssim(self.wanted, np.concatenate(pictures).clip(0, 1))


class Builds:
    """The SSIM drop of what a build makes of a set, judged on the same faces for all."""

    def __init__(self, source: ModelSource, net: Net, folder: Path, photos: FaceSet, judged: FaceSet) -> None:
        self.source, self.net, self.folder, self.photos, self.judged = source, net, folder, photos, judged

    def drops(self, chosen: Sequence[int]) -> NDArray[np.float64]:
        """SSIM drop [N] of each face."""
        with TemporaryDirectory() as name:
            settings = BuildSettings(
                source=self.source,
                preset=self.net.preset,
                precisions=(Precision.INT8,),
                calib=self.folder,
                eval=self.folder,
                planner="rules",
                output=Path(name) / "engines",
                cache=Path(name) / "cache",
            )
            faces = FaceSets(self.photos.subset(sorted(chosen)), self.judged)
            inputs = read_inputs(open_job(settings), faces=faces)
            stages = Stages(inputs)
            model = stages.lower(stages.make_plan(Precision.INT8), Precision.FP32).typed
        with OnnxRuntimeRunner(model) as runner:
            pictures = inputs.network.make_renderer(self.judged)(runner)
        assert inputs.proof.reference is not None
        return 1 - measure_ssim(inputs.proof.reference.clip(0, 1), pictures.clip(0, 1))


def sets(found: Survey, histograms: Histograms, net: Net, count: int, draws: int) -> dict[str, list[list[int]]]:
    """The sets that are compared: a name -> lists of photos. Random ones are drawn from all photos with a face."""
    driven = list_driven_tensors(GraphView(net.prepared.model))
    levels = np.array([[compute_level(photo[name]) for name in driven] for photo in histograms])
    alone = select(found, count, same_person=net.embedder.same_person)
    with_net = select(found, count, same_person=net.embedder.same_person, activations=levels)
    random = [np.random.default_rng(seed).choice(len(found), count, replace=False).tolist() for seed in range(draws)]
    return {"curated": [alone.indices], "curated with the generator": [with_net.indices], "random": random}


def figures(drops: Sequence[NDArray[np.float64]]) -> dict[str, list[float]]:
    return {"worst": [float(d.max()) for d in drops], "mean": [float(d.mean()) for d in drops]}


def show(results: dict[str, dict[str, dict[str, list[float]]]], title: str) -> None:
    table = Table(title=title)
    for column in ("rule", "set", "worst face", "mean", "worse draws"):
        table.add_column(column, justify="left" if column in {"rule", "set"} else "right")
    for rule, by_set in results.items():
        random = np.array(by_set["random"]["worst"])
        for name, found in by_set.items():
            worst, mean = np.array(found["worst"]), float(np.median(found["mean"]))
            if len(worst) == 1:
                beaten = f"{(random > worst[0]).sum()} of {len(random)}"
                table.add_row(rule, name, f"{worst[0]:.3%}", f"{mean:.3%}", beaten)
            else:
                text = f"{np.median(worst):.3%} ({worst.min():.3%} to {worst.max():.3%})"
                table.add_row(rule, f"{name}: median (range)", text, f"{mean:.3%}", "", end_section=True)
    Console().print(table)


@app.command()
def main(
    folder: Annotated[Path, typer.Argument(help="The photos to choose from.")],
    evaluation: Annotated[Path, typer.Option("--eval", help="Photos of other people to judge on.")],
    count: Annotated[int, typer.Option("-n", help="Photos in a set.")] = 200,
    draws: Annotated[int, typer.Option(help="Random sets.")] = 20,
    judged: Annotated[int, typer.Option(help="Faces of --eval, evenly spread.")] = 30,
    rules: Annotated[list[str] | None, typer.Option("--rule", help="May be given several times.")] = None,
    onnx: Annotated[Path | None, typer.Option(help="Another generator; needs --preset.")] = None,
    preset: Annotated[str, typer.Option(help="What its inputs are.")] = "reference",
    as_json: Annotated[bool, typer.Option("--json", help="Figures as JSON instead of a table.")] = False,
) -> None:
    source: ModelSource = ReferenceSource() if onnx is None else OnnxSource(onnx)
    net = Net.load(source, get_preset(preset))
    view = GraphView(net.prepared.model)
    shape = {"template": net.preset.template, "size": net.preset.image.size, "embedder": net.embedder}
    console.print("reading photos ...")
    found = survey_folder(folder, **shape)
    eval_faces = read_faces(evaluation, **shape)
    eval_faces = eval_faces.subset(
        np.linspace(0, len(eval_faces) - 1, min(judged, len(eval_faces))).round().astype(int)
    )
    histograms = histograms_by_photo(net, view, found.faces)
    judge = Judge(net, view, eval_faces, merged(histograms))
    builds = Builds(source, net, folder, found.faces, eval_faces)
    compared = sets(found, histograms, net, count, draws)
    results: dict[str, dict[str, dict[str, list[float]]]] = {}
    for rule in rules or ["percentile:99.99", "mse"]:
        results[rule] = {}
        for name, chosen in compared.items():
            if rule == BUILD:
                drops = [builds.drops(one) for one in track(chosen, name, console=console)]
            else:
                drops = [judge.drops(merged(histograms[index] for index in one), rule) for one in chosen]
            results[rule][name] = figures(drops)
            console.print(f"{rule}, {name}: worst face {np.median(results[rule][name]['worst']):.3%}")
    if as_json:
        print(json.dumps(results))
    else:
        show(results, f"{count} of {len(found)} faces, {judge.int8} INT8 nodes, judged on {len(eval_faces)} faces")


if __name__ == "__main__":
    app()
