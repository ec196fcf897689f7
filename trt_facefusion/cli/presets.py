"""`trt-ff presets`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from rich.table import Table

from trt_facefusion.cli import console, options
from trt_facefusion.errors import BadInputError
from trt_facefusion.faces.align import TEMPLATES
from trt_facefusion.inference.file_facts import read_file_facts
from trt_facefusion.model.export import OnnxSource
from trt_facefusion.model.presets import PRESETS, EmbeddingInput, FileInput, ImageInput, InputSpec
from trt_facefusion.model.presets.binding import list_names
from trt_facefusion.model.presets.document import describe
from trt_facefusion.model.presets.inputs import OF_THE_FILE, TARGET
from trt_facefusion.model.presets.library import KnownGenerator, get_preset, read_generator
from trt_facefusion.model.presets.recognition import Recognition, recognise
from trt_facefusion.model.presets.syntax import INPUT_HELP


def command(
    which: Annotated[
        Optional[str],
        typer.Argument(
            help="An ONNX file: what it is taken for, and why. A preset's name or file, or a folder of such files: "
            "what they say.",
            show_default=False,
        ),
    ] = None,
    syntax: Annotated[bool, typer.Option("--syntax", help="Explain --input and --picture instead.")] = False,
    as_json: options.AsJson = False,
) -> None:
    """List the known generators and what each expects; say what a file is taken for."""
    if syntax:
        text = INPUT_HELP.replace("TEMPLATES", ", ".join(TEMPLATES))
        console.out.print(console.lines(*text.splitlines()), soft_wrap=True)
    elif which is not None and which.endswith(".onnx"):
        _show_recognition(OnnxSource(Path(which)), as_json)
    else:
        _show_generators(_choose_generators(which), as_json, alone=which is not None)


def _choose_generators(which: str | None) -> list[KnownGenerator]:
    """The known generators, the one that is named, or those of a folder.

    Raises:
        BadInputError: there is no such preset, or a file is damaged.
    """
    if which is None:
        return list(PRESETS.generators.values())
    if which in PRESETS:
        return [PRESETS.generators[which]]
    path = Path(which)
    if path.is_dir() and not (path / "preset.json").exists():
        files = sorted(file for file in path.iterdir() if file.suffix in {".yaml", ".yml"})
        if not files:
            raise BadInputError(f"{path} holds no presets", "name a folder with .yaml files, each one preset")
        return [read_generator(file) for file in files]
    if path.suffix in {".yaml", ".yml"}:
        return [read_generator(path)]
    return [KnownGenerator(preset=get_preset(which))]


def _show_generators(generators: Iterable[KnownGenerator], as_json: bool, *, alone: bool) -> None:
    if as_json:
        documents = [_describe_generator(generator) for generator in generators]
        console.print_json({"schema": 1, "presets": documents})
        return
    table = Table(header_style="bold")
    for name in ("preset", "inputs", "crop template", "embedder"):
        table.add_column(name, overflow="fold")
    notes = []
    for generator in generators:
        preset = generator.preset
        embedder = preset.embedder if preset.embedding else "-"
        inputs = (_format_input(spec) for spec in preset.inputs)
        table.add_row(console.plain(preset.name), console.lines(*inputs), console.plain(preset.template), embedder)
        notes += list(_format_notes(generator))
    console.show(table)
    for note in notes if alone else ():
        console.line(note)


def _format_input(spec: InputSpec) -> str:
    names = " or ".join(list_names(spec))
    if isinstance(spec, ImageInput):
        low, high = spec.limits
        size = "size of the file" if spec.size == OF_THE_FILE else f"{spec.size} px"
        words = [size, f"{low:.4g}..{high:.4g}", *(w for w in ("bgr", "gray", "nhwc") if getattr(spec, w))]
        words += ["source"] if not spec.shows(TARGET) else []
        words += [spec.template] if spec.template else []
        return f"{names}: {', '.join(words)}"
    if isinstance(spec, EmbeddingInput):
        steps = [f" x {spec.projection}"] if spec.projection else []
        steps += [f" by {spec.converter}"] if spec.converter else []
        steps += [] if spec.normalise else [", not normalised"]
        return f"{names}: embedding{''.join(steps)}"
    if isinstance(spec, FileInput):
        return f"{names}: {spec.path}"
    limits = f" ({spec.range[0]:g}..{spec.range[1]:g})" if spec.range else ""
    return f"{names}: {spec.value}{limits}{', where there is one' if spec.optional else ''}"


def _format_notes(generator: KnownGenerator) -> Iterator[str]:
    """What a file says beside the preset, line by line."""
    about = [generator.about, f"licence: {generator.licence}" if generator.licence else ""]
    if any(about):
        yield "; ".join(word for word in about if word)
    if generator.preset.output.masks:
        yield f"masks: {', '.join(generator.preset.output.masks)}"
    if generator.trust:
        yield f"how far this is known: {generator.trust}"
    for hint in generator.preset.hints:
        kept = [f"FP32 for {', '.join(hint.roles)}"] if hint.roles else []
        kept += [f"{hint.fp16_headroom:g} times below FP16's limit"] if hint.fp16_headroom else []
        yield f"plans keep {' and '.join(kept)}: {hint.because}"


def _describe_generator(generator: KnownGenerator) -> dict[str, Any]:
    files = [{"bytes": file.bytes, "sha256": file.sha256} for file in generator.files]
    beside = {"about": generator.about, "licence": generator.licence, "trust": generator.trust, "files": files}
    return {**describe(generator.preset), **beside}


def _show_recognition(source: OnnxSource, as_json: bool) -> None:
    """What a file is taken for. Raises BadInputError where nothing or too much speaks for a preset."""
    facts = read_file_facts(source)
    recognition = recognise(facts)
    if as_json:
        console.print_json({"schema": 1, "file": str(source.path), **_describe_recognition(recognition)})
    else:
        console.line(f"takes {'; '.join(map(str, facts.takes))}")
        console.line(f"gives {'; '.join(map(str, facts.gives))}")
        _show_candidates(recognition)
    if recognition.preset is None:
        raise typer.Exit(BadInputError.exit_code)


def _show_candidates(recognition: Recognition) -> None:
    if recognition.preset is not None:
        candidate, *others = recognition.candidates
        console.line(f"taken for {candidate.preset.name}: {candidate.why}")
        if others:
            console.line(f"fed alike: {', '.join(other.preset.name for other in others)}")
        for spec in recognition.preset.inputs:
            console.line(f"  {_format_input(spec)}")
        return
    if recognition.ambiguous:
        console.line(f"may be {recognition.describe()}; these are fed differently: say which one with --preset")
        return
    console.line("none of the known generators; describe its inputs with --input:")
    for name, why in recognition.ruled_out.items():
        console.line(f"  not {name}: {why}")


def _describe_recognition(recognition: Recognition) -> dict[str, Any]:
    return {
        "preset": None if recognition.preset is None else describe(recognition.preset),
        "candidates": [{"name": c.preset.name, "why": c.why} for c in recognition.candidates],
        "ruled_out": dict(recognition.ruled_out),
    }
