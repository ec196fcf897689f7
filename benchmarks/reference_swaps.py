"""How good the reference generator's swaps look, in figures and on a contact sheet.

    python benchmarks/reference_swaps.py measure --cache faces.npz --second-embedder ARCFACE.onnx [--weights W] --json F
    python benchmarks/reference_swaps.py sheet --faces samples/faces --weights BEFORE --weights AFTER --sheet sheet.png

`faces.npz` is what `scripts/train_reference.py prepare` wrote. Every face gets the identity of one 57 places on. All
figures are of the evaluation faces, whom training never saw:

* marks: energy above a cut-off frequency (in cycles per pixel) of a swap's face, by that of its target's: 1 is right,
  more is marks, less is blur. The median over faces, and the 90th percentile.
* patch critic: a small network is trained to tell swapped training faces from photos by patches of 38 px inside of the
  face. How often, shown an evaluation face and its swap, it takes the photo for the photo: 0.5 where it can tell
  nothing. It is made anew for every network, with fixed seed and steps, so no generator was trained against it.
* identity: how often a swap is nearer to its source than to its target, by an embedder that training never saw.
* reconstruction: a face that is given its own identity, PSNR of the whole crop and inside of the face.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import torch
import typer
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from reference_faces import Faces, make_face_ellipse, read_folder
from train_reference import PAIR_SHIFT, nearer_to_source, pictures_of

from trt_facefusion.evaluation.accuracy.metrics import measure_psnr_db
from trt_facefusion.faces.embedder import ArcFaceEmbedder, DlibEmbedder
from trt_facefusion.model.generators import REFERENCE_WEIGHTS, load_reference

CUT_OFFS = (0.125, 0.25)  # cycles per pixel; 0.5 is the finest that pixels can hold
FACE = (slice(24, 112), slice(28, 100))  # rows and columns of an arcface_128 crop that hold the face
CRITIC_STEPS, CRITIC_BATCH, CRITIC_RATE = 600, 32, 1e-3
PIECE = 48  # pixels; side of what the critic is shown of a face
SHEET_PAIRS = 24
SHEET_COLUMNS = 4

app = typer.Typer(add_completion=False, help=__doc__, pretty_exceptions_enable=False)

Pictures = NDArray[np.float32]
"""[N,128,128,3] RGB in [0,1]."""

CacheOption = Annotated[Path, typer.Option(help="what `scripts/train_reference.py prepare` wrote")]


def measure_energy(pictures: Pictures, cut_off: float) -> NDArray[np.float64]:
    """Energy [N] of the brightness inside of the face above ``cut_off``, in cycles per pixel."""
    grey = pictures @ np.array([0.299, 0.587, 0.114], np.float32)
    frequency = np.hypot(np.fft.fftfreq(grey.shape[1])[:, None], np.fft.rfftfreq(grey.shape[2])[None])
    fine = np.fft.irfft2(np.fft.rfft2(grey) * (frequency > cut_off), grey.shape[1:])
    inside = make_face_ellipse().numpy()[0]
    return np.asarray((fine**2 * inside).sum((1, 2)) / inside.sum(), np.float64)


def measure_marks(swapped: Pictures, targets: Pictures) -> dict[str, float]:
    """Energy above each cut-off frequency by that of the targets."""
    figures = {}
    for cut_off in CUT_OFFS:
        ratio = measure_energy(swapped, cut_off) / np.maximum(measure_energy(targets, cut_off), 1e-12)
        figures[f"energy above {cut_off}, median"] = float(np.median(ratio))
        figures[f"energy above {cut_off}, p90"] = float(np.percentile(ratio, 90))
    return figures


def make_critic(width: int = 24) -> nn.Sequential:
    """A small network that scores patches of 38 px."""
    layers: list[nn.Module] = []
    for inner, outer in ((3, width), (width, 2 * width), (2 * width, 4 * width)):
        layers += [nn.Conv2d(inner, outer, 4, 2, 1), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Conv2d(4 * width, 1, 3, 1, 1)).to(memory_format=torch.channels_last)


def train_critic(photos: Pictures, swapped: Pictures, steps: int = CRITIC_STEPS, seed: int = 0) -> nn.Sequential:
    """A critic that was shown pieces of ``photos`` and ``swapped``; it answers above 0 for photos."""
    torch.manual_seed(seed)
    critic, faces = make_critic(), [_cut_faces(pictures) for pictures in (photos, swapped)]
    optimiser = torch.optim.AdamW(critic.parameters(), CRITIC_RATE, betas=(0.5, 0.99))
    answer = torch.tensor([1.0, 0.0]).repeat_interleave(CRITIC_BATCH // 2).view(-1, 1, 1, 1)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = CRITIC_RATE * min(1, 2 * (1 - step / steps))
        scores = critic(torch.cat([_draw_pieces(pictures, CRITIC_BATCH // 2) for pictures in faces]) * 2 - 1)
        loss = F.binary_cross_entropy_with_logits(scores, answer.expand_as(scores))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return critic.eval()


def _draw_pieces(faces: Tensor, n: int) -> Tensor:
    """``n`` random squares of random faces, half of the times mirrored."""
    top, left = (int(torch.randint(faces.shape[axis] - PIECE + 1, ())) for axis in (2, 3))
    pieces = faces[torch.randint(len(faces), (n,)), :, top : top + PIECE, left : left + PIECE]
    return pieces.flip(3) if torch.rand(()) < 0.5 else pieces


def _cut_faces(pictures: Pictures) -> Tensor:
    faces = torch.from_numpy(pictures[:, FACE[0], FACE[1]]).permute(0, 3, 1, 2)
    return faces.contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def judge(critic: nn.Sequential, photos: Pictures, swapped: Pictures) -> dict[str, float]:
    """How often the critic is right about single patches, about whole faces, and which of a photo and its swap is the
    photo (the figure that hangs on no threshold)."""
    real, fake = (critic(_cut_faces(pictures) * 2 - 1).flatten(1) for pictures in (photos, swapped))
    right = {"patches": (real, fake), "faces": (real.mean(1), fake.mean(1))}
    figures = {
        f"critic is right about {name}": float(((r > 0).float().mean() + (f < 0).float().mean()) / 2)
        for name, (r, f) in right.items()
    }
    preferred = (torch.sign(real.mean(1) - fake.mean(1)) + 1) / 2
    return figures | {"critic prefers the photo": float(preferred.mean())}


def measure_inside_psnr_db(photos: Pictures, same: Pictures) -> NDArray[np.float64]:
    """PSNR [N] of the face alone: what a blend leaves of its target outside counts for nothing."""
    inside = make_face_ellipse().numpy()[0, 0, :, :, None]
    error = ((photos - same) ** 2 * inside).sum((1, 2, 3)) / (3 * inside.sum())
    return np.asarray(-10 * np.log10(np.maximum(error, 1e-10)), np.float64)


@app.command()
def measure(
    cache: CacheOption,
    second_embedder: Annotated[Path | None, typer.Option(help="an ArcFace-style ONNX that training never saw")] = None,
    weights: Annotated[Path, typer.Option(help="a checkpoint (.pt) or .safetensors")] = REFERENCE_WEIGHTS,
    output: Annotated[Path | None, typer.Option("--json", help="also write the figures here")] = None,
    shown: Annotated[int, typer.Option(help="training faces that the critic is shown")] = 240,
    threads: int = 2,
) -> None:
    """Print all figures of one network, as JSON."""
    torch.set_num_threads(threads)
    net = load_reference(weights)
    photos, swaps, same = {}, {}, {}
    for split, most in (("calib", shown), ("eval", None)):
        faces = Faces.load(cache, split)
        x, own = faces.centre_crops()[:most], faces.embeddings[:most, 0]
        photos[split] = x.permute(0, 2, 3, 1).contiguous().numpy()
        swaps[split] = pictures_of(net, x, own.roll(-PAIR_SHIFT, 0))
        if split == "eval":
            same[split] = pictures_of(net, x, own)
    critic = train_critic(photos["calib"], swaps["calib"])
    figures: dict[str, object] = {
        "faces": len(photos["eval"]),
        **measure_marks(swaps["eval"], photos["eval"]),
        **judge(critic, photos["eval"], swaps["eval"]),
        "dlib": nearer_to_source(swaps["eval"], photos["eval"], DlibEmbedder()),
        "reconstruction psnr db": float(measure_psnr_db(photos["eval"], same["eval"]).mean()),
        "reconstruction psnr db of the face": float(measure_inside_psnr_db(photos["eval"], same["eval"]).mean()),
    }
    if second_embedder is not None:
        figures["second embedder"] = nearer_to_source(swaps["eval"], photos["eval"], ArcFaceEmbedder(second_embedder))
    text = json.dumps(figures, indent=1)
    print(text)
    if output is not None:
        output.write_text(text + "\n")


@app.command()
def sheet(
    faces: Annotated[Path, typer.Option(help="folder of photos; they may be shown to others")],
    output: Annotated[Path, typer.Option("--sheet", help="the PNG to write")],
    weights: Annotated[list[Path] | None, typer.Option(help="networks, one after the other; repeat")] = None,
    threads: int = 2,
) -> None:
    """Draw 24 swaps: source, target, and what each network makes of them."""
    torch.set_num_threads(threads)
    read = Faces.from_arrays(*read_folder(faces, 2 * SHEET_PAIRS))
    half = len(read) // 2
    x, source = read.centre_crops()[:half], read.embeddings[half : 2 * half, 0]
    sources = read.centre_crops()[half : 2 * half]
    columns = [sources.permute(0, 2, 3, 1).numpy(), x.permute(0, 2, 3, 1).numpy()]
    columns += [pictures_of(load_reference(path), x, source) for path in weights or [REFERENCE_WEIGHTS]]
    pairs = np.concatenate(columns, 2)
    rows = [np.concatenate(list(pairs[i : i + SHEET_COLUMNS]), 1) for i in range(0, half, SHEET_COLUMNS)]
    rows = [np.pad(row, ((0, 0), (0, rows[0].shape[1] - row.shape[1]), (0, 0)), constant_values=1) for row in rows]
    pixels = (np.concatenate(rows).clip(0, 1) * 255).round().astype(np.uint8)
    if not cv2.imwrite(str(output), pixels[..., ::-1]):
        raise typer.BadParameter(f"{output} cannot be written: does the folder exist, does the name end in .png?")
    print(f"{output}: source, target, {', '.join(path.name for path in weights or [REFERENCE_WEIGHTS])}")


if __name__ == "__main__":
    app()
