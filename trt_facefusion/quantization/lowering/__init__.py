"""Plan + calibration table -> what an engine maker understands."""

from trt_facefusion.quantization.lowering.integer import lower_to_integers, may_be_finer, results
from trt_facefusion.quantization.lowering.typed import lower

__all__ = ["lower", "lower_to_integers", "may_be_finer", "results"]
