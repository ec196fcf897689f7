"""The command line of a build, from its settings: what the manifest keeps so that anyone can build the engine again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from trt_facefusion.build.options import read_defaults, read_option_names
from trt_facefusion.build.settings import BuildSettings
from trt_facefusion.engine.backends.base import BuildOptions
from trt_facefusion.evaluation.accuracy import registry
from trt_facefusion.model.export import CheckpointSource, ModelSource, OnnxSource, ReferenceSource
from trt_facefusion.model.presets import PRESETS, ImageInput, InputSpec, Preset
from trt_facefusion.model.presets.output import ImageOutput
from trt_facefusion.model.presets.preset import USUAL_TEMPLATE
from trt_facefusion.model.presets.syntax import write_input, write_picture

_OPTIONS = {
    **read_option_names(BuildSettings),
    "batch": "--batch",
    "plan": "--plan",
    "planner": "--plan",
    "output": "--output",
    "limits": "",
    "recalibrate": "--recalibrate",
    "strict": "--strict",
}
_ORDER = (
    "calib",
    "eval",
    "embedder",
    "converter",
    "batch",
    "plan",
    "planner",
    "rule",
    "corrections",
    "table",
    "limits",
    "search_faces",
    "effort",
    "minutes",
    "repairs",
    "max_calib",
    "max_eval",
    "noise",
    "output",
    "cache",
    "aligned",
    "recalibrate",
    "strict",
)
"""The order in which manifests have always had their options; any other option comes behind these."""
_LEFT_OUT = {"target", "backend"}


def write_arguments(settings: BuildSettings) -> tuple[str, ...]:
    """The arguments of `trt-ff build` that ``settings`` came from; precisions, target and backend are left out.

    Paths are those that were given. What has its default is not said.
    """
    defaults = read_defaults(BuildSettings)
    words = [*_write_model(settings.source, settings.preset)]
    for name in sorted(_OPTIONS.keys() - _LEFT_OUT, key=_rank):
        setting = getattr(settings, name)
        if name == "limits":
            words += _write_limits(setting)
        elif name not in defaults or setting != defaults[name]:
            words += [_OPTIONS[name]] if setting is True else [_OPTIONS[name], str(setting)]
    if settings.workspace_bytes is not None:
        words += ["--workspace", str(max(1, settings.workspace_bytes >> 20))]
    return (*words, *_write_tensorrt(settings.options))


def _write_limits(limits: Mapping[str, float]) -> Iterator[str]:
    for _, limit in registry.iterate_limits():
        if limit.name in limits:
            yield from (limit.option, str(limits[limit.name]))


def _rank(name: str) -> tuple[int, str]:
    return _ORDER.index(name) if name in _ORDER else len(_ORDER), name


def _write_model(source: ModelSource, preset: Preset) -> Iterator[str]:
    if isinstance(source, ReferenceSource):
        return
    if isinstance(source, OnnxSource):
        yield from ("--onnx", str(source.path))
    elif isinstance(source, CheckpointSource):
        yield from ("--checkpoint", str(source.path), "--model", source.factory)
        if source.weights_key is not None:
            yield from ("--weights-key", source.weights_key)
    if preset.origin or PRESETS.get(preset.name) == preset:
        yield from ("--preset", preset.origin or preset.name)
        if not preset.known:
            yield from ("--picture", write_picture(preset.output))
        return
    for spec in preset.inputs:
        yield from ("--input", write_input(_say_template(spec, preset), among_images=len(preset.images) > 1))
    if preset.output != ImageOutput.like(preset.image):
        yield from ("--picture", write_picture(preset.output))


def _say_template(spec: InputSpec, preset: Preset) -> InputSpec:
    """``spec``, saying the template that it has from ``preset``, where that is not the usual one."""
    if isinstance(spec, ImageInput) and spec.template is None and preset.template != USUAL_TEMPLATE:
        return replace(spec, template=preset.template)
    return spec


def _write_tensorrt(options: BuildOptions) -> Iterator[str]:
    if options.optimization_level is not None:
        yield from ("--optimization-level", str(options.optimization_level))
    if options.hardware_compatibility != "none":
        yield from ("--hardware-compatibility", options.hardware_compatibility)
    if options.version_compatible:
        yield "--version-compatible"
    if not options.obey:
        yield "--prefer-precisions"
