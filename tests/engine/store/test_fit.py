"""Which machine can run which engine."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from manifests import manifest

from trt_facefusion.engine.backends.pins import Pins, parse_target
from trt_facefusion.engine.store.fit import Machine, list_differences, list_misfits, require_fit
from trt_facefusion.errors import StoreError

A10G = Machine("linux-x86_64", "NVIDIA A10G", (8, 6), 13000, {"tensorrt": "10.16.1.11", "tensorrt-rtx": "1.7.1.116"})
PINS = Pins((8, 6), "NVIDIA A10G", 13000, "linux-x86_64")


def engine(version: str = "10.16.1.11", backend: str = "tensorrt", **pins: Any) -> Any:
    return manifest(backend=backend, backend_version=version, pins=dataclasses.replace(PINS, **pins))


CPU = Machine("linux-x86_64", libraries={"openvino": "2026.4.1"}, instructions="avx512_vnni")


def on_cpu(version: str = "2026.4.1", **pins: Any) -> Any:
    pinned = dataclasses.replace(Pins(platform="linux-x86_64", instructions="avx512_vnni"), **pins)
    return manifest(backend="openvino", backend_version=version, target="cpu", pins=pinned)


PC = Machine("linux-x86_64", libraries={"qnn": "2.7.0"}, instructions="avx2")


def for_phone(version: str = "2.7.0", chip: str = "sm8550") -> Any:
    return manifest(
        backend="qnn", backend_version=version, target=chip, pins=Pins(chip=chip, htp_arch=73, sdk="2.51.0")
    )


def other(**changes: Any) -> Machine:
    return dataclasses.replace(A10G, **changes)


@pytest.mark.parametrize(
    ("built", "machine"),
    [
        (engine(), A10G),
        (engine(), other(device="NVIDIA RTX A6000", driver=12080 + 1000)),
        (engine(compute_capability=None), other(compute_capability=(9, 0))),
        (engine(hardware_compatibility="ampere_plus"), other(compute_capability=(12, 0))),
        (engine(hardware_compatibility="same_compute_capability"), other(device="NVIDIA RTX A6000")),
        (engine("10.9.0.34", version_compatible=True), A10G),
        (engine("1.7.1.116", "tensorrt-rtx", device=None, driver=None), other(driver=12000)),
        (engine("1.31.1", "onnxruntime"), Machine("darwin-arm64")),
        (on_cpu(), CPU),
        (for_phone(), PC),
        (for_phone(), dataclasses.replace(PC, chip="sm8550")),
    ],
)
def test_these_fit(built: Any, machine: Machine, tmp_path: Path) -> None:
    assert list_misfits(built, machine) == ()
    require_fit(built, tmp_path, machine)


@pytest.mark.parametrize(
    ("built", "machine", "said"),
    [
        (on_cpu("2026.3.0"), CPU, ["OpenVINO 2026.3.0", "2026.4.1 is installed"]),
        (for_phone("2.6.0"), PC, ["onnxruntime-qnn 2.6.0", "2.7.0 is installed"]),
        (for_phone(), dataclasses.replace(PC, libraries={}), ["onnxruntime-qnn 2.7.0, and none is installed"]),
        (for_phone(), dataclasses.replace(PC, chip="sm8650"), ["compiled for the chip sm8550", "this one is sm8650"]),
        (for_phone(chip="sm1"), PC, ["chip sm1, which qnn does not know here"]),
        (on_cpu(instructions="avx2"), CPU, ["compiled for a processor with avx2", "avx512_vnni"]),
        (on_cpu(platform="linux-aarch64"), CPU, ["built on linux-aarch64"]),
        (on_cpu(), dataclasses.replace(CPU, libraries={}), ["OpenVINO 2026.4.1, and none is installed"]),
        (engine("10.9.0.34"), A10G, ["TensorRT 10.9.0.34", "10.16.1.11 is installed"]),
        (engine("10.16.1.12"), A10G, ["10.16.1.12"]),
        (engine("10.17.0.1", version_compatible=True), A10G, ["10.17.0.1 or a later 10.x"]),
        (engine("9.9.9.9", version_compatible=True), A10G, ["9.9.9.9"]),
        (engine("1.6.0.1", "tensorrt-rtx"), A10G, ["TensorRT-RTX 1.6.0.1", "1.7.1.116"]),
        (engine(compute_capability=(8, 9), device="NVIDIA L4"), A10G, ["8.9 (NVIDIA L4)", "8.6 (NVIDIA A10G)"]),
        (engine(), other(compute_capability=(8, 9)), ["8.6", "8.9"]),
        (
            engine(hardware_compatibility="same_compute_capability"),
            other(compute_capability=(8, 0)),
            ["compute capability 8.6"],
        ),
        (engine(hardware_compatibility="ampere_plus"), other(compute_capability=(7, 5)), ["Ampere", "7.5"]),
        (engine(platform="windows-amd64"), A10G, ["windows-amd64", "linux-x86_64"]),
        (engine(), other(driver=12080), ["a driver for CUDA 13.0", "CUDA 12.8"]),
        (engine(), other(libraries={}), ["needs TensorRT 10.16.1.11"]),
        (engine(), Machine("linux-x86_64"), ["needs a GPU"]),
    ],
)
def test_these_do_not_and_it_is_said_why(built: Any, machine: Machine, said: list[str], tmp_path: Path) -> None:
    with pytest.raises(StoreError) as error:
        require_fit(built, tmp_path / "engine", machine)
    assert all(text in error.value.message for text in ["cannot run on this machine", *said])
    assert "trt-ff build --onnx 'a model.onnx' --calib faces --int8 --target" in error.value.remedy


@pytest.mark.parametrize(
    ("built", "here", "command"),
    [
        (engine(), (8, 9), "--target sm89 --backend tensorrt --force"),
        (engine("1.7.1.116", "tensorrt-rtx"), (12, 0), "--target sm120 --backend tensorrt-rtx --force"),
        (engine("1.7.1.116", "tensorrt-rtx"), (9, 0), "--target sm90 --backend auto --force"),
    ],
)
def test_the_remedy_builds_for_this_machine(built: Any, here: tuple[int, int], command: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError) as error:
        require_fit(built, tmp_path, other(compute_capability=here))
    assert error.value.remedy.endswith(command)


def test_what_differs_but_runs_is_told() -> None:
    assert list_differences(engine(), A10G) == ()
    told = " ".join(list_differences(engine(), other(device="NVIDIA RTX A6000", driver=13010)))
    assert "NVIDIA RTX A6000" in told and "CUDA 13.1" in told


def test_targets_name_compute_capabilities() -> None:
    assert [parse_target(target) for target in ("sm86", "sm120")] == [(8, 6), (12, 0)]
    with pytest.raises(ValueError, match="cpu"):
        parse_target("cpu")
