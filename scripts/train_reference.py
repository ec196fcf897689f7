"""Train the reference generator on aligned faces (CPU, about two and a half hours on two cores).

    python scripts/train_reference.py prepare --calib FACES --evaluation FACES --cache faces.npz
    python scripts/train_reference.py train --cache faces.npz --run runs/reference
    python scripts/train_reference.py evaluate --weights runs/reference/last.pt --cache faces.npz
    python scripts/train_reference.py export --run runs/reference --cache faces.npz

`train` starts from the packaged weights and resumes from the run's last checkpoint. A fall of the learning rate ends
the run, so one that gets too long may be resumed with fewer `--steps`. `evaluate` measures the figures of any
checkpoint. `export` writes the averaged weights (FP16 safetensors) into the package, and beside them the model card
with the figures of these weights.

Every batch holds three kinds of faces. Some are given their own identity and must be reconstructed. Some are given
another person's (dlib embedder) and must take it on, while pose, light and background stay and critics take them for
photos. And some are swaps of the step before, which are given back the identity of the photo that they were made of:
the right answer is that photo, so that a face is learnt from faces and not from what the embedder likes. The loss terms
and their weights are in `reference_losses.LossWeights`; what was learnt while choosing them stands in the model card.
"""

from __future__ import annotations

import copy
import hashlib
import json
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import safetensors.torch
import torch
import typer
from reference_faces import Faces, augment, disturb, draw_foreign_sources, make_face_ellipse, read_folder
from reference_losses import Critics, IdentityLoss, Losses, LossWeights, box_ssim, judge_critics, measure_marks
from rich.progress import track
from torch import Tensor
from torch.nn import functional as F

from trt_facefusion.engine.store.atomic import write_atomic
from trt_facefusion.evaluation.accuracy.identity import embed_crops
from trt_facefusion.evaluation.accuracy.metrics import measure_psnr_db, measure_ssim
from trt_facefusion.faces.embedder import DLIB_MODEL, ArcFaceEmbedder, DlibEmbedder, Embedder
from trt_facefusion.model.generators import REFERENCE_WEIGHTS, load_reference, read_state
from trt_facefusion.model.generators.reference import ReferenceGenerator

OWN, BACK, SWAPPED = 2, 3, 3  # faces of a batch: given their own identity, given it back, given another person's
BATCH = OWN + BACK + SWAPPED
LEARNING_RATE = 4e-4
CRITIC_RATE = 2e-4
WARM_UP = 100  # steps
CRITICS_RAMP = 400  # steps over which the critics, which begin from nothing, are listened to more and more
FALL = 0.3  # share of the steps over which the learning rate falls to nothing
AVERAGE = 0.999  # of the weights, from step to step

app = typer.Typer(add_completion=False, help=__doc__)

CacheOption = Annotated[Path, typer.Option(help="what `prepare` wrote")]
WeightsOption = Annotated[Path, typer.Option(help="a checkpoint (.pt) or .safetensors")]
SecondEmbedderOption = Annotated[Path | None, typer.Option(help="an ArcFace-style ONNX that training never saw")]


@dataclass
class Swaps:
    """Pictures that the network made, the photos that they were made of, and the identities of these photos."""

    pictures: Tensor
    photos: Tensor
    own: Tensor


class GeneratorTrainer:
    """Networks, optimisers and one training step, whose random numbers follow from the seed and the step alone."""

    def __init__(self, faces: Faces, steps: int, seed: int, start: Path | None, weights: LossWeights) -> None:
        self.faces, self.steps, self.seed, self.step = faces, steps, seed, 0
        torch.manual_seed(seed)
        self.net = ReferenceGenerator().to(memory_format=torch.channels_last)
        if start is not None:
            self.net.load_state_dict(read_state(start))
        self.average = copy.deepcopy(self.net).requires_grad_(False)
        self.critics = Critics().to(memory_format=torch.channels_last)
        self.losses = Losses(IdentityLoss(DLIB_MODEL, faces.embeddings), weights)
        self.optimiser = torch.optim.AdamW(self.net.parameters(), LEARNING_RATE, betas=(0.9, 0.99), weight_decay=1e-4)
        self.critic_optimiser = torch.optim.Adam(self.critics.parameters(), CRITIC_RATE, betas=(0.5, 0.99))
        x, own = augment(faces, torch.randint(len(faces), (BACK,)))
        self.swaps = Swaps(x, x, own)

    def compute_rate(self) -> float:
        """The learning rate of this step: rises at once, stays, and falls to the end."""
        left = (self.steps - self.step + 1) / (FALL * self.steps)
        return LEARNING_RATE * min(1.0, self.step / WARM_UP, left)

    def train_step(self) -> dict[str, float]:
        """One update of generator, critics and average; the loss terms."""
        self.step += 1
        torch.manual_seed(self.seed * 1_000_003 + self.step)
        x, own = augment(self.faces, torch.randint(len(self.faces), (OWN + SWAPPED,)))
        target = torch.cat([x[:OWN], disturb(self.swaps.pictures), x[OWN:]])
        truth = torch.cat([x[:OWN], self.swaps.photos])
        foreign = draw_foreign_sources(self.faces, SWAPPED)
        source = torch.cat([own[:OWN], self.swaps.own, foreign])
        with torch.autocast("cpu", torch.bfloat16):
            paint, mask = self.net.paint(target, source)
        paint, mask = paint.float().contiguous(), mask.float().contiguous()
        restored = _blend(target[:-SWAPPED], paint[:-SWAPPED], mask[:-SWAPPED].maximum(self.losses.ellipse))
        swapped = _blend(target[-SWAPPED:], paint[-SWAPPED:], mask[-SWAPPED:])
        generated = torch.cat([restored[OWN:], swapped])
        judged = self._update_critics(x, generated.detach())
        terms = self.losses.restored(restored, truth) | self.losses.swapped(swapped, x[OWN:], foreign, own[OWN:])
        terms |= self.losses.masked(mask) | {"realism": self._measure_realism(generated)}
        self._update(torch.stack(list(terms.values())).sum())
        self.swaps = Swaps(swapped.detach(), x[OWN:], own[OWN:])
        return {"critics": judged, **{name: float(term.detach()) for name, term in terms.items()}}

    def _update_critics(self, real: Tensor, fake: Tensor) -> float:
        loss = judge_critics(self.critics, real, fake)
        self.critic_optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.critic_optimiser.step()
        return float(loss.detach())

    def _measure_realism(self, generated: Tensor) -> Tensor:
        self.critics.requires_grad_(False)
        scores = [-score.mean() for score in self.critics(generated)]
        self.critics.requires_grad_(True)
        return self.losses.weights.realism * min(1.0, self.step / CRITICS_RAMP) * torch.stack(scores).mean()

    def _update(self, loss: Tensor) -> None:
        self.optimiser.param_groups[0]["lr"] = self.compute_rate()
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 2.0)
        self.optimiser.step()
        with torch.no_grad():
            for average, value in zip(self.average.parameters(), self.net.parameters(), strict=True):
                average.lerp_(value, 1 - min(AVERAGE, self.step / (9 + self.step)))

    def get_state(self) -> dict[str, Any]:
        """All that a run needs to go on as if it had never stopped."""
        return {
            "net": self.net.state_dict(),
            "ema": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "critic": self.critics.state_dict(),
            "critic_optimiser": self.critic_optimiser.state_dict(),
            "swaps": dict(vars(self.swaps)),
            "step": self.step,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from what `get_state` gave."""
        self.net.load_state_dict(state["net"])
        self.average.load_state_dict(state["ema"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.critics.load_state_dict(state["critic"])
        self.critic_optimiser.load_state_dict(state["critic_optimiser"])
        self.swaps = Swaps(**state["swaps"])
        self.step = state["step"]


def _blend(target: Tensor, paint: Tensor, mask: Tensor) -> Tensor:
    return target + mask * (paint - target)


@torch.no_grad()
def evaluate(net: ReferenceGenerator, faces: Faces, identity: IdentityLoss, count: int = 24) -> dict[str, float]:
    """Reconstruction and identity of ``count`` held-out faces, each also given the identity of one 57 places on."""
    x, own = faces.centre_crops()[:count], faces.embeddings[:count, 0]
    other = faces.embeddings[(torch.arange(count) + PAIR_SHIFT) % len(faces), 0]
    with torch.autocast("cpu", torch.bfloat16):
        same, (swapped, mask) = net(x, own)[0].float(), (v.float() for v in net(x, other))
    embedding = identity.embed(swapped)
    distance = [(F.normalize(embedding, dim=-1) - reference).norm(dim=1).mean().item() for reference in (other, own)]
    ellipse = make_face_ellipse()
    return {
        "psnr_db": (-10 * torch.log10(((same - x) ** 2).mean((1, 2, 3)).clamp(min=1e-9))).mean().item(),
        "box_ssim": box_ssim(same, x).mean().item(),
        "to_source": distance[0],
        "to_target": distance[1],
        "centred_cosine": (identity.centre(embedding) * identity.centre(other)).sum(1).mean().item(),
        "mean_change": (swapped - same).abs().mean().item(),
        "marks": measure_marks(swapped, x).item(),
        "mask_inside": ((mask * ellipse).sum() / (len(mask) * ellipse.sum())).item(),
        "mask_outside": ((mask * (1 - ellipse)).sum() / (len(mask) * (1 - ellipse).sum())).item(),
    }


@app.command()
def prepare(
    calib: Annotated[Path, typer.Option(help="photos to train on")],
    evaluation: Annotated[Path, typer.Option(help="photos to judge on; nobody may be in both")],
    cache: Annotated[Path, typer.Option(help="the file to write")],
) -> None:
    """Detect, align and embed all photos once."""
    arrays: dict[str, np.ndarray] = {}
    for split, folder in (("calib", calib), ("eval", evaluation)):
        arrays[f"{split}_crops"], arrays[f"{split}_embeddings"] = read_folder(folder)
        print(f"{split}: {len(arrays[f'{split}_crops'])} faces")
    np.savez(cache, **arrays)


@app.command()
def train(
    cache: CacheOption,
    run: Annotated[Path, typer.Option(help="folder for checkpoints and the log")],
    steps: int = 12000,
    checkpoint_steps: Annotated[int, typer.Option(help="steps between checkpoints, with a line in the log each")] = 200,
    init: Annotated[Path, typer.Option(help="start from these weights")] = REFERENCE_WEIGHTS,
    from_noise: Annotated[bool, typer.Option(help="start from no weights")] = False,
    weight: Annotated[list[str] | None, typer.Option(help="NAME=NUMBER: a loss term's weight; repeat")] = None,
    threads: int = 2,
    seed: int = 0,
) -> None:
    """Train, or go on training."""
    torch.set_num_threads(threads)
    run.mkdir(parents=True, exist_ok=True)
    held_out = Faces.load(cache, "eval")
    weights = parse_loss_weights(weight or [])
    trainer = GeneratorTrainer(Faces.load(cache, "calib"), steps, seed, None if from_noise else init, weights)
    checkpoint = run / "last.pt"
    if checkpoint.exists():
        trainer.set_state(torch.load(checkpoint, weights_only=True))
    (run / "loss_weights.json").write_text(json.dumps(asdict(weights), indent=1))
    first, started, history = trainer.step, time.perf_counter(), []
    for step in track(range(first + 1, steps + 1), "training", total=steps, completed=first):
        history.append(trainer.train_step())
        if step % checkpoint_steps and step != steps:
            continue
        _save(trainer.get_state(), checkpoint)
        seconds = (time.perf_counter() - started) / (step - first)
        line = {"step": step, "rate": trainer.compute_rate(), "seconds_per_step": seconds}
        line |= {"hours_left": seconds * (steps - step) / 3600} | _average(history)
        line |= evaluate(trainer.average.eval(), held_out, trainer.losses.identity)
        history = []
        _log(run / "log.jsonl", {name: round(value, 5) for name, value in line.items()})


def parse_loss_weights(assignments: list[str]) -> LossWeights:
    """The loss weights with those that ``assignments`` (NAME=NUMBER) change."""
    changed: dict[str, float] = {}
    for assignment in assignments:
        name, _, number = assignment.partition("=")
        if name not in asdict(LossWeights()):
            raise typer.BadParameter(f"{name!r} is no loss term: {', '.join(asdict(LossWeights()))}")
        changed[name] = float(number)
    return LossWeights(**changed)


def _average(history: list[dict[str, float]]) -> dict[str, float]:
    return {f"loss_{name}": sum(terms[name] for terms in history) / len(history) for name in history[0]}


def _log(path: Path, line: dict[str, float]) -> None:
    with path.open("a") as log:
        log.write(json.dumps(line) + "\n")
    print(json.dumps(line), flush=True)


def _save(state: dict[str, Any], path: Path) -> None:
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    temporary.replace(path)


PAIR_SHIFT = 57  # the source of face i is face i + 57


@torch.no_grad()
def pictures_of(net: ReferenceGenerator, x: Tensor, source: Tensor) -> np.ndarray:
    """Output pictures [N,128,128,3] in [0,1]."""
    parts = [net(a, b)[0] for a, b in zip(x.split(8), source.split(8), strict=True)]
    return torch.cat(parts).permute(0, 2, 3, 1).contiguous().numpy()


def nearer_to_source(swapped: np.ndarray, photos: np.ndarray, embedder: Embedder) -> dict[str, float]:
    """Distances of swapped faces to the photos of source and target, and how often the source is the nearer one."""
    own = embedder.make_comparable(embed_crops(photos, "arcface_128", embedder))
    swaps = embedder.make_comparable(embed_crops(swapped, "arcface_128", embedder))
    source = np.roll(own, -PAIR_SHIFT, 0)
    to_source, to_target = (np.linalg.norm(swaps - other, axis=1) for other in (source, own))
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
    print(json.dumps(measure(load_reference(weights), cache, second_embedder), indent=1))


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
    net = load_reference(output)
    parameters = sum(p.numel() for p in net.parameters())
    template = (Path(__file__).parent / "model_card.md.in").read_text()
    weights = json.loads((run / "loss_weights.json").read_text())
    card = template.format(
        parameters=f"{parameters / 1e6:.2f}",
        size=f"{output.stat().st_size / 1e6:.1f}",
        sha256=hashlib.sha256(output.read_bytes()).hexdigest(),
        steps=torch.load(run / "last.pt", weights_only=True)["step"],
        losses=", ".join(f"{name} {weight}" for name, weight in weights.items()),
        rows="\n".join(_list_rows(measure(net, cache, second_embedder))),
    )
    write_atomic(output.with_name("MODEL_CARD.md"), card.encode())
    print(f"{output}: {output.stat().st_size / 1e6:.2f} MB")


def _list_rows(figures: dict[str, object]) -> Iterable[str]:
    """The figures as rows of a Markdown table."""
    for name, value in figures.items():
        if isinstance(value, dict):
            yield from (f"| {name}: {key.replace('_', ' ')} | {number:.3f} |" for key, number in value.items())
        else:
            yield f"| {name.replace('_', ' ')} | {value:.4g} |"


if __name__ == "__main__":
    app()
