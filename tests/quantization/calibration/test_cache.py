from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import replace

import numpy as np
import pytest

from trt_facefusion.errors import BadInputError, CalibrationCacheError, StoreError
from trt_facefusion.quantization.calibration import (
    Calibration,
    CalibrationTable,
    Histogram,
    StaleCalibration,
    cache_path,
    load,
    load_named,
    save,
)

KEY = {"model_digest": "a1" * 32, "faces_digest": "b2" * 32, "settings": {"batch_size": 4, "pairing": "next"}}


def histogram_of(seed: int) -> Histogram:
    histogram = Histogram()
    histogram.add(np.random.default_rng(seed).standard_normal(10_000, np.float32))
    return histogram


@pytest.fixture
def calibration() -> Calibration:
    return Calibration(
        "my net/v2",
        histograms={"conv: 1": histogram_of(0), "x": histogram_of(1)},
        pinned={"x": 1.0},
        exponents={"x": (1, -2)},
        **KEY,
    )


def test_a_saved_calibration_loads_as_it_was(calibration, tmp_path):
    path = save(calibration, tmp_path / "calib_cache")
    assert path == cache_path(tmp_path / "calib_cache", "my net/v2", KEY["model_digest"])
    assert path.name == "my_net_v2-a1a1a1a1.cache"
    assert sorted(path.parent.iterdir()) == [path, path.with_suffix(".json")]
    loaded = load(path, **KEY)
    assert loaded == calibration
    assert loaded.table == calibration.table


def test_the_text_is_the_table_and_the_json_names_its_digest(calibration, tmp_path):
    path = save(calibration, tmp_path)
    data = json.loads(path.with_suffix(".json").read_text())
    assert data["table_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert data["tensors"]["x"]["amax"].keys() == {"entropy", "percentile", "max", "mse"}
    assert CalibrationTable.read(path).dumps() == calibration.table.dumps()


def test_pinned_ranges_win_over_measured_ones(calibration):
    assert calibration.table["x"] == 1.0
    assert calibration.table["conv: 1"] != 1.0


def test_another_rule_needs_no_other_pass(calibration):
    assert calibration.with_rule("max").table["conv: 1"] == calibration.histograms["conv: 1"].amax
    with pytest.raises(BadInputError):
        calibration.with_rule("nonsense")


def test_saving_twice_gives_the_same_bytes(calibration, tmp_path):
    first, second = (save(calibration, tmp_path / name) for name in "ab")
    assert first.read_bytes() == second.read_bytes()
    assert first.with_suffix(".json").read_bytes() == second.with_suffix(".json").read_bytes()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model_digest": "a1" * 4 + "cc" * 28}, "another model"),
        ({"faces_digest": "cc" * 32}, "faces have changed"),
        ({"settings": {"batch_size": 8, "pairing": "next"}}, r"settings have changed \(batch_size\)"),
        ({"settings": {"batch_size": 4}}, r"settings have changed \(pairing\)"),
    ],
)
def test_a_cache_that_does_not_fit_says_why(calibration, tmp_path, change, reason):
    stale = load(save(calibration, tmp_path), **(KEY | change))
    assert isinstance(stale, StaleCalibration)
    assert re.search(reason, stale.reason)


def test_no_cache_is_stale_too(tmp_path):
    assert load(tmp_path / "none.cache", **KEY) == StaleCalibration("this model has not been calibrated yet")


def cut_json(path):
    json_path = path.with_suffix(".json")
    json_path.write_bytes(json_path.read_bytes()[:-100])


def edit_json(path, **changes):
    json_path = path.with_suffix(".json")
    json_path.write_text(json.dumps(json.loads(json_path.read_text()) | changes))


DAMAGE = {
    "text cut off": lambda path: path.write_bytes(path.read_bytes()[:-5]),
    "text edited": lambda path: path.write_bytes(path.read_bytes().replace(b"x: 3", b"x: 2")),
    "text missing": lambda path: path.unlink(),
    "json cut off": cut_json,
    "json of another kind": lambda path: path.with_suffix(".json").write_text("[]"),
    "json of another version": lambda path: edit_json(path, schema=99),
    "json with an unknown rule": lambda path: edit_json(path, rule="nonsense"),
    "histograms damaged": lambda path: edit_json(path, tensors={"x": {"histogram": {"counts": "AAAA"}}}),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damage_is_stale_for_a_build_and_an_error_when_named(calibration, tmp_path, damage):
    path = save(calibration, tmp_path)
    damage(path)
    assert isinstance(load(path, **KEY), StaleCalibration)
    with pytest.raises(CalibrationCacheError) as caught:
        load_named(path, model_digest=KEY["model_digest"])
    assert caught.value.remedy


def test_files_of_two_calibrations_do_not_pass_as_one(calibration, tmp_path):
    path = save(calibration, tmp_path)
    text = path.read_bytes()
    save(calibration.with_rule("max"), tmp_path)
    path.write_bytes(text)
    stale = load(path, **KEY)
    assert isinstance(stale, StaleCalibration)
    assert "do not belong together" in stale.reason


def test_a_named_cache_of_another_model_is_an_error(calibration, tmp_path):
    path = save(calibration, tmp_path)
    assert load_named(path, model_digest=KEY["model_digest"]).dumps() == calibration.table.dumps()
    with pytest.raises(CalibrationCacheError, match="another model"):
        load_named(path, model_digest="cc" * 32)


def test_a_named_table_without_json_is_taken_as_it_is(tmp_path):
    path = tmp_path / "from_tensorrt.cache"
    path.write_text("TRT-8601-EntropyCalibration2\nx: 3f800000\n")
    assert dict(load_named(path, model_digest="cc" * 32)) == {"x": 127.0}


def test_a_folder_that_cannot_be_written_is_an_error_and_nothing_is_left(calibration, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError):
        save(calibration, tmp_path / "file")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="No space left"):
        save(calibration, tmp_path / "full")
    assert not list((tmp_path / "full").iterdir())


def test_histograms_of_shuffled_faces_save_the_same_bytes(calibration, tmp_path):
    images = np.random.default_rng(5).standard_normal((20, 3, 32, 32), np.float32) * np.arange(1, 21).reshape(
        -1, 1, 1, 1
    )
    saved = set()
    for seed in range(5):
        histogram = Histogram()
        for image in np.random.default_rng(seed).permutation(images):
            histogram.add(image)
        path = save(replace(calibration, histograms={"x": histogram}, pinned={}), tmp_path / str(seed))
        saved.add((path.read_bytes(), path.with_suffix(".json").read_bytes()))
    assert len(saved) == 1
