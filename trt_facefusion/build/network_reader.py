"""Reads the generator of a build from its file, refuses what can never be right, and prepares it."""

from __future__ import annotations

from trt_facefusion.build.network import Network
from trt_facefusion.build.reporter import Reporter
from trt_facefusion.build.settings import BuildSettings
from trt_facefusion.faces.embedder import Embedder
from trt_facefusion.inference.described import prepare_described, require_batch
from trt_facefusion.inference.feeder import list_input_shapes
from trt_facefusion.inference.identity import find_projection
from trt_facefusion.inference.original import Original, fix_original_noise
from trt_facefusion.model.graph import read_input_specs
from trt_facefusion.model.graph.batch import require_samples_apart
from trt_facefusion.model.graph.noise import parse_noise, require_no_noise
from trt_facefusion.model.presets.fit import find_fixed_batch, fit_inputs
from trt_facefusion.quantization.precision.rules import require_roles


def read_network(settings: BuildSettings, embedder: Embedder, reporter: Reporter) -> Network:
    """Load the model that was handed in, fix its noise where that was asked for, and prepare it as it is described.

    Raises:
        BadInputError: an input is not what its description says, or the model cannot be built for this batch.
        ModelError: its pictures are random, or one sample's depends on the others of its batch; names the node.
    """
    require_roles(settings.preset.hints)
    reporter.progress("model", 0, 0)
    model = settings.source.load(list_input_shapes(settings.preset, embedder.fed_dim))
    for note in settings.source.notes:
        reporter.note(note)
    takes = read_input_specs(model)
    fits = fit_inputs(settings.preset, takes, embedder.fed_dim)
    shapes = {name: fit.shape for name, fit in fits.items()}
    projection = find_projection(settings.preset, model)
    original = Original(settings.source, model)
    if settings.noise is not None:
        noise = parse_noise(settings.noise)
        original = fix_original_noise(settings.source, model, noise, shapes)
        reporter.warn(f"noise is fixed (--noise {noise}) in {', '.join(original.fixed_nodes)}, in the engine, too")
    require_no_noise(original.loaded)
    require_samples_apart(original.loaded, shapes, single=find_fixed_batch(settings.preset, takes, fits) == 1)
    described = prepare_described(original.loaded, settings.preset, embedder.fed_dim)
    require_batch(described, settings.batch)
    if described.dropped:
        picture = described.preset.output.name
        reporter.note(f"the picture is {picture}; left out of the engine: {', '.join(described.dropped)}")
    # The prepared model has the weights now.
    return Network(original.without_weights(), described, embedder, projection, settings.batch)
