"""A torch module in other precisions: in torch, by what torch itself ships, and as ONNX for the other libraries.

torch ships `torch.ao.quantization`, which is deprecated and still works in 2.13; torchao, its successor, gains its
speed on CPUs from ``torch.compile``, which needs a C++ compiler, and is not used here.
"""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import onnx

from trt_facefusion.errors import ModelError
from trt_facefusion.model.generators.user_code import describe_cause
from trt_facefusion.storage.leftovers import scratch_folder
from trt_facefusion.types import Feeds

if TYPE_CHECKING:
    from torch import nn

_OPSET = 20


def make_half(net: nn.Module, bfloat: bool = False) -> nn.Module:
    """A copy of ``net`` in FP16, or in BF16."""
    import torch

    return copy.deepcopy(net).to(torch.bfloat16 if bfloat else torch.float16)


def quantize_dynamic(net: nn.Module) -> nn.Module:
    """A copy whose Linear, LSTM and GRU have weights of 8 bits, and quantise what they read in every call.

    Raises:
        ModelError: it has no such layer.
    """
    import torch

    kinds = {torch.nn.Linear, torch.nn.LSTM, torch.nn.GRU}
    if not any(type(module) in kinds for module in net.modules()):
        raise ModelError("it has no Linear, LSTM or GRU, the layers that torch quantises so", "take another variant")
    with _quietly("torch cannot quantise it dynamically"):
        quantize: Any = torch.ao.quantization.quantize_dynamic
        quantized: nn.Module = quantize(copy.deepcopy(net), kinds, torch.qint8)
        return quantized
    raise AssertionError


def quantize_static(net: nn.Module, calibrate: Sequence[tuple[Any, ...]]) -> nn.Module:
    """A copy in INT8 (FX graph mode, torch's defaults for x86), with ranges from ``calibrate``: arguments of calls.

    Raises:
        ModelError: torch cannot trace or quantise it.
    """
    import torch
    from torch.ao.quantization import get_default_qconfig_mapping
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    with _quietly("torch cannot quantise it statically"):
        prepared = prepare_fx(copy.deepcopy(net), get_default_qconfig_mapping("x86"), calibrate[0])
        with torch.no_grad():
            for arguments in calibrate:
                prepared(*arguments)
        converted: nn.Module = convert_fx(prepared)
        return converted
    raise AssertionError


def measure_bytes(net: nn.Module) -> int:
    """Bytes of the module's state as torch writes it: what quantised layers keep packed is in no tensor."""
    import torch

    stream = io.BytesIO()
    torch.save(net.state_dict(), stream)
    return stream.getbuffer().nbytes


def export_module(net: nn.Module, arguments: tuple[Any, ...], names: Sequence[str]) -> onnx.ModelProto:
    """``net`` as ONNX with the shapes of ``arguments``.

    Raises:
        ModelError: torch cannot export it.
    """
    import torch

    with _quietly("torch cannot export it as ONNX"):
        program = torch.onnx.export(
            net,
            arguments,
            dynamo=True,
            opset_version=_OPSET,
            input_names=list(names),
            external_data=False,
            verbose=False,
        )
        if program is None:
            raise ValueError("there is no program")
        model: onnx.ModelProto = program.model_proto
        return model
    raise AssertionError


def quantize_onnx(model: onnx.ModelProto, calibrate: Sequence[Feeds], *, symmetric: bool) -> onnx.ModelProto:
    """The model with Q/DQ by onnxruntime's quantiser: weights per channel, ranges (min and max) from ``calibrate``.

    ``symmetric`` gives activations int8 without zero point, as TensorRT wants them; else uint8 with one, as CPUs do.

    Raises:
        ModelError: onnxruntime cannot quantise it.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter([dict(feeds) for feeds in calibrate])

        def get_next(self) -> Any:
            return next(self.left, None)

    with _quietly("onnxruntime cannot quantise it"), scratch_folder() as folder:
        quantize_static(
            copy.deepcopy(model),  # the quantiser moves its weights into files
            str(folder / "quantized.onnx"),
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QInt8 if symmetric else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options={"ActivationSymmetric": symmetric, "WeightSymmetric": True, "QuantizeBias": not symmetric},
        )
        return onnx.load(folder / "quantized.onnx")
    raise AssertionError


@contextmanager
def _quietly(what: str) -> Iterator[None]:
    """Without warnings on the terminal; what libraries raise becomes a `ModelError`."""
    import logging

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except ModelError:
        raise
    except Exception as error:  # tracing runs code of the user's, and libraries have no common base of errors
        raise ModelError(f"{what}: {describe_cause(error)}", "compare without it") from error
    finally:
        logging.disable(before)
