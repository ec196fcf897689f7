"""Weakly typed builds with TensorRT 10: the FP32 ONNX, the plan as constraints, the table through a calibrator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from operator import length_hint
from typing import TYPE_CHECKING

import onnx

from trt_facefusion.engine.backends.base import BuildRequest, ConstraintReport, ScaleReport, WeakTyping
from trt_facefusion.engine.backends.calibrator import ALGORITHMS, CalibrationSource, format_cache, make_calibrator
from trt_facefusion.engine.backends.constraints import (
    Constraint,
    apply_constraints,
    derive_constraints,
    map_parser_names,
)
from trt_facefusion.engine.backends.device import Device
from trt_facefusion.engine.backends.scales import assign_ranges
from trt_facefusion.engine.backends.session import Session, add_profile, get_input_shapes
from trt_facefusion.engine.backends.tensorrt_config import TimingCache, configure
from trt_facefusion.engine.backends.uploader import BatchFeed, Uploader
from trt_facefusion.errors import BadInputError, BuildError
from trt_facefusion.quantization.calibration.table import CalibrationTable
from trt_facefusion.storage.files import write_atomic
from trt_facefusion.types import Precision

if TYPE_CHECKING:
    import tensorrt as trt


@dataclass(frozen=True)
class WeakBuild:
    """The engine, and what became of plan and table; ``calibration`` is the table that TensorRT made itself."""

    data: bytes
    constraints: ConstraintReport
    scales: ScaleReport | None
    calibration: Mapping[str, float] | None


def build_weak(
    session: Session,
    request: BuildRequest,
    weak: WeakTyping,
    device: Device | None,
    make_uploader: Callable[[], Uploader],
) -> WeakBuild:
    """The engine of ``weak.model`` under the plan's constraints.

    Raises:
        BuildError: the network was refused, a constraint cannot be kept (``obey``), or INT8 without table and batches.
    """
    trt = session.api
    model = onnx.load_model_from_string(weak.model)
    constraints = derive_constraints(model, weak.precisions)
    builder = session.builder()
    network = builder.create_network(0)
    session.parse(network, weak.model)
    config = builder.create_builder_config()
    configure(session, config, request, device)
    add_profile(session, builder, network, config, request.shapes)
    _set_flags(session, config, weak, obey=request.options.obey)
    report = apply_constraints(trt, network, constraints, map_parser_names(model))
    calibration = _Calibration(session, weak, make_uploader)
    timings = TimingCache.of(request.options.timing_cache, device, str(trt.__version__))
    timings.load(config)
    try:
        if Precision.INT8 in weak.precisions.values():
            calibration.attach(builder, network, config, _name_inner_outputs(model, constraints, weak.precisions))
        serialised = bytes(session.build_engine(builder, network, config))
    finally:
        calibration.close()
    timings.save(config)
    return WeakBuild(serialised, report, calibration.scales, calibration.own_table())


def _set_flags(session: Session, config: trt.IBuilderConfig, weak: WeakTyping, *, obey: bool) -> None:
    """Allow the precisions that the plan uses, and no others."""
    trt = session.api
    used = set(weak.precisions.values())
    if used == {Precision.FP32}:
        return
    config.set_flag(trt.BuilderFlag.FP16)
    if Precision.INT8 in used:
        config.set_flag(trt.BuilderFlag.INT8)
    config.set_flag(
        trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS if obey else trt.BuilderFlag.PREFER_PRECISION_CONSTRAINTS
    )


def _name_inner_outputs(
    model: onnx.ModelProto, constraints: Mapping[str, Constraint], precisions: Mapping[str, Precision]
) -> dict[str, str]:
    """INT8 nodes as the parser's metadata names them -> their ONNX output."""
    names = {node: parser for parser, node in map_parser_names(model).items()}
    return {
        names[node.name]: node.output[0]
        for node in model.graph.node
        if node.name in constraints and precisions.get(node.name) is Precision.INT8
    }


class _Calibration:
    """The calibrator of one build and what it needs, kept until the build is over."""

    def __init__(self, session: Session, weak: WeakTyping, make_uploader: Callable[[], Uploader]) -> None:
        self.session = session
        self.weak = weak
        self.make_uploader = make_uploader
        self.scales: ScaleReport | None = None
        self.source: CalibrationSource | None = None
        self.calibrator: trt.IInt8Calibrator | None = None  # the config holds a bare pointer to it

    def attach(
        self,
        builder: trt.Builder,
        network: trt.INetworkDefinition,
        config: trt.IBuilderConfig,
        inner: Mapping[str, str],
    ) -> None:
        """Give ``config`` a calibrator with our table, or with batches.

        Raises:
            BuildError: there is neither.
            BadInputError: there is no such calibrator.
        """
        session, weak = self.session, self.weak
        if weak.algorithm not in ALGORITHMS:
            raise BadInputError(f"there is no calibrator {weak.algorithm!r}", f"use {', '.join(ALGORITHMS)}")
        if weak.batches is not None:
            feed = BatchFeed(weak.batches, self.make_uploader())
            total = length_hint(weak.batches)
            save = partial(write_atomic, weak.keep) if weak.keep is not None else None
            self.source = CalibrationSource(session.stop, feed=feed, progress=session.progress, total=total, save=save)
            self._set_profile(builder, network, config, feed)
        elif weak.table is not None:
            self.scales = assign_ranges(session.api, network, weak.table, inner)
            cache = format_cache(self.scales.amax, str(session.api.__version__), weak.algorithm)
            self.source = CalibrationSource(session.stop, cache=cache)
        else:
            raise BuildError(
                "The plan has INT8 nodes, and there is neither a calibration table nor a batch to calibrate on.",
                "Calibrate first, or name a cache with --calib-cache.",
            )
        self.calibrator = make_calibrator(session.api, weak.algorithm, self.source)
        config.int8_calibrator = self.calibrator

    def _set_profile(
        self, builder: trt.Builder, network: trt.INetworkDefinition, config: trt.IBuilderConfig, feed: BatchFeed
    ) -> None:
        """Calibrate at the size of the batches: the usual size of the engine's own profile may be another."""
        dynamic = [name for name, shape in get_input_shapes(network).items() if -1 in shape]
        if not dynamic:
            return
        profile = builder.create_optimization_profile()
        for name in dynamic:
            batch = feed.shapes[name]
            profile.set_shape(name, batch, batch, batch)
        if not config.set_calibration_profile(profile):
            raise self.session.build_error("the calibration profile was refused")

    def own_table(self) -> Mapping[str, float] | None:
        """The table that TensorRT made itself."""
        written = self.source.written if self.source is not None and self.weak.batches is not None else None
        return None if written is None else CalibrationTable.loads(written.decode("utf-8"), "TensorRT's calibration")

    def close(self) -> None:
        """Free the batches' memory."""
        if self.source is not None and self.source.feed is not None:
            self.source.feed.close()
