"""Compares the graphs of two models layer by layer, on a few faces."""

from __future__ import annotations

from trt_facefusion.evaluation.comparison.layers import LayerComparison
from trt_facefusion.evaluation.comparison.pair import ModelPair
from trt_facefusion.evaluation.comparison.result import LayerErrors
from trt_facefusion.evaluation.comparison.saved import SaveFolder
from trt_facefusion.evaluation.comparison.settings import DiffSettings
from trt_facefusion.faces.faceset import FaceSet
from trt_facefusion.model.export.onnx_file import load_model
from trt_facefusion.quantization.calibration.reader import Batches
from trt_facefusion.quantization.folding import unfold_scales
from trt_facefusion.types import Note, Progress


def compare_layers(
    pair: ModelPair,
    faces: FaceSet,
    settings: DiffSettings,
    save: SaveFolder,
    progress: Progress,
    note: Note,
) -> LayerErrors:
    """The error of every tensor that both graphs have, and what the picture gains where the worst layers are raised."""
    few = faces.thin(settings.layer_faces)
    full_batches = len(few) - len(few) % pair.batch.size  # repeats would count double
    few = few.subset(range(full_batches)) if full_batches else few
    if pair.a.opened.needs_gpu or pair.b.opened.needs_gpu:
        note("layers are compared on the typed ONNX: a TensorRT engine shows its outputs only")
    feeder = pair.make_feeder(few, fixed=True)
    comparison = LayerComparison(
        unfold_scales(load_model(pair.a.opened.graph)),
        unfold_scales(load_model(pair.b.opened.graph)),
        Batches(feeder, len(few), pair.batch.size),
        settings.budget_bytes,
    )
    errors = comparison.rank_errors(progress, save.save_layers)
    if pair.picture is not None:
        errors = comparison.measure_gains(errors, pair.make_renderer(feeder), settings.raised, progress)
    return LayerErrors(len(few), errors, comparison.reshaped)
