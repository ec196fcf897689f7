"""What the README shows works as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
import tiny  # noqa: E402
from trt_facefusion.build.run import build  # noqa: E402

from trt_facefusion import errors  # noqa: E402
from trt_facefusion.build.settings import BuildSettings  # noqa: E402
from trt_facefusion.inference import embedders as embedders_module  # noqa: E402
from trt_facefusion.model.export import OnnxSource  # noqa: E402
from trt_facefusion.model.presets import Preset, parse_input  # noqa: E402
from trt_facefusion.types import Precision  # noqa: E402

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_python_snippet_runs_an_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len([line for line in snippet.splitlines() if line.strip()]) <= 8
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(embedders_module, "DlibEmbedder", tiny.Glance)
    build(
        BuildSettings(
            source=OnnxSource(tiny.save(tiny.generator(), tmp_path / "swap.onnx")),
            preset=Preset.from_inputs([parse_input(f"image=image:{tiny.SIZE}:0:1")]),
            precisions=(Precision.FP32,),
            calib=tiny.write_pictures(tmp_path / "faces", range(40)),
            aligned=True,
            backend="onnxruntime",
        )
    )
    names: dict[str, object] = {}
    exec(snippet, names)
    outputs = names["outputs"]
    assert isinstance(outputs, dict) and next(iter(outputs.values())).shape == (1, 3, tiny.SIZE, tiny.SIZE)


def test_every_extra_is_explained() -> None:
    assert set(re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE)) == set(errors._TESTED)
