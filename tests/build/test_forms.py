"""Forms of the graph are named one by one; what is not named stays as the backend has it."""

from __future__ import annotations

import pytest
from tiny import Settings

from trt_facefusion.build.forms import FORMS, change_rules, parse_forms
from trt_facefusion.build.inputs import read_inputs
from trt_facefusion.build.job import open_job
from trt_facefusion.build.stages import Stages
from trt_facefusion.errors import BadInputError
from trt_facefusion.quantization.lowering import FusionRules
from trt_facefusion.types import Precision


def test_only_what_is_named_changes() -> None:
    assert parse_forms("auto") == {}
    assert parse_forms("flat-norms, no-shifts") == {"flat-norms": True, "shifts": False}
    rules = FusionRules(shared_weight_scales=True)
    assert change_rules(rules, parse_forms("auto")) == rules
    assert change_rules(rules, parse_forms("flat-norms")) == FusionRules(shared_weight_scales=True, flat_norms=True)
    assert change_rules(rules, parse_forms("no-shared-weight-scales,typed")) == FusionRules()


@pytest.mark.parametrize("text", ["fast", "", "flat-norms,", "shifts,no-shifts", "no-auto"])
def test_what_is_no_form_is_refused_before_anything_is_read(settings: Settings, text: str) -> None:
    with pytest.raises(BadInputError, match="--forms") as error:
        open_job(settings(forms=text))
    assert all(form in error.value.remedy for form in FORMS)


def test_the_graph_is_written_in_the_form_that_was_named(settings: Settings) -> None:
    norms = {}
    for forms in ("auto", "flat-norms"):
        stages = Stages(read_inputs(open_job(settings(forms=forms))))
        typed = stages.lower(stages.make_plan(Precision.FP16)).typed
        norms[forms] = sum(node.op_type == "InstanceNormalization" for node in typed.graph.node)
    assert norms == {"auto": 2, "flat-norms": 0}
