from __future__ import annotations

import numpy as np
import pytest
from test_collect import batches, network

from trt_facefusion.quantization.calibration import Histogram, collect, parse_rule
from trt_facefusion.quantization.calibration.resume import CalibrationCheckpoint

TENSORS = ["image", "conv", "relu", "output"]


class _KilledError(Exception):
    pass


def checkpoint(path, **parts):
    return CalibrationCheckpoint(path, {"model": "a" * 64, "batch": 2, **parts}, every_s=0)


def interrupted_after(count, path):
    def progress(_stage, done, _total):
        if done == count:
            raise _KilledError

    with pytest.raises(_KilledError):
        collect(network(), TENSORS, batches(2), checkpoint=checkpoint(path), progress=progress)


@pytest.mark.parametrize("stopped", [1, 3, 5])
def test_an_interrupted_pass_continues_to_the_same_bits(tmp_path, stopped):
    path = tmp_path / "pass.partial"
    interrupted_after(stopped, path)
    done, _ = checkpoint(path).load()
    assert done == stopped
    seen = []
    resumed = collect(
        network(), TENSORS, batches(2), checkpoint=checkpoint(path), progress=lambda _, done, total: seen.append(done)
    )
    assert seen[0] == stopped and seen[-1] == 6
    assert resumed == collect(network(), TENSORS, batches(2))


def test_a_finished_pass_is_not_run_again(tmp_path):
    path = tmp_path / "pass.partial"
    first = collect(network(), TENSORS, batches(2), checkpoint=checkpoint(path))

    def nothing(_indices):
        raise AssertionError("a batch was asked for")

    again = batches(2)
    object.__setattr__(again, "feeds", nothing)
    assert collect(network(), TENSORS, again, checkpoint=checkpoint(path)) == first


def test_the_state_of_another_pass_is_not_taken_up(tmp_path):
    interrupted_after(3, tmp_path / "pass.partial")
    assert checkpoint(tmp_path / "pass.partial", batch=4).load() == (0, {})


@pytest.mark.parametrize("damage", [lambda data: data[:-40], lambda data: b"", lambda data: data[:200] + data[260:]])
def test_a_damaged_state_costs_the_pass_from_the_start(tmp_path, damage):
    path = tmp_path / "pass.partial"
    interrupted_after(3, path)
    path.write_bytes(damage(path.read_bytes()))
    assert checkpoint(path).load() == (0, {})
    assert collect(network(), TENSORS, batches(2), checkpoint=checkpoint(path)) == collect(
        network(), TENSORS, batches(2)
    )


def test_it_writes_now_and_then_only(tmp_path):
    state = CalibrationCheckpoint(tmp_path / "pass.partial", {}, every_s=1000)
    state.save(1, {"x": Histogram()})
    assert not state.path.exists()
    state.save(1, {"x": Histogram()}, now=True)
    assert state.load() == (1, {"x": Histogram()})
    state.discard()
    assert not state.path.exists()


def test_sparse_counting_knows_the_exact_range_and_depends_on_no_order():
    rng = np.random.default_rng(3)
    values = rng.standard_normal((6, 8, 128, 256), np.float32) * np.arange(1, 7, dtype=np.float32).reshape(-1, 1, 1, 1)
    whole, one_by_one, full = Histogram(), Histogram(), Histogram()
    whole.add_sparsely(values)
    for sample in rng.permutation(len(values)):
        one_by_one.add_sparsely(values[sample : sample + 1])
    full.add(values)
    assert whole == one_by_one
    assert whole.amax == full.amax
    assert whole.count == pytest.approx(full.count, rel=1e-4)
    assert np.count_nonzero(whole.counts % 4) <= 6  # of every sample the largest magnitude, and one value of four
    tail = [float(h.counts[512:].sum() / h.count) for h in (whole, full)]
    assert tail[0] == pytest.approx(tail[1], rel=0.05)
    for share in ("99.9", "99.99"):
        first, second = (parse_rule(f"percentile:{share}")(histogram) for histogram in (whole, full))
        assert first == pytest.approx(second, rel=0.02)


def test_sparse_counting_names_what_is_not_finite():
    values = np.zeros((2, 8, 128, 256), np.float32)
    values[1, 3, 7, 9] = np.nan
    histogram = Histogram()
    histogram.add_sparsely(values)
    assert histogram.non_finite
