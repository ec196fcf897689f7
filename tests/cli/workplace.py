"""A folder with a tiny model and faces, and the options that build them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

IMAGE = "image=image:32:0:1"


@dataclass(frozen=True)
class Outcome:
    """What a command left: its exit code and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one JSON value on stdout; anything else there is an error."""
        return json.loads(self.out)


class Workplace:
    """A folder with a tiny model and faces, and the options that build them."""

    def __init__(self, root: Path, model: Path, faces: Path) -> None:
        self.root, self.model, self.faces = root, model, faces
        self.output, self.cache = root / "out", root / "cache"

    def options(self, **changes: Any) -> list[str]:
        """``build`` with its options; None drops an option, True makes it a flag, a tuple repeats it."""
        plain = {
            "int8": True,
            "onnx": self.model,
            "input": IMAGE,
            "calib": self.faces,
            "aligned": True,
            "backend": "onnxruntime",
            "rule": "max",
            "output": self.output,
            "cache": self.cache,
            "reports": self.root / "reports",
        }
        words = ["build"]
        for name, value in {**plain, **changes}.items():
            flag = "--" + name.replace("_", "-")
            for item in value if isinstance(value, tuple) else (value,):
                words += [] if item is None else [flag] if item is True else [flag, str(item)]
        return words

    def left_behind(self) -> list[str]:
        """Files under --output and --cache, lock files excepted."""
        files = [p for folder in (self.output, self.cache) for p in folder.rglob("*") if p.is_file()]
        return [str(p.relative_to(self.root)) for p in files if not p.name.startswith(".lock-")]
