"""trt-facefusion: TensorRT FP16 and INT8 engines for face-swap generators, proven on faces."""

__version__ = "0.1.0"
