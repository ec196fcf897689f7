"""`trt-ff diff`: two engines or ONNX models on the same faces, output by output, picture by picture, layer by layer."""

from __future__ import annotations

from contextlib import ExitStack

from trt_facefusion.errors import FacesError
from trt_facefusion.evaluation.accuracy.metric import Tools
from trt_facefusion.evaluation.accuracy.registry import require_preferred
from trt_facefusion.evaluation.comparison.contracts import agree_on_contract
from trt_facefusion.evaluation.comparison.layer_run import compare_layers
from trt_facefusion.evaluation.comparison.output_run import compare_outputs
from trt_facefusion.evaluation.comparison.pair import ModelPair, pair_models
from trt_facefusion.evaluation.comparison.pictures import compare_with_file, judge_pictures
from trt_facefusion.evaluation.comparison.result import DiffResult, check_tolerances
from trt_facefusion.evaluation.comparison.saved import SaveFolder, open_save_folder
from trt_facefusion.evaluation.comparison.settings import DiffSettings
from trt_facefusion.evaluation.comparison.sides import open_runnable, require_fitting_inputs
from trt_facefusion.faces.faceset import FaceSet, require_enough
from trt_facefusion.faces.folder import read_faces
from trt_facefusion.inference.embedders import open_embedder
from trt_facefusion.inference.open import open_model
from trt_facefusion.types import Note, Progress, drop_note, silent

MIN_FACES = 2


def diff(settings: DiffSettings, progress: Progress = silent, note: Note = drop_note) -> DiffResult:
    """Compare two models on the faces of a folder.

    Raises:
        TrtFaceFusionError: what cannot be read, run or compared; a tolerance that is not kept is no error but in the
            result.
    """
    require_preferred(Tools(lpips_backbone=settings.lpips_backbone))
    opened = [open_model(path, device=settings.device) for path in (settings.a, settings.b)]
    for message in (message for model in opened for message in model.notes):
        note(message)
    contract = agree_on_contract(opened[0], opened[1], settings.preset)
    embedder = open_embedder(contract.preset, settings.embedder, settings.converter)
    with ExitStack() as stack:
        a, b = (open_runnable(m, stack, stand_in=settings.stand_in, device=settings.device) for m in opened)
        for model in (a, b):
            require_fitting_inputs(model, contract.preset, embedder.fed_dim)
        folder = stack.enter_context(open_save_folder(settings.save))
        pair = pair_models(a, b, contract, embedder, note, picture_needed=settings.max_ssim_drop is not None)
        save = SaveFolder(folder, (pair.titled[0][1], pair.titled[1][1]))
        return _compare(pair, settings, save, progress, note)


def _compare(pair: ModelPair, settings: DiffSettings, save: SaveFolder, progress: Progress, note: Note) -> DiffResult:
    """Run everything that the settings name."""
    faces = _read_faces(pair, settings, progress, note)
    outputs, pictures = compare_outputs(pair, faces, save, progress)
    picture, file = None, None
    if pair.picture is not None:
        picture = judge_pictures(pair, *pictures, progress, settings.lpips_backbone)
        file = compare_with_file(pair, faces, *pictures, progress, note)
    layers = compare_layers(pair, faces, settings, save, progress, note) if settings.layers else None
    return DiffResult(
        a=pair.a.as_dict(),
        b=pair.b.as_dict(),
        faces=len(faces),
        batch=pair.batch.size,
        outputs=outputs,
        picture=picture,
        picture_output=pair.picture_output,
        layers=layers,
        checks=check_tolerances(settings, outputs, picture),
        saved=settings.save,
        file=file,
    )


def _read_faces(pair: ModelPair, settings: DiffSettings, progress: Progress, note: Note) -> FaceSet:
    preset, folder = pair.contract.preset, settings.faces
    faces = read_faces(
        folder,
        template=preset.crops[0][0],
        size=preset.crops[0][1],
        embedder=pair.embedder,
        aligned=settings.aligned,
        progress=progress,
    )
    try:
        require_enough(faces, MIN_FACES if preset.swaps else 1, advised=0)
    except FacesError as error:
        raise FacesError(f"{folder}: {error.message}", error.remedy) from error
    if faces.skipped:
        note(f"skipped {len(faces.skipped)} of {len(faces) + len(faces.skipped)} photos in {folder}")
    if faces.note:
        note(f"{folder}: {faces.note}")
    return faces.thin(settings.max_faces)
