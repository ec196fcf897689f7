from __future__ import annotations

import pytest

from trt_facefusion.engine.timing.gpus import (
    RATES,
    TABLE,
    find_gpu_of_device,
    find_gpu_of_target,
    get_gpu,
    list_gpus,
    read_table,
)
from trt_facefusion.errors import BadInputError
from trt_facefusion.storage.documents import DocumentError


def test_the_table_has_the_gpus_that_people_rent_and_own_each_figure_with_its_source() -> None:
    people_have = {"t4", "a10", "a10g", "l4", "l40s", "rtx3090", "rtx4090", "rtx5090", "a100", "h100"}
    assert people_have <= set(list_gpus())
    for gpu in list_gpus().values():
        assert set(gpu.sources) == {"bandwidth_gb_s", *RATES, "launch_us"} and all(gpu.sources.values())


def test_smaller_types_are_never_slower() -> None:
    for gpu in list_gpus().values():
        rates = [gpu.tera_ops[rate] for rate in ("fp32", "tf32", "fp16", "fp16_acc", "int8")]
        assert rates == sorted(rates), gpu.name


def test_the_card_of_aws_has_the_bandwidth_of_an_a10_and_about_half_its_tensor_rates() -> None:
    aws, plain = get_gpu("a10g"), get_gpu("A10")
    assert aws.bandwidth_gb_s == plain.bandwidth_gb_s == 600
    assert (aws.tera_ops["fp16"], aws.tera_ops["int8"], aws.tera_ops["fp32"]) == (70, 140, 35)
    assert (plain.tera_ops["fp16"], plain.tera_ops["int8"], plain.tera_ops["fp32"]) == (125, 250, 31.2)


def test_a_target_stands_for_a_gpu() -> None:
    names = {target: gpu.name for target in ("sm80", "sm86", "sm89", "sm120") if (gpu := find_gpu_of_target(target))}
    assert names == {"sm80": "a100", "sm86": "a10g", "sm89": "l4", "sm120": "rtx5090"}
    assert find_gpu_of_target("cpu") is None and find_gpu_of_target("sm61") is None


def test_a_driver_s_name_finds_that_very_gpu() -> None:
    names = {"NVIDIA A10G": "a10g", "NVIDIA A10": "a10", "Tesla T4": "t4", "NVIDIA A100-SXM4-40GB": "a100-40gb"}
    assert {device: gpu.name for device in names if (gpu := find_gpu_of_device(device))} == names
    assert find_gpu_of_device("NVIDIA GeForce RTX 3090 Ti") is None


def test_an_unknown_gpu_is_refused_with_those_that_are_known() -> None:
    assert get_gpu("RTX 3090").name == "rtx3090"
    with pytest.raises(BadInputError, match="rtx3091") as refused:
        get_gpu("rtx3091")
    assert "a10g" in refused.value.remedy and "h100" in refused.value.remedy


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("[600, a10g]", "[0, a10g]", "not above 0"),
        ("[600, a10g]", "[600, hearsay]", "not listed"),
        ("    launch_us: [2, assumed]\n", "", "is missing"),
        ("    title: NVIDIA A10G\n", "    title: NVIDIA A10G\n    price: 1\n", "is unknown"),
        ("[600, a10g]", "[many, a10g]", "not a number"),
    ],
)
def test_a_table_with_a_gap_is_refused(old: str, new: str, why: str) -> None:
    text = TABLE.read_text()
    assert old in text
    with pytest.raises(DocumentError, match=why):
        read_table(text.replace(old, new, 1))
