"""Which rule a table follows, tensor by tensor, and what that was found by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from trt_facefusion.errors import BadInputError
from trt_facefusion.quantization.calibration.thresholds import parse_rule
from trt_facefusion.storage.documents import DocumentError, decode


@dataclass(frozen=True)
class TensorChoice:
    """A tensor whose rule differs from the table's.

    ``gain``: mean SSIM won over the rule before on the faces that it was chosen on; ``confirmed``: on the others.
    """

    rule: str
    instead_of: str
    gain: float
    confirmed: float

    @property
    def reason(self) -> str:
        """Why, for a person."""
        return (
            f"{self.rule} instead of {self.instead_of}: SSIM +{self.gain:.3%} on the faces that chose it, "
            f"{self.confirmed:+.3%} on others"
        )


@dataclass(frozen=True)
class ChannelForm:
    """What channels go through before they are quantised.

    ``scaled``: anything at all. ``folded``: scales are in the constants that make a tensor, as far as that is possible;
    otherwise all are nodes in front of quantisers. ``shifted``: those tensors are shifted that gain by it, by nodes.
    """

    scaled: bool = True
    folded: bool = False
    shifted: bool = True

    @property
    def label(self) -> str:
        """The form in a few words, for what is told and recorded; empty where nothing is done."""
        if not self.scaled:
            return ""
        return f"{'folded' if self.folded else 'equalised'}{'' if self.shifted else ', not shifted'}"


@dataclass(frozen=True)
class ThresholdChoice:
    """The rule of a table, and of the tensors that have one of their own.

    ``asked`` is what the user named (``auto`` or a rule); ``tried`` the mean SSIM drop of every whole table that was
    compared; ``trials`` how many thresholds of single tensors were; ``ssim_drop`` what the final table loses.
    ``quantised`` are the tensors that the plan reads in INT8, as the histograms call them. ``key`` names all that the
    choice depends on besides the histograms. ``equalised``, ``folded`` and ``shifted`` are its `ChannelForm`.
    """

    asked: str
    rule: str
    equalised: bool
    tried: Mapping[str, float]
    tensors: Mapping[str, TensorChoice] = field(default_factory=dict)
    faces: int = 0
    trials: int = 0
    ssim_drop: float = 0.0
    quantised: tuple[str, ...] = ()
    key: str = ""
    folded: bool = False
    shifted: bool = True

    @property
    def form(self) -> ChannelForm:
        """What channels go through."""
        return ChannelForm(self.equalised, self.folded, self.shifted)

    def as_dict(self) -> dict[str, Any]:
        """The choice as JSON holds it, with the reasons in words."""
        tensors = {name: {**asdict(choice), "reason": choice.reason} for name, choice in self.tensors.items()}
        return {**asdict(self), "tried": dict(self.tried), "quantised": list(self.quantised), "tensors": tensors}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> ThresholdChoice:
        """The choice that `as_dict` described. Raises DocumentError where it is damaged."""
        choice = decode(cls, document, "choice", lenient=True)
        for name, rule in [
            ("choice", choice.rule),
            *((f"choice.tensors.{n}", t.rule) for n, t in choice.tensors.items()),
        ]:
            try:
                parse_rule(rule)
            except BadInputError as error:
                raise DocumentError(f"{name}.rule: {error}") from error
        return choice
