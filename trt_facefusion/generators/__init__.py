"""The reference generator in torch, its weights, and the safe loading of a user's checkpoint."""

from trt_facefusion.generators.checkpoint import build_from_factory, load_weights, read_state
from trt_facefusion.generators.weights import REFERENCE_WEIGHTS, load_reference

__all__ = ["REFERENCE_WEIGHTS", "build_from_factory", "load_reference", "load_weights", "read_state"]
