"""A manifest with something in every field."""

from __future__ import annotations

import dataclasses

from trt_facefusion.engine.backends.base import Kernel, TensorFormat
from trt_facefusion.engine.backends.pins import Pins
from trt_facefusion.engine.store.manifest import EngineInputs, Fallback, GateResult, Int8Kernels, Manifest
from trt_facefusion.engine.timing.factors import Factors
from trt_facefusion.engine.timing.summary import PredictedTime

FILES = {"engine.engine": b"engine", "typed.onnx": b"typed", "plan.yaml": b"plan: 1\n", "build.log": b""}


def manifest(**changes: object) -> Manifest:
    kernel = Kernel(
        "conv_myl0_1",
        "correlation",
        ("conv",),
        (TensorFormat("x", "int8", (-1, 32, 8, 8), "NHWC"),),
        (TensorFormat("w", "int8", (32, 32, 3, 3)),),
        (TensorFormat("y", "fp32", (-1, 32, 8, 8)),),
        "tactic",
    )
    full = Manifest(
        model="reference",
        precision="fp16",
        requested_precision="int8",
        backend="tensorrt-rtx",
        backend_version="1.7.1.116",
        target="sm86",
        shapes={"target": ((1, 3, 128, 128), (1, 3, 128, 128), (4, 3, 128, 128))},
        inputs=EngineInputs("ab", "cd", "ef", None, "01", {"method": "entropy", "bins": 2048}),
        build_key="key",
        tool_version="0.1.0",
        created="2026-01-02T03:04:05+00:00",
        seconds=3.0,
        engine_bytes=6,
        weights_bytes=None,
        macs_share={"int8": 0.9, "fp16": 0.1, "fp32": 0.0},
        int8_kernels=Int8Kernels(2, 1, ("other",)),
        accuracy={"ssim": 0.999, "psnr_db": 40.5, "faces": 64, "worst_faces": [3, 1]},
        gate=GateResult(False, ("SSIM drop 2 % on the worst face",)),
        verified_with="onnxruntime 1.31.1 on the typed ONNX (stand-in)",
        kernels=(kernel,),
        fallback=(Fallback("int8", "fp16", "SSIM"),),
        warnings=("few faces",),
        predicted=PredictedTime(
            "a10g", 1, 0.21, 42_000_000, 60, {"memory": 0.21}, {"convolution": 0.21}, 2, ("conv",), Factors(0.8), True
        ),
        pins=Pins((8, 6), None, None, "linux-x86_64"),
        command=("--onnx", "a model.onnx", "--calib", "faces"),
    )
    return dataclasses.replace(full, **changes)
