"""What channels go through on their way to a quantiser: in constants of the graph, or in nodes in front of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from trt_facefusion.model.graph import GraphView
from trt_facefusion.quantization.calibration.cache import Calibration
from trt_facefusion.quantization.calibration.threshold_choice import ChannelForm
from trt_facefusion.quantization.correction.channel_affine import Affine, Affines, name_equalised, name_unshifted
from trt_facefusion.quantization.folding import fold_scales
from trt_facefusion.quantization.lowering.equalise import find_equalisable


@dataclass(frozen=True)
class Channels:
    """The graph that is lowered, and what is left to be done in front of its quantisers.

    Attributes:
        view: the network as it was prepared, perhaps with scales of channels in its constants.
        affines: scale and shift of tensors of ``view``, by nodes of their own.
        range_names: tensor -> the name that the calibration has the range under that its quantiser sees; for tensors
            whose channels are scaled, wherever that is done.
        folded: tensors whose scale is in the constants of ``view``, as a whole.
        refused: tensor -> why its scale could not be folded, where scales are.
    """

    view: GraphView
    affines: Affines = field(default_factory=dict)
    range_names: Mapping[str, str] = field(default_factory=dict)
    folded: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)

    def name_range(self, tensor: str) -> str:
        """What the calibration calls that which a quantiser of ``tensor`` sees."""
        return self.range_names.get(tensor, tensor)

    def place_ranges(self, table: Mapping[str, float]) -> dict[str, float]:
        """``table`` as `lower` reads it for ``view`` and ``affines``."""
        return {
            **table,
            **{
                name_equalised(tensor) if tensor in self.affines else tensor: table[name]
                for tensor, name in self.range_names.items()
                if name in table
            },
        }


def read_channels(view: GraphView, calibration: Calibration, *, folds: bool) -> Channels:
    """What the choice of a calibration has channels go through; where it made none, all scales and shifts.

    Where the backend does not let scales be folded (``folds``), they are nodes in front of quantisers.
    """
    form = ChannelForm() if calibration.choice is None else calibration.choice.form
    return make_channels(view, calibration, replace(form, folded=form.folded and folds))


def make_channels(view: GraphView, calibration: Calibration, form: ChannelForm) -> Channels:
    """What channels go through in this ``form``, with the scales and shifts that the calibration counted behind."""
    if not form.scaled:
        return Channels(view)
    affines, names = dict[str, Affine](), dict[str, str]()
    candidates = None if form.folded else find_equalisable(view)
    for name, counted in read_affines(calibration).items():
        affine = counted if form.shifted else counted.without_shift()
        if (affine.shifts or affine.scales) and (candidates is None or name in candidates):
            affines[name] = affine
            names[name] = name_unshifted(name) if counted.shifts and not form.shifted else name_equalised(name)
    if not form.folded:
        return Channels(view, affines, names)
    result = fold_scales(view, affines)
    left = {name for name, affine in result.remaining.items() if affine.scales}
    folded = tuple(name for name in names if name in result.exponents and name not in left)
    return Channels(result.view, result.remaining, names, folded, result.refused)


def pick_scaled_ranges(table: Mapping[str, float], view: GraphView) -> dict[str, float]:
    """The ranges in ``table`` that tensors of ``view`` have behind scales and shifts of their channels."""
    tensors = (*view.input_names, *view.producer)
    names = [name for tensor in tensors for name in (name_equalised(tensor), name_unshifted(tensor))]
    return {name: table[name] for name in names if name in table}


def read_affines(calibration: Calibration) -> Affines:
    """The scales and shifts that a calibration counted behind."""
    return {
        name: Affine(
            np.array(values, np.int8),
            np.array(calibration.offsets.get(name, (0.0,) * len(values)), np.float32),
        )
        for name, values in calibration.exponents.items()
    }
