from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nets import SWAPPER_SHAPES, swapper

from trt_facefusion.errors import PlanError
from trt_facefusion.model.graph import GraphView, prepare
from trt_facefusion.quantization.precision import Plan, loads, plan_by_rules, read_plan
from trt_facefusion.types import Precision

VIEW = GraphView(prepare(swapper(blocks=1), SWAPPER_SHAPES).model)
PLAN = plan_by_rules(VIEW, {}, "swapper")


def load(text: str) -> Plan:
    return loads(text, VIEW, PLAN.model_digest, PLAN.model)


def edited(**changes: object) -> str:
    document = yaml.safe_load(PLAN.dumps())
    for name, precision in changes.items():
        next(row for row in document["nodes"] if row["name"] == name)["precision"] = precision
    return yaml.safe_dump(document)


def refused(text: str) -> str:
    with pytest.raises(PlanError) as error:
        load(text)
    assert error.value.remedy
    return error.value.message


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_any_plan_survives_its_file(data: st.DataObject) -> None:
    nodes = []
    for node in PLAN.nodes:
        allowed = list(Precision) if node.quantisable else [Precision.FP16, Precision.FP32]
        reason = data.draw(st.sampled_from(["rule", "a: b # c", "'", "ü {x}, [y]", "yes", "12", "- x\ny"]))
        nodes.append(replace(node, precision=data.draw(st.sampled_from(allowed)), reason=reason))
    plan = replace(PLAN, nodes=tuple(nodes))
    assert load(plan.dumps()) == plan


def test_a_person_finds_one_line_for_each_node() -> None:
    lines = [line for line in PLAN.dumps().splitlines() if line.startswith("- ")]
    assert len(lines) == len(PLAN.nodes)
    assert "{name: stem, op: Conv, role: first convolution, precision: fp16" in lines[1]


def test_an_edited_plan_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(edited(down1="fp32", tanh="fp16"))
    plan = read_plan(tmp_path / "plan.yaml", VIEW, PLAN.model_digest, "name").by_name()
    assert plan["down1"].precision is Precision.FP32
    assert plan["tanh"].precision is Precision.FP16
    assert plan["down2"] == PLAN.by_name()["down2"]


def test_nodes_that_the_file_leaves_out_stay_fp32() -> None:
    plan = load("schema: 1\nnodes:\n- {name: down1, precision: int8}\n")
    assert plan.names(Precision.INT8) == ("down1",)
    assert len(plan.names(Precision.FP32)) == len(PLAN.nodes) - 1
    assert plan.by_name()["down1"].reason == "from the plan file"


def test_unknown_nodes_are_named() -> None:
    assert "conv_of_another_net" in refused("schema: 1\nnodes:\n- {name: conv_of_another_net, precision: fp16}\n")


@pytest.mark.parametrize("precision", ["int4", "INT8", 8, None, [], {"a": 1}])
def test_unknown_precisions_are_refused(precision: object) -> None:
    assert "down1" in refused(edited(down1=precision))


@pytest.mark.parametrize("name", ["block0/add", "tanh", "Pad_0"])
def test_int8_where_it_is_impossible_is_refused(name: str) -> None:
    assert name in refused(edited(**{name: "int8"}))


@pytest.mark.parametrize(
    "text",
    [
        "", "just text", "[1, 2]", "schema: 2\nnodes: []", "nodes: []", "schema: 1", "schema: 1\nnodes: {a: b}",
        "schema: 1\nnodes: [stem]", "schema: 1\nnodes: [{precision: int8}]", "schema: 1\nnodes: [{name: 3}]",
        "a: b: c", "{", "!!python/object/apply:os.system ['true']", "\x00",
    ],
)  # fmt: skip
def test_what_is_no_plan_is_refused(text: str) -> None:
    refused(text)


def test_a_node_named_twice_is_refused() -> None:
    rows = "- {name: down1, precision: int8}\n- {name: down1, precision: fp32}\n"
    assert "down1" in refused(f"schema: 1\nnodes:\n{rows}")


def test_a_plan_of_another_model_is_refused_by_name() -> None:
    text = PLAN.dumps().replace(PLAN.model_digest, "ab" * 32)
    message = refused(text)
    assert "made for another model (swapper, sha256 abababab...)" in message and PLAN.model_digest[:8] in message
    without = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("model_digest"))
    assert load(without) == PLAN  # as the remedy says


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("{name: down1, precision: int8, macs: many}", "nodes[0].macs is 'many', not int"),
        ("{name: down1, precision: int8, macs: -1}", "nodes[0].macs is below 0"),
        ("{name: down1, precision: int8, precisoin: fp16}", "nodes[0].precisoin is unknown"),
        ("{name: down1, precision: int8, op: [Conv]}", "nodes[0].op is a list of 1, not str"),
        ("{name: down1, precision: &x int8, reason: *x}", "alias"),
    ],
)
def test_a_field_that_does_not_fit_is_named(row: str, told: str) -> None:
    assert told in refused(f"schema: 1\nnodes:\n- {row}\n")


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x80")
    for path in (tmp_path, tmp_path / "missing.yaml", tmp_path / "binary.yaml"):
        with pytest.raises(PlanError, match=path.name):
            read_plan(path, VIEW, "", "")


def test_shares_of_macs_sum_to_one() -> None:
    for plan in (PLAN, PLAN.capped(Precision.FP16), PLAN.capped(Precision.FP32)):
        assert sum(plan.macs_share().values()) == pytest.approx(1)
    assert PLAN.macs_share()["int8"] > 0.5
    assert PLAN.capped(Precision.FP32).macs_share() == {"int8": 0, "fp16": 0, "fp32": 1}


def test_a_capped_plan_keeps_its_protections() -> None:
    half = PLAN.capped(Precision.FP16)
    assert not half.names(Precision.INT8)
    assert half.names(Precision.FP32) == PLAN.names(Precision.FP32)
    assert "fp16" in half.by_name()["down1"].reason
    assert half.by_name()["stem"] == PLAN.by_name()["stem"]
    assert PLAN.capped(Precision.INT8) == PLAN


def test_raising_changes_the_int8_nodes_that_are_named_and_no_others() -> None:
    protected = PLAN.names(Precision.FP32)[0]
    raised = PLAN.raised({"down1": "costs most", protected: "must not fall"})
    assert (raised.by_name()["down1"].precision, raised.by_name()["down1"].reason) == (Precision.FP16, "costs most")
    assert raised.by_name()[protected] == PLAN.by_name()[protected]
    assert raised.names(Precision.INT8) == tuple(name for name in PLAN.names(Precision.INT8) if name != "down1")
