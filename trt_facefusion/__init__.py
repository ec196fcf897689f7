"""trt-facefusion: TensorRT FP16 and INT8 engines for face-swap generators, proven on faces."""

import os

# ONNX Runtime reads this once, when it is imported: it would otherwise keep a database of events in the user's cache
# and send it to its maker. Whoever wants that sets it to 0 beforehand.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"
