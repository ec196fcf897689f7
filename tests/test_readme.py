"""What the README shows works as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

ROOT = Path(__file__).resolve().parents[1]
import tiny  # noqa: E402

from trt_facefusion import errors  # noqa: E402
from trt_facefusion.build.run import build  # noqa: E402
from trt_facefusion.build.settings import BuildSettings  # noqa: E402
from trt_facefusion.inference import embedders as embedders_module  # noqa: E402
from trt_facefusion.model.export import OnnxSource  # noqa: E402
from trt_facefusion.model.presets import Preset, parse_input  # noqa: E402
from trt_facefusion.types import Precision  # noqa: E402

README = (ROOT / "README.md").read_text(encoding="utf-8")


SNIPPETS = {
    next(word for word in ("Swapper", "open_model") if word in snippet): snippet
    for snippet in re.findall(r"```python\n(.*?)```", README, re.DOTALL)
}


@pytest.fixture
def names(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """What a snippet leaves behind that runs in a folder with the engine of a tiny model and two photos."""
    snippet = SNIPPETS[request.param]
    assert len([line for line in snippet.splitlines() if line.strip()]) <= 8
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(embedders_module, "DlibEmbedder", tiny.Glance)
    photos = sorted((ROOT / "samples" / "faces").glob("*.jpg"))
    for name, photo in zip(("me.jpg", "party.jpg"), photos[33:35], strict=True):
        (tmp_path / name).write_bytes(photo.read_bytes())
    build(
        BuildSettings(
            source=OnnxSource(tiny.save(tiny.generator(embedding=128), tmp_path / "swap.onnx")),
            preset=Preset.from_inputs([parse_input(f"image=image:{tiny.SIZE}:0:1"), parse_input("identity=embedding")]),
            precisions=(Precision.FP32,),
            calib=tiny.write_pictures(tmp_path / "faces", range(40)),
            aligned=True,
            backend="onnxruntime",
        )
    )
    left: dict[str, object] = {}
    exec(snippet, left)
    return left


@pytest.mark.parametrize("names", ["open_model"], indirect=True)
def test_the_python_snippet_runs_an_engine(names: dict[str, object]) -> None:
    outputs = names["outputs"]
    assert isinstance(outputs, dict) and next(iter(outputs.values())).shape == (1, 3, tiny.SIZE, tiny.SIZE)


@pytest.mark.parametrize("names", ["Swapper"], indirect=True)
def test_the_python_snippet_swaps_a_photo(names: dict[str, object], tmp_path: Path) -> None:
    with PIL.Image.open(tmp_path / "out.png") as out, PIL.Image.open(tmp_path / "party.jpg") as party:
        assert out.size == party.size and "facefusion" in out.info["Description"]
        assert (np.asarray(out) != np.asarray(party.convert("RGB"))).any()


def test_every_extra_is_explained() -> None:
    assert set(re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE)) == set(errors._TESTED)
