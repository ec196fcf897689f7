from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from nets import feeds, run

from trt_facefusion.errors import ModelError
from trt_facefusion.model.export import CheckpointSource, ReferenceSource
from trt_facefusion.model.export.torch_export import export_onnx, measure_difference

torch = pytest.importorskip("torch", reason="pip install 'trt-facefusion[torch]'")
pytest.importorskip("onnxscript", reason="pip install 'trt-facefusion[torch]'")
SHAPES = {"target": (3, 128, 128), "source": (128,)}
SMALL = {"target": (3, 16, 16), "source": (8,)}
NET = """
import torch

class Swap(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 3, 3, padding=1)
        self.style = torch.nn.Linear(8, 3)

    def forward(self, target, source):
        return torch.sigmoid(self.conv(target) * self.style(source)[:, :, None, None])
"""


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CheckpointSource:
    name = f"net_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    source = CheckpointSource(tmp_path / "swap.pth", f"{name}:Swap")
    from trt_facefusion.model.generators import build_from_factory

    torch.manual_seed(0)
    torch.save(build_from_factory(source.factory).state_dict(), source.path)
    return source


def test_the_reference_generator_agrees_with_torch_for_every_batch(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from trt_facefusion.model.generators.reference import ReferenceGenerator

    torch.manual_seed(0)
    save_file(ReferenceGenerator().state_dict(), tmp_path / "net.safetensors")
    source = ReferenceSource(tmp_path / "net.safetensors")
    model = source.load(SHAPES)
    for batch in (1, 3):
        inputs = feeds(SHAPES, batch)
        outputs = run(model, inputs)
        assert measure_difference(source.net, outputs, inputs) < 1e-4
        source.check(outputs, inputs)
    assert next(iter(outputs.values())).shape == (3, 3, 128, 128)


@pytest.mark.parametrize("order", [("target", "source"), ("source", "target")])
def test_inputs_keep_their_names_in_whatever_order_they_are_described(
    checkpoint: CheckpointSource, order: tuple[str, str]
) -> None:
    model = checkpoint.load({name: SMALL[name] for name in order})
    rank = {value.name: len(value.type.tensor_type.shape.dim) for value in model.graph.input}
    assert rank == {"target": 4, "source": 2}
    inputs = feeds(SMALL, 3)
    checkpoint.check(run(model, inputs), inputs)


def test_a_difference_from_torch_is_an_error(checkpoint: CheckpointSource) -> None:
    inputs = feeds(SMALL, 1)
    good = checkpoint.net(**{k: torch.from_numpy(v) for k, v in inputs.items()}).numpy()
    for bad in (good + 0.01, np.full_like(good, np.nan), good[:, :1]):
        with pytest.raises(ModelError, match="differs from torch"):
            checkpoint.check({"y": bad}, inputs)


def test_the_digest_changes_with_weights_and_with_code(checkpoint: CheckpointSource) -> None:
    before = checkpoint.digest()
    code = Path(checkpoint.factory.partition(":")[0] + ".py")
    code.write_text(NET + "\n# changed\n")
    after = checkpoint.digest()
    state = torch.load(checkpoint.path, weights_only=True)
    torch.save({key: value + 1 for key, value in state.items()}, checkpoint.path)
    assert len({before, after, checkpoint.digest()}) == 3


def test_wrong_names_and_untraceable_networks_are_refused() -> None:
    class Branches(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    for shapes in ({"x": (3, 4, 4)}, {"wrong": (3, 4, 4)}):
        with pytest.raises(ModelError, match="cannot export"):
            export_onnx(Branches().eval(), shapes)


def test_networks_that_return_several_outputs_are_compared_by_the_first() -> None:
    class Two(torch.nn.Module):
        def __init__(self, kind: type) -> None:
            super().__init__()
            self.kind = kind

        def forward(self, x: torch.Tensor) -> object:
            return {"picture": x * 2, "mask": x} if self.kind is dict else (x * 2, x)

    x = np.ones((1, 3, 2, 2), np.float32)
    for kind in (tuple, dict):
        assert measure_difference(Two(kind), {"y": x * 2, "mask": x}, {"x": x}) == 0


def test_the_exported_model_tells_nothing_of_this_machine() -> None:
    """Its digest names caches and plans, which are to be used elsewhere, too."""
    data = ReferenceSource().load(SHAPES).SerializeToString()
    assert b'File "' not in data and str(Path(torch.__file__).parent).encode() not in data
