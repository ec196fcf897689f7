from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trt_facefusion.engine.timing.factors import Factors, FittedFactors, load_factors, name_file, save_factors
from trt_facefusion.engine.timing.gpus import get_gpu
from trt_facefusion.errors import StoreError

A10G = get_gpu("a10g")
FITTED = FittedFactors(
    "a10g", "NVIDIA A10G", "tensorrt 11.1", Factors(0.8, {"fp16": 0.5}, 0.7), 60, 0.4, 0.1, 0.5, 1.0, "2026-01-02"
)


def test_factors_are_kept_for_each_gpu_and_read_back(tmp_path: Path) -> None:
    path = save_factors(tmp_path, A10G, FITTED)
    assert path.name == "a10g-sm86.factors.json"
    assert load_factors(tmp_path, A10G) == FITTED
    assert load_factors(tmp_path, get_gpu("l4")) is None


def test_a_type_without_a_factor_has_one() -> None:
    assert Factors(arithmetic={"fp16": 0.5}).of_rate("int8") == 1.0


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"schema": 2}, "schema"),
        ({"factors": {"memory": 0.0, "arithmetic": {}, "launch": 1.0}}, "not between"),
        ({"factors": {"memory": 1.0, "arithmetic": {"int4": 1.0}, "launch": 1.0}}, "no type of arithmetic"),
        ({"factors": {"memory": 1.0, "arithmetic": {}}}, "missing"),
        ({"note": "?"}, "unknown"),
        ({"gpu": "l4"}, "factors of"),
    ],
)
def test_a_damaged_document_is_refused_with_the_way_to_make_another(
    tmp_path: Path, change: dict[str, Any], why: str
) -> None:
    name_file(tmp_path, A10G).write_text(json.dumps(json.loads(FITTED.to_json()) | change))
    with pytest.raises(StoreError, match=why) as refused:
        load_factors(tmp_path, A10G)
    assert "--fit" in refused.value.remedy
