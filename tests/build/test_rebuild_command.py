"""The manifest's command line builds the same thing again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from trt_facefusion.build.rebuild_command import write_arguments
from trt_facefusion.build.settings import BuildSettings
from trt_facefusion.cli import build as cli
from trt_facefusion.cli.app import make_app
from trt_facefusion.engine.backends.base import BuildOptions
from trt_facefusion.model.export import CheckpointSource, OnnxSource, ReferenceSource
from trt_facefusion.model.presets import Preset, get_preset, parse_input
from trt_facefusion.types import BatchRange, Precision

IMAGE, FILE = "target=image:128:-1:1:bgr", "mask=file:a mask.npy"
INPUTS = Preset.from_inputs([parse_input(text) for text in (IMAGE, "source=embedding", FILE)])


def test_a_description_without_a_name_says_its_template() -> None:
    restorer = replace(get_preset("gpen_bfr_512"), origin="", name="custom")
    settings = BuildSettings(
        source=OnnxSource(Path("r.onnx")), preset=restorer, precisions=(Precision.INT8,), calib=Path("faces")
    )
    assert "input=image:512:-1:1:template=ffhq_512" in write_arguments(settings)
    pictured = replace(settings, preset=get_preset("gpen_bfr_512").with_picture("out:0:1"))
    assert write_arguments(pictured)[2:6] == ("--preset", "gpen_bfr_512", "--picture", "out:0:1:rgb")


class Stop(Exception):  # noqa: N818
    pass


@pytest.mark.parametrize(
    "settings",
    [
        BuildSettings(
            source=ReferenceSource(), preset=get_preset("reference"), precisions=(Precision.INT8,), calib=Path("faces")
        ),
        BuildSettings(
            source=OnnxSource(Path("a b.onnx")),
            preset=get_preset("gpen_bfr_256"),
            precisions=(Precision.INT8,),
            calib=Path("faces"),
        ),
        BuildSettings(
            source=ReferenceSource(),
            preset=get_preset("reference"),
            precisions=(Precision.INT8,),
            calib=Path("faces"),
            planner="rules",
            limits={"max_perceptual": 0.5, "max_st_lpips": 0.1, "max_classic_lpips": 0.2, "min_identity": 0.9},
            lpips_backbone=Path("alexnet.pth"),
            search_faces=4,
            objective="size",
            effort="least",
            minutes=2.5,
            corrections="shift,bias",
        ),
        BuildSettings(
            source=CheckpointSource(Path("w.pth"), "nets:make", "netG."),
            preset=INPUTS,
            precisions=(Precision.FP16,),
            calib=Path("my faces"),
            eval=Path("others"),
            aligned=True,
            embedder=Path("w600k.onnx"),
            batch=BatchRange(1, 4, 8),
            plan=Path("plan.yaml"),
            rule="percentile:99.9",
            output=Path("out"),
            cache=Path("cache"),
            limits={"max_ssim_drop": 0.02},
            repairs=1,
            max_calib=50,
            max_eval=20,
            strict=True,
            recalibrate=True,
            table=Path("table.cache"),
            options=BuildOptions(None, 4, "ampere_plus", True, obey=False),
            workspace_bytes=512 << 20,
        ),
    ],
)
def test_the_command_line_gives_the_same_settings(settings: BuildSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[BuildSettings] = []

    def keep(made: BuildSettings, *_: Any) -> None:
        read.append(made)
        raise Stop

    monkeypatch.setattr(cli, "build", keep)
    words = ["build", *write_arguments(settings), *(f"--{p.value}" for p in settings.precisions)]
    with pytest.raises(Stop):
        make_app()(words, standalone_mode=False)
    assert read == [settings]
