"""The same faces give the same cache, whatever they are called, and however many are run at a time."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny
from tiny import Settings

from trt_facefusion.build.calibrate_only import calibrate
from trt_facefusion.inference import feeder as feeding
from trt_facefusion.quantization.calibration import Batches, collect, parse_rule

COUNT, SHUFFLES = 32, 20


def shuffled(folder: Path, seed: int) -> Path:
    """The same photos under names that put them into another order."""
    source = tiny.write_pictures(folder / "photos", range(COUNT))
    target = folder / f"shuffled{seed}"
    target.mkdir()
    order = np.random.default_rng(seed).permutation(COUNT)
    for position, path in zip(order, sorted(source.iterdir()), strict=True):
        shutil.copyfile(path, target / f"{position:03d}.png")
    return target


@pytest.mark.slow
def test_shuffled_photos_give_the_same_bytes(settings: Settings, tmp_path: Path) -> None:
    written = set()
    for seed in range(SHUFFLES):
        output = tmp_path / f"{seed}.cache"
        calibrate(settings(calib=shuffled(tmp_path, seed), hold_out=False, table_file=output, rule="percentile:99.9"))
        written.add((output.read_bytes(), output.with_suffix(".json").read_bytes()))
    assert len(written) == 1


def test_shuffled_photos_give_the_same_choice(settings: Settings, tmp_path: Path) -> None:
    outputs = [tmp_path / f"{seed}.cache" for seed in range(2)]
    for seed, output in enumerate(outputs):
        calibrate(settings(calib=shuffled(tmp_path, seed), hold_out=False, table_file=output, rule="auto"))
    assert len({output.with_suffix(".json").read_bytes() for output in outputs}) == 1


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_the_batch_size_of_a_build_changes_no_scale_by_more_than_a_thousandth(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    usual = calibrate(settings(hold_out=False, table_file=tmp_path / "usual.cache")).calibration.table
    monkeypatch.setattr(feeding, "BATCH", batch)
    other = calibrate(settings(hold_out=False, table_file=tmp_path / "other.cache")).calibration.table
    assert other.keys() == usual.keys()
    assert max(abs(other[name] / usual[name] - 1) for name in usual) < 1e-3


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("batch", [1, 5, 16])
def test_threads_and_batches_change_no_threshold_by_more_than_a_thousandth(
    model: Path, threads: int, batch: int
) -> None:
    images = np.stack([tiny.picture(seed, tiny.SIZE) for seed in range(16)]).transpose(0, 3, 1, 2) / np.float32(255)
    net = onnx.load(model)
    tensors = [node.output[0] for node in net.graph.node]

    def histograms(size: int, count: int | None) -> dict[str, object]:
        return dict(collect(net, tensors, Batches(lambda i: {"image": images[list(i)]}, 16, size), threads=count))

    usual, other = histograms(4, None), histograms(batch, threads)
    for rule in map(parse_rule, ("entropy", "mse", "percentile", "max")):
        for name in tensors:
            assert rule(other[name]) == pytest.approx(rule(usual[name]), rel=1e-3)  # type: ignore[arg-type]
