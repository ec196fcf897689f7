"""Reads a Dockerfile, and runs what of it needs no docker engine, below a folder instead of below the root."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_FOLDERS = re.compile(r"(?<![\w./-])/(wheels|opt|src|app)\b")


@dataclass(frozen=True)
class Instruction:
    """One instruction: its stage's name, its word in capitals, and the rest as one line."""

    stage: str
    word: str
    rest: str

    @property
    def commands(self) -> list[str]:
        """The commands of a RUN."""
        return [command.strip() for command in self.rest.split("&&")]


def parse(path: Path) -> list[Instruction]:
    lines = [line for line in path.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]
    text = "\n".join(lines).replace("\\\n", " ")
    found, stage = [], ""
    for line in text.splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            stage = rest.partition(" AS ")[2].strip()
        found.append(Instruction(stage, word, " ".join(rest.split())))
    return found


def in_context(root: Path) -> list[str]:
    """Files of the repository that .dockerignore lets through: ``**`` bars, ``!path`` and ``!folder/**`` allow."""
    allowed = [line[1:] for line in (root / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=root, capture_output=True, check=True)
    files = listed.stdout.decode().splitlines()
    folders = tuple(pattern.removesuffix("**") for pattern in allowed if pattern.endswith("/**"))
    return [name for name in files if name in allowed or name.startswith(folders)]


class Sandbox:
    """The file system of an image, below ``root``; ``arguments`` are build arguments, ``environment`` the shell's."""

    def __init__(self, root: Path, arguments: Mapping[str, str], environment: Mapping[str, str], python: str) -> None:
        self.root, self.arguments, self.environment, self.python = root, dict(arguments), dict(environment), python
        self.workdir = root

    def enter(self, folder: str) -> None:
        """WORKDIR."""
        self.workdir = Path(self._below(folder))
        self.workdir.mkdir(parents=True, exist_ok=True)

    def copy(self, rest: str, repository: Path) -> None:
        """COPY out of the context; what .dockerignore bars is not there."""
        *sources, target = shlex.split(rest)
        for name in in_context(repository):
            for source in sources:
                if name == source or name.startswith(f"{source}/"):
                    inside = name.removeprefix(source).lstrip("/") or Path(name).name
                    made = self.workdir / target / inside
                    made.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(repository / name, made)

    def run(self, command: str) -> str:
        """One command of a RUN, in bash. Raises CalledProcessError."""
        for name, value in self.arguments.items():
            command = command.replace(f"${{{name}}}", value)
        command = re.sub(r"^python3\b", shlex.quote(self.python), self._below(command))
        words = ["bash", "-eu", "-o", "pipefail", "-c", command]
        done = subprocess.run(
            words, cwd=self.workdir, env=self.environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise AssertionError(f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
        return done.stdout

    def _below(self, text: str) -> str:
        return _FOLDERS.sub(lambda found: f"{self.root}{found[0]}", text)
