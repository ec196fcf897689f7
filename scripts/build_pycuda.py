"""Build pycuda against the emulated CUDA driver, fetch cuda-python's bindings, and print, as JSON, where they are.

pycuda has no wheels and needs CUDA's headers and a libcuda to build. This script takes the headers from NVIDIA's own
packages, the driver from tests/cuda_emulator, and installs the wheel into a folder of its own in the cache
(``$XDG_CACHE_HOME/trt-facefusion``): no environment changes. The first run takes a minute or two of CPU, later runs
nothing.

    scripts/build_pycuda.py
    {"driver": ".../libcuda.so.1", "site": ".../pycuda-2026.1-cp311-.../site", "bindings": ".../cuda-bindings-..."}
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from filelock import FileLock

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from cuda_emulator import build as emulator  # noqa: E402

PYCUDA = "2026.1"
HEADERS = {"nvidia-cuda-runtime": "13.0.96", "nvidia-cuda-profiler-api": "13.0.85"}
BINDINGS = ("cuda-bindings==13.5.0", "cuda-pathfinder==1.9.0")
# What pycuda.driver imports, numpy aside: that one comes from the environment.
REQUIRES = ("pytools==2026.1.1", "platformdirs==4.14.7", "typing-extensions==4.16.0", "siphash24==1.9")


def main() -> None:
    print(json.dumps({name: str(path) for name, path in ready().items()}))


def ready() -> dict[str, Path]:
    """Where the driver and the folder with pycuda are; both are built where they are missing.

    Raises:
        subprocess.CalledProcessError: pip or the compiler failed; their messages are on standard error.
        FileNotFoundError: there is no compiler.
    """
    include = _headers()
    driver = emulator.build(include, "+".join(HEADERS.values()))
    return {"driver": driver / "libcuda.so.1", "site": _pycuda(include, driver), "bindings": _bindings()}


def _tag() -> str:
    return f"cp{sysconfig.get_config_var('py_version_nodot')}-{sysconfig.get_platform()}"


def _bindings() -> Path:
    final = emulator.cache_folder() / f"{BINDINGS[0].replace('==', '-')}-{_tag()}"
    with FileLock(f"{final}.lock"):
        if not final.exists():
            with tempfile.TemporaryDirectory(dir=final.parent) as scratch:
                made = Path(scratch) / "made"
                _pip("install", "--no-deps", "--only-binary=:all:", "--target", made, *BINDINGS)
                made.rename(final)
    return final


def _headers() -> Path:
    final = emulator.cache_folder() / f"cuda-headers-{'-'.join(HEADERS.values())}"
    with FileLock(f"{final}.lock"):
        if not final.exists():
            with tempfile.TemporaryDirectory(dir=final.parent) as scratch:
                made = Path(scratch) / "made"
                wanted = [f"{name}=={version}" for name, version in HEADERS.items()]
                _pip("install", "--no-deps", "--only-binary=:all:", "--target", made, *wanted)
                made.rename(final)
    found = sorted(final.glob("**/cuda.h"))
    if not found:
        raise FileNotFoundError(f"no cuda.h under {final}")
    return found[0].parent


def _pycuda(include: Path, driver: Path) -> Path:
    final = emulator.cache_folder() / f"pycuda-{PYCUDA}-{_tag()}"
    with FileLock(f"{final}.lock"):
        if not final.exists():
            with tempfile.TemporaryDirectory(dir=final.parent) as scratch:
                wheels, made = Path(scratch) / "wheels", Path(scratch) / "made"
                _wheel(include, driver, Path(scratch), wheels)
                _pip("install", "--no-deps", "--target", made / "site", *wheels.glob("pycuda-*.whl"), *REQUIRES)
                made.rename(final)
    return final / "site"


def _wheel(include: Path, driver: Path, home: Path, wheels: Path) -> None:
    """pycuda's build reads its settings from HOME, and asks no one else."""
    settings = {
        "CUDA_ROOT": None,
        "CUDA_INC_DIR": [str(include)],
        "CUDADRV_LIB_DIR": [str(driver)],
        "CUDA_ENABLE_CURAND": False,
        "CXXFLAGS": ["-O1", "-g0"],
    }
    (home / ".aksetup-defaults.py").write_text("".join(f"{key} = {value!r}\n" for key, value in settings.items()))
    _pip("wheel", "--no-deps", "--no-binary", "pycuda", "--wheel-dir", wheels, f"pycuda=={PYCUDA}", HOME=str(home))


def _pip(*arguments: object, **environment: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *map(str, arguments)]
    subprocess.run(command, check=True, stdout=sys.stderr, env={**os.environ, **environment})


if __name__ == "__main__":
    main()
