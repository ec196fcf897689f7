"""Where the calibration of a model is written, and whether it can be."""

from __future__ import annotations

import os
from pathlib import Path

from trt_facefusion.build.inputs import BuildInputs
from trt_facefusion.build.settings import BuildSettings
from trt_facefusion.errors import StoreError
from trt_facefusion.quantization.calibration.cache import Calibration, cache_path, save_as


def locate_table(inputs: BuildInputs) -> Path:
    """Where the table of this model is written: the file that the user named, or one in the cache."""
    settings = inputs.settings
    return settings.table_file or cache_path(settings.cache, settings.source.name, inputs.view.digest)


def locate_partial(table: Path) -> Path:
    """Where a pass that is under way keeps its state."""
    return table.with_name(table.name.removesuffix(".cache") + ".partial")


def require_writable_cache(settings: BuildSettings) -> None:
    """Raise `StoreError` if a calibration cannot be written where it belongs: better now than after the pass."""
    if settings.table is not None:
        return
    folder = settings.cache if settings.table_file is None else settings.table_file.parent
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        what = "is not writable" if nearest.is_dir() else "is a file"
        raise StoreError(
            f"cannot write the calibration cache to {folder}: {nearest} {what}", "name another folder with --cache DIR"
        )


def save_calibration(inputs: BuildInputs, calibration: Calibration) -> None:
    """Write a calibration where it belongs; the state of its pass is no longer needed.

    Raises:
        StoreError: it cannot be written.
    """
    path = locate_table(inputs)
    save_as(calibration, path, "--cache" if inputs.settings.table_file is None else "--output")
    locate_partial(path).unlink(missing_ok=True)
