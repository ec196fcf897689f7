"""What a client asks for: photos and how they are answered, checked before anything is decoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trt_facefusion.faces.kinds import HEAD_BYTES, READ, detect_kind, explain_unread
from trt_facefusion.serving.forms import PHOTOS, FormPart
from trt_facefusion.serving.limits import ServiceLimits
from trt_facefusion.serving.problems import RequestError, TooLargeError, UnsupportedMediaError
from trt_facefusion.swap.photo_file import JPEG, PNG, WEBP
from trt_facefusion.swap.selection import FACES
from trt_facefusion.text import printable

FORMATS = {"png": PNG, "jpeg": JPEG, "webp": WEBP}
MEDIA_TYPES = {PNG: "image/png", JPEG: "image/jpeg", WEBP: "image/webp"}
RESPONSES = ("image", "json")
_CHOICES = {"faces": FACES, "format": tuple(FORMATS), "response": RESPONSES}


@dataclass(frozen=True, eq=False)
class SwapOrder:
    """One swap: encoded photos, which faces, and the kind of file and reply that is wanted."""

    sources: tuple[bytes, ...]
    target: bytes
    faces: str
    kind: str
    response: str


def read_order(parts: Sequence[FormPart], limits: ServiceLimits, *, swaps: bool) -> SwapOrder:
    """The order in the parts of a form; ``swaps``: the generator puts another person in.

    Without ``format`` the answer is of the target's own kind, where that is one that is written.

    Raises:
        RequestError: a part is missing, unknown, twice there, or no possible choice.
        TooLargeError: too many source photos.
        UnsupportedMediaError: a photo is of a kind that is not read.
    """
    sources = [bytes(part.content) for part in parts if part.name == "source" and part.content]
    targets = [bytes(part.content) for part in parts if part.name == "target"]
    if len(targets) != 1:
        raise RequestError(f"there are {len(targets)} parts called target, not one", "send one photo as `target`")
    if swaps and not sources:
        raise RequestError("no photo says whose face is put in", "send at least one photo as `source`")
    if len(sources) > limits.source_photos:
        raise TooLargeError(f"there are {len(sources)} source photos", f"send at most {limits.source_photos}")
    texts = _read_texts(parts)
    kinds = [_require_photo(photo, f"source {number}") for number, photo in enumerate(sources, 1)]
    kinds.append(_require_photo(targets[0], "target"))
    own = kinds[-1] if kinds[-1] in MEDIA_TYPES else PNG
    kind = FORMATS[texts["format"]] if "format" in texts else own
    return SwapOrder(
        tuple(sources), targets[0], texts.get("faces", FACES[0]), kind, texts.get("response", RESPONSES[0])
    )


def _read_texts(parts: Sequence[FormPart]) -> dict[str, str]:
    texts: dict[str, str] = {}
    for part in parts:
        if part.name in PHOTOS:
            continue
        choices = _CHOICES.get(part.name)
        if choices is None:
            raise RequestError(
                f"there is no part {printable(part.name)!r}", f"leave it out; there are {', '.join(_CHOICES)}"
            )
        text = bytes(part.content).decode("utf-8", "replace").strip()
        if text not in choices or part.name in texts:
            raise RequestError(f"{part.name} is not one of {', '.join(choices)}", "choose one of these, once")
        texts[part.name] = text
    return texts


def _require_photo(photo: bytes, name: str) -> str:
    """The kind of an encoded photo that is read."""
    kind = detect_kind(photo[:HEAD_BYTES])
    if kind in READ or kind == "HEIC":
        return kind
    why = explain_unread(kind) if kind is not None else "not a JPEG, PNG, WebP, BMP or TIFF picture"
    raise UnsupportedMediaError(f"{name}: {why}", "save the photo as JPEG or PNG and send that")
