"""Strongly typed builds: TensorRT 11, and TensorRT 10 where it is given a typed ONNX only."""

from __future__ import annotations

from trt_facefusion.backends.base import BuildRequest
from trt_facefusion.backends.device import Device
from trt_facefusion.backends.session import Session, add_profile
from trt_facefusion.backends.tensorrt_config import TimingCache, configure


def build_typed(session: Session, request: BuildRequest, device: Device | None) -> bytes:
    """The engine of ``request.model``, whose casts and Q/DQ say every type.

    Raises:
        BuildError: the network was refused.
    """
    trt = session.api
    builder = session.builder()
    # Version 11 knows nothing else and passes the flag over; version 10 would choose types itself without it.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    session.parse(network, request.model)
    config = builder.create_builder_config()
    configure(session, config, request, device)
    add_profile(session, builder, network, config, request.shapes)
    timings = TimingCache.of(request.options.timing_cache, device, str(trt.__version__))
    timings.load(config)
    data = bytes(session.build_engine(builder, network, config))
    timings.save(config)
    return data
