from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from manifests import manifest

from trt_facefusion.engine.store.manifest import NOT_FIGURES, Manifest, StoredFile, build_key
from trt_facefusion.errors import StoreError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def test_a_manifest_survives_json() -> None:
    full = manifest(files={"engine.engine": StoredFile("00", 6)})
    text = full.to_json()
    assert Manifest.from_json(text) == full
    raw = json.loads(text)
    assert raw["schema"] == 2
    assert raw["fallback"] == [{"from": "int8", "to": "fp16", "reason": "SSIM"}]


FIGURE_KEYS = st.text().filter(lambda key: key not in NOT_FIGURES)


@given(st.dictionaries(FIGURE_KEYS, st.none() | st.floats(allow_nan=False, allow_infinity=False), max_size=4))
def test_any_accuracy_figures_survive(figures: dict[str, float | None]) -> None:
    accuracy = {**figures, "faces": 3, "worst_faces": [1, 2]}
    read = Manifest.from_json(manifest(accuracy=accuracy).to_json())
    assert read.accuracy == accuracy
    assert read.judged.faces == 3 and read.judged.figures.items() <= accuracy.items()


def test_figures_that_are_not_finite_become_null() -> None:
    read = Manifest.from_json(manifest(accuracy={"psnr_db": math.inf, "ssim": math.nan}).to_json())
    assert read.accuracy == {"psnr_db": None, "ssim": None}


def test_manifests_from_before_times_were_predicted_are_read() -> None:
    raw = json.loads(manifest().to_json())
    del raw["predicted"], raw["kernels"][0]["inputs"][0]["count"]
    read = Manifest.from_json(json.dumps(raw))
    assert read.predicted is None and read.kernels == manifest().kernels


def test_the_usual_batch_is_read_off_the_shapes() -> None:
    assert manifest().usual_batch == 1
    dynamic = {"mask": ((1, 8, 8),) * 3, "image": ((1, 3, 8, 8), (2, 3, 8, 8), (4, 3, 8, 8))}
    assert manifest(shapes=dynamic).usual_batch == 2
    assert manifest(shapes={"image": ((4, 3, 8, 8),) * 3}).usual_batch == 4
    assert manifest(shapes={"weight": ((), (), ())}).usual_batch == 1


@pytest.mark.parametrize("key", [key for key in json.loads(manifest().to_json()) if key != "predicted"])
def test_a_missing_key_is_refused(key: str) -> None:
    raw = json.loads(manifest().to_json())
    del raw[key]
    with pytest.raises(StoreError) as error:
        Manifest.from_json(json.dumps(raw))
    assert key in error.value.message
    assert "--force" in error.value.remedy


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["schema"], 1),
        (["model"], 7),
        (["seconds"], "fast"),
        (["engine_bytes"], True),
        (["engine_bytes"], 1.5),
        (["gate", "passed"], 1),
        (["shapes", "target"], [[1], [1]]),
        (["kernels", 0, "nodes"], "conv"),
        (["kernels", 0, "inputs", 0, "shape", 0], None),
        (["macs_share"], []),
        (["files"], None),
        (["pins", "compute_capability"], [8]),
        (["command"], "--calib"),
        (["accuracy", "ssim_drop"], "little"),
        (["accuracy", "psnr_db"], []),
        (["accuracy", "a figure of later"], True),
        (["accuracy", "faces"], 1.5),
        (["surprise"], 1),
        (["inputs", "surprise"], 1),
    ],
)
def test_a_wrong_value_is_refused_by_name(path: list[str | int], value: object) -> None:
    raw = json.loads(manifest().to_json())
    place = raw
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(StoreError) as error:
        Manifest.from_json(json.dumps(raw))
    assert str(next(step for step in reversed(path) if isinstance(step, str))) in error.value.message


@given(st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()))
def test_anything_else_is_refused(text: bytes) -> None:
    with pytest.raises(StoreError):
        Manifest.from_json(text)


def test_the_build_key_depends_on_values_and_not_on_order() -> None:
    assert build_key({"a": 1, "b": [2]}) == build_key({"b": [2], "a": 1})
    assert build_key({"a": 1}) != build_key({"a": 2})
