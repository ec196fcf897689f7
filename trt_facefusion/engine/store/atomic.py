"""Writing that leaves either all or nothing, also when the process is killed or the disk is full.

Files and folders are written under a temporary name beside their place, forced to the disk, and renamed. What a killed
process leaves behind has a name that starts with ``.tmp-`` or ``.old-`` and is never read; ``sweep`` clears it away.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from trt_facefusion.errors import StoreError
from trt_facefusion.storage.files import PROCESS, make_store_error, sibling, sync, write_atomic, write_synced
from trt_facefusion.storage.leftovers import is_leftover, owned, sweep_leftover, sweep_once

__all__ = ["PROCESS", "Lock", "commit_folder", "make_store_error", "sweep", "write_atomic", "write_synced"]

Lock = Callable[[Path], AbstractContextManager[bool]]
"""Takes the lock of a folder if it is free; gives whether it was."""


@contextmanager
def commit_folder(final: Path) -> Iterator[Path]:
    """Fill a folder as a whole: gives a temporary folder, and renames it to ``final`` when the block ends well.

    A folder that is already there is replaced. On any exception the temporary folder is removed and ``final`` is as it
    was. A process killed between the two renames leaves the old folder under a name that ``sweep`` puts back.

    Raises:
        StoreError: the disk is full or the folder cannot be written to.
    """
    made_parents = _find_missing_parents(final)
    temporary = sibling(final, "tmp")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        sweep_once(final.parent)
        with owned(temporary, Path.mkdir):
            yield temporary
            _sync_tree(temporary)
            _swap(temporary, final)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        for parent in made_parents:
            with suppress(OSError):  # only what is empty goes
                parent.rmdir()
        if isinstance(error, OSError):
            raise make_store_error(error, final) from error
        raise


def _swap(temporary: Path, final: Path) -> None:
    if not final.exists():
        temporary.rename(final)
        sync(final.parent)
        return
    old = sibling(final, "old")
    with owned(final):  # as it will be called in the moment when nothing is called ``final``
        final.rename(old)
        try:
            temporary.rename(final)
        except BaseException:
            old.rename(final)
            raise
        sync(final.parent)
        shutil.rmtree(old, ignore_errors=True)


def sweep(root: Path, lock: Lock) -> None:
    """Clear away what dead processes left in ``root`` and the folders right below it.

    A folder is touched only under its lock, so that the work of a living process stays. The old version of a folder
    whose replacement never arrived is put back. A store that cannot be written to is left as it is.
    """
    for leftover in [*root.glob(".*-*"), *root.glob("*/.*-*")]:
        final = is_leftover(leftover)
        if final is None:
            continue
        with suppress(OSError, StoreError), lock(final) as free:
            if free and leftover.exists():
                sweep_leftover(leftover)


def _find_missing_parents(path: Path) -> list[Path]:
    return [parent for parent in path.parents if not parent.exists()]


def _sync_tree(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        sync(path)
    sync(folder)
