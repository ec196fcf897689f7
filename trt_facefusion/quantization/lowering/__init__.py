"""Plan + calibration table -> what an engine maker understands."""

from trt_facefusion.quantization.lowering.integer import (
    find_nine_bit_candidates,
    find_storable_results,
    lower_to_integers,
)
from trt_facefusion.quantization.lowering.typed import lower

__all__ = ["find_nine_bit_candidates", "find_storable_results", "lower", "lower_to_integers"]
