from __future__ import annotations

import pytest
from nets import feeds

from trt_facefusion.model.generators import REFERENCE_WEIGHTS, load_reference

torch = pytest.importorskip("torch", reason="pip install 'trt-facefusion[torch]'")
SHAPES = {"target": (3, 128, 128), "source": (128,)}


@pytest.fixture(scope="module")
def net() -> torch.nn.Module:
    from trt_facefusion.model.generators.reference import ReferenceGenerator

    torch.manual_seed(0)
    return ReferenceGenerator().eval()


def paint(net: torch.nn.Module, batch: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    inputs = {name: torch.from_numpy(array) for name, array in feeds(SHAPES, batch).items()}
    with torch.no_grad():
        return inputs, net(**inputs)


def test_it_is_small(net: torch.nn.Module) -> None:
    assert 2e6 < sum(parameter.numel() for parameter in net.parameters()) < 4e6


def test_it_paints_pictures(net: torch.nn.Module) -> None:
    inputs, pictures = paint(net, 2)
    assert pictures.shape == inputs["target"].shape
    assert 0 <= pictures.min() < pictures.max() <= 1


def test_a_picture_does_not_depend_on_its_batch(net: torch.nn.Module) -> None:
    inputs, together = paint(net, 3)
    with torch.no_grad():
        alone = torch.cat([net(**{name: array[i : i + 1] for name, array in inputs.items()}) for i in range(3)])
    assert (together - alone).abs().max() < 1e-5


@pytest.mark.skipif(not REFERENCE_WEIGHTS.is_file(), reason="the trained weights are not in this checkout")
def test_the_packaged_weights_load_and_listen_to_the_source() -> None:
    trained = load_reference()
    assert REFERENCE_WEIGHTS.stat().st_size < 10e6
    inputs, pictures = paint(trained, 1)
    assert 0 <= pictures.min() < pictures.max() <= 1
    with torch.no_grad():
        other = trained(inputs["target"], -inputs["source"])
    assert (other - pictures).abs().max() > 0.01
