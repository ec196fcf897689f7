"""What the README shows works as it stands there."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "pipeline"))
import tiny  # noqa: E402

from trt_facefusion import hints  # noqa: E402
from trt_facefusion.export import OnnxSource  # noqa: E402
from trt_facefusion.pipeline import settings as settings_module  # noqa: E402
from trt_facefusion.pipeline.build import build  # noqa: E402
from trt_facefusion.pipeline.settings import BuildSettings  # noqa: E402
from trt_facefusion.presets import Preset, parse_input  # noqa: E402
from trt_facefusion.types import Precision  # noqa: E402

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_python_snippet_runs_an_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len([line for line in snippet.splitlines() if line.strip()]) <= 8
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(settings_module, "DlibEmbedder", tiny.Glance)
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
    assert set(re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE)) == set(hints._TESTED)
