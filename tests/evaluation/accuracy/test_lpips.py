"""Learned perceptual distances equal their own packages, follow damage, and never stand in for one another."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from trt_facefusion.cli.limit_options import with_limits
from trt_facefusion.cli.main import run
from trt_facefusion.errors import BadInputError, ModelError
from trt_facefusion.evaluation.accuracy import lpips
from trt_facefusion.evaluation.accuracy.judge import judge
from trt_facefusion.evaluation.accuracy.lpips import Lpips, StLpips
from trt_facefusion.evaluation.accuracy.metric import Tools
from trt_facefusion.evaluation.accuracy.registry import find_perceptual, open_limited, open_metrics
from trt_facefusion.evaluation.accuracy.torch_weights import read_weights

torch = pytest.importorskip("torch")
from lpips_package import AlexNet, make_lpips  # noqa: E402

FACES = 20


@pytest.fixture
def installed() -> None:
    if lpips._ST_LPIPS.weights is None:
        pytest.skip("stlpips_pytorch is not installed (extra metrics)")


def read_pictures(sample_faces: Path, count: int = FACES, side: int = 128) -> np.ndarray:
    """Sample faces [count,side,side,3] in [0,1]."""
    paths = sorted(sample_faces.rglob("*.jpg"))[:count] or sorted(sample_faces.rglob("*.png"))[:count]
    assert len(paths) == count
    shown = [cv2.resize(cv2.imread(str(path)), (side, side), interpolation=cv2.INTER_AREA) for path in paths]
    return np.stack(shown)[..., ::-1].astype(np.float32) / 255


def damage(pictures: np.ndarray, kind: str, strength: int) -> np.ndarray:
    if kind == "noise":
        noise = np.random.default_rng(1).normal(0, 1, pictures.shape)
        return (pictures + 0.02 * 2**strength * noise).clip(0, 1).astype(np.float32)
    if kind == "blur":
        return np.stack([cv2.GaussianBlur(picture, (0, 0), 0.6 * 2**strength) for picture in pictures])
    quality = [cv2.IMWRITE_JPEG_QUALITY, (60, 25, 8)[strength]]
    files = [cv2.imencode(".jpg", (picture * 255).round().astype(np.uint8), quality)[1] for picture in pictures]
    return np.stack([cv2.imdecode(file, cv2.IMREAD_COLOR) for file in files]).astype(np.float32) / 255


def planes(pictures: np.ndarray) -> Any:
    return torch.from_numpy(np.ascontiguousarray(pictures.transpose(0, 3, 1, 2)))


def stand_in(monkeypatch: pytest.MonkeyPatch, **modules: Mapping[str, Any]) -> None:
    """Empty modules for what a package imports and never calls."""
    for name, content in modules.items():
        module = ModuleType(name.replace("__", "."))
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.mark.usefixtures("installed")
def test_st_lpips_equals_its_package(sample_faces: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = ModuleType("torchvision.models")
    stand_in(
        monkeypatch, torchvision={"models": models}, torchvision__models={}, IPython={"embed": None},
        torchsummary={"summary": None},
    )  # fmt: skip
    from stlpips_pytorch import stlpips  # type: ignore[import-not-found]

    reference = read_pictures(sample_faces)
    candidate = np.concatenate([damage(reference[:10], "noise", 0), damage(reference[10:], "jpeg", 1)])
    own = stlpips.LPIPS(net="alex", variant="shift_tolerant", verbose=False)
    with torch.no_grad():
        theirs = own(planes(reference), planes(candidate), normalize=True).numpy().ravel()
    ours = StLpips().per_face(reference, candidate)
    assert theirs.min() > 1e-3
    assert ours == pytest.approx(theirs, abs=1e-4)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("kind", ["blur", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("noise", "jpeg"))])
def test_st_lpips_rises_with_damage_on_every_face(kind: str, sample_faces: Path) -> None:
    reference, metric = read_pictures(sample_faces), StLpips()
    light, more, heavy = (metric.per_face(reference, damage(reference, kind, strength)) for strength in range(3))
    assert metric.per_face(reference, reference) == pytest.approx(np.zeros(FACES), abs=1e-7)
    assert (light > 0).all() and (light < more).all() and (more < heavy).all()


@pytest.fixture
def backbone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An AlexNet with random weights, and a package ``lpips`` with random ones."""
    monkeypatch.syspath_prepend(tmp_path)
    return make_lpips(tmp_path)


def test_classic_lpips_is_the_published_formula(backbone: Path, sample_faces: Path) -> None:
    reference = read_pictures(sample_faces, 4)
    candidate = damage(reference, "noise", 1)
    network = AlexNet()
    network.load_state_dict(torch.load(backbone))
    shift, scale = (torch.tensor(v).view(1, 3, 1, 1) for v in ((-0.03, -0.088, -0.188), (0.458, 0.448, 0.45)))
    lins = read_weights(backbone.parent / "lpips/weights/v0.1/alex.pth")
    by_layer = (lins[f"lin{number}.model.1.weight"] for number in range(5))
    total, a, b = 0.0, *((2 * planes(pictures) - 1 - shift) / scale for pictures in (reference, candidate))
    with torch.no_grad():
        for layer in network.features:
            a, b = layer(a), layer(b)
            if isinstance(layer, torch.nn.ReLU):
                weight = torch.tensor(next(by_layer))
                apart = (a / a.norm(dim=1, keepdim=True) - b / b.norm(dim=1, keepdim=True)) ** 2
                total = total + (apart * weight).sum(1).mean((1, 2)).numpy()
    assert Lpips(Tools(lpips_backbone=backbone)).per_face(reference, candidate) == pytest.approx(total, rel=1e-4)


def test_a_backbone_makes_lpips_the_judge_under_its_own_name(backbone: Path, sample_faces: Path) -> None:
    tools, reference = Tools(lpips_backbone=backbone), read_pictures(sample_faces, 2)
    accuracy = judge(reference, damage(reference, "blur", 1), open_metrics(tools))
    assert accuracy["lpips"] > 0
    assert accuracy.figures["st_lpips"] is None and accuracy.figures["perceptual"] is None
    assert accuracy.judged_by["lpips"].startswith("LPIPS 0.1 (alex, lpips ")
    assert find_perceptual(tools)[1].name == "max_classic_lpips"


def test_without_the_packages_the_bundled_distance_judges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lpips, "_ST_LPIPS", lpips._Package("no_such_package", "weights"))
    assert [metric.name for metric in open_metrics(Tools()) if metric.family] == ["perceptual"]
    with pytest.raises(BadInputError, match="no_such_package is not installed"):
        StLpips.require(Tools())


def test_a_limit_brings_its_own_distance() -> None:
    names = [metric.name for metric in open_metrics(Tools(), limit_names={"max_perceptual"}) if metric.family]
    assert "perceptual" in names
    assert [metric.name for metric in open_limited({"max_perceptual"}, Tools())] == ["ssim", "perceptual"]


def test_large_pictures_are_measured_in_part_and_it_is_said(backbone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trt_facefusion.evaluation.accuracy.learned._MOST_PIXELS", 8 * 64 * 64)
    pictures = np.random.default_rng(0).random((20, 64, 64, 3), np.float32)
    metric = Lpips(Tools(lpips_backbone=backbone))
    accuracy = judge(pictures, pictures[::-1], open_metrics(metric.tools))
    assert np.isfinite(metric.per_face(pictures, pictures[::-1])).sum() == 8
    assert accuracy["lpips"] > 0 and accuracy.judged_by["lpips"].endswith(", on 8 of 20 faces")


def test_max_lpips_says_which_distance_it_limits(backbone: Path) -> None:
    received: dict[str, float] = {}

    @with_limits
    def command(*, lpips_backbone: Path | None = None, limits: Mapping[str, float]) -> None:
        received.update(limits)

    app = typer.Typer()
    app.command()(command)
    result = CliRunner().invoke(app, ["--max-lpips", "0.1", "--lpips-backbone", str(backbone)])
    assert result.exit_code == 0 and received == {"max_classic_lpips": 0.1}
    assert "--max-lpips limits LPIPS here" in result.output
    both = ["--max-lpips", "0.1", "--max-classic-lpips", "0.2", "--lpips-backbone", str(backbone)]
    assert "limit the same" in str(CliRunner().invoke(app, both).exception)


@pytest.mark.parametrize("content", [b"", b"no pickle", b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00ls\x85R."])
def test_damaged_weights_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="no weights that can be read"):
        read_weights(path)


def test_weights_that_were_cut_off_are_refused(backbone: Path, tmp_path: Path) -> None:
    whole = (backbone.parent / "lpips/weights/v0.1/alex.pth").read_bytes()
    for length in range(0, len(whole), 97):
        (tmp_path / "cut.pth").write_bytes(whole[:length])
        with pytest.raises(ModelError):
            read_weights(tmp_path / "cut.pth")


def test_a_backbone_that_is_none_ends_a_build_at_once(
    sample_faces: Path, capsys: pytest.CaptureFixture[str], backbone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(backbone.parent)
    torch.save({"weight": torch.zeros(1)}, backbone)
    for path, said in ((backbone, "is no AlexNet"), (backbone.with_name("missing.pth"), "missing.pth")):
        assert run(["build", "--int8", "--calib", str(sample_faces), "--lpips-backbone", str(path)]) == 2
        assert said in capsys.readouterr().err
    assert {path.name for path in backbone.parent.iterdir()} == {"lpips", "alexnet.pth"}
