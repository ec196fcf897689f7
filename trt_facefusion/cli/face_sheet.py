"""The contact sheet of `trt-ff faces audit`, as a page and as a picture."""

from __future__ import annotations

from pathlib import Path

from trt_facefusion.faces.curation.coverage import FaceCoverage
from trt_facefusion.faces.curation.survey import Survey
from trt_facefusion.storage.files import write_atomic


def write_sheets(target: Path, title: str, subtitle: str, surveyed: Survey, covered: FaceCoverage) -> list[Path]:
    """Write FILE.html and FILE.png beside each other; gives both paths. Raises StoreError."""
    from trt_facefusion.report.contact_sheet import ContactSheet, render_html, render_png

    sheet = ContactSheet(title, subtitle, surveyed.photos, surveyed.chips, covered)
    stem = target.with_suffix("") if target.suffix.lower() in {".html", ".png"} else target
    files = [stem.with_name(stem.name + suffix) for suffix in (".html", ".png")]
    for file, content in zip(
        files, (render_html(sheet).encode(errors="backslashreplace"), render_png(sheet)), strict=True
    ):
        write_atomic(file, content, "--sheet")
    return files
