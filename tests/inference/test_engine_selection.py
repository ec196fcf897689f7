"""Which of a model's engines is taken on which machine."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from manifests import FILES, manifest

from trt_facefusion.engine.backends.pins import Pins, parse_target
from trt_facefusion.engine.store.fit import Machine
from trt_facefusion.engine.store.store import Store
from trt_facefusion.errors import StoreError
from trt_facefusion.inference.select import select_engine
from trt_facefusion.types import Precision

PLATFORM = "linux-x86_64"
A10G = Machine(PLATFORM, "NVIDIA A10G", (8, 6), 13000, {"tensorrt": "10.16.1.11", "tensorrt-rtx": "1.7.1.116"})
NO_GPU = Machine(PLATFORM)
INT8, FP16, FP32 = Precision


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "engines")


def put(store: Store, precision: Precision, target: str = "sm86", backend: str = "tensorrt", **changes: Any) -> Path:
    version = {"tensorrt": "10.16.1.11", "tensorrt-rtx": "1.7.1.116", "onnxruntime": "1.31.1"}[backend]
    device = {"sm86": "NVIDIA A10G", "sm89": "NVIDIA L4"}.get(target)
    pins = Pins() if backend == "onnxruntime" else Pins(parse_target(target), device, 13000, PLATFORM)
    fields = {"backend_version": version, "pins": pins, **changes}
    made = manifest(precision=precision.value, requested_precision="int8", target=target, backend=backend, **fields)
    return store.save(made, FILES)


def taken(store: Store, machine: Machine, wanted: Precision | None = None) -> tuple[Path, str]:
    choice = select_engine(store.root / "reference", machine, wanted)
    return choice.folder, " | ".join(choice.notes)


def test_of_several_gpus_the_right_one(store: Store) -> None:
    ours, theirs = put(store, INT8, "sm86"), put(store, INT8, "sm89")
    assert taken(store, A10G, INT8) == (ours, "")
    assert taken(store, dataclasses.replace(A10G, compute_capability=(8, 9), device="NVIDIA L4"), INT8) == (theirs, "")


def test_of_several_versions_the_one_that_is_installed(store: Store) -> None:
    put(store, INT8, backend_version="10.9.0.34", created="2027-01-01T00:00:00+00:00")
    ours = put(store, INT8)
    assert taken(store, A10G, INT8) == (ours, "")
    folder, notes = taken(store, A10G)
    assert folder == ours and "10.9.0.34" in notes


def test_the_wanted_precision_else_the_next_safer_else_a_cheaper_one_with_the_reason(store: Store) -> None:
    put(store, INT8, "sm89")
    fp32 = put(store, FP32)
    folder, notes = taken(store, A10G, INT8)
    assert folder == fp32
    assert f"took {fp32.name} in place of int8" in notes and "compute capability 8.9 (NVIDIA L4)" in notes
    fp16 = put(store, FP16)
    assert taken(store, A10G, INT8)[0] == taken(store, A10G)[0] == fp16
    assert taken(store, A10G, FP32) == (fp32, "")
    int8 = put(store, INT8)
    assert taken(store, A10G)[0] == int8


def test_a_cheaper_one_only_where_nothing_safer_fits(store: Store) -> None:
    int8 = put(store, INT8)
    folder, notes = taken(store, A10G, FP16)
    assert folder == int8 and "no fp16 engine is stored" in notes


def test_the_gpu_before_the_cpu_and_the_cpu_where_there_is_no_gpu(store: Store) -> None:
    cpu, gpu = put(store, INT8, "cpu", "onnxruntime"), put(store, FP16)
    assert taken(store, A10G, INT8)[0] == gpu
    folder, notes = taken(store, NO_GPU)
    assert folder == cpu and "needs a GPU" in notes


def test_a_stand_in_is_taken_of_the_gpus_engines_where_there_is_no_gpu(store: Store) -> None:
    put(store, Precision.FP32, "cpu", "onnxruntime")
    int8 = put(store, Precision.INT8)
    model = int8.parent
    assert select_engine(model, NO_GPU, stand_in=True).folder == int8
    assert select_engine(model, NO_GPU).manifest.target == "cpu"


def test_tensorrt_before_rtx(store: Store) -> None:
    put(store, INT8, backend="tensorrt-rtx")
    ours = put(store, INT8)
    assert taken(store, A10G)[0] == ours


def test_an_engine_that_was_timed_on_another_gpu_comes_second_and_is_told(store: Store) -> None:
    compatible = Pins((8, 6), "NVIDIA RTX A6000", 13000, PLATFORM)
    other = put(store, INT8, pins=compatible)
    folder, notes = taken(store, A10G, INT8)
    assert folder == other and "another GPU (NVIDIA RTX A6000" in notes
    theirs = Pins((8, 0), "NVIDIA A100", 13000, PLATFORM, "ampere_plus")
    put(store, INT8, "sm80", pins=theirs, created="2027-01-01T00:00:00+00:00")
    ours = put(store, INT8)
    assert taken(store, A10G, INT8) == (ours, "")


def test_a_damaged_engine_is_passed_over_and_told(store: Store) -> None:
    broken, whole = put(store, INT8), put(store, FP16)
    (broken / "engine.engine").write_bytes(b"ENGINE")
    folder, notes = taken(store, A10G, INT8)
    assert folder == whole and "not what was stored" in notes
    (whole / "manifest.json").write_text("{")
    with pytest.raises(StoreError, match="no engine that can be used") as error:
        taken(store, A10G)
    assert "not what was stored" in error.value.message and "not JSON" in error.value.message


def test_where_none_fits_the_command_builds_one_for_this_machine(store: Store) -> None:
    put(store, INT8, "sm89")
    put(store, FP16, "sm86", backend_version="10.9.0.34")
    with pytest.raises(StoreError) as error:
        taken(store, A10G)
    assert "8.9 (NVIDIA L4)" in error.value.message and "10.9.0.34" in error.value.message
    assert error.value.remedy.endswith("--int8 --target sm86 --backend tensorrt --force")
    assert error.value.exit_code == 6
