"""Every setting that changes an engine is in its key: gone through field by field, those that are added later too."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import nets
import numpy as np
import onnx
import pytest
import tiny
import torch
from lpips_package import AlexNet, make_lpips
from twin.builder import VERSION_10, make_twin
from twin.uploader import A10G, HostUploader

from trt_facefusion.build import settings as settings_module
from trt_facefusion.build.job import open_job
from trt_facefusion.build.options import OutsideKey, read_key_roles
from trt_facefusion.build.settings import FACTORS, BuildSettings, compute_engine_key
from trt_facefusion.engine.backends import registry
from trt_facefusion.engine.backends.base import BuildOptions
from trt_facefusion.engine.backends.tensorrt import TensorRt
from trt_facefusion.errors import BadInputError
from trt_facefusion.inference import embedders as embedders_module
from trt_facefusion.model.export import CheckpointSource, OnnxSource, ReferenceSource
from trt_facefusion.model.presets import (
    EmbeddingInput,
    FileInput,
    ImageInput,
    ImageOutput,
    Part,
    PlanHint,
    Preset,
    ValueInput,
    get_preset,
    parse_input,
)
from trt_facefusion.types import BatchRange, Precision

Alternatives = dict[str, Any]


@pytest.fixture(autouse=True)
def quick_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT 10's twin, for which every setting counts, and an embedder that takes no time."""
    module, _ = make_twin(VERSION_10)
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    monkeypatch.setattr(registry, "TensorRt", lambda: TensorRt(lambda: A10G, HostUploader))
    monkeypatch.setattr(TensorRt, "require", lambda self, target: None)  # of GPUs that are not here, too
    monkeypatch.setattr(embedders_module, "DlibEmbedder", tiny.Glance)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("key")


@pytest.fixture(scope="module")
def settings(folder: Path) -> BuildSettings:
    """Settings in which every other one counts."""
    np.save(folder / "values.npy", np.ones(3, np.float32))
    inputs = (
        "image=image:32:0:1",
        "source=embedding:converter=crossface",
        f"mask=file:{folder / 'values.npy'}",
        "weight=value:0.5",
        "second=image:32:0:1:target",
    )
    return BuildSettings(
        source=OnnxSource(tiny.save(tiny.generator(), folder / "tiny.onnx")),
        preset=Preset.from_inputs([parse_input(text) for text in inputs], "out:0:1"),
        precisions=(Precision.INT8,),
        calib=tiny.write_pictures(folder / "faces", range(3)),
        backend="tensorrt",
        converter=nets.save_converter(folder / "crossface.onnx", 128, 128),
    )


@pytest.fixture(scope="module")
def lpips_backbone(folder: Path) -> Iterator[Path]:
    """A backbone of LPIPS, and the package that it belongs to."""
    (folder / "packages").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder / "packages")
        yield make_lpips(folder / "packages")


@pytest.fixture(scope="module")
def alternatives(folder: Path, settings: BuildSettings, lpips_backbone: Path) -> Alternatives:
    """For each setting a value that is not the one in `settings`."""
    (folder / "plan.yaml").write_text("schema: 1\nnodes: []\n")
    (folder / "table.cache").write_text("TRT-101100-EntropyCalibration2\n")
    return {
        "calib": tiny.write_pictures(folder / "others", range(3, 6)),
        "eval": tiny.write_pictures(folder / "judges", range(6, 9)),
        "aligned": True,
        "max_calib": 299,
        "max_eval": 127,
        "embedder": arcface(folder / "arcface.onnx"),
        "converter": nets.save_converter(folder / "other_crossface.onnx", 128, 128, seed=1),
        "noise": "zero",
        "target": "sm89",
        "backend": "onnxruntime",
        "gpu": "l4",
        "forms": "flat-norms",
        "rule": "entropy",
        "corrections": "none",
        "table": folder / "table.cache",
        "limits": {"max_ssim_drop": 0.5},
        "repairs": 2,
        "lpips_backbone": lpips_backbone,
        "objective": "size",
        "search_faces": 4,
        "effort": "full",
        "minutes": 3.0,
        "cache": folder / "cache",
        "source": OnnxSource(tiny.save(tiny.generator(blocks=1), folder / "another.onnx")),
        "preset": replace(settings.preset, name="another"),
        "precisions": (Precision.FP16,),
        "batch": BatchRange(1, 2, 4),
        "plan": folder / "plan.yaml",
        "planner": "rules",
        "output": folder / "engines",
        "strict": True,
        "force": True,
        "recalibrate": True,
        "table_file": folder / "written.cache",
        "hold_out": False,
        "options": BuildOptions(version_compatible=True),
        "workspace_bytes": 1 << 20,
    }


def arcface(path: Path) -> Path:
    """A network that gives the first 128 values of a picture."""
    net = nets.Net()
    ends = [net.const([value], np.int64) for value in (0, 128, 1)]
    net.op("Slice", net.op("Flatten", "x"), *ends, name="y")
    onnx.save(net.model({"x": ["N", 3, 112, 112]}, {"y": ["N", 128]}), path)
    return path


def key(settings: BuildSettings) -> str:
    return compute_engine_key(settings, open_job(settings).digests, Precision.INT8)


def test_there_is_another_value_for_every_setting(settings: BuildSettings, alternatives: Alternatives) -> None:
    names = {field.name for field in fields(BuildSettings)}
    assert names == alternatives.keys(), "give each setting a value in `alternatives` that changes it"
    assert all(getattr(settings, name) != value for name, value in alternatives.items())


@pytest.mark.parametrize("name", [field.name for field in fields(BuildSettings)])
def test_the_key_changes_with_every_setting_that_is_not_declared_outside(
    name: str, settings: BuildSettings, alternatives: Alternatives
) -> None:
    changed = replace(settings, **{name: alternatives[name]})
    outside = isinstance(read_key_roles(BuildSettings)[name], OutsideKey)
    assert (key(changed) == key(settings)) == outside


def test_what_a_limit_is_measured_by_is_part_of_the_key(settings: BuildSettings, lpips_backbone: Path) -> None:
    limited = replace(settings, limits={"max_classic_lpips": 0.1}, lpips_backbone=lpips_backbone)
    before = key(limited)
    other = lpips_backbone.with_name("other.pth")
    torch.manual_seed(1)
    torch.save(AlexNet().state_dict(), other)
    assert key(replace(limited, lpips_backbone=other)) != before
    assert key(replace(limited, lpips_backbone=None, limits={"max_perceptual": 0.1})) != before
    with pytest.raises(BadInputError, match="needs AlexNet's weights"):
        key(replace(limited, lpips_backbone=None))


OPTIONS = {
    "timing_cache": Path("timings"),
    "optimization_level": 5,
    "hardware_compatibility": "ampere_plus",
    "version_compatible": True,
    "obey": False,
}
BATCHES = {"min": 2, "opt": 3, "max": 4}
OUTPUT = {
    "name": "y",
    "mean": (0.1,) * 3,
    "std": (0.1,) * 3,
    "bgr": True,
    "nhwc": True,
    "ranged": False,
    "masks": ("m",),
}
PRESET = {
    "name": "p",
    "inputs": (),
    "output": ImageOutput("z"),
    "template": "ffhq_512",
    "embedder": "arcface",
    "hints": (PlanHint("b", ("softmax",)),),
}
IMAGE = {
    "name": "y",
    "size": 64,
    "mean": (0.1,) * 3,
    "std": (0.1,) * 3,
    "bgr": True,
    "width": 64,
    "gray": True,
    "nhwc": True,
    "template": "ffhq_512",
    "person": "source",
    "parts": (Part(), Part()),
    "also": ("x",),
}
EMBEDDING = {"name": "id", "normalise": False, "projection": "emap", "converter": "crossface", "also": ("x",)}
VALUE = {"name": "w", "value": 0.25, "range": (0.0, 1.0), "also": ("x",), "optional": True}
PART = {"person": "source", "masked": "upper", "share": 0.25}
Change = Callable[[BuildSettings, Any], BuildSettings]


def test_fitted_factors_are_part_of_the_key_of_searched_plans_alone(settings: BuildSettings) -> None:
    def changes(precision: Precision, planner: str) -> bool:
        planned = replace(settings, planner=planner)
        return len({compute_engine_key(planned, digests, precision) for digests in ({}, {FACTORS: "0.5"})}) == 2

    assert changes(Precision.INT8, "auto")
    assert not changes(Precision.INT8, "rules") and not changes(Precision.FP16, "auto")


def with_input(number: int) -> Change:
    def change(settings: BuildSettings, spec: Any) -> BuildSettings:
        inputs = list(settings.preset.inputs)
        inputs[number] = spec
        return replace(settings, preset=replace(settings.preset, inputs=tuple(inputs)))

    return change


def with_output(settings: BuildSettings, output: Any) -> BuildSettings:
    return replace(settings, preset=replace(settings.preset, output=output))


def with_part(settings: BuildSettings, part: Any) -> BuildSettings:
    image = replace(settings.preset.image, parts=(part, Part()))
    return with_input(0)(settings, image)


@pytest.mark.parametrize(
    ("part", "values", "change"),
    [
        (BuildOptions(), OPTIONS, lambda settings, options: replace(settings, options=options)),
        (BatchRange(), BATCHES, lambda settings, batch: replace(settings, batch=batch)),
        (ImageInput("image", 32), IMAGE, with_input(0)),
        (Part(masked="lower"), PART, with_part),
        (EmbeddingInput("source"), EMBEDDING, with_input(1)),
        (FileInput("mask", Path("values.npy")), {"name": "m", "path": Path("copy.npy")}, with_input(2)),
        (ValueInput("weight", 0.5), VALUE, with_input(3)),
        (ImageOutput("out", ranged=True), OUTPUT, with_output),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_key_changes_with_every_part_of_a_setting(
    part: Any, values: Alternatives, change: Change, settings: BuildSettings
) -> None:
    assert values.keys() == {field.name for field in fields(part)}
    keys = {
        name: compute_engine_key(change(settings, replace(part, **{name: value})), {}, Precision.INT8)
        for name, value in values.items()
    }
    keys["as it is"] = compute_engine_key(change(settings, part), {}, Precision.INT8)
    assert len(set(keys.values())) == len(keys)


def test_the_key_changes_with_every_part_of_a_preset(settings: BuildSettings) -> None:
    plain = settings.preset
    values = {**PRESET, "inputs": plain.inputs[-1:]}
    assert values.keys() == {field.name for field in fields(Preset) if field.name != "origin"}
    for name, value in values.items():
        changed = replace(settings, preset=replace(plain, **{name: value}))
        assert compute_engine_key(changed, {}, Precision.INT8) != compute_engine_key(settings, {}, Precision.INT8), name


def test_the_key_changes_with_every_part_of_a_checkpoint(
    folder: Path, settings: BuildSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    for name in ("a", "b"):
        Path(f"{name}.py").write_text("def build(): ...\ndef other(): ...\n")
        Path(f"{name}.pth").write_bytes(name.encode())
    plain = CheckpointSource(Path("a.pth"), "a:build")
    values: Alternatives = {"path": Path("b.pth"), "factory": "a:other", "weights_key": "netG"}
    assert values.keys() == {field.name for field in fields(CheckpointSource)}
    for name, value in values.items():
        changed = replace(settings, source=replace(plain, **{name: value}))
        assert key(changed) != key(replace(settings, source=plain)), name


RECORDED = [
    "1b32a136993edba9",
    "ccbab89049383d6a",
    "bd1953e0a530af6f",
    "f1c40c47b3892909",
    "b5446595d02902d6",
    "638a9dcac15d5ecd",
]
"""Their beginnings, as version 0.1.0 made them."""


def test_engines_of_earlier_versions_keep_their_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings_module, "__version__", "0.1.0")
    digests = {"model": "m", "calib": "c", "backend": "tensorrt 10.9", "target": "sm86"}
    preset = get_preset("reference")
    preset = replace(preset, output=replace(preset.output, masks=()))  # as it was then
    plain = BuildSettings(source=ReferenceSource(), preset=preset, precisions=(Precision.INT8,), calib=Path("faces"))
    much = replace(
        plain,
        preset=get_preset("blendswap_256"),
        batch=BatchRange(1, 4, 8),
        planner="rules",
        rule="mse",
        corrections="shift",
        limits={"max_ssim_drop": 0.02, "max_perceptual": 0.1},
        search_faces=4,
        minutes=3.0,
        recalibrate=True,
        noise="seed:4",
        options=BuildOptions(None, 4, "ampere_plus", True, obey=False),
        workspace_bytes=1 << 20,
    )
    keys = [compute_engine_key(each, digests, precision)[:16] for each in (plain, much) for precision in Precision]
    assert keys == RECORDED
