"""The page to try the service: one file of the package, which loads nothing and runs only its own script."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from importlib import resources


@dataclass(frozen=True)
class Page:
    """The page, and the policy under which browsers show it."""

    html: str
    policy: str


def read_page() -> Page:
    """The page with the digests of its one style and its one script in the policy."""
    html = resources.files("trt_facefusion.serving").joinpath("page.html").read_text(encoding="utf-8")
    style, script = (_digest(_find(html, element)) for element in ("style", "script"))
    policy = (
        f"default-src 'none'; script-src '{script}'; style-src '{style}'; img-src 'self' blob: data:; "
        "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    )
    return Page(html, policy)


def _find(html: str, element: str) -> str:
    (content,) = re.findall(rf"<{element}>(.*?)</{element}>", html, re.DOTALL)
    return str(content)


def _digest(content: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"
