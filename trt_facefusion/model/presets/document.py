"""A preset as a document: what ``preset.json`` in an engine's folder says, and what the files of known presets say.

One strict reader serves both. Values of file inputs are no part of the document.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trt_facefusion.model.presets.hints import LARGEST_HEADROOM, PlanHint
from trt_facefusion.model.presets.inputs import (
    OF_THE_FILE,
    SIDES,
    SOURCE,
    TARGET,
    EmbeddingInput,
    FileInput,
    ImageInput,
    InputSpec,
    Part,
    ValueInput,
)
from trt_facefusion.model.presets.output import ImageOutput
from trt_facefusion.model.presets.preset import Preset
from trt_facefusion.model.presets.terse import Terse
from trt_facefusion.storage.documents import DocumentError, decode

_KINDS: Mapping[str, type[InputSpec]] = {
    "image": ImageInput,
    "embedding": EmbeddingInput,
    "file": FileInput,
    "value": ValueInput,
}
_LARGEST_SIDE_PX = 8192


@dataclass(frozen=True)
class _Description:
    """The document; each of ``inputs`` has a ``kind`` and the fields of that kind's class."""

    name: str
    inputs: tuple[Mapping[str, Any], ...]
    output: ImageOutput
    template: str
    embedder: str
    hints: tuple[PlanHint, ...] = ()


@dataclass(frozen=True)
class _DescribedFile:
    """A file input; where its values are, the document does not say."""

    name: str


def describe(preset: Preset) -> dict[str, Any]:
    """``preset`` as a document of plain values."""
    return {
        "name": preset.name,
        "inputs": [_describe_input(spec) for spec in preset.inputs],
        "output": preset.output.list_fields(),
        "template": preset.template,
        "embedder": preset.embedder,
        **({"hints": [asdict(hint) for hint in preset.hints]} if preset.hints else {}),
    }


def _describe_input(spec: InputSpec) -> dict[str, Any]:
    kind = next(name for name, kind in _KINDS.items() if isinstance(spec, kind))
    fields = spec.list_fields() if isinstance(spec, Terse) else asdict(spec)
    plain = {name: setting for name, setting in fields.items() if not isinstance(setting, Path)}
    if isinstance(spec, ImageInput) and spec.parts:
        plain["parts"] = [asdict(part) for part in spec.parts]
    return {"kind": kind, **plain}


def read_preset(document: Any, values_file: Callable[[int], Path] | None = None, *, known: bool = False) -> Preset:
    """The preset that ``document`` describes; ``values_file`` gives the file with the values of the N-th input.

    Only that of a ``known`` generator may leave something to the file: other names, the size of its images.

    Raises:
        DocumentError: a field is missing, unknown or of another type, or its value cannot be; names the field.
        BadInputError: no input is an image of the target.
    """
    described = decode(_Description, document, "preset", defaults=True)
    inputs = tuple(
        _read_input(entry, f"preset.inputs[{number}]", values_file and values_file(number), known)
        for number, entry in enumerate(described.inputs)
    )
    names = [name for spec in inputs for name in (spec.name, *getattr(spec, "also", ()))]
    _require(len(set(names)) == len(names), "preset.inputs: one name twice", ", ".join(names))
    for number, hint in enumerate(described.hints):
        _check_hint(hint, f"preset.hints[{number}]")
    _require(described.output.name != "", "preset.output.name", described.output.name)
    _require(all(described.output.std), "preset.output.std", described.output.std)
    return Preset(described.name, inputs, described.output, described.template, described.embedder, described.hints)


def _read_input(entry: Mapping[str, Any], where: str, values: Path | None, known: bool) -> InputSpec:
    kind = entry.get("kind")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise DocumentError(f"{where}.kind is {kind!r:.40}, not one of {', '.join(_KINDS)}")
    fields = {name: setting for name, setting in entry.items() if name != "kind"}
    spec: InputSpec
    if kind == "file":
        if values is None:
            raise DocumentError(f"{where} is a file, and there is none with its values")
        spec = FileInput(decode(_DescribedFile, fields, where).name, values)
    else:
        spec = decode(_KINDS[kind], fields, where, defaults=True)
    _check_input(spec, where, known)
    return spec


def _check_input(spec: InputSpec, where: str, known: bool) -> None:
    """Raise `DocumentError` for a value of the right type that cannot be."""
    _require(spec.name != "", f"{where}.name", spec.name)
    if isinstance(spec, EmbeddingInput):
        _require(spec.projection != "", f"{where}.projection", spec.projection)
        _require(spec.converter != "", f"{where}.converter", spec.converter)
    if isinstance(spec, ValueInput) and spec.range is not None:
        _require(spec.range[0] <= spec.value <= spec.range[1], f"{where}.value", spec.value)
    if not isinstance(spec, ImageInput):
        return
    smallest = OF_THE_FILE if known else 1
    for name, side in (("size", spec.size), ("width", spec.side)):
        _require(smallest <= side <= _LARGEST_SIDE_PX, f"{where}.{name}", side)
    _require(all(spec.std), f"{where}.std", spec.std)
    _require(spec.template != "", f"{where}.template", spec.template)
    _require(spec.person in {TARGET, SOURCE}, f"{where}.person", spec.person)
    for number, part in enumerate(spec.parts):
        _check_part(part, f"{where}.parts[{number}]")


def _check_hint(hint: PlanHint, where: str) -> None:
    _require(hint.because != "", f"{where}.because", hint.because)
    _require(bool(hint.roles) or hint.fp16_headroom is not None, where, "a hint without roles and without headroom")
    headroom = hint.fp16_headroom
    _require(headroom is None or 1 <= headroom <= LARGEST_HEADROOM, f"{where}.fp16_headroom", headroom)


def _check_part(part: Part, where: str) -> None:
    _require(part.person in {TARGET, SOURCE}, f"{where}.person", part.person)
    _require(part.masked in {"", *SIDES}, f"{where}.masked", part.masked)
    _require(0 < part.share <= 1, f"{where}.share", part.share)


def _require(right: bool, where: str, entry: Any) -> None:
    if not right:
        raise DocumentError(f"{where} is {entry!r:.80}, which cannot be")
