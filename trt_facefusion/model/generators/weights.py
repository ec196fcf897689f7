"""The packaged weights of the reference generator."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from trt_facefusion.model.generators.checkpoint import load_weights, read_state

if TYPE_CHECKING:
    from trt_facefusion.model.generators.reference import ReferenceGenerator

REFERENCE_WEIGHTS = Path(__file__).parent / "reference.safetensors"
"""FP16 weights; the model card beside it says how they were trained and what they reach."""


def load_reference(weights: Path = REFERENCE_WEIGHTS) -> ReferenceGenerator:
    """The trained reference generator, in FP32 and evaluation mode.

    Raises:
        ModelError: the file cannot be read, or its weights do not fit.
    """
    from trt_facefusion.model.generators.reference import ReferenceGenerator

    net = ReferenceGenerator()
    load_weights(net, read_state(weights), weights)
    return net
