"""How pages are made from templates: everything is escaped, nothing is loaded and nothing runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from trt_facefusion.text import printable

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""What a browser is told beforehand: no scripts, nothing from outside, pictures only from inside of the page."""


def load_templates() -> Environment:
    """The templates of this folder. Values are shown letter for letter; ``policy`` is what a browser is told."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_escape_unprintable,
    )
    environment.globals["policy"] = POLICY
    return environment


def _escape_unprintable(variable: Any) -> Any:
    return printable(variable) if isinstance(variable, str) and not isinstance(variable, Markup) else variable
