from __future__ import annotations

import copy
from pathlib import Path

import onnxruntime
import pytest
from nets import feeds

from trt_facefusion.model.export import ReferenceSource
from trt_facefusion.model.generators import REFERENCE_WEIGHTS, load_reference
from trt_facefusion.model.graph import GraphView, prepare
from trt_facefusion.model.graph.roles import Role, classify

torch = pytest.importorskip("torch", reason="pip install 'trt-facefusion[torch]'")
save_file = pytest.importorskip("safetensors.torch").save_file
SHAPES = {"target": (3, 128, 128), "source": (128,)}


@pytest.fixture(scope="module")
def net() -> torch.nn.Module:
    from trt_facefusion.model.generators.reference import ReferenceGenerator

    torch.manual_seed(0)
    return ReferenceGenerator().eval()


Inputs = dict[str, torch.Tensor]
Outputs = tuple[torch.Tensor, torch.Tensor]


def swap(net: torch.nn.Module, batch: int) -> tuple[Inputs, Outputs]:
    inputs = {name: torch.from_numpy(array) for name, array in feeds(SHAPES, batch).items()}
    with torch.no_grad():
        return inputs, net(**inputs)


def test_it_is_small(net: torch.nn.Module) -> None:
    assert 2e6 < sum(parameter.numel() for parameter in net.parameters()) < 4e6


def test_it_gives_pictures_and_masks(net: torch.nn.Module) -> None:
    inputs, (pictures, mask) = swap(net, 2)
    assert pictures.shape == inputs["target"].shape
    assert mask.shape == (2, 1, 128, 128)
    for values in (pictures, mask):
        assert 0 <= values.min() < values.max() <= 1


def test_a_picture_does_not_depend_on_its_batch(net: torch.nn.Module) -> None:
    inputs, (together, _) = swap(net, 3)
    with torch.no_grad():
        alone = torch.cat([net(**{name: array[i : i + 1] for name, array in inputs.items()})[0] for i in range(3)])
    assert (together - alone).abs().max() < 1e-5


@pytest.mark.skipif(not REFERENCE_WEIGHTS.is_file(), reason="the trained weights are not in this checkout")
def test_the_packaged_weights_load_and_listen_to_the_source() -> None:
    trained = load_reference()
    assert REFERENCE_WEIGHTS.stat().st_size < 10e6
    inputs, (pictures, _) = swap(trained, 1)
    assert 0 <= pictures.min() < pictures.max() <= 1
    with torch.no_grad():
        other, _ = trained(inputs["target"], -inputs["source"])
    assert (other - pictures).abs().max() > 0.01


@pytest.mark.parametrize(("bias", "shows"), [(-100.0, "target"), (100.0, "paint")])
def test_where_the_mask_is_shut_the_picture_is_the_target(net: torch.nn.Module, bias: float, shows: str) -> None:
    masked = copy.deepcopy(net)
    masked.to_mask.bias.data.fill_(bias)
    inputs, (pictures, _) = swap(masked, 1)
    with torch.no_grad():
        shown = inputs["target"] if shows == "target" else masked.paint(**inputs)[0]
    assert (pictures - shown).abs().max() < 1e-6


def test_the_exported_one_names_its_mask_and_both_heads_are_heads(net: torch.nn.Module, tmp_path: Path) -> None:
    save_file(net.state_dict(), tmp_path / "weights.safetensors")
    source = ReferenceSource(tmp_path / "weights.safetensors")
    model = prepare(source.load(SHAPES), SHAPES)
    assert [output.name for output in model.model.graph.output] == ["output", "mask"]
    roles = list(classify(GraphView(model.model)).values())
    assert roles.count(Role.HEAD_CONV) == 2
    inputs = feeds(SHAPES, 2)
    session = onnxruntime.InferenceSession(model.model.SerializeToString(), providers=["CPUExecutionProvider"])
    outputs = session.run(None, inputs)
    source.check(dict(zip(("output", "mask"), outputs, strict=True)), inputs)
    assert abs(outputs[1] - source.original()(inputs)[1]).max() < 1e-4
