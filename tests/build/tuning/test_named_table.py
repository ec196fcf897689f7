"""A calibration cache that the user names, held against the model."""

from __future__ import annotations

from pathlib import Path

import pytest
from nets import SWAPPER_SHAPES, swapper

from trt_facefusion.build.tuning.named_table import require_int8
from trt_facefusion.errors import CalibrationCacheError
from trt_facefusion.model.graph import GraphView, prepare


@pytest.mark.parametrize("amax", [{}, {"another model's": 1.0}])
def test_a_table_that_leaves_nothing_to_int8_is_refused(amax: dict[str, float]) -> None:
    view = GraphView(prepare(swapper(), SWAPPER_SHAPES).model)
    with pytest.raises(CalibrationCacheError, match="nor for any other that INT8 reads"):
        require_int8(view, amax, Path("named.cache"))
