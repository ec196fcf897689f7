"""Every known generator's stand-in becomes an INT8 and an FP16 engine, and its folder says how it is fed."""

from __future__ import annotations

from pathlib import Path

import nets
import pytest
import tiny
from preset_stand_ins import STAND_INS, TOO_LARGE

from trt_facefusion.build.run import build
from trt_facefusion.build.settings import BuildSettings
from trt_facefusion.model.export import OnnxSource
from trt_facefusion.model.graph import read_input_specs
from trt_facefusion.model.presets import get_preset
from trt_facefusion.model.presets.binding import bind_preset
from trt_facefusion.model.presets.contract import Contract
from trt_facefusion.types import Precision

QUICK = {"rule": "percentile:99.99", "corrections": "none", "planner": "rules", "repairs": 0, "effort": "least"}
ALIKE = {"hyperswap_1b_256", "hyperswap_1c_256", "ghost_1_256", "ghost_3_256"}
"""Of the same stand-in as their sisters, but for the name of an output."""
_DROP = 0.05
"""Of SSIM, at most: the stand-ins' weights are random, and a part of the picture is theirs."""


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", [name for name in STAND_INS if name not in ALIKE | TOO_LARGE])
def test_a_known_generator_is_built(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    source = OnnxSource(tiny.save(STAND_INS[name](), tmp_path / f"{name}.onnx"))
    preset = bind_preset(get_preset(name), read_input_specs(source.model))
    embedding = preset.embedding
    converts = embedding is not None and embedding.converter is not None
    settings = BuildSettings(
        source=source,
        preset=preset,
        precisions=(Precision.INT8, Precision.FP16),
        calib=tiny.write_pictures(tmp_path / "faces", range(34), 256),
        aligned=True,
        max_calib=8,
        max_eval=4,
        embedder=nets.save_arcface(tmp_path / "arcface.onnx") if preset.embedder == "arcface" else None,
        converter=nets.save_converter(tmp_path / "crossface.onnx") if converts else None,
        backend="onnxruntime",
        limits={"max_ssim_drop": _DROP},
        output=tmp_path / "engines",
        cache=tmp_path / "cache",
        **QUICK,
    )
    for result in build(settings).engines:
        manifest = result.manifest
        assert not manifest.fallback and manifest.precision == result.requested.value and manifest.gate.passed
        assert manifest.command[2:4] == ("--preset", name)
        contract = Contract.load(result.folder)
        assert contract.preset.inputs == preset.inputs
        assert (contract.projection is not None) == (embedding is not None and embedding.projection is not None)
        share = manifest.macs_share.get("int8", 0.0)
        figures = f"{share:.1%} INT8, SSIM drop {manifest.judged.figures['ssim_drop']:.3%}"
        request.node.user_properties.append((manifest.precision, figures))  # junit.xml shows them
        assert (share > 0.1) == (manifest.precision == "int8")
