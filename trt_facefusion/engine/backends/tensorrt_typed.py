"""Strongly typed builds: TensorRT 11, TensorRT-RTX, and TensorRT 10 where it is given a typed ONNX only."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from trt_facefusion.engine.backends.base import BuildRequest
from trt_facefusion.engine.backends.session import Session, add_profile
from trt_facefusion.engine.backends.tensorrt_config import NO_TIMINGS, TimingCache

if TYPE_CHECKING:
    import tensorrt as trt


def build_typed(
    session: Session,
    request: BuildRequest,
    configure: Callable[[trt.IBuilderConfig], None],
    timings: TimingCache = NO_TIMINGS,
) -> bytes:
    """The engine of ``request.model``, whose casts and Q/DQ say every type; ``configure`` sets the rest.

    Raises:
        BuildError: the network was refused.
    """
    trt = session.api
    builder = session.builder()
    # Version 11 knows nothing else and passes the flag over; version 10 would choose types itself without it.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    session.parse(network, request.model)
    config = builder.create_builder_config()
    configure(config)
    add_profile(session, builder, network, config, request.shapes)
    timings.load(config)
    serialised = bytes(session.build_engine(builder, network, config))
    timings.save(config)
    return serialised
