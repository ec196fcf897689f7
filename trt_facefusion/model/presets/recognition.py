"""Which known generator a file is: by the digest of a public file, else by what its graph takes, gives and holds.

A file's name says nothing. Where several generators fit that are fed differently, none is taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from trt_facefusion.errors import TrtFaceFusionError
from trt_facefusion.model.presets.binding import bind_preset, is_optional, list_names
from trt_facefusion.model.presets.fit import fit_input
from trt_facefusion.model.presets.inputs import ValueInput
from trt_facefusion.model.presets.library import PRESETS, KnownGenerator, PublicFile
from trt_facefusion.model.presets.output import choose_picture_output, list_picture_outputs
from trt_facefusion.model.presets.preset import Preset
from trt_facefusion.types import TensorSpec


@dataclass(frozen=True)
class FileFacts:
    """What is looked at: sizes and types of inputs and outputs, constants that no node reads, bytes and SHA-256.

    ``sha256`` may be empty: then only the size is held against public files. ``unread`` is name -> shape.
    """

    takes: tuple[TensorSpec, ...]
    gives: tuple[TensorSpec, ...]
    unread: Mapping[str, tuple[int, ...]]
    size_bytes: int
    sha256: str = ""


@dataclass(frozen=True)
class PresetCandidate:
    """A generator that a file may be, described as this file has it, and why."""

    preset: Preset
    why: str


@dataclass(frozen=True)
class Recognition:
    """``candidates`` are what the file may be: none, one, several that are fed alike, or an ambiguity.

    ``ruled_out`` says of every other known generator why the file is not that one.
    """

    candidates: tuple[PresetCandidate, ...]
    ruled_out: Mapping[str, str]

    @property
    def preset(self) -> Preset | None:
        """The preset to take: of several candidates that are described alike the first."""
        same = {_say_without_name(candidate.preset) for candidate in self.candidates}
        return self.candidates[0].preset if len(same) == 1 else None

    @property
    def ambiguous(self) -> bool:
        """Whether the file may be generators that are fed differently."""
        return bool(self.candidates) and self.preset is None

    def describe(self) -> str:
        """The candidates with their reasons, as part of a sentence; a reason that all have is said once."""
        if len({candidate.why for candidate in self.candidates}) == 1:
            return f"{', '.join(c.preset.name for c in self.candidates)}: {self.candidates[0].why}"
        return "; ".join(f"{candidate.preset.name} ({candidate.why})" for candidate in self.candidates)


def recognise(facts: FileFacts, generators: Iterable[KnownGenerator] | None = None) -> Recognition:
    """Which of ``generators`` (else of the known ones) a file with ``facts`` is."""
    candidates: list[tuple[KnownGenerator, PresetCandidate]] = []
    ruled_out: dict[str, str] = {}
    for generator in PRESETS.generators.values() if generators is None else generators:
        try:
            preset = _bind(generator, facts)
        except (ValueError, TrtFaceFusionError) as error:
            ruled_out[generator.preset.name] = error.message if isinstance(error, TrtFaceFusionError) else str(error)
        else:
            why = "it takes and gives what this generator does"
            candidates.append((generator, PresetCandidate(replace(preset, origin=generator.preset.name), why)))
    kept = _narrow(candidates, facts)
    names = {candidate.preset.name for candidate in kept}
    for generator, _ in candidates:
        if generator.preset.name not in names:
            ruled_out[generator.preset.name] = "another one is nearer"
    return Recognition(tuple(kept), ruled_out)


_LENGTHS = {"arcface": 512, "dlib": 128}
"""Of the vectors that an embedder gives."""


def _bind(generator: KnownGenerator, facts: FileFacts) -> Preset:
    """The preset as the file has it. Raises ValueError or one of our errors: why the file is another."""
    preset = generator.preset
    if not generator.by_graph:
        raise ValueError("a graph alone does not say that it is this one")
    taken = {spec.name for spec in facts.takes}
    for spec in preset.inputs:
        if taken.isdisjoint(list_names(spec)) and not is_optional(spec):
            raise ValueError(f"it has no input {' or '.join(list_names(spec))}")
    bound = bind_preset(preset, facts.takes)
    _require_inputs(bound, facts)
    _require_types(bound, facts)
    _require_matrix(bound, facts)
    picture = choose_picture_output(bound.output, facts.gives, first_is_right=True)
    masks = [name for name in list_picture_outputs(replace(picture, masks=()), facts.gives) if name != picture.name]
    if bool(masks) != bool(preset.output.masks):
        raise ValueError(f"it gives a mask, {masks[0]}" if masks else f"it gives no mask {preset.output.masks[0]}")
    return bound


def _require_inputs(preset: Preset, facts: FileFacts) -> None:
    described = {spec.name: spec for spec in preset.inputs}
    for tensor in facts.takes:
        if tensor.name not in described:
            raise ValueError(f"it has an input {tensor.name}")
        fit_input(described[tensor.name], tensor, _LENGTHS[preset.embedder])


def _require_types(preset: Preset, facts: FileFacts) -> None:
    numbers = {spec.name for spec in preset.inputs if isinstance(spec, ValueInput)}
    for spec in facts.takes:
        if spec.name not in numbers and spec.dtype not in {"float32", "float16"}:
            raise ValueError(f"its input {spec.name} is {spec.dtype}")


def _require_matrix(preset: Preset, facts: FileFacts) -> None:
    name = preset.embedding.projection if preset.embedding is not None else None
    matrices = [other for other, shape in facts.unread.items() if len(shape) == 2 and shape[0] == shape[1] >= 128]
    if name is not None and name not in facts.unread and not matrices:
        raise ValueError(f"it holds no matrix {name} for embeddings")
    if name is None and matrices:
        raise ValueError(f"it holds a matrix for embeddings, {matrices[0]}")


def _narrow(candidates: Sequence[tuple[KnownGenerator, PresetCandidate]], facts: FileFacts) -> list[PresetCandidate]:
    """The candidates that the strongest evidence speaks for: a digest, a size in bytes, an output's name, the graph."""
    for say in (_say_digest, _say_size, _say_output):
        spoken = [(candidate, why) for generator, candidate in candidates if (why := say(generator, facts))]
        if spoken:
            return [replace(candidate, why=why) for candidate, why in spoken]
    return [candidate for _, candidate in candidates]


def _say_digest(generator: KnownGenerator, facts: FileFacts) -> str:
    if any(file.sha256 and file.bytes == facts.size_bytes and _matches(file, facts) for file in generator.files):
        return f"it is the public file of {facts.size_bytes:,} bytes, by its SHA-256"
    return ""


def _matches(file: PublicFile, facts: FileFacts) -> bool:
    begin, _, end = file.sha256.partition("..")
    return bool(facts.sha256) and facts.sha256.startswith(begin) and facts.sha256.endswith(end)


def _say_size(generator: KnownGenerator, facts: FileFacts) -> str:
    if any(file.bytes == facts.size_bytes for file in generator.files):
        return f"it has the {facts.size_bytes:,} bytes of the public file"
    return ""


def _say_output(generator: KnownGenerator, facts: FileFacts) -> str:
    named = [spec.name for spec in facts.gives if spec.name in generator.outputs]
    return f"its output is called {named[0]}" if named else ""


def _say_without_name(preset: Preset) -> str:
    return repr(replace(preset, name=""))
