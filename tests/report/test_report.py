"""The report of a build: whole, self-contained, and true to the record."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trt_facefusion.build.run_record import RunRecord
from trt_facefusion.errors import BadInputError, StoreError
from trt_facefusion.report.charts import draw_histogram, draw_pareto
from trt_facefusion.report.images import amplify_difference, choose_amplification
from trt_facefusion.report.page import render_page
from trt_facefusion.report.runs import find_run, save_run
from trt_facefusion.report.svg import dumps

CALIBRATION = {
    "rule": "mse",
    "equalised": True,
    "shifted": 3,
    "corrections": ["scales", "bias"],
    "corrections_ssim_drop": {"none": 0.0031, "scales + bias": 0.00256},
}


def _manifest(precision: str, **changes: Any) -> dict[str, Any]:
    figures = {"ssim_drop": 0.0042, "ssim_drop_worst": 0.0079, "psnr_db": 46.1, "identity_cosine": 0.9993}
    return {
        "precision": precision,
        "accuracy": {**figures, "perceptual": None},
        "int8_kernels": {"planned": 2, "real": 1, "missing": ["up<2>"]},
        "macs_share": {"int8": 0.945, "fp16": 0.05, "fp32": 0.005},
        "engine_bytes": 8_000_000,
        "weights_bytes": None,
        "inputs": {"model_sha256": "ab" * 32, "settings": {"calibration": CALIBRATION}},
        "fallback": [],
        "warnings": [],
        "verified_with": "onnxruntime 1.31.1",
        **changes,
    }


def _record(**changes: Any) -> RunRecord:
    rng = np.random.default_rng(0)
    pictures = {name: rng.integers(0, 256, (3, 16, 16, 3), np.uint8) for name in ("target", "source", "reference")}
    pictures["int8"] = np.clip(pictures["reference"].astype(int) + 3, 0, 255).astype(np.uint8)
    layer = {"name": "up<2>", "op": "Conv", "macs": 9_000_000, "precision": "int8", "reason": "a & b"}
    search = {"points": [{"int8_macs_share": 0.9, "ssim_drop": 0.003, "chosen": True}], "passes": 12, "seconds": 3.0}
    engine = {"requested": "int8", "up_to_date": False, "folder": "engines/m/int8", "manifest": _manifest("int8")}
    facts: dict[str, Any] = {
        "model": "m<script>",
        "created": "2026-11-24T17:57:01+00:00",
        "seconds": 59.2,
        "tool_version": "0.1.0",
        "backend": "onnxruntime 1.31.1",
        "target": "cpu",
        "reason": "the target is the CPU",
        "faces": {"calibration": 64, "verification": 19},
        "skipped": {"without a face": 2},
        "engines": [{**engine, "plan": [layer, {"name": "relu", "op": "Relu", "precision": "fp16"}], "search": search}],
        "tensors": [
            {
                "name": "cat_1",
                "readers": ["up<2>"],
                "amax": 14.0,
                "limit": 64.0,
                "counts": [9, 5, 0, 1],
                "sqnr_db": 26.3,
                "clipped": 0.0009,
            }
        ],
        "gallery": {"faces": ["a.jpg", "b.jpg", "c.jpg"], "worst": 2, "ssim_drop": {"int8": [0.03, 0.02, 0.01]}},
    }
    return RunRecord({**facts, **changes}, pictures)


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.found += [value or "" for name, value in attrs if name in {"src", "href", "srcset", "data"}]


def test_a_page_loads_nothing_from_outside() -> None:
    page = render_page(_record())
    links = _Links()
    links.feed(page)
    assert links.found and all(link.startswith("data:image/webp;base64,") for link in links.found)
    assert not re.search(r"https?://|@import|url\(", page)
    assert "script" not in links.tags and "m&lt;script&gt;" in page


def test_a_page_shows_every_part_of_the_record() -> None:
    page = render_page(_record())
    for text in ("0.420 %", "0.790 %", "46.1 dB", "94.5 %", "1 of 2", "a.jpg", "cat_1", "26.3 dB", "2 without a face"):
        assert text in page, text
    for text in ("channels equalised, 3 tensors shifted", "corrected by scales + bias", "scales + bias 0.256 %"):
        assert text in page, text
    assert page.count("<figure>") == 3 * 5
    assert page.index("a.jpg") < page.index("b.jpg") < page.index("Ordinary faces") < page.index("c.jpg")


def _predict(total_ms: float, **changes: Any) -> dict[str, Any]:
    return {
        "gpu": "a10g",
        "batch": 1,
        "total_ms": total_ms,
        "moved_bytes": 42_000_000,
        "launches": 60,
        "by_bound": {"memory": 0.5 * total_ms, "arithmetic": 0.0, "launch": 0.5 * total_ms},
        "by_kind": {"convolution": 0.75 * total_ms, "quantiser": 0.25 * total_ms},
        "int8_kernels": 18,
        "int8_writing_fp32": ["a", "b"],
        "factors": {"memory": 1.0, "arithmetic": {}, "launch": 1.0},
        "fitted": False,
        **changes,
    }


def test_predicted_times_are_shown_as_predicted_with_what_to_build_instead() -> None:
    times = {"int8": _predict(0.206), "fp16": _predict(0.202, int8_kernels=0, int8_writing_fp32=[])}
    verdict = "INT8 does not pay <here>"
    page = render_page(_record(predicted={"title": "NVIDIA A10G", "times": times, "int8_does_not_pay": verdict}))
    assert "Predicted time on NVIDIA A10G" in page and "Predicted, not measured" in page
    assert "INT8 does not pay &lt;here&gt;" in page and ">0.206</td>" in page and "42.00 MB" in page
    assert page.count('class="part0"') == 2 * 2 + 2  # a bar for each engine in both charts, and their legends
    assert "Predicted time" not in render_page(_record())


def test_a_fall_back_is_told_with_its_reason() -> None:
    step = {"from": "int8", "to": "fp16", "reason": "the mean SSIM drop is 0.02"}
    fallen = _manifest("fp16", fallback=[step], warnings=["few faces"])
    engine = {"requested": "int8", "up_to_date": True, "folder": "f", "manifest": fallen, "plan": [], "search": None}
    page = render_page(_record(engines=[engine]))
    assert "the mean SSIM drop is 0.02" in page and "few faces" in page and "in place of INT8" in page
    assert "Nothing: every precision" not in page and "What precision costs" not in page


def test_a_record_survives_the_disk_and_gives_the_same_page(tmp_path: Path) -> None:
    record = _record()
    page = save_run(record, tmp_path)
    assert page.read_text() == render_page(RunRecord.load(page.parent)) == render_page(record)
    again = save_run(record, tmp_path)
    assert again.parent != page.parent
    assert find_run(tmp_path) == find_run(again) == again.parent
    assert find_run(page.parent) == page.parent


def test_a_damaged_or_missing_record_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="no record"):
        find_run(tmp_path)
    folder = save_run(_record(), tmp_path).parent
    (folder / "pictures.npz").write_bytes(b"PK")
    with pytest.raises(StoreError, match=r"pictures\.npz: it is no \.npz file"):
        RunRecord.load(folder)


def test_the_limits_behind_a_verdict_are_shown() -> None:
    limits = {"int8": {"max_ssim_drop": 0.005, "min_identity": 0.98}, "fp16": {"max_ssim_drop": 0.003}}
    page = render_page(_record(limits=limits))
    assert "(at most 0.5 %)" in page and "(at least 0.9800)" in page and "0.3 %" not in page
    assert "at most" not in render_page(_record())


def test_a_restorer_has_no_identity_pictures() -> None:
    assert "<figcaption>identity" in render_page(_record())
    page = render_page(_record(swaps=False))
    assert "<figcaption>identity" not in page and "takes the identity" not in page and page.count("<figure>") == 3 * 4


def test_differences_are_amplified_alike_and_saturate() -> None:
    reference = np.zeros((1, 12, 12, 3), np.uint8)
    near, far = reference + np.uint8(2), reference + np.uint8(20)
    factor = choose_amplification(reference, [near, far])
    assert factor == 10
    assert amplify_difference(reference[0], far[0], factor).max() == 200
    assert amplify_difference(reference[0], far[0], 100).min() == 255


def test_charts_mark_the_chosen_plan_and_what_is_clipped() -> None:
    points = [{"int8_macs_share": x, "ssim_drop": x / 100, "chosen": x == 0.5} for x in (0.0, 0.5, 1.0)]
    assert dumps(draw_pareto(points)).count('class="chosen"') == 1
    drawn = dumps(draw_histogram([5, 3, 1, 1], 8.0, 4.0, "h"))
    assert drawn.count('class="clipped"') == 2 and drawn.count('class="bar"') == 2


def test_the_page_says_what_passed_means_and_what_was_the_reference() -> None:
    record = _record(limits={"int8": {"max_ssim_drop": 0.01}})
    manifest = record.facts["engines"][0]["manifest"]
    manifest["accuracy"] |= {
        "reference": "the file as it was handed in",
        "batch": 1,
        "prepared": {"ssim_drop": 2e-6, "max_difference": 0.001},
    }
    text = " ".join(render_page(record).split())
    assert "(at most 1.0 %)" in text
    assert "held against the file as it was handed in, 1 face at a time" in text
    assert "SSIM drop 0.0002 %, largest difference 0.26 of 255 levels" in text


def test_a_network_without_identity_gets_no_column_of_it() -> None:
    record = _record(swaps=False)
    page = render_page(record)
    assert "identity" not in page.lower()
    assert "identity cosine" in render_page(_record())


def test_the_front_is_drawn_over_what_the_search_made_least_of() -> None:
    points = [
        {
            "predicted_ms": 0.1954,
            "weights_bytes": 4_000_000,
            "int8_macs_share": 0.9,
            "ssim_drop": 0.004,
            "chosen": True,
        },
        {"predicted_ms": 0.2073, "weights_bytes": 8_000_000, "int8_macs_share": 0.0, "ssim_drop": 0.0},
    ]
    drawn = {name: dumps(draw_pareto(points, name)) for name in ("time", "size", "macs")}
    assert (
        "predicted time, ms" in drawn["time"] and "predicted time 0.1954 ms, SSIM drop 0.400 %, chosen" in drawn["time"]
    )
    assert "bytes of weights, MB" in drawn["size"] and "MACs in INT8, %" in drawn["macs"]
    for chart in drawn.values():
        across = [float(x) for x in re.findall(r'cx="([\d.]+)"', chart)]
        assert len(across) == 2 and all(62 <= x <= 640 for x in across)
    untimed = [{**point, "predicted_ms": None} for point in points]
    assert "MACs in INT8, %" in dumps(draw_pareto(untimed, "time"))
