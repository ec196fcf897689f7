"""Reports on the disk: ``<root>/<model>/<time>/`` with the record of a build and its page."""

from __future__ import annotations

from pathlib import Path

from trt_facefusion.build.run_record import FACTS, RunRecord
from trt_facefusion.engine.store.atomic import commit_folder
from trt_facefusion.engine.store.store import make_safe_name
from trt_facefusion.errors import BadInputError
from trt_facefusion.report.page import render_page
from trt_facefusion.storage.files import write_synced
from trt_facefusion.storage.leftovers import sweep_once

PAGE = "report.html"


def save_run(record: RunRecord, root: Path) -> Path:
    """Write the record and its page whole, and give the page's path.

    Raises:
        StoreError: the folder cannot be written.
    """
    time = str(record.facts["created"]).partition("+")[0].replace(":", "").replace("T", "-")
    by_time = root / _choose_model_folder(record) / time
    final, number = by_time, 2
    while final.exists():
        final, number = by_time.with_name(f"{by_time.name}-{number}"), number + 1
    page = render_page(record).encode()
    for folder in (root, *(path for path in root.glob("*") if path.is_dir())):
        sweep_once(folder)  # what a killed build left holds pictures of people
    with commit_folder(final) as folder:
        for name, content in {**record.files(), PAGE: page}.items():
            write_synced(folder / name, content)
    return final / PAGE


def _choose_model_folder(record: RunRecord) -> str:
    """The folder of a model's reports: called as the folder of its engines, which tells models of one name apart."""
    engines = [Path(str(engine["folder"])).resolve().parent.name for engine in record.facts["engines"]]
    name = make_safe_name(str(record.facts["model"]))
    return next((folder for folder in engines if folder.startswith(name)), name)


def find_run(path: Path) -> Path:
    """The folder of a run: ``path`` itself, or the newest in a model's folder or in the root of all reports.

    Raises:
        BadInputError: there is none.
    """
    folder = path.parent if path.name in {PAGE, FACTS} else path
    if (folder / FACTS).is_file():
        return folder
    runs = [facts_file.parent for pattern in (f"*/{FACTS}", f"*/*/{FACTS}") for facts_file in folder.glob(pattern)]
    runs = [run for run in runs if not run.name.startswith(".")]
    if not runs:
        raise BadInputError(
            f"there is no record of a build in {path}", "name a folder that a build wrote: reports/MODEL/TIME"
        )
    return max(runs, key=lambda run: run.name)
