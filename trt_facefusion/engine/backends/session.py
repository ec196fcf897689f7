"""The steps of a build that TensorRT 10, TensorRT 11 and TensorRT-RTX share: parse, profile, compile."""

from __future__ import annotations

import importlib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

from trt_facefusion.engine.backends.base import ShapeRange
from trt_facefusion.engine.backends.callbacks import Stop, make_logger, make_monitor
from trt_facefusion.engine.backends.checks import load_checked
from trt_facefusion.engine.backends.interrupts import defer_interrupts
from trt_facefusion.engine.backends.rtx_log import LogBuffer, drop_noise
from trt_facefusion.errors import BackendUnavailableError, BuildError, pip_install
from trt_facefusion.types import Progress

if TYPE_CHECKING:
    import onnx
    import tensorrt as trt

LOG_TAIL = 200
_OTHER_BACKEND = "Replace it before the export, or build with --backend onnxruntime."


def import_library(name: str, product: str, extra: str) -> ModuleType:
    """The Python module ``name``. Raises BackendUnavailableError when it cannot be imported."""
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:
        raise BackendUnavailableError(
            f"{product} cannot be used: {error}.",
            f"Install it with: {pip_install(extra)} (or use --backend onnxruntime).",
        ) from error
    except Exception as error:  # a library that is there and broken may raise anything
        raise BackendUnavailableError(
            f"{product} is installed and does not load: {type(error).__name__}: {error}.",
            f"Install it again: {pip_install(extra, '--force-reinstall')} (or use --backend onnxruntime).",
        ) from error


@dataclass
class Session:
    """One build: the library, its logger, the log so far, and why it may have to stop."""

    api: ModuleType
    product: str
    log: LogBuffer
    stop: Stop
    progress: Progress
    logger: trt.ILogger

    def builder(self) -> trt.Builder:
        """A builder. Raises BuildError where there is no GPU to build on."""
        trt = self.api
        try:
            return trt.Builder(self.logger)
        except TypeError as error:  # the factory gave a null pointer
            raise self.build_error("no builder could be made") from error

    def parse(self, network: trt.INetworkDefinition, model: bytes) -> None:
        """Read ``model`` into ``network``.

        Raises:
            BuildError: the network was refused; the message names the node.
        """
        graph = load_checked(model).graph
        operators = {node.op_type for node in graph.node}
        trt = self.api
        parser = trt.OnnxParser(network, self.logger)
        parsed = parser.parse(model)
        self.stop.raise_error()
        if parsed:
            return
        unsupported = sorted(op for op in operators if not parser.supports_operator(op))
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        raise self._make_parse_error(errors, unsupported, _find_quantised(graph))

    def check(self, model: bytes) -> None:
        """Parse ``model`` into a network that is thrown away. Raises BuildError as `parse` does."""
        self.parse(self.builder().create_network(0), model)

    def build_engine(
        self, builder: trt.Builder, network: trt.INetworkDefinition, config: trt.IBuilderConfig
    ) -> trt.IHostMemory:
        """The engine, while the progress is reported.

        Raises:
            BuildError: the network was refused; the message and its log hold the library's own.
        """
        monitor = make_monitor(self.api, self.progress, self.stop)  # kept here: the config may hold a bare pointer
        config.progress_monitor = monitor
        try:
            engine = builder.build_serialized_network(network, config)
        except Exception as error:  # what the bindings make of a C++ exception, such as a failed allocation
            self.stop.raise_error()
            self.log.add("ERROR", f"{type(error).__name__}: {error}")
            raise self.build_error("no reason given") from error
        self.stop.raise_error()
        if engine is None:
            raise self.build_error("no reason given")
        return engine

    def build_error(self, unexplained: str) -> BuildError:
        """The error messages so far as one error; ``unexplained`` where there are none."""
        reasons = [text for text in map(drop_noise, self.log.errors) if text]
        reason = "; ".join(dict.fromkeys(reasons)) or unexplained
        remedy = "Build with --backend onnxruntime, or with more workspace if the message speaks of memory."
        return BuildError(f"{self.product} could not build the engine: {reason}", remedy, self.log.tail(LOG_TAIL))

    def _make_parse_error(
        self, errors: Sequence[trt.ParserError], unsupported: Sequence[str], quantised: Collection[str]
    ) -> BuildError:
        where = []
        for error in errors:
            reason = drop_noise(error.desc()).removeprefix("Assertion failed: ")
            # `false` is the failed assertion of an importer that does not exist.
            lacks = reason == "false" or re.search("plugin.* not found", reason, re.IGNORECASE)
            reason = "not supported" if lacks else reason
            node = f"node {error.node_name()!r} ({error.node_operator()}): " if error.node_operator() else ""
            where.append(f"{node}{reason}")
        if unsupported:
            names = ", ".join(unsupported)
            message = f"{self.product} does not support the operator {names}: {'; '.join(where)}."
            return BuildError(message, _OTHER_BACKEND)
        narrow = any(error.node_name() in quantised for error in errors)
        return BuildError(
            f"{self.product} refused the network: {'; '.join(where) or 'no reason given'}.",
            "Keep the node named here in FP16 in the plan, or build with --backend onnxruntime."
            if narrow or not where
            else _OTHER_BACKEND,
        )


def _find_quantised(graph: onnx.GraphProto) -> set[str]:
    """Names of the nodes that quantise, or read what was quantised: a plan with more FP16 would spare them that."""
    linear = {"QuantizeLinear", "DequantizeLinear"}
    linear_outputs = {name for node in graph.node if node.op_type in linear for name in node.output}
    return {node.name for node in graph.node if node.op_type in linear or not linear_outputs.isdisjoint(node.input)}


@contextmanager
def open_session(api: ModuleType, product: str, progress: Progress) -> Iterator[Session]:
    """A session inside which Ctrl-C cancels the build at its next step, and is raised at the end."""
    with defer_interrupts() as interrupt:
        log, stop = LogBuffer(), Stop(interrupt)
        yield Session(api, product, log, stop, progress, make_logger(api, log, stop))


def add_profile(
    session: Session,
    builder: trt.Builder,
    network: trt.INetworkDefinition,
    config: trt.IBuilderConfig,
    shapes: Mapping[str, ShapeRange],
) -> None:
    """Give ``config`` the optimisation profile of the dynamic inputs.

    Raises:
        BuildError: ``shapes`` does not fit the network's inputs.
    """
    inputs = get_input_shapes(network)
    for name in shapes:
        if name not in inputs:
            raise BuildError(
                f"Shapes were given for the input {name!r}, which the model does not have.",
                f"The model's inputs are: {', '.join(inputs)}.",
            )
    profile = builder.create_optimization_profile()
    dynamic = False
    for name, shape in inputs.items():
        shape_range = shapes.get(name)
        _check_range(name, shape, shape_range)
        if -1 in shape and shape_range is not None:
            smallest, usual, largest = shape_range
            profile.set_shape(name, smallest, usual, largest)
            dynamic = True
    if dynamic and config.add_optimization_profile(profile) < 0:
        raise session.build_error("the optimisation profile was refused")


def get_input_shapes(network: trt.INetworkDefinition) -> dict[str, tuple[int, ...]]:
    """The network's inputs and their shapes; -1 is a dynamic axis."""
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    return {tensor.name: tuple(tensor.shape) for tensor in inputs}


def _check_range(name: str, shape: tuple[int, ...], shape_range: ShapeRange | None) -> None:
    if shape_range is None:
        if -1 in shape:
            raise BuildError(
                f"The input {name!r} has dynamic axes {list(shape)} and no range of shapes was given.",
                "Give smallest, usual and largest shape, with --batch MIN:OPT:MAX for the batch.",
            )
        return
    smallest, usual, largest = shape_range
    fits = all(
        len(axes) == len(shape) and all(want in (-1, have) for want, have in zip(shape, axes, strict=True))
        for axes in shape_range
    )
    if not fits or not all(0 < a <= b <= c for a, b, c in zip(smallest, usual, largest, strict=True)):
        raise BuildError(
            f"The shapes {smallest} {usual} {largest} do not fit the input {name!r}, which takes {list(shape)}.",
            "Every fixed axis must be the model's, and min <= opt <= max on each axis.",
        )
