"""Scales of channels that cost nothing at run time: moved upstream, into weights, biases and other constants.

A scale in front of a quantiser is an elementwise product of its own, and keeps a compiler from fusing the quantiser
into what makes the tensor. A power of two passes unchanged through rectifiers, resizes, pooling, padding and
concatenations, so it can as well be part of the weights that made the tensor. The graph that results is the same one in
exact arithmetic, and all that reads a scaled tensor undoes the scale in constants of its own.

Shifts are not moved: a rectifier or a zero padding between the constant and the quantiser would see another zero.

May import: the ground, `model`, and of `quantization` what stands above `folding/` in its list.

Modules, from the ground up:

    ties        which channels of a graph have to be scaled alike, and which cannot be scaled at all
    constants   a graph whose constants are multiplied with powers of two
    arithmetic  operators with constants that take scales in
    moves       operators that pass scales on
    operators   every operator that scales pass, and how
    choose      the exponents of channels that have to be scaled alike
    unfold      a lowered graph with its scales taken out again, to be compared tensor by tensor
    fold        a graph with scales of channels folded into it

Start reading at `fold.fold_scales`; `operators.OPERATORS` is where an operator is added.
"""

from trt_facefusion.quantization.folding.fold import FoldedScales, find_exponents, find_scale_ties, fold_scales
from trt_facefusion.quantization.folding.ties import ScaleTies
from trt_facefusion.quantization.folding.unfold import unfold_scales

__all__ = ["FoldedScales", "ScaleTies", "find_exponents", "find_scale_ties", "fold_scales", "unfold_scales"]
