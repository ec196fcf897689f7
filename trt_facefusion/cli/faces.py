"""`trt-ff faces`: what a folder of photos covers, and a selection of it to calibrate on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import numpy as np
import typer
from rich.table import Table
from rich.text import Text

from trt_facefusion.cli import console, options
from trt_facefusion.cli.groups import expand_groups
from trt_facefusion.errors import BadInputError, FacesError
from trt_facefusion.faces.curation.coverage import CoverageFinding, FaceCoverage, Row, measure_coverage
from trt_facefusion.faces.curation.facets import AXES
from trt_facefusion.faces.curation.measure import Photo
from trt_facefusion.faces.curation.survey import Survey, survey_folder
from trt_facefusion.faces.embedder import DlibEmbedder, Embedder
from trt_facefusion.faces.faceset import KINDS, require_enough
from trt_facefusion.storage.files import write_atomic
from trt_facefusion.types import Progress

if TYPE_CHECKING:
    from trt_facefusion.build.curate import Curated, Generator

GAPS = 2
"""Exit code of --strict where something is missing: the photos are bad input."""

app = typer.Typer(
    help="Check and choose the photos that INT8 is calibrated on.", no_args_is_help=True, rich_markup_mode="rich"
)

Folder = Annotated[Path, typer.Argument(help="Photos; folders below are read too.", show_default=False)]
Aligned = Annotated[bool, typer.Option("--aligned", help="The photos are aligned square crops already.")]
SheetFile = Annotated[
    Optional[Path],
    typer.Option("--sheet", help="Write a contact sheet: FILE.html and FILE.png, with pictures of the faces."),
]


@app.command("audit")
def audit(
    folder: Folder,
    aligned: Aligned = False,
    sheet: SheetFile = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 2 if anything is missing.")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Say what the faces in a folder cover, what is missing for INT8 calibration, and what to add.

    Measures every face: size, sharpness, exposure, head pose, skin tone (ITA), whether something covers eyes or mouth,
    near copies, and how many people there are. Light and skin tone are estimated from single photos and serve coverage
    only. Nobody is identified: what tells people apart stays in memory, only counts are shown, and nothing is written
    unless you ask for a contact sheet.

    Exit code 0 with warnings where something is missing; --strict makes that 2.
    """
    with console.progress_bar() as (progress, _):
        surveyed = _survey(folder, DlibEmbedder(), aligned, progress)
    covered = measure_coverage(surveyed)
    title = f"Photos in {folder.resolve().name}"
    files = [] if sheet is None else _write_sheet(sheet, title, _summary(surveyed), surveyed, covered)
    if as_json:
        console.print_json(_as_json(folder, surveyed, covered) | {"sheets": [str(file) for file in files]})
    else:
        _show(surveyed, covered)
        _say_files(files)
    if strict and (covered.problems or covered.gaps):
        raise typer.Exit(GAPS)


@dataclass(frozen=True, kw_only=True)
class GeneratorOptions:
    """The generator over whose activations photos are spread."""

    onnx: Annotated[
        Optional[Path],
        typer.Option(help="Your generator: also spread over its activations (then describe its inputs)."),
    ] = None
    preset: Annotated[
        Optional[str],
        typer.Option(
            help="The generator's inputs, see `trt-ff presets`; without --onnx, `reference` is the bundled one."
        ),
    ] = None
    inputs: Annotated[
        Optional[list[str]], typer.Option("--input", help="One input of --onnx, as for `build`; repeat it.")
    ] = None
    picture: Annotated[Optional[str], typer.Option("--picture", help="The output of --onnx that is the picture.")] = (
        None
    )
    embedder: Annotated[
        Optional[Path], typer.Option(help="ArcFace ONNX that the generator's embeddings come from.")
    ] = None


@app.command("curate")
@expand_groups
def curate(
    *,
    folder: Folder,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The folder for the chosen photos.", show_default=False)
    ],
    count: Annotated[int, typer.Option("-n", "--count", min=2, help="How many photos to choose.")] = 300,
    generator: GeneratorOptions,
    aligned: Aligned = False,
    link: Annotated[bool, typer.Option("--link", help="Link to the photos instead of copying them.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier selection in --output.")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Choose the photos of a folder that together cover most, and copy them to another.

    Blurred, burnt-out and unreadable photos go, and all but the sharpest of near copies. The rest is chosen one by one:
    what lies farthest from all chosen before, in identity, pose, light, skin tone and sharpness, first of all what is
    still short. With a generator also by how its activations differ. The same photos always give the same selection.

    The output holds selection.csv (why each photo was chosen), selection.json (the coverage before and after) and
    contact_sheet.html. None of them holds an embedding, or says who is whom. `trt-ff faces audit OUT --sheet NAME`
    gives the sheet as a PNG, too; in the folder itself a picture would count as a photo.
    """
    from trt_facefusion.build.curate import curate
    from trt_facefusion.report.selection import check_output, collect_facts, save_selection

    check_output(output, folder, force)
    opened = _open_generator(generator)
    with console.progress_bar() as (progress, note):
        result = curate(folder, count, opened, aligned=aligned, progress=progress)
        if len(result.selection.picks) < count:
            note(f"warning: only {len(result.selection.picks)} photos are fit, {count} were asked for")
        save_selection(result, folder, output, link=link)
    if as_json:
        console.print_json(collect_facts(result) | {"folder": str(output)})
    else:
        _show_selection(result, output)


def _open_generator(asked: GeneratorOptions) -> Generator | None:
    from trt_facefusion.build.curate import Generator
    from trt_facefusion.model.export import OnnxSource, ReferenceSource
    from trt_facefusion.model.graph import read_input_specs
    from trt_facefusion.model.presets import get_preset
    from trt_facefusion.model.presets.fit import suggestions

    onnx, inputs = asked.onnx, asked.inputs or []
    options.require_one_description(asked.preset, inputs)
    if onnx is None:
        if asked.preset == "reference" and asked.embedder is None:
            return Generator(ReferenceSource(), get_preset("reference"))
        if asked.preset is not None or inputs or asked.embedder is not None or asked.picture is not None:
            raise BadInputError(
                "--preset, --input and --embedder describe a model, but none is named", "add --onnx FILE"
            )
        return None
    preset = options.describe_preset(asked.preset, inputs, asked.picture)
    if preset is None:
        example = suggestions(read_input_specs(OnnxSource(onnx).model))
        raise BadInputError(
            f"nothing says what the inputs of {onnx.name} are",
            f"name a --preset, or describe each input, perhaps with {example}",
        )
    if preset.embedder == "arcface" and preset.embedding is not None and asked.embedder is None:
        raise BadInputError(
            f"the preset {preset.name!r} takes ArcFace embeddings, and that embedder is not bundled",
            "name its ONNX file with --embedder",
        )
    return Generator(OnnxSource(onnx), preset, asked.embedder)


def _survey(folder: Path, embedder: Embedder, aligned: bool, progress: Progress) -> Survey:
    surveyed = survey_folder(folder, embedder=embedder, aligned=aligned, progress=progress)
    try:
        require_enough(surveyed.faces, 1)
    except FacesError as error:
        raise FacesError(f"{folder}: {error.message}", error.remedy) from error
    return surveyed


def _summary(surveyed: Survey) -> str:
    photos = len(surveyed) + len(surveyed.skipped)
    people = len(np.unique(surveyed.persons))
    return f"{len(surveyed)} faces in {photos} photos, about {people} {'person' if people == 1 else 'people'}"


def _as_json(folder: Path, surveyed: Survey, covered: FaceCoverage) -> dict[str, Any]:
    copies = surveyed.copy_of
    return {
        "schema": 1,
        "folder": str(folder),
        "photos": len(surveyed) + len(surveyed.skipped),
        "faces": len(surveyed),
        "different_pictures": len(surveyed.pick_best_copies()),
        "people_about": len(np.unique(surveyed.persons)),
        "photos_of_the_most_frequent_person": surveyed.largest_person,
        "skipped": [{"file": skip.file, "kind": skip.kind, "reason": skip.reason} for skip in surveyed.skipped],
        "coverage": covered.as_dict(),
        "per_photo": [photo.as_dict() | {"near_copy_of": copies.get(photo.file)} for photo in _by_name(surveyed)],
    }


def _by_name(surveyed: Survey) -> list[Photo]:
    return sorted(surveyed.photos, key=lambda photo: photo.file)


def _write_sheet(target: Path, title: str, subtitle: str, surveyed: Survey, covered: FaceCoverage) -> list[Path]:
    from trt_facefusion.report.contact_sheet import ContactSheet, render_html, render_png

    sheet = ContactSheet(title, subtitle, surveyed.photos, surveyed.chips, covered)
    stem = target.with_suffix("") if target.suffix.lower() in {".html", ".png"} else target
    files = [stem.with_name(stem.name + suffix) for suffix in (".html", ".png")]
    for file, data in zip(
        files, (render_html(sheet).encode(errors="backslashreplace"), render_png(sheet)), strict=True
    ):
        write_atomic(file, data, "--sheet")
    return files


def _show(surveyed: Survey, covered: FaceCoverage) -> None:
    console.out.print(_summary(surveyed))
    kinds = surveyed.faces.count_skipped()
    if kinds:
        told = ", ".join(f"{count} {KINDS[kind]}" for kind, count in kinds.items())
        console.out.print(f"skipped: {told}")
    if surveyed.faces.note:
        console.out.print(console.plain(surveyed.faces.note))
    console.show(_table({"share": covered}))
    _show_findings("Gaps", covered.gaps, "yellow")
    _show_findings("Wrong with the set", covered.problems, "red")
    if not covered.problems and not covered.gaps:
        console.out.print(console.styled("nothing is missing", "green"))


def _show_selection(result: Curated, output: Path) -> None:
    before, after = result.coverage["before"], result.coverage["after"]
    chosen, everything = len(result.selection.picks), len(result.survey)
    console.show(_table({f"all {everything}": before, f"chosen {chosen}": after}))
    _show_findings("Still missing", after.gaps, "yellow")
    _show_findings("Wrong with the set", result.problems, "red")
    dropped = len(result.selection.dropped)
    text = f"chosen {chosen} of {everything} faces; {dropped} left out as too poor or near copies"
    console.out.print(text)
    _say_files([output])


def _table(columns: dict[str, FaceCoverage]) -> Table:
    """Shares by axis and bin; one column for each coverage, and what is aimed at."""
    table = Table(header_style="bold")
    table.add_column("")
    table.add_column("")
    for name in columns:
        table.add_column(name, justify="right")
    table.add_column("aim", justify="right")
    by_place = [{(row.axis, row.bin): row for row in covered.rows} for covered in columns.values()]
    for axis, rows in groupby(next(iter(columns.values())).rows, key=lambda row: row.axis):
        shown = [row for row in rows if row.bin != "other"]
        for number, row in enumerate(shown):
            shares = [_share(row_at[axis, row.bin]) for row_at in by_place]
            title = AXES[axis].title if number == 0 else ""
            table.add_row(title, row.words, *shares, _aim(row), end_section=number == len(shown) - 1)
    return table


def _share(row: Row) -> str | Text:
    text = f"{row.share:.1%}"
    return console.styled(text, "yellow") if row.gap else text


def _aim(row: Row) -> str:
    least, most = row.target.least, row.target.most
    if least > 0 and most < 1:
        return f"{100 * least:.0f} to {most:.0%}"
    return f">= {least:.0%}" if least > 0 else f"<= {most:.0%}" if most < 1 else ""


def _show_findings(heading: str, findings: Sequence[CoverageFinding], colour: str) -> None:
    if not findings:
        return
    console.line()
    console.line(console.styled(heading, f"bold {colour}"))
    for finding in findings:
        hanging = Table.grid(padding=(0, 1))
        hanging.add_column(no_wrap=True)
        hanging.add_column(overflow="fold")
        hanging.add_row(console.styled("!", colour), console.plain(finding.text))
        hanging.add_row("", console.styled(finding.advice, "dim"))
        console.out.print(hanging)


def _say_files(files: Sequence[Path]) -> None:
    for file in files:
        console.line(f"written: {file}")
