from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trt_facefusion.errors import BadInputError
from trt_facefusion.evaluation.profiling.inputs import draw_samples
from trt_facefusion.model.presets import Preset, parse_input
from trt_facefusion.types import TensorSpec

IMAGE = TensorSpec("image", ("N", 3, 16, 16), "float32")
SOURCE = TensorSpec("source", ("N", 16), "float32")


def test_samples_are_in_the_range_that_the_preset_says(tmp_path: Path) -> None:
    np.save(tmp_path / "mask.npy", np.full((1, 4), 7, np.float32))
    texts = ("image=image:16:-1:1", "source=embedding", f"mask=file:{tmp_path / 'mask.npy'}")
    preset = Preset.from_inputs([parse_input(text) for text in texts])
    specs = [IMAGE, SOURCE, TensorSpec("mask", ("N", 1, 4), "float32")]
    first, second = draw_samples(specs, preset, 5, 2)
    assert first["image"].shape == (5, 3, 16, 16) and first["image"].dtype == np.float32
    assert -1 <= first["image"].min() < -0.9 and 0.9 < first["image"].max() <= 1
    np.testing.assert_allclose(np.linalg.norm(first["source"], axis=1), 1, rtol=1e-5)
    assert (first["mask"] == 7).all() and first["mask"].shape == (5, 1, 4)
    assert not np.array_equal(first["image"], second["image"])
    again = draw_samples(specs, preset, 5, 1)[0]
    assert all(np.array_equal(again[name], first[name]) for name in first)


def test_a_model_without_a_preset_gets_values_of_its_types() -> None:
    specs = [IMAGE, TensorSpec("half", (2, 16), "float16"), TensorSpec("n", (2,), "int64")]
    (found,) = draw_samples(specs, None, 2, 1)
    assert found["image"].min() >= 0 and found["image"].max() <= 1
    assert (found["half"].dtype, found["n"].dtype) == (np.float16, np.int64)


def test_a_size_that_nobody_knows_is_an_error() -> None:
    with pytest.raises(BadInputError, match="height"):
        draw_samples([TensorSpec("x", ("N", 3, "height", 8), "float32")], None, 1, 1)
