"""`trt-ff faces`: what a folder of photos covers, and a selection of it to calibrate on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from trt_facefusion.cli import console, options
from trt_facefusion.cli.face_sheet import write_sheets
from trt_facefusion.cli.face_tables import print_files, show_coverage, show_selection, summarise_survey, survey_as_dict
from trt_facefusion.cli.generator_options import GeneratorOptions, open_generator
from trt_facefusion.cli.groups import expand_groups
from trt_facefusion.errors import FacesError
from trt_facefusion.faces.curation.coverage import measure_coverage
from trt_facefusion.faces.curation.survey import Survey, survey_folder
from trt_facefusion.faces.embedder import DlibEmbedder, Embedder
from trt_facefusion.faces.faceset import require_enough
from trt_facefusion.types import Progress

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
        surveyed = _survey_faces(folder, DlibEmbedder(), aligned, progress)
    covered = measure_coverage(surveyed)
    title = f"Photos in {folder.resolve().name}"
    files = [] if sheet is None else write_sheets(sheet, title, summarise_survey(surveyed), surveyed, covered)
    if as_json:
        console.print_json(survey_as_dict(folder, surveyed, covered) | {"sheets": [str(file) for file in files]})
    else:
        show_coverage(surveyed, covered)
        print_files(files)
    if strict and (covered.problems or covered.gaps):
        raise typer.Exit(GAPS)


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
    opened = open_generator(generator)
    with console.progress_bar() as (progress, note):
        selected = curate(folder, count, opened, aligned=aligned, progress=progress)
        if len(selected.selection.picks) < count:
            note(f"warning: only {len(selected.selection.picks)} photos are fit, {count} were asked for")
        save_selection(selected, folder, output, link=link)
    if as_json:
        console.print_json(collect_facts(selected) | {"folder": str(output)})
    else:
        show_selection(selected, output)


def _survey_faces(folder: Path, embedder: Embedder, aligned: bool, progress: Progress) -> Survey:
    surveyed = survey_folder(folder, embedder=embedder, aligned=aligned, progress=progress)
    try:
        require_enough(surveyed.faces, 1)
    except FacesError as error:
        raise FacesError(f"{folder}: {error.message}", error.remedy) from error
    return surveyed
