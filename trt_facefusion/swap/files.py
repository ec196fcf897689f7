"""What a user names -> what is written: a photo, a folder of photos, or a video."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from trt_facefusion.errors import BadInputError, FacesError, GateError, StoreError, TrtFaceFusionError
from trt_facefusion.faces.find import FOREIGN_SUFFIXES, SUFFIXES, find_photos
from trt_facefusion.faces.image_file import UnreadableImageError, open_regular
from trt_facefusion.faces.kinds import HEAD_BYTES, RAW_SUFFIXES, detect_kind
from trt_facefusion.swap.identity import Identity
from trt_facefusion.swap.photo_file import find_kind
from trt_facefusion.swap.provenance import Signer
from trt_facefusion.swap.selection import FaceSelection
from trt_facefusion.swap.swapper import Swapper
from trt_facefusion.swap.video.encoding import EncodingSettings
from trt_facefusion.swap.video.render import VideoResult, VideoSwap
from trt_facefusion.types import Progress, silent

_STAGE = "photos"


@dataclass(frozen=True)
class LeftOut:
    """A photo that was not swapped, and why; ``broken``: because no engine gave a sound picture."""

    file: str
    reason: str
    broken: bool = False


@dataclass
class SwapResult:
    """What was written: ``photos``, with ``faces`` faces swapped; what was left out; of a video its figures."""

    out: Path
    photos: int = 0
    faces: int = 0
    left_out: list[LeftOut] = field(default_factory=list)
    video: VideoResult | None = None


@dataclass
class FileSwap:
    """Swaps what lies in files."""

    swapper: Swapper
    identity: Identity | None
    selection: FaceSelection
    signer: Signer | None = None
    encoding: EncodingSettings = field(default_factory=EncodingSettings)
    progress: Progress = silent

    def run(self, target: Path, out: Path) -> SwapResult:
        """Write ``out``: a file for a photo or a video, a folder for a folder.

        Raises:
            BadInputError: ``target`` is nothing of that kind, or ``out`` would replace it.
            FacesError: no face was swapped.
            GateError: a picture is broken whichever engine makes it.
            StoreError: something cannot be written.
        """
        if _is_same(target, out):
            raise BadInputError(f"{out} is the target itself, which would be lost", "name another file with --out")
        if target.is_dir():
            return self._swap_folder(target, out)
        if not is_photo(target):
            video = VideoSwap(
                self.swapper, self.identity, self.selection, self.encoding, self.signer, progress=self.progress
            )
            result = video.run(target, out)
            if not result.faces:
                self.swapper.note("warning: no frame shows a face that is to be swapped")
            return SwapResult(out, 0, result.faces, video=result)
        if out.is_dir():
            out = out / target.name
        self._require_signable(out)
        swapped = self.swapper.swap(self.identity, target, self.selection)
        swapped.save(out, self.signer)
        return SwapResult(out, 1, swapped.faces)

    def _swap_folder(self, folder: Path, out: Path) -> SwapResult:
        if out.is_file():
            raise BadInputError(f"{out} is a file, and the target is a folder", "name a folder with --out")
        if out.resolve().is_relative_to(folder.resolve()):
            raise BadInputError(
                f"{out} lies in the target, where its pictures would be swapped next time", "name a folder elsewhere"
            )
        listing = find_photos(folder)
        if listing.note:
            self.swapper.note(listing.note)
        result = SwapResult(out)
        for number, photo in enumerate(listing.photos):
            self.progress(_STAGE, number, len(listing.photos))
            self._swap_one(photo, folder, out, result)
        self.progress(_STAGE, len(listing.photos), len(listing.photos))
        result.left_out += [LeftOut(str(raw.relative_to(folder)), "camera raw is not read") for raw in listing.raw]
        if not result.photos:
            raise _explain_nothing(folder, result.left_out)
        return result

    def _swap_one(self, photo: Path, folder: Path, out: Path, result: SwapResult) -> None:
        name = photo.relative_to(folder)
        place = out / _name_result(name)
        try:
            self._require_signable(place)
            swapped = self.swapper.swap(self.identity, photo, self.selection)
            swapped.save(place, self.signer)
        except StoreError:
            raise
        except UnreadableImageError as error:
            result.left_out.append(LeftOut(str(name), error.reason))
        except (FacesError, GateError) as error:
            result.left_out.append(LeftOut(str(name), error.message, isinstance(error, GateError)))
        else:
            result.photos, result.faces = result.photos + 1, result.faces + swapped.faces

    def _require_signable(self, out: Path) -> None:
        kind = find_kind(out)
        if self.signer is not None:
            self.signer.require(kind, out.name)


def is_photo(path: Path) -> bool:
    """Whether a file is a photo, or is called like one. Raises BadInputError where there is none to look at."""
    if path.suffix.lower() in SUFFIXES | FOREIGN_SUFFIXES | RAW_SUFFIXES:
        return True
    try:
        with open_regular(path) as file:
            return detect_kind(file.read(HEAD_BYTES)) is not None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BadInputError(f"{path} cannot be read: {reason}", "name a photo, a folder or a video") from error


def _name_result(name: Path) -> Path:
    """The name of a photo's result: its own, and of a kind that is written."""
    try:
        find_kind(name)
    except BadInputError:
        return name.with_name(f"{name.name}.png")
    return name


def _is_same(target: Path, out: Path) -> bool:
    try:
        return target.samefile(out)
    except OSError:
        return False


def _explain_nothing(folder: Path, left_out: list[LeftOut]) -> TrtFaceFusionError:
    kind: Callable[[str, str], TrtFaceFusionError] = GateError if any(one.broken for one in left_out) else FacesError
    first = f"; {left_out[0].file}: {left_out[0].reason}" if left_out else ""
    return kind(f"none of the {len(left_out)} photos in {folder} was swapped{first}", "see what each of them lacks")
