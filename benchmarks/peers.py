"""Other tools' INT8 of a model, at their best settings: onnxruntime.quantization and NVIDIA's Model Optimizer.

`quantise` runs one of them in a process of its own (Model Optimizer in an interpreter of its own, because it wants
another onnxruntime), and gives the model that it made, with what that cost. `amax_of` reads the ranges that it chose.

    python benchmarks/peers.py onnxruntime-percentile MODEL.onnx FEEDS.npz OUT.onnx --node NODE --node NODE

FEEDS.npz holds every input of the model [N,...]. This file imports nothing of the project, so that any interpreter that
has the tool can run it.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

PEERS = (
    "onnxruntime-minmax",
    "onnxruntime-entropy",
    "onnxruntime-percentile",
    "modelopt-entropy",
    "modelopt-max",
)
PERCENTILE = 99.99
INT8_MAX = 127

Inputs = Mapping[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Quantised:
    """What a peer made: its own INT8 model (FP32 elsewhere), CPU seconds and peak memory of its process."""

    model: onnx.ModelProto
    cpu_s: float
    peak_gib: float


def quantise(
    peer: str,
    model: onnx.ModelProto,
    inputs: Inputs,
    nodes: Sequence[str],
    *,
    batch: int = 4,
    python: str = sys.executable,
    lower_priority: int = 0,
    every_type: bool = False,
) -> Quantised:
    """Let ``peer`` calibrate ``model`` on ``inputs`` [N,...] and quantise ``nodes`` (none: all that it would take).

    Activations are symmetric INT8 with one scale, weights symmetric with one scale per output channel, as TensorRT
    takes them; everything else stays FP32. The outputs of the nodes are not quantised. With ``every_type``, onnxruntime
    calibrates the tensors of all operators that it can quantise, which is its default.

    Raises:
        subprocess.CalledProcessError: the tool failed; its words went to stderr.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, feeds, made = (Path(folder) / name for name in ("model.onnx", "feeds.npz", "made.onnx"))
        onnx.save(model, source)
        np.savez(feeds, **inputs)  # type: ignore[arg-type]
        words = [python, __file__, peer, str(source), str(feeds), str(made), "--batch", str(batch)]
        words += [word for node in nodes for word in ("--node", node)] + ["--every-type"] * every_type
        done = subprocess.run(
            words, check=True, stdout=subprocess.PIPE, cwd=folder, preexec_fn=lambda: os.nice(lower_priority)
        )
        figures = json.loads(done.stdout.splitlines()[-1])
        return Quantised(onnx.load(made), figures["cpu_s"], figures["peak_gib"])


def amax_of(model: onnx.ModelProto) -> dict[str, float]:
    """The range of every activation that ``model`` quantises symmetrically: 127 times its scale."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    values = {node.output[0]: node.attribute[0].t for node in model.graph.node if node.op_type == "Constant"}
    found = {}
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear" and node.input[0] not in constants:
            scale = constants.get(node.input[1]) or values[node.input[1]]
            found[node.input[0]] = float(numpy_helper.to_array(scale).reshape(-1)[0]) * INT8_MAX
    return found


class Reader:
    """Calibration batches as both tools take them."""

    def __init__(self, inputs: Inputs, batch: int) -> None:
        # A smaller batch at the end breaks onnxruntime's histograms.
        self.inputs, self.batch = inputs, math.gcd(batch, len(next(iter(inputs.values()))))
        self.left = self._batches()

    def _batches(self) -> Iterator[dict[str, np.ndarray[Any, Any]]]:
        count = len(next(iter(self.inputs.values())))
        for start in range(0, count, self.batch):
            yield {name: values[start : start + self.batch] for name, values in self.inputs.items()}

    def get_next(self) -> dict[str, np.ndarray[Any, Any]] | None:
        return next(self.left, None)

    def get_first(self) -> dict[str, np.ndarray[Any, Any]]:
        return next(self._batches())

    def rewind(self) -> None:
        self.left = self._batches()


def with_onnxruntime(method: str, source: Path, made: Path, reader: Reader, nodes: list[str], every_type: bool) -> None:
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.calibrate import CalibrationDataReader

    CalibrationDataReader.register(Reader)
    types = ["Conv", "Gemm", "MatMul"]
    quantize_static(
        source,
        made,
        reader,
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=None if every_type else types,
        nodes_to_quantize=nodes or None,
        per_channel=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        calibrate_method={
            "minmax": CalibrationMethod.MinMax,
            "entropy": CalibrationMethod.Entropy,
            "percentile": CalibrationMethod.Percentile,
        }[method],
        extra_options={
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "CalibTensorRangeSymmetric": True,
            "CalibPercentile": PERCENTILE,
            "OpTypesToExcludeOutputQuantization": [] if every_type else types,
            "QuantizeBias": False,
        },
    )


def with_modelopt(method: str, source: Path, made: Path, reader: Reader, nodes: list[str]) -> None:
    import re

    from modelopt.onnx.quantization import quantize
    from onnxruntime.quantization.calibrate import CalibrationDataReader

    CalibrationDataReader.register(Reader)
    quantize(
        str(source),
        quantize_mode="int8",
        calibration_method=method,
        calibration_data_reader=reader,
        calibration_eps=["cpu"],
        op_types_to_quantize=["Conv", "Gemm", "MatMul"],
        nodes_to_quantize=[f"^{re.escape(node)}$" for node in nodes] or None,
        output_path=str(made),
        high_precision_dtype="fp32",
        log_level="ERROR",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("model", type=Path)
    parser.add_argument("feeds", type=Path)
    parser.add_argument("made", type=Path)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--node", action="append", default=[])
    parser.add_argument("--every-type", action="store_true")
    given = parser.parse_args()
    tool, _, method = given.peer.partition("-")
    with np.load(given.feeds) as packed:
        reader = Reader({name: packed[name] for name in packed.files}, given.batch)
    out = os.dup(1)
    os.dup2(2, 1)  # the tools print; stdout is for the figures
    __import__("onnxruntime.quantization" if tool == "onnxruntime" else "modelopt.onnx.quantization")
    before = resource.getrusage(resource.RUSAGE_SELF)
    if tool == "onnxruntime":
        with_onnxruntime(method, given.model, given.made, reader, given.node, given.every_type)
    else:
        with_modelopt(method, given.model, given.made, reader, given.node)
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    os.write(out, json.dumps({"cpu_s": cpu_s, "peak_gib": after.ru_maxrss / 2**20}).encode() + b"\n")


if __name__ == "__main__":
    main()
