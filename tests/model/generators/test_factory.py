"""Factories that do anything at all: the build says what, and stdout and the process stay as they were."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from trt_facefusion.errors import BadInputError, ModelError

torch = pytest.importorskip("torch", reason="pip install '.[torch]'")
from trt_facefusion.model.generators import build_from_factory  # noqa: E402

NETS = """
import os, sys, torch
Net = lambda: torch.nn.Linear(3, 2)
def good(): return Net()
def exits(): sys.exit(0)
def ends(): os._exit(0)
def interrupts(): raise KeyboardInterrupt
class Odd(BaseException):
    def __str__(self): raise ValueError
def odd(): raise Odd
def recurses(): return recurses()
def needs(width, depth=3): return Net()
def gives_none(): return None
def gives_class(): return torch.nn.Linear
def gives_two(): return Net(), None
def long(): raise ValueError("x" * 10**6)
number = 7
def moves():
    os.chdir("/"); torch.set_default_dtype(torch.float64); torch.set_grad_enabled(False)
    return Net()
def prints():
    print("hello"); os.write(1, b"from C\\n"); os.system("echo from a child")
    return Net()
def half(): return Net().half()
"""
TOLD = {
    "exits": r"end the program \(exit code 0\) \(\w+\.py, line 5\)",
    "ends": "end the program",
    "interrupts": "raised KeyboardInterrupt",
    "odd": "Odd",
    "recurses": "RecursionError",
    "needs": "needs the arguments width$",
    "gives_none": "gave a NoneType",
    "gives_class": "gave the class Linear",
    "gives_two": "gave a tuple",
    "long": r"ValueError: x+\.\.\.",
    "number": "a int, and cannot be called",
}


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = "nets_" + "".join(c if c.isalnum() else "_" for c in tmp_path.name)
    (tmp_path / f"{name}.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    return name


@pytest.mark.parametrize("factory", TOLD)
def test_a_factory_that_misbehaves_is_named(nets: str, factory: str) -> None:
    with pytest.raises(BadInputError, match=TOLD[factory]) as error:
        build_from_factory(f"{nets}:{factory}")
    assert f"--model {nets}:{factory}" in error.value.message and len(error.value.message) < 500
    assert os._exit.__module__ == "posix" and signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_module_that_ends_the_program_when_imported_is_named(nets: str, tmp_path: Path) -> None:
    (tmp_path / f"{nets}_main.py").write_text("import argparse\nargparse.ArgumentParser().parse_args(['--bogus'])\n")
    with pytest.raises(BadInputError, match="exit code 2"):
        build_from_factory(f"{nets}_main:build")


def test_what_a_factory_changes_is_put_back(nets: str, tmp_path: Path) -> None:
    path = list(sys.path)
    net = build_from_factory(f"{nets}:moves")
    assert Path.cwd() == tmp_path and sys.path == path
    assert torch.get_default_dtype() is torch.float32 and torch.is_grad_enabled()
    assert {p.dtype for p in (*net.parameters(), *build_from_factory(f"{nets}:half").parameters())} == {torch.float32}


def test_what_a_factory_prints_goes_to_stderr(nets: str, capfd: pytest.CaptureFixture[str]) -> None:
    build_from_factory(f"{nets}:prints")
    out, err = capfd.readouterr()
    assert out == "" and all(text in err for text in ("hello", "from C", "from a child"))
    sys.stdout.write("ours\n")
    sys.stdout.flush()
    assert capfd.readouterr().out == "ours\n"


def test_ctrl_c_goes_through(nets: str, tmp_path: Path) -> None:
    (tmp_path / f"{nets}_slow.py").write_text(
        "import os, signal, time\ndef build():\n    os.kill(os.getpid(), signal.SIGINT)\n    time.sleep(60)\n"
    )
    with pytest.raises(KeyboardInterrupt):
        build_from_factory(f"{nets}_slow:build")


SWAP = """
import torch
class Swap(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 3, 3, padding=1)
        self.style = torch.nn.Linear(8, 3)
    def forward(self, target, source):
        print("noise on stdout")
        return torch.sigmoid(self.conv(target) * self.style(source)[:, :, None, None])
"""


@pytest.mark.parametrize(
    ("shapes", "told"),
    [
        (
            {"target": (3, 16, 16), "source": (512,)},
            r"^the network does not take target \[3, 16, 16\], source \[512\]: the layer 'style', Linear\(in_feat",
        ),
        ({"target": (4, 16, 16), "source": (8,)}, "the layer 'conv'"),
        ({"image": (3, 16, 16), "source": (8,)}, "has no input 'image' and needs the input 'target'"),
        ({"target": (3, 16, 16)}, "needs the input 'source'"),
    ],
)
def test_inputs_that_do_not_fit_are_one_line(
    nets: str, tmp_path: Path, shapes: dict[str, tuple[int, ...]], told: str, capfd: pytest.CaptureFixture[str]
) -> None:
    from trt_facefusion.model.export import CheckpointSource

    (tmp_path / f"{nets}_swap.py").write_text(SWAP)
    torch.save(build_from_factory(f"{nets}_swap:Swap").state_dict(), tmp_path / "swap.pth")
    with pytest.raises(ModelError, match=told) as error:
        CheckpointSource(tmp_path / "swap.pth", f"{nets}_swap:Swap").load(shapes)
    assert "\n" not in error.value.message
    assert capfd.readouterr().out == ""


def test_a_build_whose_factory_exits_fails_with_json_on_stdout(nets: str, tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(2, 3), "bias": torch.zeros(2)}, tmp_path / "net.pth")
    (tmp_path / "faces").mkdir()
    words = ["--checkpoint", "net.pth", "--input", "input=image:64:0:1", "--calib", "faces", "--fp32", "--json"]
    code = (
        "import sys; from trt_facefusion.cli import main; import trt_facefusion.cli.build as command; "
        "command.build = lambda settings, *rest: settings.source.load({'input': (3,)}); "
        "sys.exit(main.run(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "build", "--model", f"{nets}:exits", *words],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(str(p) for p in (Path(__file__).parents[3],))},
    )
    assert done.returncode == 2, done.stderr
    assert f"--model {nets}:exits" in json.loads(done.stdout)["error"]["message"]
