"""The parts of the reference generator's training, on the project's own sample faces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from reference_faces import Faces, augment, disturb, make_face_ellipse, read_folder
from reference_losses import IdentityLoss, LossWeights, blur, gradient_difference, measure_marks
from torch import Tensor
from train_reference import GeneratorTrainer, parse_loss_weights

from trt_facefusion.evaluation.accuracy.identity import embed_crops
from trt_facefusion.faces.embedder import DLIB_MODEL, DlibEmbedder
from trt_facefusion.model.generators import REFERENCE_WEIGHTS, load_reference, read_state


@pytest.fixture(scope="module")
def faces(sample_faces: Path) -> Faces:
    return Faces.from_arrays(*read_folder(sample_faces, 6))


@pytest.fixture(scope="module")
def crops(faces: Faces) -> Tensor:
    return faces.centre_crops()


@pytest.fixture
def trainer(faces: Faces) -> GeneratorTrainer:
    torch.set_num_threads(1)
    return GeneratorTrainer(faces, 100, 0, REFERENCE_WEIGHTS, LossWeights())


def test_training_starts_from_the_picture_of_the_packaged_weights(
    trainer: GeneratorTrainer, faces: Faces, crops: Tensor
) -> None:
    own = faces.embeddings[:, 0].roll(1, 0)
    with torch.no_grad():
        assert (trainer.net(crops, own)[0] - load_reference()(crops, own)[0]).abs().max() < 1e-5


def test_a_run_that_was_interrupted_goes_on_as_if_it_was_not(
    trainer: GeneratorTrainer, faces: Faces, tmp_path: Path
) -> None:
    trainer.train_step()
    torch.save(trainer.get_state(), tmp_path / "last.pt")
    straight_on = trainer.train_step()
    resumed = GeneratorTrainer(faces, 100, 0, None, LossWeights())
    resumed.set_state(torch.load(tmp_path / "last.pt", weights_only=True))
    assert resumed.train_step() == straight_on
    weights = read_state(tmp_path / "last.pt")
    assert weights.keys() == trainer.average.state_dict().keys()
    assert load_reference(tmp_path / "last.pt").training is False


def test_the_learning_rate_rises_stays_and_falls(trainer: GeneratorTrainer) -> None:
    rates = []
    for step in range(1, trainer.steps + 1):
        trainer.step = step
        rates.append(trainer.compute_rate())
    assert rates[0] < rates[30] < max(rates) > rates[-10] > rates[-1] > 0


def test_another_weight_of_a_term_is_taken_and_an_unknown_term_refused() -> None:
    assert parse_loss_weights(["identity=1"]) == LossWeights(identity=1.0)
    with pytest.raises(Exception, match="no loss term"):
        parse_loss_weights(["beauty=1"])


def test_strokes_on_a_cheek_are_marks_and_a_face_that_moves_a_little_has_none(crops: Tensor) -> None:
    still, moved, scratched = crops[..., 8:-8, 8:-8], crops[..., 6:-10, 7:-9], crops[..., 8:-8, 8:-8].clone()
    scratched[..., 66:88, 32] *= 0.4
    assert measure_marks(still, still) == 0
    assert measure_marks(scratched, still) > 10 * measure_marks(moved, still)


def test_identity_in_torch_is_that_of_the_embedder(faces: Faces, crops: Tensor) -> None:
    identity = IdentityLoss(DLIB_MODEL, faces.embeddings)
    expected = embed_crops(crops.permute(0, 2, 3, 1).numpy(), "arcface_128", DlibEmbedder())
    with torch.no_grad():
        difference = identity.embed(crops).numpy() - expected
    assert np.linalg.norm(difference, axis=1).max() < 0.1  # BF16, and bilinear instead of area sampling


def test_whoever_has_the_sources_identity_lacks_nothing_and_keeps_nothing(faces: Faces, crops: Tensor) -> None:
    torch.manual_seed(0)
    identity = IdentityLoss(DLIB_MODEL, torch.zeros(1, 128))
    own, other = faces.embeddings[:, 0], faces.embeddings[:, 0].roll(1, 0)
    with torch.no_grad():
        right, wrong = identity.terms(crops, own, other), identity.terms(crops, other, own)
    assert right[0] <= wrong[0]
    assert right[1] < wrong[1]


def test_blurs_and_noise_keep_the_brightness(crops: Tensor) -> None:
    torch.manual_seed(0)
    for varied in (blur(crops), disturb(crops)):
        assert (varied.mean((1, 2, 3)) - crops.mean((1, 2, 3))).abs().max() < 0.01
    assert gradient_difference(blur(crops), torch.zeros_like(crops)) < gradient_difference(
        crops, torch.zeros_like(crops)
    )


def test_augmented_faces_stay_pictures_with_their_own_identity(faces: Faces) -> None:
    torch.manual_seed(0)
    x, own = augment(faces, torch.arange(len(faces)))
    assert 0 <= x.min() < x.max() <= 1
    assert (own * faces.embeddings.mean(1)).sum(1).min() > 0.9


def test_the_ellipse_holds_eyes_and_mouth_and_not_the_corners() -> None:
    ellipse = make_face_ellipse()[0, 0]
    assert min(ellipse[51, 46], ellipse[51, 81], ellipse[92, 64]) > 0.95
    assert max(ellipse[0, 0], ellipse[0, 127], ellipse[127, 0], ellipse[64, 0]) < 0.01
