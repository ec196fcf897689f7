"""Stored TensorRT engines, opened on the emulated driver: what is wrong is told before TensorRT sees it."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from cuda_emulator.driver import ILLEGAL_ADDRESS, OUT_OF_MEMORY, UNKNOWN, EmulatedDriver
from manifests import manifest
from twin import runtime as trt
from twin.swap import SIDE, face, is_swap_of, plan, swap

from trt_facefusion.engine.backends.pins import Pins, name_platform
from trt_facefusion.engine.store.manifest import StoredFile
from trt_facefusion.engine.store.store import Store, compute_sha256
from trt_facefusion.errors import (
    BackendUnavailableError,
    DeviceError,
    DeviceLostError,
    DeviceMemoryError,
    StoreError,
)
from trt_facefusion.inference.open import OpenedModel, open_model
from trt_facefusion.model.presets import Preset, parse_input
from trt_facefusion.model.presets.contract import Contract
from trt_facefusion.types import Precision

SHAPES = {name: tuple((n, 3, side, side) for n in (1, 2, 4)) for name, side in (("target", SIDE), ("source", 1))}
PINS = Pins((8, 6), "cuemu (emulated, no GPU)", 13000, name_platform())
COMMAND = "trt-ff build --onnx 'a model.onnx' --calib faces --int8 --target sm86 --backend tensorrt --force"


class Watched(trt.Runtime):
    """TensorRT's runtime, which notes the plans that it was given."""

    plans: list[bytes] = []  # noqa: RUF012

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> Any:
        self.plans.append(serialized_engine)
        return super().deserialize_cuda_engine(serialized_engine)


@pytest.fixture(autouse=True)
def tensorrt(emulated_cuda: EmulatedDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trt, "Runtime", Watched)
    monkeypatch.setattr(Watched, "plans", [])
    monkeypatch.setitem(sys.modules, "tensorrt", trt)


def stored(root: Path, data: bytes | None = None, precision: str = "int8", **changes: Any) -> Path:
    contract = Contract(Preset.from_inputs([parse_input("target=image:16:0:1")]))
    fields = {"backend": "tensorrt", "backend_version": trt.__version__, "shapes": SHAPES, "pins": PINS, **changes}
    files = {
        **contract.files(),
        "engine.engine": plan() if data is None else data,
        "typed.onnx": swap().SerializeToString(),
    }
    return Store(root / "engines").save(manifest(precision=precision, **fields), files)


def works(opened: OpenedModel) -> bool:
    with opened.open_runner() as runner:
        return all(is_swap_of(value, runner.infer(face(value))) for value in range(3))


def test_a_stored_engine_runs(tmp_path: Path) -> None:
    folder = stored(tmp_path)
    for path in (folder, folder / "engine.engine", folder.parent):
        opened = open_model(path)
        assert opened.needs_gpu and opened.notes == () and works(opened)


def test_its_typed_graph_stands_in_for_it_on_any_machine(tmp_path: Path) -> None:
    opened = open_model(stored(tmp_path, pins=dataclasses.replace(PINS, compute_capability=(12, 0))))
    with opened.open_runner(stand_in=True) as runner:
        assert is_swap_of(3, runner.infer(face(3)))
    assert Watched.plans == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backend_version": "10.9.0.34"}, "built with TensorRT 10.9.0.34, and 10.16.1.11 is installed"),
        ({"pins": dataclasses.replace(PINS, compute_capability=(8, 9), device="NVIDIA L4")}, "8.9 (NVIDIA L4)"),
        ({"pins": dataclasses.replace(PINS, platform="windows-amd64")}, "windows-amd64"),
        ({"pins": dataclasses.replace(PINS, driver=14000)}, "CUDA 14.0"),
    ],
)
def test_what_does_not_fit_never_reaches_tensorrt(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    opened = open_model(stored(tmp_path, **changes))
    with pytest.raises(StoreError) as error:
        opened.open_runner()
    assert message in error.value.message
    assert error.value.remedy.endswith(COMMAND)
    assert error.value.exit_code == 6
    assert Watched.plans == []
    assert works(open_model(stored(tmp_path)))


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-100], lambda data: b"", lambda data: data[:50] + b"?" + data[51:]]
)
def test_a_damaged_engine_never_reaches_tensorrt(tmp_path: Path, damage: Any) -> None:
    folder = stored(tmp_path)
    (folder / "engine.engine").write_bytes(damage(plan()))
    with pytest.raises(StoreError, match="cannot be used") as error:
        open_model(folder)
    assert error.value.remedy.endswith(COMMAND)
    assert error.value.exit_code == 6
    assert Watched.plans == []
    assert works(open_model(stored(tmp_path)))


def test_an_engine_that_is_swapped_under_its_manifest_never_reaches_tensorrt(tmp_path: Path) -> None:
    """Also where it was right when the path was looked at, and where the other engine is a good one."""
    folder, other = stored(tmp_path), stored(tmp_path, precision="fp16")
    opened = open_model(folder)
    (folder / "engine.engine").write_bytes((other / "engine.engine").read_bytes() + b" ")
    with pytest.raises(StoreError, match="not what was stored") as error:
        opened.open_runner()
    assert error.value.remedy.endswith(COMMAND)
    assert error.value.exit_code == 6
    with pytest.raises(StoreError, match="cannot be used"):
        open_model(folder)
    assert Watched.plans == []
    assert works(open_model(other))


def test_a_swapped_typed_graph_does_not_stand_in(tmp_path: Path) -> None:
    opened = open_model(stored(tmp_path))
    opened.graph.write_bytes(opened.graph.read_bytes()[:-1] + b"?")
    with pytest.raises(StoreError, match="not what was stored"):
        opened.open_runner(stand_in=True)


def test_an_engine_for_other_shapes_than_its_manifest_says_is_refused(tmp_path: Path) -> None:
    shapes = {**SHAPES, "target": tuple((n, 3, SIDE, SIDE) for n in (1, 2, 8))}
    with pytest.raises(StoreError, match="its manifest says") as error:
        open_model(stored(tmp_path, shapes=shapes)).open_runner()
    assert error.value.remedy.endswith(COMMAND)


def test_a_plan_that_tensorrt_refuses_is_told_in_its_words(tmp_path: Path) -> None:
    opened = open_model(stored(tmp_path, b"no plan"))
    with pytest.raises(DeviceError, match="magic tag") as error:
        opened.open_runner()
    assert error.value.exit_code == 7
    assert works(open_model(stored(tmp_path)))


def test_a_version_compatible_engine_runs_in_a_later_version_and_may_bring_its_runtime(tmp_path: Path) -> None:
    header = b'{"version": "10.16.1.11"'
    assert header in plan()
    data = plan().replace(header, b'{"version_compatible": true, "version": "10.9.0.34"')
    pins = dataclasses.replace(PINS, version_compatible=True)
    assert works(open_model(stored(tmp_path, data, backend_version="10.9.0.34", pins=pins)))
    with pytest.raises(DeviceError, match="host code"):  # a manifest that does not say so gives no such right
        open_model(stored(tmp_path, data)).open_runner()


def test_an_engine_of_tensorrt_rtx_is_loaded_by_tensorrt_rtx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", trt)
    pins = Pins.ahead_of_time("sm86")
    assert works(open_model(stored(tmp_path, backend="tensorrt-rtx", pins=pins)))
    with pytest.raises(BackendUnavailableError, match="tensorrt"):
        open_model(stored(tmp_path)).open_runner()


def test_a_model_without_its_own_engine_takes_the_next_precision(tmp_path: Path) -> None:
    stored(tmp_path, backend_version="10.9.0.34")
    fp16 = stored(tmp_path, precision="fp16")
    opened = open_model(fp16.parent, Precision.INT8)
    assert opened.engine.parent == fp16 and works(opened)
    assert any("10.9.0.34" in note for note in opened.notes)


def test_a_manifest_of_another_version_of_this_tool_is_told(tmp_path: Path) -> None:
    folder = stored(tmp_path)
    raw = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**raw, "schema": 1}))
    with pytest.raises(StoreError, match="schema 1") as error:
        open_model(folder)
    assert "--force" in error.value.remedy
    assert error.value.exit_code == 6
    assert works(open_model(stored(tmp_path)))


def test_a_manifest_that_was_fitted_to_another_engine_still_has_its_shapes(tmp_path: Path) -> None:
    """Whoever swaps the digest, too, is found out where the other engine takes something else."""
    folder = stored(tmp_path)
    smaller = plan().replace(b"[4, 3, ", b"[3, 3, ")
    (folder / "engine.engine").write_bytes(smaller)
    manifest_file = folder / "manifest.json"
    raw = json.loads(manifest_file.read_text())
    raw["files"]["engine.engine"] = dataclasses.asdict(
        StoredFile(compute_sha256(folder / "engine.engine"), len(smaller))
    )
    manifest_file.write_text(json.dumps(raw))
    with pytest.raises(StoreError, match="its manifest says"):
        open_model(folder).open_runner()


# -- what happens later


@pytest.mark.parametrize("point", ["alloc", "pinned"])
def test_a_full_gpu_is_told_and_the_next_try_works(tmp_path: Path, emulated_cuda: EmulatedDriver, point: str) -> None:
    opened = open_model(stored(tmp_path))
    emulated_cuda.inject(point, OUT_OF_MEMORY, after=1, times=2)  # pycuda collects garbage and tries again
    with pytest.raises(DeviceMemoryError, match="There is no memory for") as error:
        opened.open_runner()
    assert error.value.exit_code == 7 and "fewer slots" in error.value.remedy
    emulated_cuda.clear_faults()
    assert works(opened)


def test_a_stream_error_mid_flight_is_told_and_the_next_request_works(
    tmp_path: Path, emulated_cuda: EmulatedDriver
) -> None:
    with open_model(stored(tmp_path)).open_runner() as runner:
        emulated_cuda.inject("sync", UNKNOWN)
        with pytest.raises(DeviceError) as error:
            runner.infer(face(1))
        assert error.value.exit_code == 7 and error.value.remedy
        assert is_swap_of(2, runner.infer(face(2)))


def test_a_lost_context_is_told_and_a_new_runner_works(tmp_path: Path, emulated_cuda: EmulatedDriver) -> None:
    emulated_cuda.loses_context = True
    opened = open_model(stored(tmp_path))
    with opened.open_runner() as runner:
        emulated_cuda.inject("stream", ILLEGAL_ADDRESS, after=1)
        for _ in range(2):
            with pytest.raises(DeviceLostError, match="illegal memory access") as error:
                runner.infer(face(1))
        assert error.value.exit_code == 7
    emulated_cuda.repair_context()
    assert works(opened)
