from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path

import pytest

from trt_facefusion.build.curate import curate
from trt_facefusion.report.selection import save_selection


@pytest.mark.parametrize("link", [False, True])
def test_photos_called_anything_are_selected_and_none_is_overwritten(
    sample_faces: Path, tmp_path: Path, link: bool
) -> None:
    names = ["selection.csv", "contact_sheet.html", os.fsdecode(b"caf\xe9\n.jpg"), "[red]x.jpg"]
    folder, output = tmp_path / "photos", tmp_path / "chosen"
    folder.mkdir()
    for path, name in zip(sorted(sample_faces.glob("*.jpg")), names, strict=False):
        shutil.copy(path, folder / name)
    before = {name: (folder / name).read_bytes() for name in names}
    save_selection(curate(folder, 4), folder, output, link=link)
    assert {name: (folder / name).read_bytes() for name in names} == before
    for name in names:
        copied = output / (f"photo-{name}" if name in names[:2] else name)
        assert copied.read_bytes() == before[name]
        assert copied.is_symlink() == link
    with (output / "selection.csv").open(newline="", errors="surrogateescape") as file:
        assert sorted(row["file"] for row in csv.DictReader(file)) == sorted(names)
    assert sorted(json.loads((output / "selection.json").read_bytes())["chosen"]) == sorted(names)
    assert (output / "contact_sheet.html").read_text().startswith("<!")
