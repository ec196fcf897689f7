"""The faces of a build: those to calibrate on and those to judge on; nobody is in both."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trt_facefusion.build.job import Job
from trt_facefusion.build.reporter import Note
from trt_facefusion.errors import FacesError
from trt_facefusion.faces.faceset import KINDS, MIN_FACES, FaceSet, require_enough
from trt_facefusion.faces.folder import read_faces
from trt_facefusion.faces.split import MIN_VERIFICATION, split_by_identity

_SHOWN_SKIPS = 5
_STAGES = {"calib": "calibration faces", "eval": "evaluation faces"}


@dataclass(frozen=True)
class FaceSets:
    """Calibration faces choose everything; verification faces only judge."""

    calibration: FaceSet
    verification: FaceSet


def read_face_sets(job: Job) -> FaceSets:
    """Read the photos; one folder is split by identity, so that nobody is on both sides.

    Raises:
        FacesError: too few faces, or a folder that changes while it is read.
    """
    settings, reporter = job.settings, job.reporter
    calibration = _read(job, settings.calib, "calib")
    shortage = _check_count(settings.calib, calibration)
    if shortage:
        reporter.warn(f"{settings.calib}: {shortage}")
    if settings.eval is not None:
        verification = _read(job, settings.eval, "eval")
        _check_count(settings.eval, verification, minimum=2)
        shared = set(calibration.digests) & set(verification.digests)
        if shared:
            reporter.warn(
                f"{len(shared)} photos of {settings.eval} are also in {settings.calib}: the verdict is softer than it "
                "looks"
            )
    elif not settings.hold_out:
        return FaceSets(calibration.thin(settings.max_calib), calibration.subset([]))
    else:
        comparable = job.embedder.make_comparable(calibration.embeddings)
        first, second = split_by_identity(comparable, same_person=job.embedder.same_person)
        calibration, verification = calibration.subset(first), calibration.subset(second)
    calibration, verification = calibration.thin(settings.max_calib), verification.thin(settings.max_eval)
    if len(verification) < MIN_VERIFICATION:
        reporter.warn(f"judged on {len(verification)} faces only: {MIN_VERIFICATION} are the least that says something")
    return FaceSets(calibration, verification)


def _read(job: Job, folder: Path, role: str) -> FaceSet:
    settings = job.settings
    template, size = settings.preset.crops[0]
    faces = read_faces(
        folder,
        template=template,
        size=size,
        embedder=job.embedder,
        aligned=settings.aligned,
        progress=lambda _, done, total: job.reporter.progress(_STAGES[role], done, total),
    )
    if faces.folder_digest != job.digests[role]:
        raise FacesError(f"{folder} was changed while it was read", "run the same command again")
    _tell_skipped(folder, faces, job.reporter.note)
    # By content, not by name: what is made from the faces must not depend on how the photos are called.
    return faces.subset(np.argsort(np.array(faces.digests), kind="stable"))


def _tell_skipped(folder: Path, faces: FaceSet, note: Note) -> None:
    for skip in faces.skipped[:_SHOWN_SKIPS]:
        note(f"skipped {skip.file}: {skip.reason}")
    more = len(faces.skipped) - _SHOWN_SKIPS
    if more > 0:
        kinds = ", ".join(f"{count} {KINDS[kind]}" for kind, count in faces.count_skipped().items())
        total = len(faces) + len(faces.skipped)
        note(f"and {more} more; skipped {len(faces.skipped)} of {total} photos in {folder}: {kinds}")
    if faces.note:
        note(f"{folder}: {faces.note}")


def _check_count(folder: Path, faces: FaceSet, minimum: int = MIN_FACES) -> str | None:
    """What is weak about the number of faces, or None."""
    try:
        return require_enough(faces, minimum)
    except FacesError as error:
        raise FacesError(f"{folder}: {error.message}", error.remedy) from error
