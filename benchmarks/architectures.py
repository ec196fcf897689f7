"""Architecture x exporter -> what becomes of it: outcome, share of MACs in INT8, SSIM drop, seconds, peak memory.

    pip install --no-deps spandrel spandrel_extra_arches einops safetensors       (torch stays the project's)
    python benchmarks/architectures.py run --faces CALIB --rows rows.jsonl
    python benchmarks/architectures.py run --faces CALIB --rows rows.jsonl --only gpen_256 --exporter legacy-17
    python benchmarks/architectures.py table --rows rows.jsonl

GFPGAN, CodeFormer, RestoreFormer, Real-ESRGAN compact, NAFNet and SwinIR are the code of spandrel; the others are of
the same build (`stand_ins`). All weights are random, from a fixed seed, and the network's picture is laid over the face
that went in (`stand_ins/plausible.py`): a figure of accuracy says whether a build ends right, not how good the trained
network's INT8 is. What picks from a codebook (CodeFormer, RestoreFormer) is chaotic with random weights.

Each row is exported and built by processes of its own, one after the other, with a limit of time; finished rows are
kept in ``--rows`` and skipped the next time (`benchmarks/architectures.jsonl` holds those of docs/evidence.md).
``candidates`` is the share of MACs that the rules put into INT8, and ``float`` says by reason what stays. By default
the plan is the rules', nothing is tuned and no SSIM drop is too large (``--effort full``: the build as it comes),
judged by ONNX Runtime on the CPU.
"""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
EXPORTERS = {"legacy-11": 11, "legacy-17": 17, "dynamo-18": 18}
QUICK = ["--plan", "rules", "--rule", "percentile:99.99", "--corrections", "none", "--repairs", "0"]
QUICK += ["--max-ssim-drop", "1"]
"""What ``--effort quick`` adds to a build: nothing is searched or tuned, and INT8 is built whatever it costs. Some
networks of random weights amplify every error; by default their INT8 falls back to FP16, saying so."""


@dataclass(frozen=True)
class Architecture:
    """A network, its inputs (name -> shape for one face) and how they are described to `trt-ff build`.

    ``image`` is the position of the input that the picture resembles, with its range.
    """

    make: Callable[[], Any]
    inputs: dict[str, tuple[int, ...]]
    described: tuple[str, ...]
    image: int = 0
    low: float = -1.0
    high: float = 1.0
    outputs: tuple[str, ...] = ("output",)

    @property
    def arguments(self) -> list[str]:
        """Arguments of `trt-ff build`."""
        picture = ["--picture", self.outputs[0]] if len(self.outputs) > 1 else []
        return [part for text in self.described for part in ("--input", text)] + picture


def stand_in(module: str, name: str, *arguments: object) -> Callable[[], Any]:
    """Makes a class of `stand_ins`."""

    def make() -> Any:
        from importlib import import_module

        return getattr(import_module(f"stand_ins.{module}"), name)(*arguments)

    return make


def spandrel(path: str, **settings: object) -> Callable[[], Any]:
    """Makes a class of spandrel that gives the picture alone."""

    def make() -> Any:
        from importlib import import_module

        from torch import nn

        _without_torchvision()
        module, _, name = path.rpartition(".")
        inner = getattr(import_module(module), name)(**settings)
        if "CodeFormer" in path:
            _keyed_by_numbers(inner)
        fixed = {"randomize_noise": False} if "GFPGAN" in path else {}

        class Picture(nn.Module):
            scale = settings.get("upscale", 1)

            def __init__(self) -> None:
                super().__init__()
                self.inner = inner

            def forward(self, x: Any, *rest: Any) -> Any:
                made = self.inner(x, *rest, **fixed)
                return made[0] if isinstance(made, tuple) else made

        return Picture()

    return make


def _keyed_by_numbers(codeformer: Any) -> None:
    """Let CodeFormer's convolutions be found by sizes that the older exporter traces: their text is ``tensor(32)``."""
    found = codeformer.fuse_convs_dict

    class Keyed(type(found)):  # type: ignore[misc]
        def __getitem__(self, key: str) -> Any:
            return super().__getitem__(re.sub(r"\D", "", key))

    found.__class__ = Keyed


def _without_torchvision() -> None:
    """Let spandrel be imported: it asks for three names of torchvision, which none of these networks uses."""
    from importlib.util import find_spec
    from types import ModuleType

    if find_spec("torchvision") is not None:
        return
    names = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")
    made = [ModuleType(name) for name in names]
    for name in ("InterpolationMode", "rotate", "normalize"):
        setattr(made[-1], name, None)
    made[0].transforms, made[1].functional = made[1], made[2]  # type: ignore[attr-defined]
    sys.modules |= dict(zip(names, made, strict=True))
    import spandrel  # noqa: F401

    for name in names:
        del sys.modules[name]


def restorer(make: Callable[[], Any], size: int, low: float = -1.0, template: str = "") -> Architecture:
    """One picture in, one out; ``low`` .. 1."""
    described = f"input=image:{size}:{low:g}:1"
    return Architecture(make, {"input": (3, size, size)}, (described,), low=low)


_ARCHES = "spandrel.architectures"
_SOURCE = "source=embedding"
ARCHITECTURES = {
    "gfpgan_512": restorer(spandrel(f"{_ARCHES}.GFPGAN.__arch.gfpganv1_clean_arch.GFPGANv1Clean"), 512),
    "gpen_256": restorer(stand_in("gpen", "GPEN", 256, 1, 0.5), 256),
    "gpen_512": restorer(stand_in("gpen", "GPEN", 512), 512),
    "codeformer_512": restorer(spandrel("spandrel_extra_arches.architectures.CodeFormer.CodeFormer"), 512),
    "restoreformer_512": restorer(spandrel(f"{_ARCHES}.RestoreFormer.__arch.restoreformer_arch.RestoreFormer"), 512),
    "realesrgan_compact_x4": restorer(
        spandrel(f"{_ARCHES}.Compact.__arch.SRVGG.SRVGGNetCompact", num_conv=32, upscale=4), 128, 0.0
    ),
    "nafnet_256": restorer(
        spandrel(
            f"{_ARCHES}.NAFNet.__arch.NAFNet_arch.NAFNet",
            width=32, middle_blk_num=12, enc_blk_nums=[2, 2, 4, 8], dec_blk_nums=[2, 2, 2, 2],
        ),
        256,
        0.0,
    ),
    "swinir_128": restorer(
        spandrel(
            f"{_ARCHES}.SwinIR.__arch.SwinIR.SwinIR",
            img_size=128, window_size=8, embed_dim=180, depths=[6] * 6, num_heads=[6] * 6, mlp_ratio=2.0, upscale=1,
        ),
        128,
        0.0,
    ),
    "inswapper_128": Architecture(
        stand_in("swappers", "Inswapper"),
        {"target": (3, 128, 128), "source": (128,)},
        ("target=image:128:0:1", _SOURCE),
        low=0.0,
    ),
    "simswap_224": Architecture(
        stand_in("swappers", "SimSwap"),
        {"target": (3, 224, 224), "source": (128,)},
        ("target=image:224:0:1:template=arcface_112_v1", _SOURCE),
        low=0.0,
    ),
    "hyperswap_256": Architecture(
        stand_in("aad", "Hyperswap"),
        {"source": (128,), "target": (3, 256, 256)},
        (_SOURCE, "target=image:256:-1:1"),
        image=1,
        outputs=("output", "mask"),
    ),
    "ghost_256": Architecture(
        stand_in("aad", "Ghost"),
        {"target": (3, 256, 256), "source": (128,)},
        ("target=image:256:-1:1:template=arcface_112_v1", _SOURCE),
    ),
    "hififace_256": Architecture(
        stand_in("others", "Hififace"),
        {"source": (128,), "target": (3, 256, 256)},
        (_SOURCE, "target=image:256:-1:1:template=mtcnn_512"),
        image=1,
    ),
    "uniface_256": Architecture(
        stand_in("others", "Uniface"),
        {"source": (3, 256, 256), "target": (3, 256, 256)},
        ("source=image:256:0:1:source:template=ffhq_512", "target=image:256:-1:1:template=ffhq_512"),
        image=1,
    ),
    "blendswap_256": Architecture(
        stand_in("aad", "Blendswap"),
        {"source": (3, 112, 112), "target": (3, 256, 256)},
        ("source=image:112:0:1:source:template=arcface_112_v2", "target=image:256:0:1:template=ffhq_512"),
        image=1,
        low=0.0,
    ),
    "dfm_224": Architecture(
        stand_in("others", "DFM"),
        {"in_face": (224, 224, 3)},
        ("in_face=image:224:0:1:bgr:nhwc:template=ffhq_512",),
        low=0.0,
        outputs=("out_celeb_face", "out_celeb_face_mask", "out_face_mask"),
    ),
    "wav2lip_96": Architecture(
        stand_in("others", "Wav2Lip"),
        {"mel": (1, 80, 16), "face": (6, 96, 96)},
        ("mel=value:0.1", "face=image:96:0:1:bgr:stack=target/lower+target"),
        image=1,
        low=0.0,
    ),
}  # fmt: skip


@app.command()
def export(name: str, exporter: str, output: Path) -> None:
    """Write one architecture as ONNX, and print what the rules would put into INT8 as JSON."""
    import torch
    from stand_ins.plausible import Plausible

    class Face(Plausible):
        def face(self, image: Any) -> Any:
            return super().face(image[:, 3:] if name.startswith("wav2lip") else image)

    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    architecture, opset = ARCHITECTURES[name], EXPORTERS[exporter]
    example = tuple(_example(shape) for shape in architecture.inputs.values())
    net = Face(architecture.make(), architecture.image, example, architecture.low, architecture.high).eval()
    buffer = io.BytesIO()
    settings = {"input_names": list(architecture.inputs), "output_names": list(architecture.outputs)}
    torch.onnx.export(net, example, buffer, opset_version=opset, dynamo=exporter.startswith("dynamo"), **settings)
    output.write_bytes(buffer.getvalue())
    print(json.dumps(_candidates(output, architecture)))


def _example(shape: tuple[int, ...]) -> Any:
    import torch
    from torch.nn import functional

    if len(shape) == 1:
        return functional.normalize(torch.randn(1, *shape), dim=1)
    size = shape[:2] if shape[-1] == 3 else shape[1:]
    channels = shape[-1] if shape[-1] == 3 else shape[0]
    smooth = functional.interpolate(torch.rand(1, channels, 8, 8), size=size, mode="bicubic").clamp(0, 1)
    return smooth.permute(0, 2, 3, 1) if shape[-1] == 3 else smooth


def _candidates(path: Path, architecture: Architecture) -> dict[str, Any]:
    """MACs in all, their share that the rules put into INT8, and the shares that stay float, by reason."""
    import onnx

    from trt_facefusion.model.graph import GraphView, prepare
    from trt_facefusion.quantization.precision.rules import plan_by_rules

    view = GraphView(prepare(onnx.load(path), architecture.inputs).model)
    plan = plan_by_rules(view, {}, path.stem)
    total = sum(node.macs for node in plan.nodes) or 1
    kept: Counter[str] = Counter()
    for node in plan.nodes:
        if node.macs and node.precision.value != "int8":
            kept[node.reason.split(":")[0]] += node.macs
    return {
        "gmacs": total / 1e9,
        "candidates": plan.macs_share()["int8"],
        "float": {reason: macs / total for reason, macs in kept.most_common()},
    }


@dataclass(frozen=True)
class Finished:
    """A child process that ended: exit code (None: out of time), its output, seconds and peak memory in MiB."""

    code: int | None
    output: str
    errors: str
    seconds: float
    memory: float


def child(command: list[str], limit: float) -> Finished:
    """Run ``command`` for at most ``limit`` seconds and measure it."""
    started = time.monotonic()
    folder = str(Path(__file__).parent)
    paths = os.pathsep.join(filter(None, (folder, str(Path(folder).parent), os.environ.get("PYTHONPATH", ""))))
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(command, stdout=out, stderr=err, env={**os.environ, "PYTHONPATH": paths})
        code: int | None = None
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                code = os.waitstatus_to_exitcode(status)
                break
            if time.monotonic() - started > limit:
                process.kill()
                _, _, usage = os.wait4(process.pid, 0)
                break
            time.sleep(0.2)
        process.returncode = code if code is not None else -9
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
    return Finished(code, texts[0], texts[1], time.monotonic() - started, usage.ru_maxrss / 1024)


def row(
    name: str, exporter: str, faces: Path, backend: str, effort: str, limit: float, counts: tuple[int, int]
) -> dict[str, Any]:
    """Export and build one architecture: one row."""
    result: dict[str, Any] = {"architecture": name, "exporter": exporter, "backend": backend, "effort": effort}
    result["faces"] = counts
    with tempfile.TemporaryDirectory(prefix="architectures-") as folder:
        path = Path(folder) / f"{name}.onnx"
        exported = child([sys.executable, __file__, "export", name, exporter, str(path)], limit)
        result["export_seconds"] = round(exported.seconds, 1)
        if not path.is_file():
            return result | {"outcome": "not exported", "why": _last(exported)}
        if exported.code == 0:
            result |= json.loads(exported.output.strip().splitlines()[-1])
        else:
            result["candidates_why"] = _last(exported)
        command = [sys.executable, "-c", "from trt_facefusion.cli.main import main; main()", "build"]
        command += ["--onnx", str(path), *ARCHITECTURES[name].arguments, "--calib", str(faces)]
        command += [
            "--max-calib",
            str(counts[0]),
            "--max-eval",
            str(counts[1]),
            "--int8",
            "--fp16",
            "--backend",
            backend,
        ]
        command += ["--json", "--no-report", "--output", f"{folder}/engines", "--cache", f"{folder}/cache"]
        built = child(command + (QUICK if effort == "quick" else []), limit)
    return result | {"seconds": round(built.seconds, 1), "rss_mib": round(built.memory)} | _outcome(built)


def _outcome(built: Finished) -> dict[str, Any]:
    if built.code is None:
        return {"outcome": "out of time", "why": _last(built)}
    start = built.output.find("{")
    document = json.loads(built.output[start:]) if start >= 0 else {}
    engines = {engine["requested"]: engine for engine in document.get("engines", [])}
    if not engines:
        return {"outcome": f"refused (exit code {built.code})", "why": _last(built)}
    told: dict[str, Any] = {"outcome": " + ".join(e["precision"] for e in engines.values()), "code": built.code}
    for requested, engine in engines.items():
        told[requested] = {
            "macs_share": engine["macs_share"]["int8"],
            "ssim_drop": engine["accuracy"]["ssim_drop"],
            "ssim_drop_worst": engine["accuracy"]["ssim_drop_worst"],
            "passed": engine["passed"],
            "fallback": engine["fallback"],
        }
    return told


def _last(finished: Finished) -> str:
    """What a process said about its end."""
    lines = [line.strip() for line in finished.errors.splitlines() if line.strip()]
    told = [line for line in lines if re.match(r"(error|what to do|\w*(Error|Exception)\b)", line)]
    return " | ".join((told or lines)[-2:])[-400:]


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The finished rows of a file."""
    if path.is_file():
        yield from map(json.loads, path.read_text(encoding="utf-8").splitlines())


@app.command()
def run(
    faces: Annotated[Path, typer.Option(help="Folder of photos of at least 22 people.")],
    rows: Annotated[Path, typer.Option(help="Finished rows, as JSON lines; added to.")] = Path("architectures.jsonl"),
    only: Annotated[list[str] | None, typer.Option(help="These architectures.")] = None,
    exporter: Annotated[list[str] | None, typer.Option(help="These exporters.")] = None,
    backend: Annotated[str, typer.Option(help="As of trt-ff build.")] = "onnxruntime",
    effort: Annotated[str, typer.Option(help="quick or full.")] = "quick",
    limit: Annotated[float, typer.Option(help="Seconds for each process.")] = 3600.0,
    calibrate: Annotated[int, typer.Option(min=2, help="Faces to calibrate on.")] = 8,
    judge: Annotated[int, typer.Option(min=2, help="Faces to judge on.")] = 4,
) -> None:
    """Make the rows that are not finished yet."""
    done = {(found["architecture"], found["exporter"], found["effort"]) for found in read_rows(rows)}
    for kind in exporter or EXPORTERS:
        for name in only or ARCHITECTURES:
            if (name, kind, effort) in done:
                continue
            made = row(name, kind, faces, backend, effort, limit, (calibrate, judge))
            with rows.open("a", encoding="utf-8") as file:
                file.write(json.dumps(made) + "\n")
            print(json.dumps(made), flush=True)


@app.command()
def table(rows: Annotated[Path, typer.Option(help="Finished rows.")] = Path("architectures.jsonl")) -> None:
    """Print the rows as a Markdown table."""
    print(
        "| architecture | exporter | GMACs | outcome | INT8 by rules | INT8 built | SSIM drop INT8 / FP16 | s | MiB |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for found in read_rows(rows):
        int8, fp16 = found.get("int8", {}), found.get("fp16", {})
        drops = " / ".join(_percent(engine.get("ssim_drop"), 2) for engine in (int8, fp16))
        shares = f"{_percent(found.get('candidates'))} | {_percent(int8.get('macs_share'))}"
        said = found["outcome"] + (f": {found['why']}" if "why" in found else "")
        print(
            f"| {found['architecture']} | {found['exporter']} | {found.get('gmacs', 0):.1f} | {said} | {shares} | "
            f"{drops} | {found.get('seconds', 0):.0f} | {found.get('rss_mib', 0)} |"
        )


def _percent(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}%}"


if __name__ == "__main__":
    app()
