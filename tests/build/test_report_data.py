"""What a build leaves for its report."""

from __future__ import annotations

import numpy as np
from tiny import Settings
from trt_facefusion.build.run import build

from trt_facefusion.types import Precision

INT8, FP16 = Precision.INT8, Precision.FP16


def test_the_record_shows_the_worst_faces_under_every_precision(settings: Settings) -> None:
    result = build(settings(INT8, FP16))
    record = result.record
    assert record is not None
    gallery = record.facts["gallery"]
    assert len(set(gallery["faces"])) == len(gallery["faces"])
    assert set(record.pictures) == {"target", "source", "reference", "int8", "fp16"}
    assert {len(pictures) for pictures in record.pictures.values()} == {len(gallery["faces"])}
    drops = gallery["ssim_drop"]["int8"]
    assert list(drops[: gallery["worst"]]) == sorted(drops[: gallery["worst"]], reverse=True)
    assert max(drops[gallery["worst"] :], default=0) <= drops[gallery["worst"] - 1]
    assert np.isclose(drops[0], result.engines[0].manifest.accuracy["ssim_drop_worst"])
    apart = [
        np.abs(record.pictures[name].astype(int) - record.pictures["reference"]).mean() for name in ("int8", "fp16")
    ]
    assert apart[0] > apart[1]


def test_the_record_holds_the_tensors_that_int8_reads(settings: Settings) -> None:
    record = build(settings(INT8)).record
    assert record is not None
    tensors = record.facts["tensors"]
    assert tensors and all(0 < tensor["amax"] <= tensor["limit"] for tensor in tensors)
    noise = [tensor["sqnr_db"] for tensor in tensors]
    assert noise == sorted(noise)
    planned = {row["name"] for row in record.facts["engines"][0]["plan"] if row["precision"] == "int8"}
    assert {reader for tensor in tensors for reader in tensor["readers"]} <= planned


def test_an_up_to_date_build_leaves_no_record(settings: Settings) -> None:
    build(settings(FP16))
    assert build(settings(FP16)).record is None
