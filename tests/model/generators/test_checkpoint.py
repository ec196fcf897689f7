from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from trt_facefusion.errors import BadInputError, ModelError
from trt_facefusion.model.generators import build_from_factory, load_weights, read_state

torch = pytest.importorskip("torch", reason="pip install 'trt-facefusion[torch]'")
WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.count": torch.tensor(3)}


def saved(folder: Path, content: object, name: str = "net.pth") -> Path:
    torch.save(content, folder / name)
    return folder / name


def prefixed(prefix: str, weights: dict[str, torch.Tensor] | None = None) -> dict[str, torch.Tensor]:
    return {prefix + key: tensor for key, tensor in (weights or WEIGHTS).items()}


def assert_weights(weights: dict[str, torch.Tensor]) -> None:
    assert weights.keys() == WEIGHTS.keys()
    assert all(torch.equal(weights[key], tensor) for key, tensor in WEIGHTS.items())


@pytest.mark.parametrize(
    "content",
    [
        WEIGHTS,
        {**WEIGHTS, "epoch": 7},
        {"params_ema": WEIGHTS, "params": {"a.weight": torch.zeros(1)}},
        {"state_dict": prefixed("module."), "optimizer": {"lr": 0.1}},
        {"state_dict": WEIGHTS, "step": torch.tensor(9)},
        {"model": {"generator": prefixed("_orig_mod.module.")}},
        prefixed("module._orig_mod."),
    ],
    ids=["bare", "with_epoch", "ema_first", "module", "tensor_beside_nest", "deep", "both_prefixes"],
)
def test_weights_are_found_where_frameworks_keep_them(tmp_path: Path, content: object) -> None:
    assert_weights(read_state(saved(tmp_path, content)))


def test_a_layer_called_module_keeps_its_name(tmp_path: Path) -> None:
    weights = {"module.weight": torch.ones(1), "head.weight": torch.ones(1)}
    assert read_state(saved(tmp_path, weights)).keys() == weights.keys()


def test_safetensors_in_half_become_fp32(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    half = {key: tensor.half() if tensor.is_floating_point() else tensor for key, tensor in WEIGHTS.items()}
    save_file(half, tmp_path / "net.safetensors")
    state = read_state(tmp_path / "net.safetensors")
    assert_weights(state)
    assert state["a.weight"].dtype == torch.float32


class Trap:
    """Unpickling this would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path: Path, zipped: bool) -> None:
    content = {"state_dict": WEIGHTS, "extra": Trap(tmp_path / "sprung")}
    path = tmp_path / "net.pth"
    if zipped:
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(ModelError, match="plain weights"):
        read_state(path)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("name", ["net.pth", "net.pt", "net.safetensors"])
@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04cut off", None])
def test_damaged_or_missing_files_are_refused(tmp_path: Path, name: str, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=name) as error:
        read_state(tmp_path / name)
    assert error.value.remedy


def test_a_truncated_checkpoint_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, WEIGHTS)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ModelError):
        read_state(path)


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [1, 2], {"weird": {"w": torch.ones(1)}}, torch.ones(2)])
def test_a_file_without_weights_is_refused(tmp_path: Path, content: object) -> None:
    with pytest.raises(ModelError, match="no weights"):
        read_state(saved(tmp_path, content))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_broken_weights_are_named(tmp_path: Path, value: float) -> None:
    broken = {**WEIGHTS, "b.bias": torch.tensor([1.0, value])}
    with pytest.raises(ModelError, match=r"b\.bias"):
        read_state(saved(tmp_path, broken))


def test_weights_that_do_not_fit_are_refused_by_name(tmp_path: Path) -> None:
    net = torch.nn.Linear(3, 2)
    with pytest.raises(ModelError, match="size mismatch for weight"):
        load_weights(net, {"weight": torch.ones(2, 4), "bias": torch.ones(2)}, tmp_path)
    with pytest.raises(ModelError, match="bias"):
        load_weights(net, {"weight": torch.ones(2, 3)}, tmp_path)


def test_loaded_networks_are_ready_for_inference(tmp_path: Path) -> None:
    net = torch.nn.Linear(3, 2).train()
    load_weights(net, {"weight": torch.ones(2, 3), "bias": torch.ones(2)}, tmp_path)
    assert not net.training
    assert not any(parameter.requires_grad for parameter in net.parameters())


def test_a_factory_is_found_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_local_net.py").write_text(
        "import torch\ndef build(): return torch.nn.Linear(3, 2)\ndef text(): return 'net'\ndef fails(): return 1 / 0\n"
    )
    monkeypatch.chdir(tmp_path)
    assert isinstance(build_from_factory("my_local_net:build"), torch.nn.Linear)
    for name, reason in {"text": "gave a str", "fails": "ZeroDivisionError", "missing": "AttributeError"}.items():
        with pytest.raises(BadInputError, match=reason):
            build_from_factory(f"my_local_net:{name}")


@pytest.mark.parametrize("reference", ["", "json", "json:", ":build", "no_such_module_here:build"])
def test_unusable_factories_are_refused(reference: str) -> None:
    with pytest.raises(BadInputError, match="--model"):
        build_from_factory(reference)
