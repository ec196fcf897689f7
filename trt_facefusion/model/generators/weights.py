"""The packaged weights of the reference generator."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from trt_facefusion.model.generators.checkpoint import load_weights, read_state

if TYPE_CHECKING:
    from torch import Tensor

    from trt_facefusion.model.generators.reference import BlendingGenerator, ReferenceGenerator

REFERENCE_WEIGHTS = Path(__file__).parent / "reference.safetensors"
"""FP16 weights; the model card beside it says how they were trained and what they reach."""


def load_reference(weights: Path = REFERENCE_WEIGHTS) -> ReferenceGenerator | BlendingGenerator:
    """The trained reference generator, in FP32 and evaluation mode; the one that blends where the weights fit that.

    Raises:
        ModelError: the file cannot be read, or its weights fit neither.
    """
    state = read_state(weights)
    net = _make_generator(state)
    load_weights(net, state, weights)
    return net


def _make_generator(state: Mapping[str, Tensor]) -> ReferenceGenerator | BlendingGenerator:
    from trt_facefusion.model.generators.reference import BlendingGenerator, ReferenceGenerator

    return BlendingGenerator() if "to_mask.weight" in state else ReferenceGenerator()
