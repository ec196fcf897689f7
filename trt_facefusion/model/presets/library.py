"""The known generators: one file each in ``builtin/``, which is called like the preset; and files of a user's own."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from trt_facefusion.errors import BadInputError
from trt_facefusion.model.presets.contract import PRESET_FILE, name_values_file
from trt_facefusion.model.presets.document import read_preset
from trt_facefusion.model.presets.preset import Preset
from trt_facefusion.storage.documents import DocumentError, decode, parse_json, read_bytes
from trt_facefusion.storage.plain_yaml import parse_yaml

_LAST = 1 << 30
_SUFFIXES = (".yaml", ".yml")
_DIGEST = r"([0-9a-f]{64}|[0-9a-f]{8,}\.\.[0-9a-f]*)?"
_RENAMED = {
    "gfpgan_512": "gfpgan_1.4",
    "gpen_256": "gpen_bfr_256",
    "gpen_512": "gpen_bfr_512",
    "hyperswap_256": "hyperswap_1a_256",
}
"""What presets were called before they had the field's names."""


@dataclass(frozen=True)
class PublicFile:
    """A file that people have: its size, and its SHA-256 (hex) or what is published of it, ``begin..end``."""

    bytes: int
    sha256: str = ""


@dataclass(frozen=True)
class GeneratorFacts:
    """What a preset's file says beside the preset.

    ``order`` is its place in lists, ``files`` the public ones. ``outputs`` are names that only its files give the
    picture. ``trust`` says how far the description is confirmed, and what about it is only assumed. Not ``by_graph``: a
    graph that fits is no reason to take a file for this generator.
    """

    order: int = _LAST
    about: str = ""
    licence: str = ""
    trust: str = ""
    by_graph: bool = True
    outputs: tuple[str, ...] = ()
    files: tuple[PublicFile, ...] = ()


@dataclass(frozen=True, kw_only=True)
class KnownGenerator(GeneratorFacts):
    """A preset, and what its file says beside it."""

    preset: Preset


class PresetLibrary(Mapping[str, Preset]):
    """The presets in a folder by name, in the order that their files give (``order``, then the name)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def generators(self) -> Mapping[str, KnownGenerator]:
        """The same with what their files say beside them.

        Raises:
            BadInputError: a file is damaged; the message names the field.
        """
        return _read_folder(self.folder)

    def __getitem__(self, name: str) -> Preset:
        return self.generators[name].preset

    def __iter__(self) -> Iterator[str]:
        return iter(self.generators)

    def __len__(self) -> int:
        return len(self.generators)


# The I/O contracts of the public swappers and restorers as their open-source users feed them. Only `reference` ships
# with weights; for the others bring your own file.
PRESETS = PresetLibrary(Path(__file__).parent / "builtin")


def get_preset(name: str) -> Preset:
    """The preset called ``name``, or the one in the file of that path: YAML, or the ``preset.json`` of a build.

    A path may leave out ``.yaml``, and name an engine's folder.

    Raises:
        BadInputError: there is none, or its file is damaged.
    """
    if name in PRESETS:
        return replace(PRESETS[name], origin=name)
    path = _find_file(Path(name))
    if path is not None:
        return replace(_read_json(path) if path.suffix == ".json" else read_generator(path).preset, origin=name)
    if name in _RENAMED:
        raise BadInputError(f"the preset {name!r} is called {_RENAMED[name]!r} now", f"use --preset {_RENAMED[name]}")
    raise BadInputError(
        f"there is no preset {name!r}",
        f"use one of {', '.join(PRESETS)}, name a preset's file, or describe the model's inputs with --input",
    )


def _find_file(path: Path) -> Path | None:
    """The file that a preset's path means, or None where there is none."""
    if path.suffix in {*_SUFFIXES, ".json"}:
        return path
    if path.is_dir():
        return path / PRESET_FILE if (path / PRESET_FILE).exists() else None
    beside = (path.with_name(path.name + suffix) for suffix in _SUFFIXES if path.name)
    return next((file for file in beside if file.is_file()), None)


@cache
def _read_folder(folder: Path) -> Mapping[str, KnownGenerator]:
    files = sorted(path for path in folder.glob("*") if path.suffix in _SUFFIXES)
    generators = {path.stem: read_generator(path) for path in files}
    return dict(sorted(generators.items(), key=lambda entry: entry[1].order))


def read_generator(path: Path) -> KnownGenerator:
    """The preset in a YAML file, and what the file says beside it.

    Raises:
        BadInputError: the file is missing or damaged; the message names the field.
    """
    try:
        document: Any = parse_yaml(read_bytes(path).decode("utf-8"))
        if not isinstance(document, dict):
            raise DocumentError("it holds no fields")
        names = {field.name for field in fields(GeneratorFacts)}
        beside = decode(GeneratorFacts, {k: v for k, v in document.items() if k in names}, "preset", defaults=True)
        if "name" in document:
            raise DocumentError("preset.name is unknown: a preset is called like its file")
        preset = read_preset({"name": path.stem, **{k: v for k, v in document.items() if k not in names}}, known=True)
        for number, file in enumerate(beside.files):
            if file.bytes < 1 or not re.fullmatch(_DIGEST, file.sha256):
                raise DocumentError(f"preset.files[{number}] is no size with a digest")
        return KnownGenerator(preset=preset, **{name: getattr(beside, name) for name in names})
    except (OSError, UnicodeDecodeError, DocumentError) as error:
        raise BadInputError(f"the preset {path} cannot be read: {error}", "correct that file") from error


def _read_json(path: Path) -> Preset:
    """The preset that a build wrote; the values of its file inputs lie beside it."""
    try:
        return read_preset(parse_json(read_bytes(path)), lambda number: path.parent / name_values_file(number))
    except (OSError, DocumentError) as error:
        raise BadInputError(
            f"the preset {path} cannot be read: {error}", "name the preset.json of an engine"
        ) from error
