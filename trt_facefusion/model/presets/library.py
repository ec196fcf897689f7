"""The known presets: one file each in ``builtin/``, which is called like the preset and read when one is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from trt_facefusion.errors import BadInputError
from trt_facefusion.model.presets.document import read_preset
from trt_facefusion.model.presets.preset import Preset
from trt_facefusion.storage.documents import DocumentError, decode, read_bytes
from trt_facefusion.storage.plain_yaml import parse_yaml

_ORDER, _LAST = "order", 1 << 30
_SUFFIX = ".yaml"


class PresetLibrary(Mapping[str, Preset]):
    """The presets in a folder by name, in the order that their files give (``order``, then the name)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __getitem__(self, name: str) -> Preset:
        return _read_folder(self.folder)[name]

    def __iter__(self) -> Iterator[str]:
        return iter(_read_folder(self.folder))

    def __len__(self) -> int:
        return len(_read_folder(self.folder))


# The I/O contracts of the public swappers and restorers as their open-source users feed them. Only `reference` ships
# with weights; for the others bring your own file.
PRESETS = PresetLibrary(Path(__file__).parent / "builtin")


def get_preset(name: str) -> Preset:
    """The preset called ``name``.

    Raises:
        BadInputError: there is none, or its file is damaged.
    """
    if name not in PRESETS:
        raise BadInputError(
            f"there is no preset {name!r}",
            f"use one of {', '.join(PRESETS)}, or describe the model's inputs with --input",
        )
    return PRESETS[name]


@dataclass(frozen=True)
class _Place:
    """Where a preset stands among the others."""

    order: int = _LAST


@cache
def _read_folder(folder: Path) -> Mapping[str, Preset]:
    files = {path.stem: _read_file(path) for path in sorted(folder.glob(f"*{_SUFFIX}"))}
    return {name: preset for name, (_, preset) in sorted(files.items(), key=lambda file: file[1][0])}


def _read_file(path: Path) -> tuple[int, Preset]:
    """The order and the preset in a file.

    Raises:
        BadInputError: the file is damaged; the message names the field.
    """
    try:
        document: Any = parse_yaml(read_bytes(path).decode("utf-8"))
        place = decode(_Place, document, "preset", lenient=True)
        fields = {name: setting for name, setting in document.items() if name != _ORDER}
        if "name" in fields:
            raise DocumentError("preset.name is unknown: a preset is called like its file")
        return place.order, read_preset({"name": path.stem, **fields})
    except (OSError, UnicodeDecodeError, DocumentError) as error:
        raise BadInputError(f"the preset {path} cannot be read: {error}", "correct that file") from error
