"""What a network with several images and an embedding is fed: the people, their crops, and how they fit together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tiny

from trt_facefusion.faces.folder import read_faces
from trt_facefusion.inference.feeder import Feeder
from trt_facefusion.model.presets import Preset, parse_input
from trt_facefusion.types import TensorSpec


def test_images_and_embedding_of_the_source_are_one_other_person(tmp_path: Path) -> None:
    pictures = tiny.write_pictures(tmp_path / "faces", range(12))
    texts = ("target=image:32:0:255:nhwc", "source=image:32:0:255:nhwc", "id=embedding:raw")
    preset = Preset.from_inputs([parse_input(text) for text in texts])
    faces = read_faces(pictures, template="arcface_128", size=32, embedder=tiny.Glance(), aligned=True)
    feeder = Feeder(preset, faces, tiny.Glance())
    feeds = feeder(range(12))
    crops = np.asarray(faces.crops)
    np.testing.assert_array_equal(np.rint(feeds["target"]), crops)
    assert (feeder.sources != np.arange(12)).all()
    np.testing.assert_array_equal(np.rint(feeds["source"]), crops[feeder.sources])
    np.testing.assert_array_equal(feeds["id"], faces.embeddings[feeder.sources])


def test_each_image_gets_its_own_template_and_size(tmp_path: Path) -> None:
    pictures = tiny.write_pictures(tmp_path / "faces", range(6))
    texts = ("target=image:64:0:255:nhwc:template=ffhq_512", "source=image:48:0:255:nhwc:template=arcface_112_v2")
    preset = Preset.from_inputs([parse_input(text) for text in texts])
    faces = read_faces(pictures, template="ffhq_512", size=64, embedder=tiny.Glance(), aligned=True)
    feeder = Feeder(preset, faces, tiny.Glance())
    feeds = feeder([0, 3])
    assert feeds["source"].shape == (2, 48, 48, 3)
    wanted = np.asarray(faces.cut_crops("arcface_112_v2", 48))[feeder.sources[[0, 3]]]
    np.testing.assert_array_equal(np.rint(feeds["source"]), wanted)


def test_a_restorer_is_fed_one_person_only(tmp_path: Path) -> None:
    pictures = tiny.write_pictures(tmp_path / "faces", range(2))
    preset = Preset.from_inputs([parse_input("x=image:32:0:255:stack=target/lower+target")])
    faces = read_faces(pictures, template="arcface_128", size=32, embedder=tiny.Glance(), aligned=True)
    takes = (TensorSpec("x", ("N", 6, 32, 32), "uint8"),)
    feeds = Feeder(preset, faces, tiny.Glance(), takes=takes)([1])
    assert feeds["x"].dtype == np.uint8 and feeds["x"].shape == (1, 6, 32, 32)
    np.testing.assert_array_equal(feeds["x"][0, 3:], np.asarray(faces.crops)[1].transpose(2, 0, 1))
    assert not feeds["x"][0, :3, 16:].any()
