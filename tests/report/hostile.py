"""Names that try to break out of whatever they are shown in, and what a browser makes of a page with them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

MARK = "RAN"
_RUN = f"document.title='{MARK}'"
NAMES = (
    f'"><script>{_RUN}</script>',
    f'" onload="{_RUN}" onmouseover="{_RUN}" x="',
    f"' onload='{_RUN}' x='",
    f"<img src=x onerror={_RUN}>",
    f"</title></style></svg></text><script>{_RUN}</script>",
    f"<svg onload={_RUN}><animate onbegin={_RUN} attributeName=x dur=1s>",
    f"--><script>{_RUN}</script><!--",
    f"]]><script>{_RUN}</script>",
    "{{ 7 * 7 }}{% raw %}",
    f"javascript:{_RUN}",
    f"); }} </style><img src=x onerror={_RUN}>",
    "a\x1b[31mb\x00c\u202egpj.exe\ud800\n<b>",
)


def spoiled(value: Any, names: Iterator[str] | None = None, keep: tuple[str, ...] = ()) -> Any:
    """``value`` with a hostile name in the place of every text; the texts under the keys ``keep`` stay."""
    names = cycle(NAMES) if names is None else names
    if isinstance(value, dict):
        return {key: item if key in keep else spoiled(item, names, keep) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [spoiled(item, names, keep) for item in value]
    return next(names) if isinstance(value, str) else value


class Looked(HTMLParser):
    """What a page holds that could run or load something."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.handlers: list[str] = []
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.policy = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        attributes = dict(attrs)
        self.handlers += [name for name in attributes if name.startswith("on")]
        self.links += [
            attributes[name] or "" for name in ("src", "href", "action", "data", "xlink:href") if name in attributes
        ]
        if attributes.get("http-equiv", "").lower() == "content-security-policy":
            self.policy = attributes.get("content") or ""


def check_harmless(page: str) -> None:
    """Nothing in ``page`` runs, or is loaded from outside."""
    looked = Looked(page)
    assert not looked.tags & {"script", "iframe", "object", "embed", "base", "form", "link", "animate"}
    assert looked.handlers == []
    assert all(link.startswith("data:image/webp;base64,") for link in looked.links)
    assert "default-src 'none'" in looked.policy and "script" not in looked.policy


def opened(page: Path, picture: Path | None = None) -> str:
    """The page's elements after headless Chromium has opened it; skips where that is not installed."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium here: apt-get install chromium")
    what = "--dump-dom" if picture is None else f"--screenshot={picture}"
    words = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    words += [f"--user-data-dir={page.parent / 'browser'}", "--window-size=1200,2400", "--virtual-time-budget=2000"]
    done = subprocess.run([*words, what, page.as_uri()], capture_output=True, timeout=120, check=True)
    return done.stdout.decode()
