"""The public surface of a TensorRT library as data: class -> member -> signature, without prose.

``python tests/contract/surface_data.py MODULE OUTPUT.json`` reads it from an installed library (the bindings alone do,
over null stand-ins for the libraries behind them). A method's value is its signature, a property's its access and type;
enum members and what has no signature are empty.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[1] / "data" / "trt_api"

Surface = dict[str, Any]
"""``version``, ``classes`` ({class: {member: signature}}), ``bases`` ({class: [class]}), ``functions``."""


def load(name: str) -> Surface:
    return json.loads((FOLDER / f"{name}.json").read_text())


def extract(module: Any) -> Surface:
    prefix = "tensorrt"
    classes: dict[str, dict[str, str]] = {}
    bases: dict[str, list[str]] = {}
    functions: list[str] = []
    pending = [(name, getattr(module, name)) for name in sorted(dir(module)) if not name.startswith("_")]
    while pending:
        name, value = pending.pop(0)
        if isinstance(value, type) and value.__module__.startswith(prefix) and name not in classes:
            classes[name] = members(value)
            bases[name] = [base.__name__ for base in value.__bases__ if base.__module__.startswith(prefix)]
            pending += [(f"{name}.{key}", v) for key, v in vars(value).items() if isinstance(v, type)]
        elif callable(value) and not isinstance(value, type):
            functions.append(name)
    return {"version": module.__version__, "classes": classes, "bases": bases, "functions": functions}


def members(made: type) -> dict[str, str]:
    result = {"__init__": signature(made.__init__)}  # type: ignore[misc]
    for name, value in vars(made).items():
        if name.startswith("_") and name not in {"__len__", "__getitem__"}:
            continue
        if isinstance(value, property):
            access = "rw" if value.fset else "ro"
            result[name] = f"[{access}] {_returns(signature(value.fget))}"
        else:
            result[name] = signature(value) if callable(value) and not isinstance(value, type) else ""
    return dict(sorted(result.items()))


def signature(value: Any) -> str:
    """The signatures in a pybind11 docstring, overloads joined by `` | ``; names without their module."""
    lines = (getattr(value, "__doc__", None) or "").splitlines()
    found = [line.strip() for line in lines if re.match(r"(\d+\. )?\w*\(.*\) -> ", line.strip())]
    text = " | ".join(re.sub(r"^\d+\. ", "", line) for line in found)
    return re.sub(r"\b(tensorrt\w*\.)+(trt\.)?", "trt.", text)


def _returns(text: str) -> str:
    return text.rpartition(" -> ")[2]


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(extract(importlib.import_module(sys.argv[1])), indent=0) + "\n")
