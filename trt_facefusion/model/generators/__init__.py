"""The reference generator in torch, its weights, and the safe loading of a user's checkpoint."""

from trt_facefusion.model.generators.checkpoint import load_weights, read_state, read_weights
from trt_facefusion.model.generators.factory import build_from_factory
from trt_facefusion.model.generators.weights import REFERENCE_WEIGHTS, load_reference

__all__ = ["REFERENCE_WEIGHTS", "build_from_factory", "load_reference", "load_weights", "read_state", "read_weights"]
