"""Train the reference generator on aligned faces (CPU, about two hours on two cores).

    python scripts/train_reference.py prepare --calib FACES --evaluation FACES --cache faces.npz
    python scripts/train_reference.py train --cache faces.npz --run runs/reference
    python scripts/train_reference.py evaluate --weights runs/reference/last.pt --cache faces.npz
    python scripts/train_reference.py export --run runs/reference --cache faces.npz

`train` resumes from the run's last checkpoint. `evaluate` measures the figures of any checkpoint. `export` writes the
averaged weights (FP16 safetensors) into the package, and beside them the model card with the figures of these weights.
Half of every batch is given the person's own identity and must be reconstructed; the other half is given another
person's and must take on that identity (dlib embedder) while pose, light and background stay. The loss terms and their
weights are in `LossWeights`; what was learnt while choosing them stands in the model card.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import safetensors.torch
import torch
import typer
from onnx_torch import OnnxModule
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from trt_facefusion.engine.store.atomic import write_atomic
from trt_facefusion.evaluation.accuracy.identity import embed_crops
from trt_facefusion.evaluation.accuracy.metrics import measure_psnr_db, measure_ssim
from trt_facefusion.faces.align import align_crop, fit_templates
from trt_facefusion.faces.decode import read_image
from trt_facefusion.faces.detector import FaceDetector
from trt_facefusion.faces.embedder import DLIB_MODEL, ArcFaceEmbedder, DlibEmbedder, Embedder
from trt_facefusion.faces.find import list_photos
from trt_facefusion.model.generators import REFERENCE_WEIGHTS, read_state
from trt_facefusion.model.generators.reference import TARGET_SIZE, ReferenceGenerator

MARGIN = 16  # pixels around the crop that augmentation may rotate or shift into view
BATCH = 8
OWN = 4  # samples of each batch that get their own identity
LUMA = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)

app = typer.Typer(add_completion=False, help=__doc__)

CacheOption = Annotated[Path, typer.Option(help="what `prepare` wrote")]
WeightsOption = Annotated[Path, typer.Option(help="a checkpoint (.pt) or .safetensors")]
SecondEmbedderOption = Annotated[Path | None, typer.Option(help="an ArcFace-style ONNX that training never saw")]


@dataclass(frozen=True)
class LossWeights:
    """Weights of the loss terms; `own_*` act on the reconstructed half, the others on the swapped half."""

    own_l1: float = 5.0
    own_ssim: float = 2.0
    own_gradient: float = 2.0
    identity: float = 1.3
    away_from_target: float = 0.4
    realism: float = 0.12
    background: float = 5.0
    low_frequency: float = 4.0
    inside_l1: float = 0.5
    inside_gradient: float = 0.6
    chroma: float = 8.0


class PatchCritic(nn.Sequential):
    """Says patch by patch whether a crop is a photo (spectral norm, hinge loss): without it a swap may smear the eyes
    and mouth that the embedder does not look at."""

    def __init__(self, width: int = 32) -> None:
        layers: list[nn.Module] = []
        for inner, outer in ((3, width), (width, 2 * width), (2 * width, 4 * width)):
            layers += [spectral_norm(nn.Conv2d(inner, outer, 4, 2, 1)), nn.LeakyReLU(0.2)]
        super().__init__(*layers, spectral_norm(nn.Conv2d(4 * width, 1, 3, 1, 1)))


@dataclass
class Faces:
    """Aligned crops [N,3,160,160] uint8 and unit embeddings [N,2,128] of each photo and of its mirror image."""

    crops: Tensor
    embeddings: Tensor

    @classmethod
    def load(cls, cache: Path, split: str) -> Faces:
        with np.load(cache) as data:
            crops, embeddings = torch.from_numpy(data[f"{split}_crops"]), torch.from_numpy(data[f"{split}_embeddings"])
        return cls(crops, F.normalize(embeddings, dim=-1))

    def centre_crops(self) -> Tensor:
        inner = self.crops[:, :, MARGIN:-MARGIN, MARGIN:-MARGIN]
        return (inner.float() / 255).contiguous(memory_format=torch.channels_last)


class IdentityLoss:
    """Differentiable dlib embeddings of generated crops, centred on the training set's mean."""

    def __init__(self, embedder: Path, embeddings: Tensor) -> None:
        self.net = OnnxModule(embedder).to(memory_format=torch.channels_last)
        self.mean = embeddings.reshape(-1, embeddings.shape[-1]).mean(0)
        matrix = np.vstack([fit_templates("arcface_128", TARGET_SIZE, "dlib_150", 150), [0, 0, 1]])
        self.crop_from_chip = torch.from_numpy(np.linalg.inv(matrix)).float()
        y, x = torch.meshgrid(torch.arange(150.0), torch.arange(150.0), indexing="ij")
        self.points = torch.stack([x, y, torch.ones_like(x)], -1).reshape(-1, 3)

    def centre(self, embedding: Tensor) -> Tensor:
        return F.normalize(F.normalize(embedding, dim=-1) - self.mean, dim=-1)

    def chips(self, crops: Tensor, jitter: bool) -> Tensor:
        """Resample crops [N,3,128,128] to the embedder's chips [N,3,150,150], with a small random motion if asked."""
        n = len(crops)
        matrix = self.crop_from_chip.expand(n, 3, 3)
        if jitter:
            matrix = matrix @ _random_motion(n)
        grid = (self.points @ matrix.transpose(1, 2))[..., :2]
        grid = ((2 * grid + 1) / TARGET_SIZE - 1).view(n, 150, 150, 2)
        return F.grid_sample(crops, grid, mode="bilinear", padding_mode="border", align_corners=False)

    def embed(self, crops: Tensor, *, jitter: bool = False) -> Tensor:
        """Raw embeddings [N,128]. Jittered inputs are also greyed and blurred at random: no colour trick pays."""
        chips = self.chips(crops, jitter)
        if jitter:
            grey = (torch.rand(len(chips), 1, 1, 1) < 0.5).float()
            chips = chips * (1 - grey) + grey * (chips * LUMA).sum(1, keepdim=True)
            chips = chips * (1 + 0.06 * torch.randn(len(chips), 3, 1, 1))
            if torch.rand(1) < 0.4:
                chips = F.avg_pool2d(chips, 3, 1, 1)
        with torch.autocast("cpu", torch.bfloat16):
            out: Tensor = self.net((chips * 255).contiguous(memory_format=torch.channels_last))[0]
        return out.float()


def _random_motion(n: int) -> Tensor:
    """Small random similarity transforms [n,3,3] about the centre of a 150 px chip."""
    angle, scale = 0.04 * torch.randn(n), 1 + 0.03 * torch.randn(n)
    motion = torch.zeros(n, 3, 3)
    motion[:, 0, 0] = motion[:, 1, 1] = torch.cos(angle) * scale
    motion[:, 1, 0] = torch.sin(angle) * scale
    motion[:, 0, 1] = -motion[:, 1, 0]
    motion[:, 2, 2] = 1
    centre = torch.eye(3)
    centre[0, 2] = centre[1, 2] = 75
    back = torch.eye(3)
    back[0, 2] = back[1, 2] = -75
    motion[:, :2, 2] = 1.5 * torch.randn(n, 2)
    return centre @ motion @ back


def augment(faces: Faces, index: Tensor) -> tuple[Tensor, Tensor]:
    """Random geometry and light: crops [N,3,128,128] in [0,1] and the embeddings [N,128] that fit them."""
    n = len(index)
    x = faces.crops[index].float() / 255
    mirrored = torch.rand(n) < 0.5
    angle = 0.06 * torch.randn(n)
    scale = (1 + 0.04 * torch.randn(n)) * TARGET_SIZE / x.shape[-1]
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = torch.cos(angle) * scale
    theta[:, 1, 0] = torch.sin(angle) * scale
    theta[:, 0, 1] = -theta[:, 1, 0]
    theta[:, :, 2] = 0.03 * torch.randn(n, 2)
    theta[:, :, 0] *= torch.where(mirrored, -1.0, 1.0)[:, None]
    grid = F.affine_grid(theta, [n, 3, TARGET_SIZE, TARGET_SIZE], align_corners=False)
    x = F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)
    gain = 1 + 0.12 * torch.randn(n, 1, 1, 1) + 0.05 * torch.randn(n, 3, 1, 1)
    direction = 2 * math.pi * torch.rand(n, 1, 1, 1)
    line = torch.linspace(-1, 1, TARGET_SIZE)
    ramp = torch.cos(direction) * line.view(1, 1, 1, -1) + torch.sin(direction) * line.view(1, 1, -1, 1)
    x = x * gain * (1 + 0.12 * torch.randn(n, 1, 1, 1) * ramp) + 0.04 * torch.randn(n, 1, 1, 1)
    x = x.clamp(0, 1) ** torch.exp(0.12 * torch.randn(n, 1, 1, 1))
    return x.contiguous(memory_format=torch.channels_last), faces.embeddings[index, mirrored.long()]


def foreign_sources(faces: Faces, n: int) -> Tensor:
    """Identities of other people [n,128]; a third are blended with yet another, to fill the space between people."""
    source = faces.embeddings[torch.randint(len(faces.embeddings), (n,)), torch.randint(2, (n,))]
    other = faces.embeddings[torch.randint(len(faces.embeddings), (n,)), 0]
    share = (torch.rand(n, 1) < 0.3).float() * torch.rand(n, 1) * 0.5
    return F.normalize(source * (1 - share) + other * share, dim=-1)


def box_ssim(a: Tensor, b: Tensor) -> Tensor:
    """SSIM map over a 7x7 box at every second pixel: the fast variant used as a loss, not a reported figure."""

    def mean(x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 7, 2, 3, count_include_pad=False)

    mean_a, mean_b = mean(a), mean(b)
    var = mean(a * a) - mean_a**2 + mean(b * b) - mean_b**2
    covariance = mean(a * b) - mean_a * mean_b
    return ((2 * mean_a * mean_b + 1e-4) * (2 * covariance + 9e-4)) / ((mean_a**2 + mean_b**2 + 1e-4) * (var + 9e-4))


def gradient_difference(a: Tensor, b: Tensor, scales: int = 3) -> Tensor:
    """Mean absolute difference of image gradients over a pyramid."""
    total = torch.zeros(())
    for _ in range(scales):
        delta = a - b
        total = total + (delta[..., 1:] - delta[..., :-1]).abs().mean()
        total = total + (delta[..., 1:, :] - delta[..., :-1, :]).abs().mean()
        a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
    return total / scales


def face_mask() -> Tensor:
    """[1,1,128,128]: 1 inside the ellipse that holds the face of an arcface_128 crop, 0 outside, with a soft edge."""
    y, x = torch.meshgrid(torch.arange(128.0), torch.arange(128.0), indexing="ij")
    radius = (((x - 64) / 40) ** 2 + ((y - 66) / 50) ** 2).sqrt()
    return torch.sigmoid((1 - radius) * 12)[None, None]


def losses(
    out: Tensor, x: Tensor, source: Tensor, own: Tensor, identity: IdentityLoss, critic: PatchCritic, mask: Tensor
) -> Tensor:
    """The weighted loss of one batch: first `OWN` samples reconstructed, the rest swapped."""
    w = LossWeights()
    a, b = out[:OWN], x[:OWN]
    total = w.own_l1 * (a - b).abs().mean()
    total = total + w.own_ssim * (1 - box_ssim(a, b)).mean() + w.own_gradient * gradient_difference(a, b)
    a, b = out[OWN:], x[OWN:]
    outside = 1 - mask
    total = total + w.background * ((a - b).abs() * outside).mean()
    total = total + w.own_ssim * ((1 - box_ssim(a, b)) * outside[..., ::2, ::2]).mean()
    total = total + w.low_frequency * (F.avg_pool2d(a, 8) - F.avg_pool2d(b, 8)).abs().mean()
    total = total + w.inside_l1 * ((a - b).abs() * mask).mean() + w.inside_gradient * gradient_difference(a, b)
    chroma_a, chroma_b = (v - (v * LUMA).sum(1, keepdim=True) for v in (a, b))
    total = total + w.chroma * (chroma_a - chroma_b).abs().mean()
    embedding = identity.centre(identity.embed(a, jitter=True))
    total = total + w.identity * (1 - (embedding * identity.centre(source[OWN:])).sum(1)).mean()
    # Only the part of the target's identity that the source does not share is pushed away.
    shared = (identity.centre(source[OWN:]) * identity.centre(own[OWN:])).sum(1)
    leak = (embedding * identity.centre(own[OWN:])).sum(1) - shared
    total = total + w.away_from_target * F.relu(leak).mean()
    return total - w.realism * critic(a * 2 - 1).mean()


def critic_loss(critic: PatchCritic, real: Tensor, fake: Tensor) -> Tensor:
    """Hinge loss of the critic on photos and on swapped crops."""
    return F.relu(1 - critic(real * 2 - 1)).mean() + F.relu(1 + critic(fake * 2 - 1)).mean()


@torch.no_grad()
def evaluate(net: ReferenceGenerator, faces: Faces, identity: IdentityLoss, count: int = 48) -> dict[str, float]:
    """Reconstruction and identity of ``count`` held-out faces, each also given the identity of one 57 places on."""
    x, own = faces.centre_crops()[:count], faces.embeddings[:count, 0]
    other = faces.embeddings[(torch.arange(count) + 57) % len(faces.embeddings), 0]
    with torch.autocast("cpu", torch.bfloat16):
        same, swapped = net(x, own).float(), net(x, other).float()
    embedding = identity.embed(swapped)
    distance = [(F.normalize(embedding, dim=-1) - reference).norm(dim=1).mean().item() for reference in (other, own)]
    return {
        "psnr_db": (-10 * torch.log10(((same - x) ** 2).mean((1, 2, 3)))).mean().item(),
        "box_ssim": box_ssim(same, x).mean().item(),
        "to_source": distance[0],
        "to_target": distance[1],
        "mean_change": (swapped - same).abs().mean().item(),
    }


@app.command()
def prepare(
    calib: Annotated[Path, typer.Option(help="photos to train on")],
    evaluation: Annotated[Path, typer.Option(help="photos to judge on; nobody may be in both")],
    cache: Annotated[Path, typer.Option(help="the file to write")],
) -> None:
    """Detect, align and embed all photos once."""
    arrays: dict[str, np.ndarray] = {}
    detector, embedder = FaceDetector(), DlibEmbedder()
    for split, folder in (("calib", calib), ("eval", evaluation)):
        crops, embeddings = [], []
        for path in list_photos(folder):
            photo = read_image(path)
            mirrored = np.ascontiguousarray(photo[:, ::-1])
            found = [detector.detect(photo), detector.detect(mirrored)]
            if not all(found):
                print(f"skipped {path.name}: no face")
                continue
            crops.append(align_crop(photo, found[0][0].landmarks, "arcface_128", TARGET_SIZE, MARGIN))
            pictures = zip((photo, mirrored), found, strict=True)
            chips = [align_crop(x, faces[0].landmarks, embedder.template, embedder.size) for x, faces in pictures]
            embeddings.append(embedder.embed(np.stack(chips)))
        arrays[f"{split}_crops"] = np.stack(crops).transpose(0, 3, 1, 2)
        arrays[f"{split}_embeddings"] = np.stack(embeddings)
        print(f"{split}: {len(crops)} faces")
    np.savez(cache, **arrays)


@app.command()
def train(
    cache: CacheOption,
    run: Annotated[Path, typer.Option(help="folder for checkpoints and the log")],
    steps: int = 7000,
    init: Annotated[Path | None, typer.Option(help="start from these weights instead of from noise")] = None,
    learning_rate: float = 6e-4,
    threads: int = 2,
    seed: int = 0,
) -> None:
    """Train, or go on training; the learning rate follows a cosine over `steps`."""
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    run.mkdir(parents=True, exist_ok=True)
    faces, held_out = Faces.load(cache, "calib"), Faces.load(cache, "eval")
    identity, mask = IdentityLoss(DLIB_MODEL, faces.embeddings), face_mask()
    net = ReferenceGenerator().to(memory_format=torch.channels_last)
    if init is not None:
        net.load_state_dict(torch.load(init, weights_only=True)["ema"])
    ema = copy.deepcopy(net).requires_grad_(False)
    optimiser = torch.optim.AdamW(net.parameters(), lr=learning_rate, betas=(0.9, 0.99), weight_decay=1e-4)
    critic = PatchCritic()
    critic_optimiser = torch.optim.Adam(critic.parameters(), lr=2e-4, betas=(0.5, 0.99))
    checkpoint, first = run / "last.pt", 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        net.load_state_dict(state["net"])
        ema.load_state_dict(state["ema"])
        optimiser.load_state_dict(state["optimiser"])
        critic.load_state_dict(state["critic"])
        critic_optimiser.load_state_dict(state["critic_optimiser"])
        torch.set_rng_state(state["rng"])
        first = state["step"]
    (run / "loss_weights.json").write_text(json.dumps(asdict(LossWeights()), indent=1))
    started = time.perf_counter()
    for step in track(range(first + 1, steps + 1), "training", total=steps, completed=first):
        rate = learning_rate * min(1, step / 80) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        for group in optimiser.param_groups:
            group["lr"] = rate
        x, own = augment(faces, torch.randint(len(faces.crops), (BATCH,)))
        source = torch.cat([own[:OWN], foreign_sources(faces, BATCH - OWN)])
        with torch.autocast("cpu", torch.bfloat16):
            out = net(x, source)
        out, x = out.float().contiguous(), x.contiguous()
        judged = critic_loss(critic, x, out[OWN:].detach())
        critic_optimiser.zero_grad()
        judged.backward()  # type: ignore[no-untyped-call]
        critic_optimiser.step()
        loss = losses(out, x, source, own, identity, critic, mask)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(net.parameters(), 2.0)
        optimiser.step()
        with torch.no_grad():
            for average, value in zip(ema.parameters(), net.parameters(), strict=True):
                average.lerp_(value, 1 - min(0.997, step / (9 + step)))
        if step % 250 == 0 or step == steps:
            figures = {k: round(v, 4) for k, v in evaluate(ema.eval(), held_out, identity).items()}
            line = {"step": step, "seconds": round(time.perf_counter() - started), "loss": round(loss.item(), 4)}
            line["critic"] = round(judged.item(), 4)
            with (run / "log.jsonl").open("a") as log:
                log.write(json.dumps(line | figures) + "\n")
            state = {"net": net.state_dict(), "ema": ema.state_dict(), "optimiser": optimiser.state_dict()}
            state |= {"critic": critic.state_dict(), "critic_optimiser": critic_optimiser.state_dict()}
            state |= {"rng": torch.get_rng_state(), "step": step}
            torch.save(state, run / "last.pt.tmp")
            (run / "last.pt.tmp").replace(checkpoint)
            print(json.dumps(line | figures), flush=True)


PAIR_SHIFT = 57  # the source of face i is face i + 57


def load_weights(path: Path) -> ReferenceGenerator:
    """A generator with the weights of a checkpoint (.pt: its averaged ones) or of a .safetensors file."""
    net = ReferenceGenerator()
    net.load_state_dict(read_state(path))
    return net.eval().requires_grad_(False)


@torch.no_grad()
def pictures_of(net: ReferenceGenerator, x: Tensor, source: Tensor) -> np.ndarray:
    """Output pictures [N,128,128,3] in [0,1]."""
    parts = [net(a, b) for a, b in zip(x.split(8), source.split(8), strict=True)]
    return torch.cat(parts).permute(0, 2, 3, 1).contiguous().numpy()


def nearer_to_source(swapped: np.ndarray, photos: np.ndarray, embedder: Embedder) -> dict[str, float]:
    """Distances of swapped faces to the photos of source and target, and how often the source is the nearer one."""
    own = embedder.make_comparable(embed_crops(photos, "arcface_128", embedder))
    got = embedder.make_comparable(embed_crops(swapped, "arcface_128", embedder))
    source = np.roll(own, -PAIR_SHIFT, 0)
    to_source, to_target = (np.linalg.norm(got - other, axis=1) for other in (source, own))
    return {
        "distance_to_source": float(to_source.mean()),
        "distance_to_target": float(to_target.mean()),
        "nearer_to_source": float((to_source < to_target).mean()),
    }


def measure(net: ReferenceGenerator, cache: Path, second_embedder: Path | None) -> dict[str, object]:
    """The figures of the model card, on the evaluation faces."""
    faces = Faces.load(cache, "eval")
    x, own = faces.centre_crops(), faces.embeddings[:, 0]
    photos = x.permute(0, 2, 3, 1).contiguous().numpy()
    same, swapped = pictures_of(net, x, own), pictures_of(net, x, own.roll(-PAIR_SHIFT, 0))
    figures: dict[str, object] = {
        "faces": len(x),
        "reconstruction_psnr_db": float(measure_psnr_db(photos, same).mean()),
        "reconstruction_psnr_db_worst": float(measure_psnr_db(photos, same).min()),
        "reconstruction_ssim": float(measure_ssim(photos, same).mean()),
        "dlib": nearer_to_source(swapped, photos, DlibEmbedder()),
    }
    if second_embedder is not None:
        figures["second embedder"] = nearer_to_source(swapped, photos, ArcFaceEmbedder(second_embedder))
    return figures


@app.command("evaluate")
def evaluate_command(weights: WeightsOption, cache: CacheOption, second_embedder: SecondEmbedderOption = None) -> None:
    """Print the model card's figures, measured on the evaluation faces, as JSON."""
    torch.set_num_threads(2)
    print(json.dumps(measure(load_weights(weights), cache, second_embedder), indent=1))


@app.command()
def export(
    run: Annotated[Path, typer.Option(help="the run's folder")],
    cache: CacheOption,
    second_embedder: SecondEmbedderOption = None,
    output: Annotated[Path, typer.Option(help="the file to write; the model card goes beside it")] = REFERENCE_WEIGHTS,
) -> None:
    """Write the averaged weights of a run as FP16 safetensors, and a model card with their figures."""
    torch.set_num_threads(2)
    state = {name: tensor.half().contiguous() for name, tensor in read_state(run / "last.pt").items()}
    write_atomic(output, safetensors.torch.save(state))
    net = load_weights(output)
    parameters = sum(p.numel() for p in net.parameters())
    template = (Path(__file__).parent / "model_card.md.in").read_text()
    card = template.format(
        parameters=f"{parameters / 1e6:.2f}",
        size=f"{output.stat().st_size / 1e6:.1f}",
        sha256=hashlib.sha256(output.read_bytes()).hexdigest(),
        steps=torch.load(run / "last.pt", weights_only=True)["step"],
        losses=", ".join(f"{name} {weight}" for name, weight in asdict(LossWeights()).items()),
        rows=_rows(measure(net, cache, second_embedder)),
    )
    write_atomic(output.with_name("MODEL_CARD.md"), card.encode())
    print(f"{output}: {output.stat().st_size / 1e6:.2f} MB")


def _rows(figures: dict[str, object]) -> str:
    """The figures as rows of a Markdown table."""
    rows = []
    for name, value in figures.items():
        if isinstance(value, dict):
            rows += [f"| {name}: {key.replace('_', ' ')} | {number:.3f} |" for key, number in value.items()]
        else:
            rows.append(f"| {name.replace('_', ' ')} | {value:.4g} |")
    return "\n".join(rows)


if __name__ == "__main__":
    app()
