"""The four configurations: generator, preprocess, postprocess, and the ensemble over them.

Batching is the generator's: a request of the ensemble is one photo, its generator's input one face, and Triton merges
the faces of requests that wait. The three others have no batch axis of their own (``max_batch_size`` 0). Encoded photos
are what is passed along, never decoded ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trt_facefusion.model.presets import Preset
from trt_facefusion.triton.border import GeneratorBorder
from trt_facefusion.triton.gpus import EngineFiles
from trt_facefusion.triton.messages import find_type, load_messages, make_config
from trt_facefusion.triton.steps import CROP, MATRIX, PHOTO, SOURCES, TARGET, name_pictures
from trt_facefusion.types import TensorSpec

TENSORRT = "tensorrt_plan"
ONNX = "onnxruntime_onnx"
ONNX_FILE = "model.onnx"
CI_FILE = "typed.onnx"
"""The typed graph beside a TensorRT engine, which a machine without a GPU loads in its place."""

_BYTES = "bytes"


@dataclass(frozen=True)
class ServingSettings:
    """How a model is served.

    ``instances`` of the generator on each GPU (or on the CPU), ``step_instances`` processes for the steps before it,
    and as many for those behind it; the dynamic batcher waits ``queue_delay_us`` for company.
    """

    instances: int = 1
    step_instances: int = 2
    queue_delay_us: int = 1000


@dataclass(frozen=True)
class ServedModel:
    """What all configurations are made of: the ``name``, the border, and which file which GPU loads (None: a CPU's)."""

    name: str
    preset: Preset
    border: GeneratorBorder
    files: EngineFiles | None
    settings: ServingSettings
    facts: Mapping[str, str]

    @property
    def platform(self) -> str:
        """Triton's name of what runs the engine."""
        return ONNX if self.files is None else TENSORRT

    @property
    def preprocess(self) -> str:
        """The name of the model in front."""
        return f"{self.name}_preprocess"

    @property
    def postprocess(self) -> str:
        """The name of the model behind."""
        return f"{self.name}_postprocess"

    @property
    def ensemble(self) -> str:
        """The name of the ensemble."""
        return f"{self.name}_photo"


def describe_generator(model: ServedModel, warmup: Mapping[str, str]) -> Any:
    """The generator's configuration; ``warmup`` names the file with the values of each input."""
    config = make_config(
        name=model.name,
        platform=model.platform,
        max_batch_size=model.border.max_batch,
        input=[_tensor(spec.name, spec.dtype, model.border.dims(spec)) for spec in model.border.takes],
        output=[_tensor(spec.name, spec.dtype, model.border.dims(spec)) for spec in model.border.gives],
        instance_group=[_instances(model.settings.instances, on_gpu=model.files is not None)],
        model_warmup=_list_warmups(model.border, warmup),
    )
    config.version_policy.latest.num_versions = 1
    _name_engines(config, model.files)
    if model.border.max_batch > 1:
        config.dynamic_batching.max_queue_delay_microseconds = model.settings.queue_delay_us
    for key, text in model.facts.items():
        config.parameters[key].string_value = text
    return config


def describe_ci(generator: Any) -> Any:
    """The generator on a machine without a GPU: the typed graph in onnxruntime, everything else alike."""
    config = make_config()
    config.CopyFrom(generator)
    config.platform, config.default_model_filename = ONNX, CI_FILE
    config.cc_model_filenames.clear()
    del config.instance_group[:]
    config.instance_group.append(_instances(1, on_gpu=False))
    return config


def describe_preprocess(model: ServedModel) -> Any:
    """Photos -> the generator's inputs for one face, its matrix and its crop."""
    sides = _list_between(model)
    takes = [_tensor(spec.name, spec.dtype, model.border.dims_of_one(spec)) for spec in model.border.takes]
    return make_config(
        name=model.preprocess,
        backend="python",
        input=_list_photos(model.preset),
        output=[*takes, *sides],
        instance_group=[_instances(model.settings.step_instances, on_gpu=False)],
    )


def describe_postprocess(model: ServedModel) -> Any:
    """The generator's pictures -> a photo."""
    gives = [_tensor(spec.name, spec.dtype, model.border.dims_of_one(spec)) for spec in _list_pictures(model)]
    return make_config(
        name=model.postprocess,
        backend="python",
        input=[_tensor(TARGET, _BYTES, (1,)), *_list_between(model), *gives],
        output=[_tensor(PHOTO, _BYTES, (1,))],
        instance_group=[_instances(model.settings.step_instances, on_gpu=False)],
    )


def describe_ensemble(model: ServedModel) -> Any:
    """Photos -> a photo."""
    photos = _list_photos(model.preset)
    config = make_config(name=model.ensemble, platform="ensemble", input=photos, output=[_tensor(PHOTO, _BYTES, (1,))])
    between = [MATRIX, CROP]
    takes = [spec.name for spec in model.border.takes]
    pictures = [spec.name for spec in _list_pictures(model)]
    made = {name: f"generator/{name}" for name in pictures}
    fed = {name: f"preprocess/{name}" for name in [*takes, *between]}
    named = {photo["name"]: photo["name"] for photo in photos}
    _add_step(config, model.preprocess, named, fed)
    _add_step(config, model.name, {name: fed[name] for name in takes}, made)
    _add_step(
        config, model.postprocess, {TARGET: TARGET, **{name: fed[name] for name in between}, **made}, {PHOTO: PHOTO}
    )
    return config


def _add_step(config: Any, name: str, takes: Mapping[str, str], gives: Mapping[str, str]) -> None:
    step = config.ensemble_scheduling.step.add(model_name=name, model_version=-1)
    step.input_map.update(takes)
    step.output_map.update(gives)


def _list_photos(preset: Preset) -> list[dict[str, Any]]:
    target = _tensor(TARGET, _BYTES, (1,))
    return [_tensor(SOURCES, _BYTES, (-1,)), target] if preset.swaps else [target]


def _list_between(model: ServedModel) -> list[dict[str, Any]]:
    """What goes round the generator."""
    side = model.preset.crop(model.preset.image)[1]
    return [_tensor(MATRIX, "float64", (2, 3)), _tensor(CROP, "uint8", (side, side, 3))]


def _list_pictures(model: ServedModel) -> list[TensorSpec]:
    names = name_pictures(model.preset, model.border.gives)
    return [spec for spec in model.border.gives if spec.name in names]


def _name_engines(config: Any, files: EngineFiles | None) -> None:
    if files is None:
        config.default_model_filename = ONNX_FILE
        return
    config.default_model_filename = files.default
    for capability, name in files.by_capability.items():
        if name != files.default:
            config.cc_model_filenames[capability] = name


def _list_warmups(border: GeneratorBorder, files: Mapping[str, str]) -> list[dict[str, Any]]:
    """One face, and as many as go into a batch."""
    inputs = {
        spec.name: {
            "data_type": find_type(spec.dtype),
            "dims": border.dims(spec) if border.max_batch else border.dims_of_one(spec),
            "input_data_file": files[spec.name],
        }
        for spec in border.takes
    }
    batches = sorted({1, border.max_batch}) if border.max_batch else [0]
    return [{"name": f"sample_faces_{batch or 1}", "batch_size": batch, "inputs": inputs} for batch in batches]


def _instances(count: int, *, on_gpu: bool) -> Any:
    group = load_messages().ModelInstanceGroup
    return group(kind=group.KIND_GPU if on_gpu else group.KIND_CPU, count=count)


def _tensor(name: str, dtype: str, dims: Sequence[int]) -> dict[str, Any]:
    return {"name": name, "data_type": find_type(dtype), "dims": list(dims)}
