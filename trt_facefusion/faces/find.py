"""Which files of a folder are photos: by suffix, and by their first bytes where the suffix says nothing."""

from __future__ import annotations

import os
import stat
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from trt_facefusion.errors import FacesError
from trt_facefusion.faces.image_file import open_regular
from trt_facefusion.faces.kinds import HEAD_BYTES, RAW_SUFFIXES, detect_kind

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".pjpeg", ".pjp", ".png", ".webp", ".bmp", ".tif", ".tiff"}
)
# Photos too, but of formats that are not read: the user hears about them instead of missing them.
FOREIGN_SUFFIXES = frozenset({".heic", ".heif", ".hif", ".avif", ".gif", ".jp2", ".jxl"})

# What a NAS, macOS, Windows and desktops keep beside photos: thumbnails of them, and what was thrown away.
_SYSTEM_FOLDERS = frozenset(
    {"@eadir", "@tmp", "@recycle", "@recently-snapshot", "#recycle", "#snapshot", "__macosx", "$recycle.bin"}
    | {"recycler", "system volume information"}
)


@dataclass
class PhotoListing:
    """What a folder holds: ``photos`` sorted by relative name, and how much of it was not looked at.

    ``raw`` are camera raw files without the same photo beside them: pictures that are not even opened.
    """

    photos: list[Path] = field(default_factory=list)
    raw: list[Path] = field(default_factory=list)
    others: int = 0
    hidden_folders: Counter[str] = field(default_factory=Counter)
    hidden_files: int = 0
    linked_folders: int = 0

    @property
    def note(self) -> str | None:
        """One line on what was not looked at, or None; other files than pictures are not worth a line."""
        parts = []
        if self.hidden_folders:
            names = sorted(self.hidden_folders)
            shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            parts.append(f"{_format_count(self.hidden_folders.total(), 'hidden or system folder')} ({shown})")
        if self.hidden_files:
            parts.append(_format_count(self.hidden_files, "hidden file"))
        if self.linked_folders:
            parts.append(_format_count(self.linked_folders, "link") + " to folders")
        return f"not looked at: {', '.join(parts)}" if parts else None


def find_photos(folder: Path) -> PhotoListing:
    """The photos in ``folder`` and below; hidden and system folders are left out, links to folders not followed.

    A file is a photo by its suffix or, whatever it is called, by its first bytes.

    Raises:
        FacesError: no such folder, a file, unreadable, empty, or without a photo.
    """
    remedy = f"Name a folder with photos ({', '.join(sorted(s[1:] for s in SUFFIXES))})."
    try:
        mode = folder.stat().st_mode
    except (OSError, ValueError) as error:
        if isinstance(error, (FileNotFoundError, ValueError)):
            raise FacesError(f"there is no folder {folder}", remedy) from error
        raise FacesError(f"there is no folder {folder}: {error.strerror or error}", remedy) from error
    if not stat.S_ISDIR(mode):
        raise FacesError(f"{folder} is a file, not a folder", remedy)
    found = PhotoListing()
    try:
        for root, folders, names in os.walk(folder, onerror=_reraise):
            _select_folders(found, Path(root), folders)
            for name in names:
                _sort_file(found, Path(root) / name)
    except OSError as error:
        raise FacesError(
            f"the folder {error.filename or folder} cannot be read: {error.strerror or error}",
            "Check its rights, or name another folder.",
        ) from error
    if not found.photos and not found.raw:
        what = f"holds no photo among its {found.others} files" if found.others else "is empty"
        raise FacesError(f"the folder {folder} {what}" + (f" ({found.note})" if found.note else ""), remedy)
    developed = {path.with_suffix("") for path in found.photos}
    found.raw = [path for path in found.raw if path.with_suffix("") not in developed]
    for paths in (found.photos, found.raw):
        paths.sort(key=lambda path: path.relative_to(folder).as_posix())
    return found


def list_photos(folder: Path) -> list[Path]:
    """The photos in ``folder`` and below, sorted by relative name; see `find_photos`.

    Raises:
        FacesError: as `find_photos`.
    """
    return find_photos(folder).photos


def _select_folders(found: PhotoListing, root: Path, folders: list[str]) -> None:
    """Keep in ``folders`` those to walk into. A link is none of them: it could lead in a circle."""
    walked = []
    for name in folders:
        if name.startswith(".") or name.lower() in _SYSTEM_FOLDERS:
            found.hidden_folders[name] += 1
        elif (root / name).is_symlink():
            found.linked_folders += 1
        else:
            walked.append(name)
    folders[:] = walked


def _sort_file(found: PhotoListing, path: Path) -> None:
    suffix = path.suffix.lower()
    named_as_photo = suffix in SUFFIXES | FOREIGN_SUFFIXES
    if path.name.startswith("."):
        found.hidden_files += named_as_photo or path.name.startswith("._")
    elif suffix in RAW_SUFFIXES:
        found.raw.append(path)
    elif named_as_photo or _looks_like_a_photo(path):
        found.photos.append(path)
    else:
        found.others += 1


def _looks_like_a_photo(path: Path) -> bool:
    try:
        with open_regular(path) as file:
            return detect_kind(file.read(HEAD_BYTES)) is not None
    except OSError:
        return False


def _format_count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _reraise(error: OSError) -> None:
    raise error
