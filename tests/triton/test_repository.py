"""What is written for Triton."""

from __future__ import annotations

from pathlib import Path

from trt_facefusion.cli.main import run


def test_try(a10g_engine: Path, l4_engine: Path, onnx_engine: Path, tmp_path: Path) -> None:
    assert run(["package", "triton", str(a10g_engine), str(l4_engine), "-o", "/tmp/try/repo", "--gpus", "a10g,l4", "--name", "swap"]) == 0
    assert run(["package", "triton", str(onnx_engine), "-o", "/tmp/try/repo2", "--name", "swap"]) == 0
