"""Build the emulated CUDA driver into a cache folder: ``build(include)`` gives the folder with libcuda.so.1."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

from filelock import FileLock

HERE = Path(__file__).resolve().parent
SOURCES = ("cuemu.c", "gen_stubs.py")
FLAGS = ("-std=gnu11", "-O2", "-g", "-fPIC", "-Wall", "-Wextra", "-fvisibility=hidden")


def cache_folder() -> Path:
    """Where built things are kept between runs: ``$XDG_CACHE_HOME/trt-facefusion``."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "trt-facefusion"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def build(include: Path, header_version: str) -> Path:
    """The folder with libcuda.so.1, built from ``SOURCES`` against the headers in ``include`` unless it is there.

    Raises:
        subprocess.CalledProcessError: the compiler failed; its messages are on standard error.
        FileNotFoundError: there is no C compiler.
    """
    digest = hashlib.sha256(" ".join((*FLAGS, header_version, platform.machine())).encode())
    for name in (*SOURCES, "build.py"):
        digest.update((HERE / name).read_bytes())
    final = cache_folder() / f"cuda-emulator-{digest.hexdigest()[:16]}"
    with FileLock(f"{final}.lock"):
        if not (final / "libcuda.so.1").exists():
            _compile(include, final)
    return final


def _compile(include: Path, final: Path) -> None:
    compiler = os.environ.get("CC", "cc")
    with tempfile.TemporaryDirectory(dir=final.parent) as scratch:
        stubs = Path(scratch) / "stubs.c"
        subprocess.run([sys.executable, HERE / "gen_stubs.py", include, stubs], check=True, stdout=sys.stderr)
        made = Path(scratch) / "made"
        made.mkdir()
        library = made / "libcuda.so.1"
        command: list[str | Path] = [
            compiler,
            *FLAGS,
            "-I",
            include,
            "-shared",
            "-Wl,-soname,libcuda.so.1",
            "-o",
            library,
        ]
        subprocess.run([*command, HERE / "cuemu.c", stubs, "-lpthread", "-ldl"], check=True, stdout=sys.stderr)
        (made / "libcuda.so").symlink_to("libcuda.so.1")
        made.rename(final)
