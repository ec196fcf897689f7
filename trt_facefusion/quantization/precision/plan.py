"""The plan: which precision every node gets, and why. It belongs to no backend and is kept as YAML."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from trt_facefusion.errors import PlanError
from trt_facefusion.model.graph import GraphView, Role, classify, count_macs, read_attribute
from trt_facefusion.quantization.precision.facts import no_kernel
from trt_facefusion.storage.documents import LATER, DocumentError, decode, read_bytes
from trt_facefusion.storage.plain_yaml import LARGEST_BYTES, parse_yaml
from trt_facefusion.text import printable
from trt_facefusion.types import Precision

SCHEMA = 1
_REMEDY = "start from a plan.yaml that a build wrote, and change only `precision` and `reason`"

_HEADER = """\
# Precision plan: every node of the network, its precision and the reason.
# Edit `precision` (int8 | fp16 | fp32) and pass the file back with --plan. Only nodes marked `quantisable` can be int8.
"""


@dataclass(frozen=True)
class PlannedNode:
    """One node's line of the plan.

    ``macs`` is for a batch of one; ``quantisable``: INT8 is possible at all; ``weight`` says which layer it is.
    """

    name: str
    op: str
    role: Role
    precision: Precision
    reason: str
    macs: int = 0
    quantisable: bool = False
    weight: str = ""


@dataclass(frozen=True)
class Plan:
    """The nodes in graph order, and the digest of the prepared model they belong to."""

    model: str
    model_digest: str
    nodes: tuple[PlannedNode, ...]

    def names(self, precision: Precision) -> tuple[str, ...]:
        """Nodes of one precision, in graph order."""
        return tuple(n.name for n in self.nodes if n.precision is precision)

    def by_name(self) -> dict[str, PlannedNode]:
        """The nodes by name."""
        return {node.name: node for node in self.nodes}

    def macs_share(self) -> dict[str, float]:
        """Share of the MACs in each precision (they sum to 1)."""
        counts: Counter[Precision] = Counter()
        for node in self.nodes:
            counts[node.precision] += node.macs
        total = sum(counts.values()) or 1
        return {precision.value: counts[precision] / total for precision in Precision}

    def capped(self, precision: Precision) -> Plan:
        """The plan with nothing cheaper than ``precision``: the same protections, one step up the fall-back chain."""
        order = list(Precision)
        floor = order.index(precision)
        nodes = tuple(
            n
            if order.index(n.precision) >= floor
            else replace(n, precision=precision, reason=f"engine precision is {precision.value}")
            for n in self.nodes
        )
        return replace(self, nodes=nodes)

    def assigned(self, decisions: Mapping[str, tuple[Precision, str]]) -> Plan:
        """The plan with other precisions for some nodes; ``decisions`` maps names to precision and reason."""
        nodes = tuple(
            replace(n, precision=decisions[n.name][0], reason=decisions[n.name][1]) if n.name in decisions else n
            for n in self.nodes
        )
        return replace(self, nodes=nodes)

    def raised(self, changes: Mapping[str, str]) -> Plan:
        """The plan with INT8 nodes raised to FP16; ``changes`` maps names to reasons."""
        nodes = tuple(
            replace(n, precision=Precision.FP16, reason=changes[n.name])
            if n.name in changes and n.precision is Precision.INT8
            else n
            for n in self.nodes
        )
        return replace(self, nodes=nodes)

    def dumps(self) -> str:
        """The plan as YAML."""
        rows = [
            {"name": n.name, "op": n.op, "role": n.role.value, "precision": n.precision.value, "reason": n.reason}
            | ({"macs": n.macs} if n.macs else {})
            | ({"quantisable": True} if n.quantisable else {})
            for n in self.nodes
        ]
        head = yaml.safe_dump({"schema": SCHEMA, "model": printable(self.model), "model_digest": self.model_digest})
        # One flow-style line a node: a person compares and edits lines, not blocks.
        lines = [yaml.safe_dump(row, default_flow_style=True, sort_keys=False, width=10_000).strip() for row in rows]
        return _HEADER + head + "nodes:\n" + "".join(f"- {line}\n" for line in lines)


def quantisable(view: GraphView, name: str) -> bool:
    """Whether INT8 can be asked for: a convolution or linear layer with constant weights of a supported form.

    What no backend at hand runs in INT8 is out (`facts`); what some do not, they raise.
    """
    node = view.nodes[name]
    weight = view.weight(node)
    if weight is None or no_kernel(view, name, transposes=True) is not None:
        return False
    if node.op_type == "Gemm":
        return (
            read_attribute(node, "alpha", 1.0) == 1.0
            and read_attribute(node, "beta", 1.0) == 1.0
            and not read_attribute(node, "transA", 0)
        )
    if node.op_type == "ConvTranspose":
        return read_attribute(node, "group", 1) == 1
    return node.op_type == "Conv" or len(view.shape(weight) or ()) == 2


def describe(view: GraphView) -> tuple[PlannedNode, ...]:
    """All plannable nodes in FP32, without reasons: what rules and plan files fill in."""
    roles, counts = classify(view), count_macs(view)
    return tuple(
        PlannedNode(
            node.name,
            node.op_type,
            roles[node.name],
            Precision.FP32,
            "",
            counts.get(node.name, 0),
            quantisable(view, node.name),
            view.weight(node) or "",
        )
        for node in view.float_nodes()
    )


def loads(text: str, view: GraphView, digest: str, model: str) -> Plan:
    """The plan in ``text``, checked against the model it is for. Nodes it leaves out stay as ``FP32``.

    Raises:
        PlanError: not YAML, not a plan, another schema or model, unknown or repeated nodes, unknown precisions, INT8
            where it is impossible.
    """
    document = _parse_document(text)
    rows = _check_rows(document)
    nodes = {node.name: node for node in describe(view)}
    unknown = [str(row["name"]) for row in rows if row["name"] not in nodes]
    if unknown:
        raise PlanError(
            f"the plan names {len(unknown)} nodes that the model does not have: {', '.join(unknown[:5])}",
            "it was made for another model or export: make a new one by building without --plan and edit that",
        )
    twice = [name for name, count in Counter(row["name"] for row in rows).items() if count > 1]
    if twice:
        raise PlanError(f"the plan names {', '.join(twice[:5])} more than once", "keep one line for each node")
    for row in rows:
        nodes[row["name"]] = _apply(nodes[row["name"]], row)
    _check_model(document, digest, model)  # last: a node that does not fit says more
    return Plan(model, digest, tuple(nodes.values()))


def read_plan(path: Path, view: GraphView, digest: str, model: str) -> Plan:
    """`loads` of a file."""
    text = _read_text(path)
    try:
        return loads(text, view, digest, model)
    except PlanError as error:
        raise PlanError(f"{path}: {error.message}", error.remedy) from error


def read_rows(path: Path) -> list[dict[str, Any]]:
    """`plan_rows` of a file."""
    text = _read_text(path)
    try:
        return plan_rows(text)
    except PlanError as error:
        raise PlanError(f"{path}: {error.message}", error.remedy) from error


def _read_text(path: Path) -> str:
    remedy = "name a plan.yaml that a build wrote"
    try:
        return read_bytes(path, LARGEST_BYTES).decode("utf-8")
    except UnicodeDecodeError as error:
        raise PlanError(f"{path}: it is not UTF-8", remedy) from error
    except DocumentError as error:
        raise PlanError(f"{path}: {error}", remedy) from error
    except OSError as error:
        raise PlanError(f"cannot read the plan {path}: {error.strerror or error}", remedy) from error


def plan_rows(text: str) -> list[dict[str, Any]]:
    """The entries of a plan's YAML, for showing it without its model.

    Raises:
        PlanError: not YAML, not a plan, another schema, a field of a wrong type.
    """
    rows = _check_rows(_parse_document(text))
    for row in rows:
        _read_precision(row["name"], row)
    return [{**row, "reason": str(row.get("reason") or "")} for row in rows]


@dataclass(frozen=True)
class _Row:
    """What an entry of a plan file may hold; ``precision`` and ``reason`` are what people edit, and are read later."""

    name: str
    op: str = field(default="", metadata=LATER)
    role: str = field(default="", metadata=LATER)
    precision: Any = field(default=None, metadata=LATER)
    reason: Any = field(default=None, metadata=LATER)
    macs: int = field(default=0, metadata=LATER)
    quantisable: bool = field(default=False, metadata=LATER)


def _parse_document(text: str) -> dict[str, Any]:
    try:
        document = parse_yaml(text)
    except DocumentError as error:
        raise PlanError(f"the plan {str(error).removeprefix('it ')}", _REMEDY) from error
    if not isinstance(document, dict) or document.get("schema") != SCHEMA or document["schema"] is True:
        schema = document.get("schema") if isinstance(document, dict) else type(document).__name__
        raise PlanError(f"the plan has schema {schema!r:.40}, this version reads {SCHEMA}", _REMEDY)
    return document


def _check_rows(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] | None = document.get("nodes")
    if not isinstance(rows, list) or not all(isinstance(r, dict) and isinstance(r.get("name"), str) for r in rows):
        raise PlanError("the plan has no list `nodes` whose entries have a `name`", _REMEDY)
    try:
        for number, row in enumerate(rows):
            if decode(_Row, row, f"nodes[{number}]").macs < 0:
                raise DocumentError(f"nodes[{number}].macs is below 0")
    except DocumentError as error:
        raise PlanError(f"the plan is damaged: {error}", _REMEDY) from error
    return [{"op": "", "macs": 0, **row} for row in rows]


def _check_model(document: Mapping[str, Any], digest: str, model: str) -> None:
    """Raise `PlanError` where the plan says that it was made for another model; one that says nothing is taken."""
    made_for = document.get("model_digest")
    if made_for is not None and made_for != digest:
        raise PlanError(
            f"the plan was made for another model ({document.get('model')!s:.60}, sha256 {made_for!s:.8}...), not for "
            f"this one ({model}, {digest:.8}...)",
            "make a plan for this model with `trt-ff plan`; or, if its nodes are these, take the line `model_digest` "
            "out of the file",
        )


def _read_precision(name: str, row: Mapping[str, Any]) -> Precision:
    values = [p.value for p in Precision]
    if row.get("precision") not in values:
        raise PlanError(
            f"the plan gives {name} the precision {row.get('precision')!r:.40}", f"use one of {', '.join(values)}"
        )
    return Precision(row["precision"])


def _apply(node: PlannedNode, row: Mapping[str, Any]) -> PlannedNode:
    precision = _read_precision(node.name, row)
    if precision is Precision.INT8 and not node.quantisable:
        raise PlanError(
            f"the plan puts {node.name} ({node.op}) into int8, which is not possible for this node",
            "give it fp16: only convolutions and linear layers with constant weights run in int8",
        )
    return replace(node, precision=precision, reason=str(row.get("reason") or "from the plan file"))
