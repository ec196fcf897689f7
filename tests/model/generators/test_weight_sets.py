"""Which weights of a checkpoint are taken, and what is said of the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trt_facefusion.errors import ModelError

torch = pytest.importorskip("torch", reason="pip install '.[torch]'")
from trt_facefusion.model.generators import load_weights, read_state, read_weights  # noqa: E402


def net(seed: int) -> dict[str, Any]:
    return {"conv.weight": torch.full((2, 3), float(seed)), "conv.bias": torch.zeros(2)}


def saved(folder: Path, content: object) -> Path:
    torch.save(content, folder / "net.pth")
    return folder / "net.pth"


def taken(path: Path, key: str | None = None) -> float:
    state = read_state(path, key)
    assert set(state) == {"conv.weight", "conv.bias"}
    return float(state["conv.weight"][0, 0])


GAN = {
    "iteration": 5,
    "netG": net(1),
    "netD": net(2),
    "ema": {"decay": 0.99},
    "models": {"student": net(3), "teacher": {"module": net(4)}},
}
FLAT = {f"{part}.{name}": tensor for i, part in enumerate(("netG", "netD"), 1) for name, tensor in net(i).items()}


@pytest.mark.parametrize("averaged", ["params_ema", "ema", "g_ema", "model_ema"])
def test_averaged_weights_go_first_and_are_told(tmp_path: Path, averaged: str) -> None:
    path = saved(tmp_path, {"params": net(1), averaged: net(2), "optimizer": {"state": {}}})
    weight_set = read_weights(path)
    assert (
        taken(path) == 2
        and weight_set.where == averaged
        and weight_set.averaged
        and weight_set.alternatives == ("params",)
    )
    assert taken(path, "params") == 1


@pytest.mark.parametrize(
    ("key", "fill"), [(None, 1), ("netD", 2), ("student", 3), ("models/teacher/module", 4), ("netG", 1)]
)
def test_a_key_or_a_path_names_the_weights(tmp_path: Path, key: str | None, fill: float) -> None:
    assert taken(saved(tmp_path, GAN), key) == fill


@pytest.mark.parametrize(("key", "fill"), [("netG.", 1), ("netG", 1), ("netD.", 2)])
@pytest.mark.parametrize("wrapper", ["", "module.", "_orig_mod.module."])
def test_a_prefix_names_the_weights(tmp_path: Path, key: str, fill: float, wrapper: str) -> None:
    flat = {wrapper + name: tensor for name, tensor in FLAT.items()}
    assert taken(saved(tmp_path, {"state_dict": flat}), key) == fill


def test_a_key_that_is_not_there_is_told_with_what_is(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no weights 'netE'") as error:
        read_state(saved(tmp_path, GAN), "netE")
    assert "netG (2 tensors)" in error.value.remedy and "models/student" in error.value.remedy
    with pytest.raises(ModelError) as error:
        read_state(saved(tmp_path, FLAT), "netE.")
    assert "names begin with netG., netD." in error.value.remedy


def test_weights_of_several_networks_are_told_apart_when_they_do_not_fit(tmp_path: Path) -> None:
    path = saved(tmp_path, FLAT)
    module = torch.nn.Module()
    module.conv = torch.nn.Linear(3, 2)
    with pytest.raises(ModelError) as error:
        load_weights(module, read_state(path), path)
    assert "--weights-key netG." in error.value.remedy
    load_weights(module, read_state(path, "netG."), path)


@pytest.mark.parametrize("key", [None, "model", "nothing"])
def test_a_checkpoint_that_contains_itself_ends(tmp_path: Path, key: str | None) -> None:
    content: dict[str, Any] = {"epoch": 1}
    content["model"] = content["state_dict"] = {"net": content, "model": content}
    with pytest.raises(ModelError, match="no weights"):
        read_state(saved(tmp_path, content), key)
    content["model"]["params"] = net(1)
    assert taken(saved(tmp_path, content)) == 1


def test_deep_nesting_ends(tmp_path: Path) -> None:
    content: dict[str, Any] = net(1)
    for _ in range(400):
        content = {"model": content, "net": content}
    with pytest.raises(ModelError):
        read_state(saved(tmp_path, content))
