"""What channels go through on their way to a quantiser: in constants of the graph, or in nodes in front of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from trt_facefusion.model.graph import GraphView
from trt_facefusion.quantization.calibration.cache import Calibration
from trt_facefusion.quantization.calibration.threshold_choice import ChannelForm
from trt_facefusion.quantization.correction.channel_affine import Affine, Affines, name_equalised, name_folded
from trt_facefusion.quantization.folding import fold_scales


@dataclass(frozen=True)
class Channels:
    """The graph that is lowered, and what is left to be done in front of its quantisers.

    Attributes:
        view: the network as it was prepared, perhaps with scales of channels in its constants.
        affines: scale and shift of tensors of ``view``, by nodes of their own.
        folded: tensors whose scale is in the constants of ``view``.
    """

    view: GraphView
    affines: Affines = field(default_factory=dict)
    folded: frozenset[str] = frozenset()

    def name_range(self, tensor: str) -> str:
        """The name under which the calibration has what a quantiser of ``tensor`` sees."""
        if tensor in self.affines:
            return name_equalised(tensor)
        return name_folded(tensor) if tensor in self.folded else tensor

    def place_ranges(self, table: Mapping[str, float]) -> dict[str, float]:
        """``table`` as `lower` reads it: a tensor of ``view`` whose scale was folded has its range by its own name."""
        own = {name: table[name_folded(name)] for name in self.folded if name_folded(name) in table}
        return {**table, **own}


def pick_scaled_ranges(table: Mapping[str, float], view: GraphView) -> dict[str, float]:
    """The ranges in ``table`` that tensors of ``view`` have behind scales of their channels, in whatever form."""
    tensors = (*view.input_names, *view.producer)
    names = [name for tensor in tensors for name in (name_equalised(tensor), name_folded(tensor))]
    return {name: table[name] for name in names if name in table}


def read_channels(view: GraphView, calibration: Calibration, *, folds: bool) -> Channels:
    """What the choice of a calibration has channels go through; where it made none, all scales and shifts.

    Where the backend does not let scales be folded (``folds``), they are nodes in front of quantisers.
    """
    form = ChannelForm() if calibration.choice is None else calibration.choice.form
    return make_channels(view, calibration, ChannelForm() if form.folded and not folds else form)


def make_channels(view: GraphView, calibration: Calibration, form: ChannelForm) -> Channels:
    """What channels go through in this ``form``, with the scales and shifts that the calibration counted behind."""
    if not form.scaled:
        return Channels(view)
    affines = read_affines(calibration)
    if not form.folded:
        return Channels(view, affines)
    folded = {name: _read_affine(values) for name, values in calibration.folded.items()}
    explicit = {name: affine for name, affine in affines.items() if name in form.explicit}
    result = fold_scales(view, folded, explicit)
    return Channels(result.view, result.remaining, frozenset(folded))


def read_affines(calibration: Calibration) -> Affines:
    """The scales and shifts in front of quantisers that a calibration counted behind."""
    return {name: _read_affine(values, calibration.offsets.get(name)) for name, values in calibration.exponents.items()}


def _read_affine(exponents: tuple[int, ...], offsets: tuple[float, ...] | None = None) -> Affine:
    return Affine(np.array(exponents, np.int8), np.array(offsets or (0.0,) * len(exponents), np.float32))
