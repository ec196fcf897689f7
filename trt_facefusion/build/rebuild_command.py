"""The command line of a build, from its settings: what the manifest keeps so that anyone can build the engine again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from trt_facefusion.build.settings import BuildSettings
from trt_facefusion.engine.backends.base import BuildOptions
from trt_facefusion.evaluation.accuracy import registry
from trt_facefusion.model.export import CheckpointSource, ModelSource, OnnxSource, ReferenceSource
from trt_facefusion.model.presets import PRESETS, Preset
from trt_facefusion.model.presets.output import ImageOutput
from trt_facefusion.model.presets.syntax import written_input, written_picture

_PLAIN = {
    "eval": "--eval",
    "embedder": "--embedder",
    "batch": "--batch",
    "plan": "--plan",
    "planner": "--plan",
    "rule": "--rule",
    "corrections": "--corrections",
    "table": "--calib-cache",
    "limits": "",
    "search_faces": "--search-faces",
    "effort": "--effort",
    "minutes": "--time",
    "repairs": "--repairs",
    "max_calib": "--max-calib",
    "max_eval": "--max-eval",
    "noise": "--noise",
    "output": "--output",
    "cache": "--cache",
}
_SWITCHES = {"aligned": "--aligned", "recalibrate": "--recalibrate", "strict": "--strict"}


def build_arguments(settings: BuildSettings) -> tuple[str, ...]:
    """The arguments of `trt-ff build` that ``settings`` came from; precisions, target and engine maker are left out.

    Paths are those that were given. What has its default is not said.
    """
    plain = BuildSettings(settings.source, settings.preset, settings.precisions, settings.calib)
    words = [*_model(settings.source, settings.preset), "--calib", str(settings.calib)]
    for name, option in _PLAIN.items():
        value = getattr(settings, name)
        if name == "limits":
            words += _limits(settings.limits)
        elif value != getattr(plain, name):
            words += [option, str(value)]
    words += [option for name, option in _SWITCHES.items() if getattr(settings, name)]
    if settings.workspace_bytes is not None:
        words += ["--workspace", str(max(1, settings.workspace_bytes >> 20))]
    return (*words, *_tensorrt(settings.options))


def _limits(named: Mapping[str, float]) -> Iterator[str]:
    for _, limit in registry.limits():
        if limit.name in named:
            yield from (limit.option, str(named[limit.name]))


def _model(source: ModelSource, preset: Preset) -> Iterator[str]:
    if isinstance(source, ReferenceSource):
        return
    if isinstance(source, OnnxSource):
        yield from ("--onnx", str(source.path))
    elif isinstance(source, CheckpointSource):
        yield from ("--checkpoint", str(source.path), "--model", source.factory)
        if source.weights_key is not None:
            yield from ("--weights-key", source.weights_key)
    if PRESETS.get(preset.name) == preset:
        yield from ("--preset", preset.name)
        return
    for spec in preset.inputs:
        yield from ("--input", written_input(spec, among_images=len(preset.images) > 1))
    if preset.output != ImageOutput.like(preset.image):
        yield from ("--picture", written_picture(preset.output))


def _tensorrt(options: BuildOptions) -> Iterator[str]:
    if options.optimization_level is not None:
        yield from ("--optimization-level", str(options.optimization_level))
    if options.hardware_compatibility != "none":
        yield from ("--hardware-compatibility", options.hardware_compatibility)
    if options.version_compatible:
        yield "--version-compatible"
    if not options.obey:
        yield "--prefer-precisions"
