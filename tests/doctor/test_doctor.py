"""`trt-ff doctor` on this machine, on the emulated CUDA driver, and with distributions that are made up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cuda_emulator import driver as emulated

from trt_facefusion.cli.main import run
from trt_facefusion.doctor.examine import examine
from trt_facefusion.doctor.findings import ADVICE, PROBLEM, WARNING
from trt_facefusion.doctor.packages import Packages, find_clashes
from trt_facefusion.engine.backends.gpu_support import INSTRUCTIONS, NONE, TABLE, TENSOR_CORES, find_gpu_support
from trt_facefusion.types import Precision

ROOT = Path(__file__).resolve().parents[2]


def doctor(folder: Path, *words: str, quick: bool = True, **environment: str) -> tuple[int, Any]:
    """The exit code and the JSON of the command in a process of its own."""
    command = [
        sys.executable,
        "-m",
        "trt_facefusion.cli.main",
        "doctor",
        "--json",
        *(["--quick"] if quick else []),
        *words,
    ]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    given = {**os.environ, "PYTHONPATH": path, **environment}
    done = subprocess.run(command, cwd=folder, env=given, capture_output=True, text=True, check=False)
    return done.returncode, json.loads(done.stdout)


@pytest.fixture(scope="module")
def driver() -> dict[str, str]:
    """The emulated driver's folder and pycuda's, for a process of its own."""
    try:
        return emulated.built()
    except emulated.CannotBuildError as error:
        if os.environ.get("TRT_FF_REQUIRE_EMULATOR"):
            pytest.fail(str(error))
        pytest.skip(f"no emulated CUDA driver: {error}")


def gpu(driver: dict[str, str], pycuda: bool = True, **cuemu: object) -> dict[str, str]:
    """Environment of a process that finds the emulated driver, as a machine with that GPU."""
    path = [str(ROOT)] + ([driver["site"]] if pycuda else [])
    settings = {f"CUEMU_{name}": str(value) for name, value in cuemu.items()}
    library = str(Path(driver["driver"]).parent)
    return {"LD_LIBRARY_PATH": library, "PYTHONPATH": os.pathsep.join(path), **settings}


def levels(found: Any, level: str) -> list[str]:
    return [finding["text"] for finding in found["findings"] if finding["level"] == level]


def test_this_machine_builds_by_default(tmp_path: Path) -> None:
    found = examine(tmp_path / "engines", tmp_path / "cache")
    assert found.healthy, found.findings
    assert found.build.backend in {"tensorrt", "tensorrt-rtx", "onnxruntime"}
    assert found.packages["onnxruntime"] is not None
    assert found.disk_bytes[str(tmp_path / "engines")] > 0
    assert json.dumps(found.as_dict())
    assert not list(tmp_path.iterdir())


def test_the_command_shows_it_and_exits_with_0(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(["doctor", "--output", str(tmp_path), "--cache", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    for text in ("driver", "installed", "disk", "`trt-ff build` makes"):
        assert text in shown


@pytest.mark.parametrize(
    ("cc", "fp16", "int8", "precision"),
    [(60, INSTRUCTIONS, NONE, "fp16"), (61, NONE, INSTRUCTIONS, "fp32"), (70, TENSOR_CORES, INSTRUCTIONS, "fp16")]
    + [(cc, TENSOR_CORES, TENSOR_CORES, "int8") for cc in (75, 86, 90, 121)],
)
def test_what_a_gpu_has_is_told_from_its_capability(
    driver: dict[str, str], tmp_path: Path, cc: int, fp16: str, int8: str, precision: str
) -> None:
    code, found = doctor(tmp_path, **gpu(driver, CC=cc, NAME="Some GPU", MEM_MB=4096))
    (told,) = found["gpus"]
    assert (told["name"], told["target"], told["compute_capability"]) == ("Some GPU", f"sm{cc}", f"{cc / 10}")
    assert (told["fp16"], told["int8"], told["precision"]) == (fp16, int8, precision)
    assert told["total_bytes"] == 4096 << 20
    assert found["driver"]["cuda"] == "13.0"
    assert code == 0


def test_every_generation_from_pascal_to_blackwell_is_known() -> None:
    assert {(6, 0), (6, 1), (7, 0), (7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0), (12, 1)} <= set(TABLE)
    assert all(entry.best is Precision.INT8 for cc, entry in TABLE.items() if cc >= (7, 5))
    assert find_gpu_support((8, 9)) is not find_gpu_support((8, 6))
    assert find_gpu_support((12, 5)) is TABLE[12, 1]
    assert find_gpu_support((13, 0)) is None


def test_a_gpu_without_tensorrt_and_pycuda_says_what_to_install(driver: dict[str, str], tmp_path: Path) -> None:
    _, found = doctor(tmp_path, **gpu(driver, pycuda=False, CC=89, NAME="L4", MEM_MB=24000))
    commands = " ".join(command for finding in found["findings"] for command in finding["commands"])
    assert "pip install 'tensorrt-cu13" in commands
    assert "pip install pycuda" in commands
    assert any("not for L4 (sm89)" in text for text in levels(found, WARNING))


def test_little_gpu_memory_is_told(driver: dict[str, str], tmp_path: Path) -> None:
    _, found = doctor(tmp_path, **gpu(driver, CC=86, NAME="A10G", MEM_MB=900))
    assert any("A10G has 900 of 900 MiB free" in text for text in levels(found, WARNING))


def test_a_driver_without_a_gpu_is_told_apart_from_none(driver: dict[str, str], tmp_path: Path) -> None:
    code, found = doctor(tmp_path, **gpu(driver, DEVICES=0))
    assert (code, found["gpus"]) == (0, [])
    assert "but no GPU" in found["driver"]["problem"]
    hidden = doctor(tmp_path, **gpu(driver, DEVICES=0), CUDA_VISIBLE_DEVICES="")[1]
    assert "CUDA_VISIBLE_DEVICES is ''" in hidden["driver"]["problem"]
    assert "libcuda.so.1 was not found" in doctor(tmp_path)[1]["driver"]["problem"]


def test_a_library_that_is_no_driver_is_told(tmp_path: Path) -> None:
    import _ctypes

    (tmp_path / "libcuda.so.1").symlink_to(_ctypes.__file__)
    _, found = doctor(tmp_path, LD_LIBRARY_PATH=str(tmp_path))
    assert "not CUDA's" in found["driver"]["problem"]


def test_a_store_that_cannot_be_written_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, found = doctor(tmp_path, "--output", "file/engines")
    assert code == 4
    assert found["ok"] is False
    assert any("cannot be written to" in text for text in levels(found, PROBLEM))


def distributions(folder: Path, **versions: str) -> str:
    """Distributions without content, as pip would have left them; a path for PYTHONPATH."""
    for name, version in versions.items():
        made = folder / f"{name}-{version}.dist-info"
        made.mkdir(parents=True)
        (made / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return os.pathsep.join([str(folder), str(ROOT)])


def test_distributions_that_overwrite_each_other_are_told(tmp_path: Path) -> None:
    path = distributions(tmp_path / "site", onnxruntime_gpu="1.30.0", opencv_python="4.12.0.88")
    _, found = doctor(tmp_path, PYTHONPATH=path)
    told = [finding for finding in found["findings"] if "overwrite each other" in finding["text"]]
    assert [finding["text"].partition(" are ")[0] for finding in told] == [
        "onnxruntime and onnxruntime-gpu",
        "opencv-python and opencv-python-headless",
    ]
    assert told[0]["commands"] == ["pip uninstall -y onnxruntime onnxruntime-gpu", "pip install onnxruntime"]


def test_versions_outside_of_the_tested_ranges_are_told(tmp_path: Path) -> None:
    path = distributions(tmp_path / "site", tensorrt_cu12="8.6.1.6", numpy="1.26.4")
    _, found = doctor(tmp_path, PYTHONPATH=path)
    told = " ".join(levels(found, WARNING))
    assert "tensorrt 8.6.1.6 is outside of the tested range" in told
    assert "numpy 1.26.4 is outside of the tested range" in told


@pytest.mark.parametrize(
    ("versions", "cuda", "says"),
    [
        ({"tensorrt-cu13": "11.4.0.106"}, (12, 8), "tensorrt 11.4.0.106 was made for CUDA 13, but the driver knows"),
        ({"tensorrt-cu12": "10.16.1.11", "tensorrt-cu13": "11.4.0.106"}, None, "for CUDA 12 and 13 at once"),
        ({"pycuda": "2022.2.2", "numpy": "2.4.6"}, None, "pycuda 2022.2.2 was made for numpy 1"),
    ],
)
def test_what_cannot_work_together_is_a_problem(
    versions: dict[str, str], cuda: tuple[int, int] | None, says: str
) -> None:
    (problem,) = find_clashes(Packages(versions), cuda)
    assert (problem.level, bool(problem.commands)) == (PROBLEM, True)
    assert says in problem.text


def test_what_works_together_is_not_complained_of() -> None:
    fine = {"tensorrt-cu12": "10.16.1.11", "tensorrt-rtx-cu13": "1.7.1", "torch": "2.13.0+cu130", "pycuda": "2026.1"}
    assert (
        find_clashes(Packages({**fine, "numpy": "2.4.6"}, ("numpy>=2.0,<3", "torch<3; extra == 'torch'")), (13, 0))
        == ()
    )


def test_an_engine_maker_without_metadata_is_seen() -> None:
    packages = Packages({"tensorrt-rtx-cu13": "1.7.1"}).with_modules({"tensorrt": "10.16.1.11", "tensorrt-rtx": "1.8"})
    assert (packages["tensorrt"], packages["tensorrt-rtx"]) == ("10.16.1.11", "1.7.1")


def test_a_required_package_that_is_missing_is_a_problem() -> None:
    wanted = ("pillow>=11", "tensorrt>=10; extra == 'gpu'", "old; python_version < '3'")
    (problem,) = find_clashes(Packages({}, wanted), None)
    assert (problem.text, problem.commands) == ("pillow is not installed", ("pip install 'pillow>=11'",))


def test_without_torch_the_default_build_does_not_work(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('broken')")
    code, found = doctor(tmp_path, quick=False, PYTHONPATH=os.pathsep.join([str(tmp_path), str(ROOT)]))
    assert code == 4
    assert any("torch cannot be loaded" in text and "--onnx" in text for text in levels(found, PROBLEM))


def test_an_engine_maker_that_is_broken_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "tensorrt_rtx.py").write_text("raise RuntimeError('wrong ABI')")
    code, found = doctor(tmp_path, PYTHONPATH=os.pathsep.join([str(tmp_path), str(ROOT)]))
    assert code == 4
    assert "wrong ABI" in found["build"]["reason"]


def test_an_rtx_engine_is_offered_with_what_is_not_known_of_it(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    _, found = doctor(tmp_path)
    assert any("no A10G" in text for text in levels(found, ADVICE))
