"""Every use of `tensorrt` in the adapters, found in their code and looked up in the library's surface.

Types are followed from three sources: annotations (``network: trt.INetworkDefinition``), constructors, and the return
types in the library's own signatures. What this cannot follow would go unnoticed, so a test builds with the twin, which
notes every access at run time, and holds those against what was collected here.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from contract.surface_data import Surface

MODULE = ("module", "")
Type = tuple[str, Any] | None
"""("module", ""), ("class", name), ("instance", name), ("method", (class, name)), ("list", type) or unknown."""

_MODULE_NAMES = {"trt", "api"}


@dataclass(frozen=True)
class Use:
    """One use; ``kind`` is attribute, write, call or override."""

    file: str
    line: int
    owner: str
    member: str
    kind: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.owner or 'tensorrt'}.{self.member} ({self.kind})"


@dataclass
class Shared:
    """What the adapters say of themselves across files: types of their own functions' results and of attributes."""

    returns: dict[str, Type] = field(default_factory=dict)
    attributes: dict[str, Type] = field(default_factory=dict)

    def read(self, tree: ast.Module) -> None:
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and (found := annotated(node.returns)):
                self.returns[node.name] = found
            elif isinstance(node, ast.AnnAssign) and (found := annotated(node.annotation)):
                name = getattr(node.target, "attr", getattr(node.target, "id", ""))
                self.attributes[name] = found


def annotated(node: ast.expr | None) -> Type:
    """The library type in an annotation: ``trt.X``, ``trt.X | None`` or ``Sequence[trt.X]``."""
    if isinstance(node, ast.BinOp):
        return annotated(node.left) or annotated(node.right)
    if isinstance(node, ast.Subscript):
        inner = annotated(node.slice)
        return ("list", inner) if inner else None
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "trt":
        return ("instance", node.attr)
    return None


class Checker(ast.NodeVisitor):
    """Walks one file; collects uses and what is wrong with them."""

    def __init__(self, file: str, surface: Surface, shared: Shared) -> None:
        self.file, self.surface, self.shared = file, surface, shared
        self.classes: dict[str, dict[str, str]] = surface["classes"]
        self.uses: list[Use] = []
        self.errors: list[str] = []
        self.scopes: list[dict[str, Type]] = [{}]
        self.local_classes: dict[str, ast.ClassDef] = {}

    # -- looking up

    def member(self, owner: str, name: str) -> str | None:
        """The signature of a member, inherited ones included; None where there is none."""
        if name in self.classes.get(owner, {}):
            return self.classes[owner][name]
        for base in self.surface["bases"].get(owner, []):
            if (found := self.member(base, name)) is not None:
                return found
        return "" if f"{owner}.{name}" in self.classes else None

    def note(self, node: ast.AST, owner: str, member: str, kind: str) -> None:
        self.uses.append(Use(self.file, getattr(node, "lineno", 0), owner, member, kind))

    def wrong(self, node: ast.AST, text: str) -> None:
        self.errors.append(f"{self.file}:{getattr(node, 'lineno', 0)}: {text}")

    def type_of(self, node: ast.expr) -> Type:
        """The type of an expression; every library member inside it is noted and looked up."""
        method = getattr(self, f"_type_{type(node).__name__}", None)
        if method is not None:
            found: Type = method(node)
            return found
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self.type_of(child)
            else:
                self.visit(child)
        return None

    def _type_Name(self, node: ast.Name) -> Type:
        for scope in reversed(self.scopes):
            if node.id in scope:
                return scope[node.id]
        return MODULE if node.id in _MODULE_NAMES else None

    def _type_Attribute(self, node: ast.Attribute) -> Type:
        base = self.type_of(node.value)
        if base is None:
            return MODULE if node.attr == "api" else self.shared.attributes.get(node.attr)
        kind, owner = base
        if kind == "module":
            return self._module_member(node)
        if kind in {"class", "instance"}:
            return self._class_member(node, kind, owner)
        return None

    def _module_member(self, node: ast.Attribute) -> Type:
        if node.attr == "__version__":
            return None
        self.note(node, "", node.attr, "attribute")
        if node.attr in self.classes:
            return ("class", node.attr)
        if node.attr not in self.surface["functions"]:
            self.wrong(node, f"tensorrt has no {node.attr}")
        return None

    def _class_member(self, node: ast.Attribute, kind: str, owner: str) -> Type:
        if owner not in self.classes:
            self.wrong(node, f"tensorrt has no {owner}")
        if owner not in self.classes or node.attr == "__class__":
            return None
        signature = self.member(owner, node.attr)
        writes = isinstance(node.ctx, ast.Store)
        self.note(node, owner, node.attr, "write" if writes else "attribute")
        if signature is None:
            self.wrong(node, f"{owner} has no {node.attr}")
        elif writes and not signature.startswith("[rw]"):
            self.wrong(node, f"{owner}.{node.attr} cannot be set")
        elif signature.startswith("["):
            return self.named(signature.partition("] ")[2])
        elif signature:
            return ("method", (owner, node.attr, kind == "class"))
        elif f"{owner}.{node.attr}" in self.classes:
            return ("class", f"{owner}.{node.attr}")
        elif kind == "class":
            return ("instance", owner)  # a member of an enum
        return None

    def named(self, text: str) -> Type:
        name = text.strip().removeprefix("trt.").replace("nvonnxparser::I", "")
        return ("instance", name) if name in self.classes else None

    def _type_Call(self, node: ast.Call) -> Type:
        called = self.type_of(node.func)
        for argument in (*node.args, *(keyword.value for keyword in node.keywords)):
            self.type_of(argument)
        if called is None:
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            return MODULE if name in {"_library", "library"} else self.shared.returns.get(name)
        kind, target = called
        if kind == "class":
            self._check_call(node, target, "__init__", bound=True)
            return ("instance", target)
        if kind == "method":
            owner, name, unbound = target
            return self._check_call(node, owner, name, bound=not unbound)
        return None

    def _check_call(self, node: ast.Call, owner: str, name: str, *, bound: bool) -> Type:
        self.note(node, owner, name, "call")
        signatures = (self.member(owner, name) or "").split(" | ")
        if not any(accepts(s, len(node.args) + bound, [k.arg or "" for k in node.keywords]) for s in signatures):
            self.wrong(node, f"{owner}.{name} does not take these arguments: {signatures}")
        return self.named(signatures[0].rpartition(" -> ")[2])

    def _type_Subscript(self, node: ast.Subscript) -> Type:
        base = self.type_of(node.value)
        self.type_of(node.slice)
        return base[1] if base and base[0] == "list" else None

    def _type_IfExp(self, node: ast.IfExp) -> Type:
        self.type_of(node.test)
        first, second = self.type_of(node.body), self.type_of(node.orelse)
        return first or second

    def _type_ListComp(self, node: ast.ListComp | ast.GeneratorExp | ast.SetComp) -> Type:
        self.scopes.append({})
        for generator in node.generators:
            self.bind(generator.target, self.element(generator.iter))
            for test in generator.ifs:
                self.type_of(test)
        inner = self.type_of(node.elt)
        self.scopes.pop()
        return ("list", inner) if inner else None

    _type_GeneratorExp = _type_SetComp = _type_ListComp  # noqa: N815

    def _type_DictComp(self, node: ast.DictComp) -> Type:
        self.scopes.append({})
        for generator in node.generators:
            self.bind(generator.target, self.element(generator.iter))
        self.type_of(node.key)
        self.type_of(node.value)
        self.scopes.pop()
        return None

    def element(self, node: ast.expr) -> Type:
        """The type of what iterating over ``node`` gives; of enumerate's pairs, that of the second."""
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "enumerate":
            inner = self.type_of(node.args[0])
            return ("pair", inner[1]) if inner and inner[0] == "list" else None
        found = self.type_of(node)
        return found[1] if found and found[0] == "list" else None

    def bind(self, target: ast.expr, found: Type) -> None:
        if isinstance(target, ast.Name):
            self.scopes[-1][target.id] = found
        elif isinstance(target, ast.Tuple) and found and found[0] == "pair":
            self.bind(target.elts[1], found[1])
        elif isinstance(target, ast.Tuple):
            for element in target.elts:
                self.bind(element, None)
        else:
            self.type_of(target)

    # -- statements

    def generic_visit(self, node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self.type_of(child)
            else:
                self.visit(child)

    def visit_Assign(self, node: ast.Assign) -> None:
        found = self.type_of(node.value)
        for target in node.targets:
            self.bind(target, found)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.type_of(node.value)
        self.bind(node.target, annotated(node.annotation))

    def visit_For(self, node: ast.For) -> None:
        self.bind(node.target, self.element(node.iter))
        for child in (*node.body, *node.orelse):
            self.visit(child)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        self.scopes.append({a.arg: MODULE if a.arg in _MODULE_NAMES else annotated(a.annotation) for a in arguments})
        for default in node.args.defaults:
            self.type_of(default)
        for child in node.body:
            self.visit(child)
        self.scopes.pop()

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.local_classes[node.name] = node
        owners = [found[1] for base in node.bases if (found := self.type_of(base)) and found[0] == "class"]
        names = [base.id for base in node.bases if isinstance(base, ast.Name)]
        defined = [node, *(self.local_classes[name] for name in names if name in self.local_classes)]
        for owner in owners:
            for made in defined:
                for method in made.body:
                    if isinstance(method, ast.FunctionDef) and not method.name.startswith("_"):
                        self._check_override(method, owner)
        for child in node.body:
            self.visit(child)

    def _check_override(self, method: ast.FunctionDef, owner: str) -> None:
        self.note(method, owner, method.name, "override")
        signature = self.member(owner, method.name)
        if signature is None:
            self.wrong(method, f"{owner} has no {method.name} to override")
        elif len(parameters(signature)) != len(method.args.args):
            self.wrong(method, f"{owner}.{method.name} takes other arguments: {signature}")

    def visit_If(self, node: ast.If) -> None:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return
        self.generic_visit(node)


def parameters(signature: str) -> list[str]:
    """The parameters of one signature, ``name: type = default`` each, split at the commas outside of brackets."""
    inside = signature.partition("(")[2].rpartition(") -> ")[0]
    parts, depth = [""], 0
    for letter in inside:
        depth += (letter in "([<") - (letter in ")]>")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


def accepts(signature: str, positional: int, keywords: list[str]) -> bool:
    """Whether a call fits: ``positional`` counts ``self``."""
    if not signature:
        return positional <= 1 and not keywords
    wanted = parameters(signature)
    names = [part.partition(":")[0].strip() for part in wanted]
    required = {name for name, part in zip(names, wanted, strict=True) if "=" not in part}
    given = {*names[:positional], *keywords}
    return positional <= len(names) and set(keywords) <= set(names[positional:]) and required <= given


def check(sources: dict[str, str], wanted: list[str], surface: Surface) -> tuple[list[Use], list[str]]:
    """Uses in the files ``wanted`` and what ``surface`` does not have; ``sources`` are all adapters' texts."""
    trees = {name: ast.parse(text) for name, text in sources.items()}
    shared = Shared()
    for tree in trees.values():
        shared.read(tree)
    uses: list[Use] = []
    errors: list[str] = []
    for name in wanted:
        checker = Checker(name, surface, shared)
        checker.visit(trees[name])
        uses += checker.uses
        errors += checker.errors
    return uses, errors


def read_sources(folder: Path) -> dict[str, str]:
    """The files in ``folder`` that speak of the library."""
    texts = {path.name: path.read_text() for path in sorted(folder.glob("*.py"))}
    return {name: text for name, text in texts.items() if any(_speaks(node) for node in ast.walk(ast.parse(text)))}


def _speaks(node: ast.AST) -> bool:
    return (isinstance(node, ast.Name) and node.id in _MODULE_NAMES) or (
        isinstance(node, ast.Attribute) and node.attr == "api"
    )
