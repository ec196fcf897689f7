"""Forms of the typed graph that a person names, in place of what the backend's compiler is known to make most of.

What a compiler fuses can only be measured, and was for those whose kernels could be read (`docs/fusion.md`). For the
others the same forms can be asked for by name, built, and timed on their GPU (`scripts/gpu_variants.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace

from trt_facefusion.errors import BadInputError
from trt_facefusion.quantization.lowering import FusionRules

AUTO = "auto"
FOLDED, SHIFTED, TYPED = "folded-scales", "shifts", "typed"
_RULES = {rule.name.replace("_", "-"): rule.name for rule in fields(FusionRules)}
FORMS = (*_RULES, FOLDED, SHIFTED, TYPED)
"""The rules of `FusionRules`; scales of channels in constants, where that is possible, in place of nodes in front of
quantisers; shifts of channels; TensorRT 10 builds the typed graph, as others do, in place of choosing types itself."""
_NOT = "no-"


def parse_forms(text: str) -> Mapping[str, bool]:
    """The forms that ``text`` names (``flat-norms,no-shifts``) -> whether they are to be; those of ``auto`` are open.

    Raises:
        BadInputError: there is no such form, or one is named both ways.
    """
    words = [] if text.strip() == AUTO else [word.strip() for word in text.split(",")]
    named: dict[str, bool] = {}
    for word in words:
        form, on = word.removeprefix(_NOT), not word.startswith(_NOT)
        if form not in FORMS or named.setdefault(form, on) != on:
            known = f"{AUTO}, or some of {', '.join(FORMS)}, with commas between; {_NOT} in front leaves one out"
            raise BadInputError(f"--forms: {word!r:.40} is no form, or is named both ways", f"use {known}")
    return named


def change_rules(rules: FusionRules, named: Mapping[str, bool]) -> FusionRules:
    """``rules``, with those of the forms ``named`` that are rules."""
    return replace(rules, **{rule: named[form] for form, rule in _RULES.items() if form in named})
