"""Measures the shape of the code, as a Markdown table: sizes, nesting, imports, arrows between packages, names.

Every figure is read from the syntax tree; nothing is imported or run.

Filler words are the 26 names below that say how the code came by a thing, or that it is one, but not which. Thirteen
are past participles (found, wanted, known, chosen, made, got, seen, kept, given, asked, said, told, taken): a variable
that is called `found` could hold a match, a path or a list of nodes. Thirteen are placeholders (whole, others, thing,
stuff, data, result, value, item, tmp, temp, obj, info, foo) that fit everything. Counted is each place that binds such
a name exactly: an argument, an assignment, a loop, an attribute, a field. Plurals and longer names (`values`,
`value_info`, `batch_result`) say more and are not counted.

Imports of a file are the different modules that it imports, ours and others', also inside functions. Nesting counts the
blocks (if, for, while, with, try, match) around a statement of a function. A duplicate block is six or more lines of
code in a row that stand in another place of the tree as well.
"""

from __future__ import annotations

import argparse
import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TypeGuard

PARTICIPLES = {
    "found", "wanted", "known", "chosen", "made", "got", "seen", "kept", "given", "asked", "said", "told", "taken",
}  # fmt: skip
PLACEHOLDERS = {
    "whole", "others", "thing", "stuff", "data", "result", "value", "item", "tmp", "temp", "obj", "info", "foo",
}  # fmt: skip
FILLER = PARTICIPLES | PLACEHOLDERS
BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.Match)
SHORT_LINES = 20
DUPLICATE_LINES = 6
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
GROUND = "(ground)"


@dataclass(frozen=True)
class Module:
    """One file of the tree: its dotted name from the tree's folder on, and its text."""

    path: Path
    name: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def lines(self) -> int:
        return len(self.text.splitlines())

    @property
    def package(self) -> str:
        """The first folder below the tree's own; the files beside it are the ground."""
        parts = self.name.split(".")
        return parts[1] if len(parts) > 2 else GROUND

    @property
    def subpackage(self) -> str:
        return ".".join(self.name.split(".")[1:-1]) or GROUND

    @cached_property
    def functions(self) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
        return [node for node in ast.walk(self.tree) if isinstance(node, FUNCTIONS)]


def read_modules(tree: Path) -> list[Module]:
    """All modules below ``tree``, a package's folder."""
    modules = []
    for path in sorted(tree.rglob("*.py")):
        parts = path.relative_to(tree.parent).with_suffix("").parts
        modules.append(Module(path, ".".join(parts), path.read_text()))
    return modules


def imported_modules(module: Module, names: frozenset[str]) -> set[str]:
    """Dotted names of what ``module`` imports; ``names`` are the tree's own modules."""
    imports: set[str] = set()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            imports.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.module != "__future__":
            own = {f"{node.module}.{alias.name}" for alias in node.names}
            own = {name for name in own if name in names or f"{name}.__init__" in names}
            imports.update(own)
            if len(own) < len(node.names):
                imports.add(node.module)
    return imports


def count_arrows(modules: Sequence[Module], names: frozenset[str], attribute: str) -> int:
    """Pairs of packages (or of subpackages) of which the one imports from the other."""
    homes = {module.name.removesuffix(".__init__"): getattr(module, attribute) for module in modules}
    arrows = set()
    for module in modules:
        source = getattr(module, attribute)
        targets = {homes[name] for name in imported_modules(module, names) if name in homes}
        arrows |= {(source, target) for target in targets - {source, GROUND}}
    return len({arrow for arrow in arrows if arrow[0] != GROUND})


def function_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring and decorators."""
    lines = (function.end_lineno or function.lineno) - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function, clean=False) is not None:
        lines -= (first.end_lineno or first.lineno) - first.lineno + 1
    return lines


def nesting(node: ast.AST) -> int:
    """How deep blocks stand in each other below ``node``; an ``elif`` stands beside its ``if``."""
    deepest = 0
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (*FUNCTIONS, ast.ClassDef)):
            continue
        chained = isinstance(node, ast.If) and node.orelse == [child] and isinstance(child, ast.If)
        own = int(isinstance(child, BLOCKS) and not chained)
        deepest = max(deepest, own + nesting(child))
    return deepest


def count_parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    arguments = function.args
    return len([*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs])


def bound_names(module: Module) -> Iterator[tuple[str, int]]:
    """Every name that the module binds (variables, arguments, attributes, fields) with its line."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno


def filler_names(module: Module) -> list[tuple[str, int]]:
    """The filler words among the names that ``module`` binds."""
    return [(name, line) for name, line in bound_names(module) if name.strip("_") in FILLER]


def public_definitions(module: Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    """Public functions and classes at the top of a module, and public methods of public classes."""
    for node in module.tree.body:
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from (n for n in node.body if isinstance(n, FUNCTIONS) and not n.name.startswith("_"))


def documented_share(modules: Iterable[Module]) -> float:
    """Share of public names with a docstring."""
    flags = [ast.get_docstring(node) is not None for module in modules for node in public_definitions(module)]
    return sum(flags) / max(len(flags), 1)


def duplicate_classes(modules: Iterable[Module]) -> dict[str, list[str]]:
    """Names of classes at the top of more than one module, with those modules."""
    homes: dict[str, list[str]] = defaultdict(list)
    for module in modules:
        for node in module.tree.body:
            if isinstance(node, ast.ClassDef):
                homes[node.name].append(module.name)
    return {name: places for name, places in sorted(homes.items()) if len(places) > 1}


def is_text(node: ast.AST) -> TypeGuard[ast.Expr]:
    """Whether the node is a string that stands alone: a docstring, or one that explains a constant."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def code_lines(module: Module) -> list[str]:
    """Lines of code: no blank ones, comments, docstrings or imports, and without indentation."""
    left_out: set[int] = set()
    for node in ast.walk(module.tree):
        if is_text(node) or isinstance(node, (ast.Import, ast.ImportFrom)):
            left_out.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = enumerate(module.text.splitlines(), 1)
    return [text for number, line in lines if number not in left_out and (text := line.strip()) and text[0] != "#"]


def duplicate_blocks(modules: Sequence[Module]) -> int:
    """Places at which a block begins that stands elsewhere, too; overlapping ones are one."""
    places: dict[tuple[str, ...], list[tuple[str, int]]] = defaultdict(list)
    for module in modules:
        lines = code_lines(module)
        for start in range(len(lines) - DUPLICATE_LINES + 1):
            places[tuple(lines[start : start + DUPLICATE_LINES])].append((module.name, start))
    starts = sorted(place for block in places.values() if len(block) > 1 for place in block)
    return len(starts) - sum(a[0] == b[0] and b[1] - a[1] < DUPLICATE_LINES for a, b in pairwise(starts))


def percentile(numbers: Sequence[int], share: float) -> int:
    """The smallest number that at least ``share`` of ``numbers`` do not exceed."""
    ordered = sorted(numbers)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0


COLUMNS = (
    "package",
    "files",
    "lines",
    "functions",
    "lines a function: median",
    "p90",
    "within 20",
    "nesting",
    "imports a file: p50",
    "p90",
    "max",
    "filler / 1000 lines",
    "parameters, at most",
    "documented",
)


def measure(label: str, modules: Sequence[Module], names: frozenset[str]) -> tuple[str, ...]:
    """One row of the table."""
    functions = [function for module in modules for function in module.functions]
    lines = [function_lines(function) for function in functions]
    imports = [len(imported_modules(module, names)) for module in modules]
    total = sum(module.lines for module in modules)
    filler = sum(len(filler_names(module)) for module in modules)
    return (
        label,
        str(len(modules)),
        str(total),
        str(len(functions)),
        f"{median(lines or [0]):.0f}",
        str(percentile(lines, 0.9)),
        f"{sum(n <= SHORT_LINES for n in lines) / max(len(lines), 1):.0%}",
        str(max(map(nesting, functions), default=0)),
        str(percentile(imports, 0.5)),
        str(percentile(imports, 0.9)),
        str(max(imports, default=0)),
        f"{1000 * filler / max(total, 1):.1f}",
        str(max(map(count_parameters, functions), default=0)),
        f"{documented_share(modules):.0%}",
    )


def report(modules: Sequence[Module], *, subpackages: bool) -> str:
    """All tables, as Markdown."""
    names = frozenset(module.name for module in modules)
    packages: dict[str, list[Module]] = defaultdict(list)
    for module in modules:
        packages[module.subpackage if subpackages else module.package].append(module)
    rows = [measure(label, members, names) for label, members in sorted(packages.items())]
    rows.append(measure("**all**", modules, names))
    lines = [f"| {' | '.join(row)} |" for row in (COLUMNS, ["---"] * len(COLUMNS), *rows)]
    sizes: dict[str, int] = defaultdict(int)
    for module in modules:
        if module.package != GROUND:
            sizes[module.package] += module.lines
    largest = max(sizes, key=lambda label: sizes[label])
    total = sum(module.lines for module in modules)
    doubled = duplicate_classes(modules)
    facts = {
        "packages": str(len({module.package for module in modules} - {GROUND})),
        "subpackages": str(len({module.subpackage for module in modules if "." in module.subpackage})),
        "arrows between packages": str(count_arrows(modules, names, "package")),
        "arrows between packages and subpackages": str(count_arrows(modules, names, "subpackage")),
        "largest package": f"{largest}, {sizes[largest] / total:.0%} of the lines",
        "duplicate blocks": str(duplicate_blocks(modules)),
        "class names in several modules": str(len(doubled)),
    }
    lines += ["", "| in all | |", "| --- | --- |", *(f"| {fact} | {figure} |" for fact, figure in facts.items())]
    if doubled:
        lines += ["", "Classes of the same name:", ""]
        lines += [f"- `{name}`: {', '.join(places)}" for name, places in doubled.items()]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    package = Path(__file__).resolve().parents[1] / "trt_facefusion"
    parser.add_argument("--tree", type=Path, default=package, help="the package's folder, also of another checkout")
    parser.add_argument("--subpackages", action="store_true", help="a row for each subpackage")
    parser.add_argument("--names", action="store_true", help="list the filler words by file and line instead")
    options = parser.parse_args()
    modules = read_modules(options.tree)
    if options.names:
        print("\n".join(f"{m.path}:{line}: {name}" for m in modules for name, line in sorted(filler_names(m))))
    else:
        print(report(modules, subpackages=options.subpackages))


if __name__ == "__main__":
    main()
