"""Photo in, photo out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from numpy.typing import NDArray
from pixelwise import save_pixelwise

from trt_facefusion.errors import BadInputError, FacesError
from trt_facefusion.swap.masks import MaskSettings
from trt_facefusion.swap.photo import Photo
from trt_facefusion.swap.swapper import Swapper, SwapSettings

Open = Callable[..., Swapper]
PLAIN = SwapSettings(colours=False)


def changed(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> NDArray[np.bool_]:
    return np.asarray((before != after).any(axis=2))


def test_the_largest_face_is_swapped_unless_all_are(
    scene: NDArray[np.uint8], inverting: Path, make_swapper: Open
) -> None:
    swapper = make_swapper(inverting, settings=PLAIN)
    largest = changed(scene, swapper.swap(None, scene).pixels)
    both = changed(scene, swapper.swap(None, scene, "all").pixels)
    assert largest[:, :320].any() and not largest[:, 320:].any()
    assert both[:, :320].any() and both[:, 320:].any()
    before = scene.copy()
    assert np.array_equal(scene, before)


def test_only_the_person_of_a_reference_is_swapped(
    scene: NDArray[np.uint8],
    other_face: NDArray[np.uint8],
    face: NDArray[np.uint8],
    inverting: Path,
    make_swapper: Open,
) -> None:
    swapper = make_swapper(inverting, settings=PLAIN)
    only_other = changed(scene, swapper.swap(None, scene, swapper.look_for(other_face)).pixels)
    assert only_other[:, 320:].any() and not only_other[:, :320].any()
    both = swapper.swap(None, scene, swapper.look_for(face, other_face, faces="all"))
    assert both.faces == 2
    with pytest.raises(FacesError, match="no face that is to be swapped") as caught:
        swapper.swap(None, scene, swapper.look_for(other_face, distance=1e-6))
    assert "--reference" in caught.value.remedy


def test_several_photos_of_a_source_are_averaged(
    face: NDArray[np.uint8], other_face: NDArray[np.uint8], inverting: Path, make_swapper: Open
) -> None:
    swapper = make_swapper(inverting, "image=image:64:0:1:template=arcface_128", settings=PLAIN)
    assert swapper.learn(face) is None  # it takes no other person
    from trt_facefusion.swap.identity import read_identity

    embedder, detector = swapper.embedder, swapper.detector
    one, other = (read_identity([image], detector, embedder, []) for image in (face, other_face))
    mean = read_identity([face, other_face], detector, embedder, [("ffhq_512", 64)])
    assert np.allclose(mean.embedding, (one.embedding + other.embedding) / 2, atol=1e-5)
    assert mean.crops["ffhq_512", 64].shape == (64, 64, 3)


def test_alpha_depth_and_greys_are_kept(
    scene: NDArray[np.uint8], inverting: Path, make_swapper: Open, tmp_path: Path
) -> None:
    swapper = make_swapper(inverting, settings=PLAIN)
    alpha = np.tile(np.arange(640, dtype=np.uint16) * 100, (360, 1))
    deep = Photo(scene.astype(np.uint16) * 257 + 3, alpha)
    swapped = swapper.swap(None, deep)
    assert swapped.photo.pixels.dtype == np.uint16 and np.array_equal(swapped.photo.alpha, alpha)
    untouched = np.ones(scene.shape[:2], bool)
    for patch in swapped.patches:
        untouched[patch.region.rows, patch.region.columns] &= patch.weights == 0
    assert np.array_equal(swapped.photo.pixels[untouched], deep.pixels[untouched])
    grey = swapper.swap(None, Photo(scene.mean(axis=2, keepdims=True).astype(np.uint8)))
    assert grey.photo.channels == 1 and grey.faces == 1
    inks = np.asarray(PIL.Image.fromarray(scene).convert("CMYK"))
    assert swapper.swap(None, Photo(inks)).photo.channels == 4


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_a_turned_photo_is_swapped_upright(
    orientation: int, scene: NDArray[np.uint8], inverting: Path, make_swapper: Open, tmp_path: Path
) -> None:
    turns = {3: 2, 6: 1, 8: 3}[orientation]
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    stored = PIL.Image.fromarray(np.ascontiguousarray(np.rot90(scene, turns)))
    stored.save(tmp_path / "turned.png", exif=exif.tobytes())
    swapper = make_swapper(inverting, settings=PLAIN)
    out = swapper.swap(None, tmp_path / "turned.png").save(tmp_path / "out.png")
    with PIL.Image.open(out) as written:
        assert np.array_equal(np.asarray(written), swapper.swap(None, scene).pixels)


def test_the_networks_own_mask_decides_where_it_counts(
    scene: NDArray[np.uint8], tmp_path: Path, make_swapper: Open
) -> None:
    net = save_pixelwise(tmp_path / "masked.onnx", "Sub", outputs=2)
    swapper = make_swapper(net, settings=PLAIN, picture="picture:0:1:masks=mask")
    boxed = make_swapper(net, settings=SwapSettings(MaskSettings("box"), False), picture="picture:0:1:masks=mask")
    masked, whole = swapper.swap(None, scene).pixels, boxed.swap(None, scene).pixels
    assert np.abs(masked.astype(int) - scene).sum() < np.abs(whole.astype(int) - scene).sum()


def test_refusals_say_what_to_do(inverting: Path, face: NDArray[np.uint8], make_swapper: Open, tmp_path: Path) -> None:
    swapper = make_swapper(inverting)
    with pytest.raises(FacesError, match="shows no face"):
        swapper.swap(None, np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(FacesError, match=r"none\.jpg"):
        swapper.swap(None, tmp_path / "none.jpg")
    with pytest.raises(BadInputError, match="float32"):
        swapper.swap(None, face.astype(np.float32))
    with pytest.raises(BadInputError, match="faces cannot be 'some'"):
        swapper.swap(None, face, "some")
    with pytest.raises(BadInputError, match="not written"):
        swapper.swap(None, face).save(tmp_path / "out.gif")


def test_a_swapper_of_people_wants_a_source_with_a_face(
    tmp_path: Path, make_swapper: Open, face: NDArray[np.uint8]
) -> None:
    import tiny

    net = tiny.save(tiny.generator(embedding=128), tmp_path / "swap.onnx")
    swapper = make_swapper(net, "image=image:32:0:1", "identity=embedding")
    with pytest.raises(BadInputError, match="no photo says whom"):
        swapper.swap(None, face)
    with pytest.raises(FacesError, match="source 1 shows no face"):
        swapper.swap(np.zeros((99, 99, 3), np.uint8), face)
    with pytest.raises(FacesError, match="no photo says"):
        from trt_facefusion.swap.identity import read_identity

        read_identity([], swapper.detector, swapper.embedder, [])
