"""Every known generator, as a file of its names and operators: it is described right, prepared, and fed what it wants.

That is held without a build: faces are fed through the one way that calibration, judging and swapping share, the
prepared graph gives the file's own picture, and the picture is the face that went in, in colours.
"""

from __future__ import annotations

from pathlib import Path

import nets
import numpy as np
import pytest
import tiny
from preset_stand_ins import STAND_INS

from trt_facefusion.errors import BadInputError
from trt_facefusion.faces.faceset import FaceSet
from trt_facefusion.faces.folder import read_faces
from trt_facefusion.inference.described import DescribedModel, prepare_described
from trt_facefusion.inference.embedders import open_embedder
from trt_facefusion.inference.feeder import Feeder
from trt_facefusion.inference.file_facts import read_file_facts
from trt_facefusion.inference.identity import find_projection
from trt_facefusion.model.export import OnnxSource
from trt_facefusion.model.graph import read_input_specs
from trt_facefusion.model.presets import ImageInput, Preset, get_preset
from trt_facefusion.model.presets.binding import bind_preset
from trt_facefusion.model.presets.inputs import SOURCE
from trt_facefusion.model.presets.recognition import recognise

LARGEST = 512
"""What is larger is only described here, and built in the slow tests."""
FED_ALIKE = {"hyperswap_1b_256": "hyperswap_1a_256", "hyperswap_1c_256": "hyperswap_1a_256"}
UNCERTAIN = {"simswap_256", "hififace_unofficial_256", "gfpgan_1.4", "gpen_bfr_512"}
"""Their graphs look like others', which are fed differently: the user names the preset."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("known")


def save(name: str, folder: Path) -> OnnxSource:
    path = folder / f"{name}.onnx"
    return OnnxSource(path if path.exists() else tiny.save(STAND_INS[name](), path))


@pytest.mark.parametrize("name", STAND_INS)
def test_a_file_is_recognised_or_its_ambiguity_is_told(name: str, folder: Path) -> None:
    recognition = recognise(read_file_facts(save(name, folder)))
    names = [candidate.preset.name for candidate in recognition.candidates]
    assert name in names
    if name in UNCERTAIN:
        assert recognition.ambiguous
    else:
        assert recognition.preset is not None and recognition.preset.name == FED_ALIKE.get(name, name)


class Fed:
    """A stand-in, described by its preset, and fed with two pictures of other people."""

    def __init__(self, name: str, folder: Path) -> None:
        self.model = save(name, folder).model
        self.preset: Preset = bind_preset(get_preset(name), read_input_specs(self.model))
        arcface = nets.save_arcface(folder / "arcface.onnx") if self.preset.embedder == "arcface" else None
        converts = self.preset.embedding is not None and self.preset.embedding.converter is not None
        converter = nets.save_converter(folder / "crossface.onnx") if converts else None
        self.embedder = open_embedder(self.preset, arcface, converter)
        self.faces = self._read_faces(folder)
        self.described: DescribedModel = prepare_described(self.model, self.preset, self.embedder.fed_dim)
        self.projection = find_projection(self.preset, self.model)

    def _read_faces(self, folder: Path) -> FaceSet:
        template, size = self.preset.crops[0]
        photos = tiny.write_pictures(folder / f"faces{size}", range(2), size)
        return read_faces(photos, template=template, size=size, embedder=self.embedder, aligned=True)

    def feed(self) -> dict[str, np.ndarray]:
        prepared = self.described.prepared
        feeder = Feeder(self.described.preset, self.faces, self.embedder, self.projection, 1, prepared.inputs)
        return dict(feeder([0]))


@pytest.mark.parametrize("name", STAND_INS)
def test_a_generator_is_fed_in_its_range_and_gives_its_picture(name: str, folder: Path) -> None:
    if get_preset(name).image.size > LARGEST:
        pytest.skip("built in the slow tests")
    fed = Fed(name, folder)
    feeds = fed.feed()
    for spec in fed.preset.inputs:
        if isinstance(spec, ImageInput):
            low, high = spec.limits
            assert low - 1e-4 <= feeds[spec.name].min() and feeds[spec.name].max() <= high + 1e-4
    embedding = fed.preset.embedding
    if embedding is not None and embedding.normalise:
        assert np.linalg.norm(feeds[embedding.name]) == pytest.approx(1, abs=1e-3)
    before, after = nets.run(fed.model, feeds), nets.run(fed.described.prepared.model, feeds)
    output = fed.described.preset.output
    picture = output.decode(after[str(output.name)])[0]
    np.testing.assert_allclose(picture, output.decode(before[str(output.name)])[0], atol=2e-3)
    crop = fed.faces.crops[0].astype(np.float32) / 255
    assert picture.shape == crop.shape and np.corrcoef(picture.ravel(), crop.ravel())[0, 1] > 0.8
    assert set(after) == {str(output.name), *output.masks}
    mask = output.decode_mask(after)
    assert (mask is None) == (not get_preset(name).output.masks)
    assert mask is None or (mask.shape == (1, *crop.shape[:2]) and 0 <= mask.min() <= mask.max() <= 1)


@pytest.mark.parametrize("name", ["uniface_256", "blendswap_256"])
def test_two_images_show_two_people(name: str, folder: Path) -> None:
    fed = Fed(name, folder)
    feeds = fed.feed()
    (source,) = (image for image in fed.preset.images if image.shows(SOURCE))
    template, size = fed.preset.crop(source)
    crops = fed.faces.cut_crops(template, size)
    others = source.encode(crops[[1]], crops[[1]])
    np.testing.assert_allclose(feeds[source.name], others, atol=1e-6)
    assert np.abs(feeds["source"] - source.encode(crops[[0]], crops[[0]])).mean() > 0.02


def test_a_generator_of_anothers_embeddings_needs_its_converter(folder: Path) -> None:
    arcface = nets.save_arcface(folder / "arcface.onnx")
    with pytest.raises(BadInputError, match="crossface_ghost"):
        open_embedder(get_preset("ghost_1_256"), arcface)
