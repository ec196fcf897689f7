"""Which folder of a store belongs to a model: the model's digest decides, and not only what its file is called.

A model is its digest (SHA-256 of the file, of a checkpoint with all that makes its network). The first model of a name
gets ``<root>/<name>/``, another one of that name ``<root>/<name>-<8 digits of its digest>/``. A file that was exported
again to the same path is the next version of the same model: it keeps the folder, and its engines replace the old ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from trt_facefusion.engine.store.manifest import Manifest, make_safe_name

ORIGIN = "origin"
"""The setting of a manifest that tells which file the model came from, without naming its path."""

_DIGITS = (8, 16, 64)


def model_folder(
    root: Path, name: str, digest: str, origin: str | None, entries: Iterable[tuple[Path, Manifest | None]]
) -> Path:
    """The folder of the model ``digest``, whether it exists or not.

    Args:
        root: the store.
        name: what the model is called.
        digest: SHA-256 (hex) of all that the model is.
        origin: tells models apart that were read from different places (see `ORIGIN`); None where that is not known.
        entries: every engine folder in the store, with its manifest where that can be read.
    """
    plain_name = make_safe_name(name)
    held: dict[Path, list[Manifest]] = {}
    for folder, manifest in entries:
        manifests = held.setdefault(folder.parent, [])
        if manifest is not None:
            manifests.append(manifest)
    own = [
        f
        for f, manifests in held.items()
        if _is_of(f.name, plain_name) and _are_all_of(manifests, name, digest, origin)
    ]
    if own:  # what holds this very version goes first, then the plain name
        return min(own, key=lambda f: (digest not in {m.inputs.model_sha256 for m in held[f]}, len(f.name), f.name))
    used_names = {
        f.name.casefold() for f, manifests in held.items() if manifests
    }  # some file systems do not tell case apart
    names = [plain_name, *(f"{plain_name}-{digest[:count]}" for count in _DIGITS)]
    return root / next((free for free in names if free.casefold() not in used_names), names[-1])


def label_folder(folder: Path, manifest: Manifest) -> str:
    """What to call the model of the engine in ``folder``: its name, or its folder's where others have that name."""
    name = folder.resolve().parent.name
    return manifest.model if name == make_safe_name(manifest.model) else name


def _is_of(folder: str, plain_name: str) -> bool:
    return folder.casefold() == plain_name.casefold() or bool(
        re.fullmatch(re.escape(plain_name) + "-(?:[0-9a-f]{8}|[0-9a-f]{16}|[0-9a-f]{64})", folder, re.IGNORECASE)
    )


def _are_all_of(manifests: list[Manifest], name: str, digest: str, origin: str | None) -> bool:
    return bool(manifests) and all(
        m.model == name
        and (m.inputs.model_sha256 == digest or (origin is not None and m.inputs.settings.get(ORIGIN) == origin))
        for m in manifests
    )
