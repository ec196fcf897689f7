"""`trt-ff swap`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Optional

import typer

from trt_facefusion.cli import console, options
from trt_facefusion.cli.groups import expand_groups
from trt_facefusion.cli.model_choice import describe_preset, require_one_description
from trt_facefusion.errors import BadInputError, GateError
from trt_facefusion.inference.identity import find_projection
from trt_facefusion.model.export import OnnxSource
from trt_facefusion.model.presets.contract import Contract
from trt_facefusion.swap.engines import ChainOptions
from trt_facefusion.swap.files import FileSwap, SwapResult
from trt_facefusion.swap.masks import MASK_KINDS, MaskSettings
from trt_facefusion.swap.provenance import ALGORITHMS, C2PA, NONE, PROVENANCE, Provenance, Signer
from trt_facefusion.swap.selection import FACES
from trt_facefusion.swap.swapper import Swapper, SwapSettings
from trt_facefusion.swap.video.encoding import QUALITY, EncodingSettings
from trt_facefusion.types import Precision, Progress

_FACES, _BLEND, _MARKS, _VIDEO, _FED, _RUN = (
    "Which faces",
    "How they are blended in",
    "What the result says of itself",
    "Videos",
    "How the generator is fed",
    "Where it runs",
)
_LOG_EVERY_S = 10.0


@dataclass(frozen=True, kw_only=True)
class FaceChoiceOptions:
    """Which faces of the target are swapped."""

    faces: Annotated[
        str, typer.Option(help=f"Faces of a picture that are swapped: {' or '.join(FACES)}.", rich_help_panel=_FACES)
    ] = FACES[0]
    references: Annotated[
        Optional[list[Path]],
        typer.Option(
            "--reference", help="Swap only the person whom this photo shows; repeat it.", rich_help_panel=_FACES
        ),
    ] = None
    distance: Annotated[
        Optional[float],
        typer.Option(
            min=0.0,
            help="How far (L2 of embeddings) from a --reference; else half-way between one person and two.",
            rich_help_panel=_FACES,
        ),
    ] = None
    detector: Annotated[
        Optional[Path],
        typer.Option(help="SCRFD or RetinaFace ONNX that finds faces; else YuNet.", rich_help_panel=_FACES),
    ] = None


@dataclass(frozen=True, kw_only=True)
class BlendOptions:
    """How a crop becomes part of the picture."""

    mask: Annotated[
        str,
        typer.Option(
            help=f"{', '.join(MASK_KINDS)}: `model` is the generator's own mask inside the box, where it has one.",
            rich_help_panel=_BLEND,
        ),
    ] = MaskSettings.kind
    blur: Annotated[
        float,
        typer.Option(min=0.0, max=1.0, help="Soft edge, as a share of half the crop.", rich_help_panel=_BLEND),
    ] = MaskSettings.blur
    padding: Annotated[
        str,
        typer.Option(help="Percent of the crop kept out at top,right,bottom,left.", rich_help_panel=_BLEND),
    ] = "0,0,0,0"
    colours: Annotated[
        Optional[bool],
        typer.Option(
            "--colours/--no-colours",
            help="Match the colours of the face that was there (default: where another person is put in).",
            rich_help_panel=_BLEND,
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class ProvenanceOptions:
    """Marks and signature."""

    provenance: Annotated[
        str,
        typer.Option(
            help=f"{', '.join(PROVENANCE)}: `c2pa` signs with your certificate, and is metadata without one.",
            rich_help_panel=_MARKS,
        ),
    ] = C2PA
    c2pa_cert: Annotated[
        Optional[Path], typer.Option(help="Your certificate chain (PEM, leaf first).", rich_help_panel=_MARKS)
    ] = None
    c2pa_key: Annotated[Optional[Path], typer.Option(help="Its private key (PEM).", rich_help_panel=_MARKS)] = None
    c2pa_alg: Annotated[
        str, typer.Option(help=f"Algorithm of the key: {', '.join(ALGORITHMS)}.", rich_help_panel=_MARKS)
    ] = ALGORITHMS[0]


@dataclass(frozen=True, kw_only=True)
class VideoOptions:
    """How videos are written."""

    codec: Annotated[
        Optional[str],
        typer.Option(help="h264, hevc, vp9, av1, ffv1, prores, ...; else that of the source.", rich_help_panel=_VIDEO),
    ] = None
    quality: Annotated[
        int, typer.Option(min=0, max=63, help="CRF: lower is better and larger.", rich_help_panel=_VIDEO)
    ] = QUALITY


@dataclass(frozen=True, kw_only=True)
class FedOptions:
    """How the generator is fed; engines say most of it themselves."""

    embedder: Annotated[
        Optional[Path],
        typer.Option(help="ArcFace ONNX, where the generator takes its vectors.", rich_help_panel=_FED),
    ] = None
    converter: Annotated[
        Optional[Path],
        typer.Option(help="ONNX that converts the embeddings first, as for `build`.", rich_help_panel=_FED),
    ] = None
    preset: Annotated[
        Optional[str],
        typer.Option(help="Of a bare ONNX file: a known generator (`trt-ff presets`).", rich_help_panel=_FED),
    ] = None
    inputs: Annotated[
        Optional[list[str]],
        typer.Option("--input", help="Of a bare ONNX file: one input, as for `build`.", rich_help_panel=_FED),
    ] = None
    picture: Annotated[
        Optional[str],
        typer.Option("--picture", help="Of a bare ONNX file: the output that is the picture.", rich_help_panel=_FED),
    ] = None


@dataclass(frozen=True, kw_only=True)
class SwapRunOptions:
    """Where the engine runs."""

    precision: Annotated[
        Optional[Precision],
        typer.Option(help="Which engine of a model's folder; else the cheapest that fits.", rich_help_panel=_RUN),
    ] = None
    device: Annotated[int, typer.Option(min=0, help="Number of the GPU.", rich_help_panel=_RUN)] = 0
    threads: Annotated[
        Optional[int], typer.Option(min=1, help="CPU threads, of engines that run on the CPU.", rich_help_panel=_RUN)
    ] = None
    stand_in: Annotated[
        bool,
        typer.Option("--stand-in", help="No GPU: run a GPU engine's typed ONNX on the CPU.", rich_help_panel=_RUN),
    ] = False


@expand_groups
def command(
    engine: Annotated[Path, typer.Option(help="An engine's folder, a model's folder in the store, or an ONNX file.")],
    target: Annotated[Path, typer.Option(help="A photo, a folder of photos, or a video.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The photo, folder or video that is written.")],
    choice: FaceChoiceOptions,
    blend: BlendOptions,
    marks: ProvenanceOptions,
    video: VideoOptions,
    fed: FedOptions,
    execution: SwapRunOptions,
    source: Annotated[
        Optional[list[Path]],
        typer.Option(help="A photo of the person who is put in; several are averaged. Restorers need none."),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Swap (or restore) faces in a photo, a folder of photos or a video.

    All pixels but those of the faces stay as they are. A video whose process was killed goes on where it stopped when
    the same command is run again.
    """
    provenance, signer = open_provenance(marks)
    with _progress() as (progress, note):
        if marks.provenance == C2PA and signer is None:
            note("no certificate is named with --c2pa-cert, so results are marked by metadata only, not signed")
        with Swapper(
            engine,
            execution.precision,
            settings=SwapSettings(MaskSettings(blend.mask, blend.blur, parse_padding(blend.padding)), blend.colours),
            embedder=fed.embedder,
            converter=fed.converter,
            detector=choice.detector,
            contract=describe_onnx(engine, fed),
            options=ChainOptions(execution.device, execution.threads, execution.stand_in),
            provenance=provenance,
            note=note,
        ) as swapper:
            identity = swapper.learn(*(source or []))
            if source and identity is None:
                note("the generator takes no other person, so --source is not used")
            selection = swapper.look_for(*(choice.references or []), faces=choice.faces, distance=choice.distance)
            encoding = EncodingSettings(video.codec, video.quality)
            result = FileSwap(swapper, identity, selection, signer, encoding, progress).run(target, out)
            _show(swapper, result, as_json)
    if any(left_out.broken for left_out in result.left_out):
        raise typer.Exit(GateError.exit_code)


def open_provenance(marks: ProvenanceOptions) -> tuple[Provenance, Signer | None]:
    """What results are marked with, and who signs them. Raises BadInputError for options that clash."""
    named = (marks.c2pa_cert, marks.c2pa_key)
    provenance = Provenance(marks.provenance)
    if None in named and named != (None, None):
        raise BadInputError("a signature needs both --c2pa-cert and --c2pa-key", "name both, or neither")
    if marks.c2pa_cert is None or marks.c2pa_key is None:
        return provenance, None
    if marks.provenance != C2PA:
        raise BadInputError(
            f"--c2pa-cert signs, and --provenance {marks.provenance} wants no signature", "leave one of them out"
        )
    return provenance, Signer(marks.c2pa_cert, marks.c2pa_key, marks.c2pa_alg, provenance)


def parse_padding(text: str) -> tuple[float, float, float, float]:
    """Four percentages as shares. Raises BadInputError for anything else."""
    try:
        top, right, bottom, left = (float(part) / 100 for part in text.split(","))
    except ValueError as error:
        raise BadInputError(
            f"--padding {text!r} is not four percentages", "write top,right,bottom,left, for example --padding 10,0,0,0"
        ) from error
    return top, right, bottom, left


def describe_onnx(engine: Path, fed: FedOptions) -> Contract | None:
    """How a bare ONNX file is fed, where the options say it."""
    inputs = fed.inputs or []
    require_one_description(fed.preset, inputs)
    preset = describe_preset(fed.preset, inputs, fed.picture)
    if preset is None:
        return None
    if engine.suffix != ".onnx":
        raise BadInputError("--preset and --input are for bare ONNX files", "leave them out: engines say it themselves")
    return Contract(preset, find_projection(preset, OnnxSource(engine).model))


@contextmanager
def _progress() -> Iterator[tuple[Progress, console.Say]]:
    """A bar with frames per second and time left; where nobody watches, a line now and then."""
    with console.progress_bar(rate=True) as (draw, note):
        if console.err.is_terminal:
            yield draw, note
            return
        started = time.monotonic()
        last = [started]
        first: dict[str, int] = {}

        def report(stage: str, done: int, total: int) -> None:
            now = time.monotonic()
            begun = first.setdefault(stage, done)
            draw(stage, done, total)
            if now - last[0] >= _LOG_EVERY_S and done > begun:
                last[0] = now
                per_second = (done - begun) / (now - started)
                left = f", {(total - done) / per_second:.0f} s left" if total else ""
                note(f"{stage}: {done}/{total or '?'}, {per_second:.1f} a second{left}")

        yield report, note


def _show(swapper: Swapper, result: SwapResult, as_json: bool) -> None:
    shares = {stage: round(share, 4) for stage, share in swapper.times.shares.items()}
    if as_json:
        console.print_json(
            {
                "out": str(result.out),
                "engine": swapper.engines.label,
                "photos": result.photos,
                "faces": result.faces,
                "left_out": [vars(left_out) for left_out in result.left_out],
                "video": None if result.video is None else vars(result.video),
                "fallbacks": swapper.engines.fallbacks,
                "marked": swapper.provenance.kind != NONE,
                "seconds": {stage: round(seconds, 4) for stage, seconds in swapper.times.seconds.items()},
                "shares": shares,
            }
        )
        return
    for left_out in result.left_out:
        console.warn(f"{left_out.file} was left out: {left_out.reason}")
    faces = f"{result.faces} face{'' if result.faces == 1 else 's'}"
    if result.video is not None:
        resumed = f", {result.video.resumed} of them before" if result.video.resumed else ""
        what = f"{faces} in {result.video.frames} frames{resumed}, {result.video.fps:.1f} frames a second"
    else:
        what = f"{faces} in {result.photos} photo{'' if result.photos == 1 else 's'}"
    console.line(f"{result.out}: {what}")
    console.line("time: ", ", ".join(f"{stage} {share:.0%}" for stage, share in shares.items()))
