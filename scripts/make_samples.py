r"""Make `samples/faces`: faces of nobody, drawn from a small generative model that this script trains on a CPU.

    python scripts/make_samples.py prepare --calib FACES/calib --avoid FACES/eval \
        --manifest FACES/manifest.csv --only synthetic --work runs/samples
    python scripts/make_samples.py train --work runs/samples
    python scripts/make_samples.py sample --work runs/samples --out samples

How it works:

* `prepare` aligns every photo by its five landmarks and brings all faces into dense correspondence with optical flow:
  each face is matched with its own projection on the first principal components of all faces, again and again with
  more components (I. Kemelmacher-Shlizerman and S. Seitz, "Collection Flow", CVPR 2012). Shape (the flow) and colours
  (the unwarped face) then go into one principal component analysis, an active appearance model (T. Cootes et al.,
  ECCV 1998). Its coefficients are the latent space, on which a mixture of Gaussians is fitted.
* `train` teaches a small U-Net to turn what the linear model renders into a photograph. Half of each batch are photos
  whose coefficients were disturbed, to be restored; half are random draws. A discriminator judges both.
* `sample` draws coefficients from the mixture, never from a photo, and keeps a face only if the detector finds it and
  it is far from every photo's identity. Of these it drops the strange-looking and picks a set that is varied in
  identity, skin tone, light and pose.

`--only synthetic` learns from pictures of people who do not exist (by the `source` column of the manifest); the
distance is checked against every photo. Everything is seeded; `train` resumes from its checkpoint.
"""

from __future__ import annotations

import copy
import csv
import json
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import torch
import typer
from numpy.typing import NDArray
from onnx_torch import OnnxModule
from torch import Tensor, nn
from torch.nn import functional as F

from trt_facefusion.errors import FacesError
from trt_facefusion.faces.align import Landmarks, align_crop

SIZE = 192  # side of the crops that the model learns, in pixels
SAVED_SIZE = 256  # side of the saved files, in pixels
TEMPLATE = "ffhq_512"  # head and shoulders
FLOW_SIZE = 48  # side of the stored flow: it is smooth
COMPONENTS = 160
CLUSTERS = 20
BATCH = 8
CROP = 96  # side of the crops that the networks train on
MIN_SCORE = 0.8
MIN_DISTANCE = 0.5  # from every photo; of different people nearest photos lie at about 0.54

DATA = Path(__file__).resolve().parents[1] / "trt_facefusion" / "data"
DETECTOR = DATA / "face_detection_yunet_2023mar.onnx"
EMBEDDER = DATA / "dlib_face_recognition_resnet_v1.onnx"
FEATURES = DATA / "squeezenet11_caffe_features.onnx"
FEATURE_MEAN = torch.tensor([104.006, 116.669, 122.679]).view(1, 3, 1, 1)

Floats = NDArray[np.float32]
Picture = NDArray[np.uint8]
app = typer.Typer(add_completion=False, help=__doc__)


# ---------------------------------------------------------------------------------------------- faces and identities


class FaceReader:
    """Finds faces (YuNet) and embeds them (dlib). Pictures are [H,W,3] uint8 in BGR order."""

    def __init__(self) -> None:
        import onnxruntime as ort

        self.detector = cv2.FaceDetectorYN.create(str(DETECTOR), "", (320, 320), 0.6, 0.3, 5000)
        self.embedder = ort.InferenceSession(EMBEDDER, providers=["CPUExecutionProvider"])

    def find(self, picture: Picture) -> tuple[float, Landmarks] | None:
        """Score and landmarks [5,2] of the largest face, if there is one."""
        self.detector.setInputSize((picture.shape[1], picture.shape[0]))
        _, faces = self.detector.detect(picture)
        if faces is None:
            return None
        face = max(faces, key=lambda f: f[2] * f[3])
        return float(face[14]), face[4:14].reshape(5, 2)

    def embed(self, picture: Picture, landmarks: Landmarks) -> Floats:
        """Raw embeddings [2,128] of the face and of its mirror image."""
        mirrored = landmarks[[1, 0, 2, 4, 3]].copy()
        mirrored[:, 0] = picture.shape[1] - 1 - mirrored[:, 0]
        views = ((picture, landmarks), (np.ascontiguousarray(picture[:, ::-1]), mirrored))
        chips = [align_crop(view, points, "dlib_150", 150)[:, :, ::-1].transpose(2, 0, 1) for view, points in views]
        out: Floats = self.embedder.run(None, {"image": np.stack(chips).astype(np.float32)})[0]
        return out


@dataclass
class Photos:
    """Crops [N,192,192,3] uint8 RGB to learn from, and raw embeddings [M,2,128] of every photo to keep away from."""

    crops: Picture
    embeddings: Floats


def read_photos(folder: Path, learnt: set[str] | None) -> Photos:
    """Read all photos of ``folder``; crops are made of those named in ``learnt`` (None: of all)."""
    reader, crops, embeddings = FaceReader(), [], []
    for path in sorted(folder.iterdir()):
        picture = cv2.imread(str(path))
        found = None if picture is None else reader.find(picture)
        if picture is None or found is None:
            continue
        landmarks = found[1]
        embeddings.append(reader.embed(picture, landmarks))
        if learnt is None or path.name in learnt:
            crops.append(align_crop(picture, landmarks, TEMPLATE, SIZE)[:, :, ::-1])
    return Photos(np.array(crops), np.stack(embeddings))


# --------------------------------------------------------------------------------------------- dense correspondence


def pixel_grid() -> tuple[Floats, Floats]:
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
    return x, y


def ellipse(centre_y: float, radii: tuple[float, float], softness: float) -> Floats:
    """1 inside, 0 outside, [192,192]; lengths are fractions of the picture."""
    x, y = pixel_grid()
    radius = ((x / SIZE - 0.5) / radii[0]) ** 2 + ((y / SIZE - centre_y) / radii[1]) ** 2
    return (1 / (1 + np.exp((radius - 1) * softness))).astype(np.float32)


HEAD = (0.5625, (0.323, 0.417))
INNER_FACE = (0.59, (0.30, 0.29))  # brows to chin


def unwarp(picture: Floats, flow: Floats) -> Floats:
    """Picture sampled at ``position + flow``."""
    x, y = pixel_grid()
    x, y = x + flow[..., 0], y + flow[..., 1]
    return np.asarray(cv2.remap(picture, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE), np.float32)


def even_contrast(grey: Floats) -> Floats:
    """Grey picture with its local mean removed and its local contrast evened out: skin and light matter less."""
    mean = cv2.GaussianBlur(grey, (0, 0), 12)
    variance = cv2.GaussianBlur((grey - mean) ** 2, (0, 0), 12)
    return (grey - mean) / np.sqrt(variance + 0.003)  # type: ignore[no-any-return]


def low_rank(rows: Floats, weights: Floats, rank: int) -> Floats:
    """Rows [N,D] projected on their first ``rank`` principal components; ``weights`` [D] say which columns count."""
    mean = rows.mean(0)
    if rank == 0:
        return np.repeat(mean[None], len(rows), 0)
    centred = (rows - mean) * weights
    _, vectors = np.linalg.eigh(centred @ centred.T)
    top = vectors[:, -rank:]
    return (top @ (top.T @ (rows - mean)) + mean).astype(np.float32)  # type: ignore[no-any-return]


def correspond(pictures: Floats) -> Floats:
    """Flow [N,192,192,2] in pixels from the common face shape to each picture [N,192,192,3]."""
    greys = np.stack([even_contrast(p @ np.array([0.299, 0.587, 0.114], np.float32)) for p in pictures])
    flows = np.zeros((*greys.shape, 2), np.float32)
    mask = ellipse(*HEAD, 6)
    matcher = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    matcher.setFinestScale(1)
    for rank, smoothness in ((0, 8.0), (2, 7.0), (4, 6.0), (8, 5.0), (16, 4.5), (24, 4.0)):
        unwarped = np.stack([unwarp(grey, flow) for grey, flow in zip(greys, flows, strict=True)])
        models = low_rank(unwarped.reshape(len(greys), -1), mask.reshape(-1), rank).reshape(greys.shape)
        for i, (model, grey) in enumerate(zip(models, greys, strict=True)):
            flow = matcher.calc(as_bytes(model), as_bytes(grey), flows[i].copy())
            flows[i] = smooth_flow(np.clip(flow, -14, 14), mask + 0.02, smoothness)
        flows -= flows.mean(0)
        typer.echo(f"flow against {rank} components: mean motion {np.abs(flows).mean():.3f} px")
    return flows


def as_bytes(grey: Floats) -> Picture:
    return np.clip(grey * 40 + 128, 0, 255).astype(np.uint8)


def smooth_flow(flow: Floats, confidence: Floats, sigma: float) -> Floats:
    """Blur that trusts the face only: outside it the motion is continued and fades."""
    weighted = cv2.GaussianBlur(flow * confidence[..., None], (0, 0), sigma)
    return weighted / (cv2.GaussianBlur(confidence, (0, 0), sigma)[..., None] + 0.02)  # type: ignore[no-any-return]


# ------------------------------------------------------------------------------------------- the linear face model


@dataclass
class FaceModel:
    """Active appearance model: coefficients [N,K] <-> shape and colours; ``latents`` are those of the photos."""

    texture_mean: Tensor
    texture_basis: Tensor
    flow_mean: Tensor
    flow_basis: Tensor
    latents: Tensor
    cluster: Tensor

    @classmethod
    def fit(cls, pictures: Floats, flows: Floats, rng: np.random.Generator) -> FaceModel:
        """Fit to pictures [N,192,192,3] in 0..1 and their flows [N,192,192,2]."""
        n = len(pictures)
        weight = (0.35 + ellipse(*HEAD, 4))[..., None]
        colours = np.stack([unwarp(p, f) for p, f in zip(pictures, flows, strict=True)]) * weight
        small = np.stack([cv2.resize(f, (FLOW_SIZE, FLOW_SIZE), interpolation=cv2.INTER_AREA) for f in flows])
        texture, shape = colours.reshape(n, -1), small.reshape(n, -1)
        texture_mean, shape_mean = texture.mean(0), shape.mean(0)
        texture, shape = texture - texture_mean, shape - shape_mean
        balance = 0.5 * np.sqrt((texture**2).sum() / (shape**2).sum())
        joint = np.concatenate([texture, shape * balance], 1)
        values, vectors = np.linalg.eigh(joint @ joint.T)
        values, vectors = values[::-1][:COMPONENTS], vectors[:, ::-1][:, :COMPONENTS]
        scale = np.sqrt(values / n)
        basis = (vectors / np.sqrt(n)).T @ joint  # one unit of a coefficient is one standard deviation
        latents = vectors * np.sqrt(n)
        columns = texture.shape[1]
        inverse = 1 / np.broadcast_to(weight, pictures.shape[1:]).reshape(-1)
        texture_basis = (basis[:, :columns] * inverse).reshape(-1, SIZE, SIZE, 3) * detail_share()[..., None]
        return cls(
            torch.from_numpy(texture_mean * inverse).float(),
            torch.from_numpy(texture_basis).reshape(len(basis), -1).float(),
            torch.from_numpy(shape_mean).float(),
            torch.from_numpy(basis[:, columns:] / balance).float(),
            torch.from_numpy(latents.copy()).float(),
            torch.from_numpy(k_means(latents[:, :20] * scale[:20], CLUSTERS, rng)),
        )

    def render(self, latents: Tensor) -> Tensor:
        """Pictures [n,3,192,192] in 0..1 of coefficients [n,K]."""
        n = len(latents)
        texture = (self.texture_mean + latents @ self.texture_basis).view(n, SIZE, SIZE, 3).permute(0, 3, 1, 2)
        flow = (self.flow_mean + latents @ self.flow_basis).view(n, FLOW_SIZE, FLOW_SIZE, 2).permute(0, 3, 1, 2)
        flow = F.interpolate(flow, (SIZE, SIZE), mode="bicubic", align_corners=False) * (2 / SIZE)
        centre = (torch.arange(SIZE) * 2 + 1) / SIZE - 1
        identity = torch.stack(torch.meshgrid(centre, centre, indexing="xy"), -1)[None]
        back = -flow.permute(0, 2, 3, 1)
        for _ in range(5):  # fixed point of back(y) = -flow(y + back(y))
            back = -sample_at(flow, identity + back, "bilinear").permute(0, 2, 3, 1)
        return sample_at(texture, identity + back, "bicubic").clamp(0, 1)

    def draw(self, n: int, generator: torch.Generator, temperature: float) -> tuple[Tensor, list[int]]:
        """Coefficients [n,K] from the mixture of Gaussians (one per cluster, with its own covariance), and whose."""
        picks = torch.multinomial(torch.bincount(self.cluster).float(), n, replacement=True, generator=generator)
        drawn = []
        for pick in picks.tolist():
            members = self.latents[self.cluster == pick]
            mean = members.mean(0)
            noise = torch.randn(len(members), generator=generator) / len(members) ** 0.5
            drawn.append(mean + temperature * (noise @ (members - mean)))
        return torch.stack(drawn), picks.tolist()

    def save(self, path: Path) -> None:
        """Write all tensors to ``path``."""
        save_torch({**self.__dict__}, path)

    @classmethod
    def load(cls, path: Path) -> FaceModel:
        """Read what ``save`` wrote."""
        return cls(**torch.load(path, weights_only=True))


def detail_share() -> Floats:
    """How much of component k a pixel shows, [K,192,192].

    Hair, clothes and background correspond in no two photos: there the late components are ghosts and fade out.
    """
    face = ellipse(*INNER_FACE, 4)
    outside = np.exp(-np.maximum(0, np.arange(COMPONENTS, dtype=np.float32) - 8) / 20)[:, None, None]
    return np.asarray(face + (1 - face) * outside, np.float32)


def sample_at(x: Tensor, grid: Tensor, mode: str) -> Tensor:
    return F.grid_sample(x, grid, mode=mode, padding_mode="border", align_corners=False)


def k_means(points: NDArray[Any], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Cluster index [N] of points [N,D]; a cluster of fewer than 16 points is given up and joins its neighbours."""
    centres = points[rng.choice(len(points), count, replace=False)]
    for _ in range(50):
        index = ((points[:, None] - centres[None]) ** 2).sum(-1).argmin(1)
        sizes = np.bincount(index, minlength=len(centres))
        centres = np.stack([points[index == i].mean(0) for i in range(len(centres)) if sizes[i] >= 16])
    index = ((points[:, None] - centres[None]) ** 2).sum(-1).argmin(1)
    return np.asarray(index, np.int64)


# ---------------------------------------------------------------------------------------------------------- networks


def conv(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1)


class Residual(nn.Module):
    """Two convolutions added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv(channels, channels), conv(channels, channels)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N,C,H,W] to the same shape."""
        out: Tensor = x + self.conv2(F.leaky_relu(self.conv1(F.leaky_relu(x, 0.2)), 0.2))
        return out


def with_position(x: Tensor) -> Tensor:
    """Pictures [N,3,192,192] with two more channels that say where a pixel lies, so that crops can be cut from them."""
    axis = torch.linspace(0, 1, SIZE)
    position = torch.stack(torch.meshgrid(axis, axis, indexing="ij"))
    return torch.cat([x, position.expand(len(x), -1, -1, -1)], 1)


class Refiner(nn.Module):
    """U-Net from a rendering with position [N,5,H,W] to a photograph [N,3,H,W], in 0..1; starts as the identity."""

    def __init__(self, widths: tuple[int, int, int] = (32, 64, 128)) -> None:
        super().__init__()
        w96, w48, w24 = widths
        self.enter = conv(20, w96)
        self.down1 = nn.Sequential(nn.LeakyReLU(0.2), conv(w96, w48, 2), Residual(w48))
        self.down2 = nn.Sequential(nn.LeakyReLU(0.2), conv(w48, w24, 2), *(Residual(w24) for _ in range(3)))
        self.up1 = nn.Sequential(conv(w24 + w48, w48), Residual(w48))
        self.up2 = nn.Sequential(conv(w48 + w96, w96), Residual(w96), nn.LeakyReLU(0.2), conv(w96, 12))
        nn.init.zeros_(self.up2[-1].weight)
        nn.init.zeros_(self.up2[-1].bias)

    def forward(self, x: Tensor) -> Tensor:
        """Refine ``x``: see the class."""
        x96 = self.enter(F.pixel_unshuffle(x * 2 - 1, 2))
        x48 = self.down1(x96)
        x24 = self.down2(x48)
        y = self.up1(torch.cat([double(x24), x48], 1))
        y = self.up2(torch.cat([double(y), x96], 1))
        return x[:, :3] + F.pixel_shuffle(y, 2)


def double(x: Tensor) -> Tensor:
    return F.interpolate(F.leaky_relu(x, 0.2), scale_factor=2.0, mode="nearest")


class Discriminator(nn.Module):
    """Scores of small and of large patches of pictures with position [N,5,H,W]."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()

        def down(a: int, b: int) -> nn.Module:
            return nn.Sequential(nn.Conv2d(a, b, 4, stride=2, padding=1), nn.LeakyReLU(0.2))

        self.fine = nn.Sequential(down(5, width), down(width, 2 * width), down(2 * width, 3 * width))
        self.coarse = nn.Sequential(down(3 * width, 4 * width), down(4 * width, 4 * width))
        self.small, self.large = conv(3 * width, 1), conv(4 * width, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Judge ``x``: one map for every eighth, one for every thirty-second pixel."""
        fine = self.fine(x * 2 - 1)
        return [self.small(fine).float(), self.large(self.coarse(fine)).float()]


class PerceptualDistance:
    """Mean distance of normalised SqueezeNet features."""

    def __init__(self) -> None:
        self.net = OnnxModule(FEATURES, ["feat1", "fire3", "fire5", "fire7", "fire9"])
        self.net = self.net.to(memory_format=torch.channels_last)

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            features = self.net(torch.cat([x, y]).flip(1) * 255 - FEATURE_MEAN)
        total = torch.zeros(())
        for feature in features:
            a, b = F.normalize(feature.float(), dim=1).chunk(2)
            total = total + (a - b).square().sum(1).mean()
        return total


# ---------------------------------------------------------------------------------------------------------- training


@dataclass
class Trainer:
    """Networks, optimisers and one training step."""

    model: FaceModel
    photos: Tensor

    def __post_init__(self) -> None:
        self.refiner = Refiner().to(memory_format=torch.channels_last)
        self.average = copy.deepcopy(self.refiner).requires_grad_(False)
        self.critic = Discriminator().to(memory_format=torch.channels_last)
        self.perceptual = PerceptualDistance()
        self.optimisers = [
            torch.optim.AdamW(self.refiner.parameters(), 4e-4, betas=(0.5, 0.99), weight_decay=0),
            torch.optim.AdamW(self.critic.parameters(), 4e-4, betas=(0.5, 0.99), weight_decay=0),
        ]
        self.step = 0

    def inputs(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Crops of renderings [8,5,96,96], the first half of disturbed photos, and of these photos [4,3,96,96]."""
        half = BATCH // 2
        index = torch.randint(len(self.photos), (half,), generator=generator)
        keep = torch.linspace(0.99, 0.75, COMPONENTS)
        noise = torch.randn(half, COMPONENTS, generator=generator)
        disturbed = self.model.latents[index] * keep + noise * (1 - keep**2).sqrt()
        drawn, _ = self.model.draw(BATCH - half, generator, 0.9)
        corners = draw_corners(BATCH, generator)
        rendered = self.model.render(torch.cat([disturbed, drawn]))
        return cut(with_position(rendered), corners), cut(self.real(index), corners)

    def real(self, index: Tensor) -> Tensor:
        """Photos [n,3,192,192] in 0..1."""
        return self.photos[index].permute(0, 3, 1, 2).float() / 255

    def train_step(self, seed: int, rate: float, adversarial: float) -> dict[str, float]:
        """One update of both networks; returns the loss terms."""
        generator = torch.Generator().manual_seed(seed)
        for optimiser in self.optimisers:
            optimiser.param_groups[0]["lr"] = rate
        rendered, target = self.inputs(generator)
        with torch.autocast("cpu", torch.bfloat16):
            made = self.refiner(rendered).float()
        index = torch.randint(len(self.photos), (BATCH,), generator=generator)
        real = cut(with_position(self.real(index)), draw_corners(BATCH, generator))
        placed = torch.cat([made, rendered[:, 3:]], 1)
        critic_loss = self.update_critic(real, placed.detach(), generator)
        half = len(target)
        losses = {
            "restore_l1": 1.0 * (made[:half] - target).abs().mean(),
            "restore_perceptual": 0.5 * self.perceptual(made[:half], target),
            "keep_perceptual": 0.25 * self.perceptual(made[half:], rendered[half:, :3]),
            "keep_colours": 3.0 * (F.avg_pool2d(made, 8) - F.avg_pool2d(rendered[:, :3], 8)).abs().mean(),
            "adversarial": adversarial * self.fooling(placed, generator),
        }
        self.optimisers[0].zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        self.optimisers[0].step()
        self.step += 1
        for slow, fast in zip(self.average.parameters(), self.refiner.parameters(), strict=True):
            slow.lerp_(fast.detach(), 0.005)
        return {"critic": critic_loss, **{name: float(loss.detach()) for name, loss in losses.items()}}

    def judge(self, x: Tensor, generator: torch.Generator) -> list[Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            scores: list[Tensor] = self.critic(disturb(x, generator))
        return scores

    def fooling(self, made: Tensor, generator: torch.Generator) -> Tensor:
        self.critic.requires_grad_(False)
        loss = torch.stack([-score.mean() for score in self.judge(made, generator)]).sum()
        self.critic.requires_grad_(True)
        return loss

    def update_critic(self, real: Tensor, made: Tensor, generator: torch.Generator) -> float:
        """Hinge loss, with a gradient penalty on the real pictures (R1, Mescheder et al. 2018) every eighth step."""
        pairs = zip(self.judge(real, generator), self.judge(made, generator), strict=True)
        loss = torch.stack([F.relu(1 - r).mean() + F.relu(1 + f).mean() for r, f in pairs]).sum()
        total = loss
        if self.step % 8 == 0:
            x = real[:4].clone().requires_grad_(True)
            score = torch.stack([s.mean((1, 2, 3)) for s in self.critic(x)]).sum()
            (slope,) = torch.autograd.grad(score, x, create_graph=True)
            total = total + 8 * 0.1 * slope.square().sum((1, 2, 3)).mean()
        self.optimisers[1].zero_grad()
        total.backward()
        self.optimisers[1].step()
        return float(loss.detach())

    def state(self) -> dict[str, Any]:
        nets = {"refiner": self.refiner, "average": self.average, "critic": self.critic}
        state: dict[str, Any] = {name: net.state_dict() for name, net in nets.items()}
        return {**state, "optimisers": [o.state_dict() for o in self.optimisers], "step": self.step}

    def resume(self, state: dict[str, Any]) -> None:
        for name in ("refiner", "average", "critic"):
            getattr(self, name).load_state_dict(state[name])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.step = state["step"]


def disturb(x: Tensor, generator: torch.Generator) -> Tensor:
    """Random light and colour for the critic (DiffAugment, arXiv 2006.10738): few photos then last longer."""
    n = len(x)
    colour = x[:, :3] + 0.15 * (torch.rand(n, 1, 1, 1, generator=generator) - 0.5)
    mean = colour.mean(1, keepdim=True)
    colour = (colour - mean) * (0.7 + 0.6 * torch.rand(n, 1, 1, 1, generator=generator)) + mean
    return torch.cat([colour, x[:, 3:]], 1).contiguous(memory_format=torch.channels_last)


def draw_corners(n: int, generator: torch.Generator) -> list[list[int]]:
    corners: list[list[int]] = torch.randint(0, SIZE - CROP + 1, (n, 2), generator=generator).tolist()
    return corners


def cut(x: Tensor, corners: list[list[int]]) -> Tensor:
    """Crops [n,C,96,96] of pictures [n,C,192,192]; corners that are left over are ignored."""
    crops = [p[:, top : top + CROP, left : left + CROP] for p, (top, left) in zip(x, corners, strict=False)]
    return torch.stack(crops).contiguous(memory_format=torch.channels_last)


# ---------------------------------------------------------------------------------------------------------- sampling


class Strangeness:
    """Mean distance of a face's SqueezeNet features to those of the five nearest photos: high for a broken face.

    The idea is that of T. Kynkäänniemi et al., "Improved Precision and Recall Metric", NeurIPS 2019.
    """

    def __init__(self, photos: Picture) -> None:
        self.net = OnnxModule(FEATURES, ["fire5", "fire7", "fire9"])
        batches = [photos[i : i + 32] for i in range(0, len(photos), 32)]
        self.photos = torch.cat([self.features(torch.from_numpy(b).permute(0, 3, 1, 2) / 255) for b in batches])

    def features(self, x: Tensor) -> Tensor:
        """Features [N,D] of the inner face of pictures [N,3,192,192]: each layer's on a grid of 4x4."""
        x = x[:, :, 44:172, 40:152].flip(1) * 255 - FEATURE_MEAN
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            layers = self.net(x.contiguous(memory_format=torch.channels_last))
        grids = [F.adaptive_avg_pool2d(F.normalize(layer.float(), dim=1), 4) for layer in layers]
        return torch.cat([grid.flatten(1) for grid in grids], 1)

    def __call__(self, x: Tensor) -> list[float]:
        nearest = torch.cdist(self.features(x), self.photos).topk(5, largest=False).values
        distances: list[float] = nearest.mean(1).tolist()
        return distances


@dataclass
class Candidate:
    """A drawn face that passed the checks."""

    file: bytes  # JPEG
    score: float
    nearest: float
    embedding: Floats
    traits: Floats  # lightness, redness, yellowness of the skin (CIELAB), side light, yaw, pitch
    cluster: int
    strangeness: float


def describe(picture: Picture, landmarks: Landmarks) -> Floats:
    """Skin colour (CIELAB), side light and pose of a face in a BGR picture."""
    lab = cv2.cvtColor(picture.astype(np.float32) / 255, cv2.COLOR_BGR2LAB)
    left_eye, right_eye, nose, left_mouth, right_mouth = landmarks
    width = float(np.linalg.norm(right_eye - left_eye))
    cheeks = [(eye + mouth) / 2 for eye, mouth in ((left_eye, left_mouth), (right_eye, right_mouth))]
    radius = max(2, int(0.12 * width))
    patches = [lab[int(y) - radius : int(y) + radius, int(x) - radius : int(x) + radius] for x, y in cheeks]
    left, right = (patch.reshape(-1, 3).mean(0) for patch in patches)
    eyes, mouth = (left_eye + right_eye) / 2, (left_mouth + right_mouth) / 2
    yaw = (nose[0] - (eyes[0] + mouth[0]) / 2) / width
    pitch = (nose[1] - (eyes[1] + mouth[1]) / 2) / width
    return np.array([*((left + right) / 2), right[0] - left[0], 100 * yaw, 100 * pitch], np.float32)


def finish(picture: Floats, rng: np.random.Generator) -> Picture:
    """A file as a camera would give it: a small random roll and size, 256 px, BGR."""
    angle, scale = rng.normal(0, 5), SAVED_SIZE / SIZE * rng.uniform(0.97, 1.08)
    matrix = cv2.getRotationMatrix2D((SIZE / 2, SIZE * 0.53), angle, scale)
    matrix[:, 2] += np.array([SAVED_SIZE / 2 - SIZE / 2, (SAVED_SIZE - SIZE) * 0.53])
    out = cv2.warpAffine(
        picture, matrix, (SAVED_SIZE, SAVED_SIZE), flags=cv2.INTER_LANCZOS4, borderMode=cv2.BORDER_REFLECT_101
    )
    return np.clip(out[:, :, ::-1] * 255 + 0.5, 0, 255).astype(np.uint8)


def through_jpeg(picture: Picture) -> tuple[Picture, bytes]:
    """The picture as its file will hold it, and the file's bytes."""
    data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 92])[1]
    return cv2.imdecode(data, cv2.IMREAD_COLOR), data.tobytes()  # type: ignore[return-value]


def candidates(work: Path, count: int, seed: int, temperature: float) -> Iterator[Candidate]:
    """Draw ``count`` faces; yield those that are found and far from all photos."""
    model, refiner, reader = FaceModel.load(work / "model.pt"), Refiner(), FaceReader()
    refiner.load_state_dict(torch.load(work / "refiner.pt", weights_only=True)["average"])
    photos = np.load(work / "photos.npz")
    strangeness, known = Strangeness(photos["crops"]), photos["embeddings"].reshape(-1, 128)
    generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    for _ in range(0, count, BATCH):
        latents, clusters = model.draw(BATCH, generator, temperature)
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            made = refiner(with_position(model.render(latents))).float().clamp(0, 1)
        faces = made.permute(0, 2, 3, 1).numpy()
        for face, cluster, strange in zip(faces, clusters, strangeness(made), strict=True):
            picture, file = through_jpeg(finish(face, rng))
            found = reader.find(picture)
            if found is None or found[0] < MIN_SCORE + 0.02:
                continue
            embedding = reader.embed(picture, found[1])
            nearest = min(float(np.linalg.norm(known - e, axis=1).min()) for e in embedding)
            if nearest > MIN_DISTANCE + 0.005:
                yield Candidate(file, found[0], nearest, embedding[0], describe(picture, found[1]), cluster, strange)


def pick_varied(pool: list[Candidate], count: int, share: float) -> list[Candidate]:
    """Farthest-point choice in identity and traits among the ``share`` of each cluster that looks least strange.

    By cluster, because a rarer kind of face (old, dark, side-lit) lies farther from its nearest photos. The order is
    that of a checksum, so that the first few are as varied as all.
    """
    kept: list[Candidate] = []
    for cluster in sorted({c.cluster for c in pool}):
        members = sorted((c for c in pool if c.cluster == cluster), key=lambda c: c.strangeness)
        kept += members[: max(1, round(share * len(members)))]
    traits = np.stack([c.traits for c in kept])
    space = np.hstack([np.stack([c.embedding for c in kept]) * 3, 0.5 * (traits - traits.mean(0)) / traits.std(0)])
    chosen, distance = [0], np.linalg.norm(space - space[0], axis=1)
    while len(chosen) < min(count, len(kept)):
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(space - space[chosen[-1]], axis=1))
    return sorted((kept[i] for i in chosen), key=lambda c: zlib.crc32(c.file))


def figures(picked: list[Candidate], drawn: int, passed: int) -> dict[str, Any]:
    """What `samples.json` says about the set."""
    traits = np.stack([c.traits for c in picked])
    embeddings = np.stack([c.embedding for c in picked])
    between = np.linalg.norm(embeddings[:, None] - embeddings[None], axis=-1)[np.triu_indices(len(picked), 1)]
    names = ("skin_lightness", "skin_a", "skin_b", "side_light", "yaw_hint_percent", "pitch_hint_percent")
    return {
        "count": len(picked),
        "drawn": drawn,
        "passed": passed,
        "lowest_score": round(min(c.score for c in picked), 3),
        "nearest_photo": round(min(c.nearest for c in picked), 3),
        "median_nearest_photo": round(float(np.median([c.nearest for c in picked])), 3),
        "nearest_pair_of_samples": round(float(between.min()), 3),
        "spread_p5_p50_p95": {
            name: [round(float(v), 1) for v in np.percentile(traits[:, i], (5, 50, 95))] for i, name in enumerate(names)
        },
    }


# ---------------------------------------------------------------------------------------------------------- commands


def save_torch(value: dict[str, Any], path: Path) -> None:
    temporary = path.with_suffix(".tmp")
    torch.save(value, temporary)
    temporary.replace(path)


WorkFolder = Annotated[Path, typer.Option(help="Folder for the model, the checkpoint and the log.")]


@app.command()
def prepare(
    calib: Annotated[Path, typer.Option(help="Folder of photos to learn from and to keep away from.")],
    work: WorkFolder,
    avoid: Annotated[list[Path] | None, typer.Option(help="More folders of photos to keep away from.")] = None,
    manifest: Annotated[Path | None, typer.Option(help="CSV with the columns file and source.")] = None,
    only: Annotated[str, typer.Option(help="Learn only from photos whose source contains this text.")] = "",
    seed: int = 0,
) -> None:
    """Align the photos, bring them into correspondence and fit the linear face model."""
    learnt = None
    if manifest:
        with manifest.open(newline="") as lines:
            learnt = {Path(row["file"]).name for row in csv.DictReader(lines) if only in row["source"]}
    work.mkdir(parents=True, exist_ok=True)
    photos = read_photos(calib, learnt)
    if len(photos.crops) < 100:
        raise FacesError(f"only {len(photos.crops)} faces to learn from in {calib}", "it takes some hundred photos")
    known = [photos.embeddings, *(read_photos(folder, set()).embeddings for folder in avoid or [])]
    crops = np.concatenate([photos.crops, photos.crops[:, :, ::-1]])
    pictures = crops.astype(np.float32) / np.float32(255)
    model = FaceModel.fit(pictures, correspond(pictures), np.random.default_rng(seed))
    model.save(work / "model.pt")
    np.savez(work / "photos.npz", crops=crops, embeddings=np.concatenate(known))
    typer.echo(f"{len(photos.crops)} photos to learn from, {sum(map(len, known))} to keep away from")


@app.command()
def train(
    work: WorkFolder,
    steps: Annotated[int, typer.Option(help="Steps of 8 crops in all.")] = 4000,
    threads: Annotated[int, typer.Option(help="1 is fastest where other work shares the cores.")] = 1,
    seed: int = 0,
) -> None:
    """Train the refiner; resumes from the checkpoint."""
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    photos = torch.from_numpy(np.load(work / "photos.npz")["crops"])
    trainer = Trainer(FaceModel.load(work / "model.pt"), photos)
    checkpoint, started = work / "refiner.pt", time.monotonic()
    if checkpoint.exists():
        trainer.resume(torch.load(checkpoint, weights_only=True))
    while trainer.step < steps:
        ramp = min(1.0, trainer.step / 200)
        fade = min(1.0, 2.5 * (1 - trainer.step / steps) + 0.05)
        losses = trainer.train_step(seed * 1_000_003 + trainer.step, 4e-4 * ramp * fade + 1e-6, 0.1 * ramp)
        if trainer.step % 50 == 0:
            line = {"step": trainer.step, "seconds": round(time.monotonic() - started), **losses}
            with (work / "log.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
        if trainer.step % 250 == 0 or trainer.step == steps:
            save_torch(trainer.state(), checkpoint)


@app.command()
def sample(
    work: WorkFolder,
    out: Annotated[Path, typer.Option(help="Folder that gets faces/ and samples.json.")],
    count: int = 96,
    draws: Annotated[int, typer.Option(help="Faces to draw; the best and most varied are kept.")] = 1600,
    temperature: Annotated[float, typer.Option(help="Width of each Gaussian, 1 as fitted.")] = 0.85,
    share: Annotated[float, typer.Option(help="Share of the passing draws, least strange first, to pick from.")] = 0.2,
    seed: int = 0,
) -> None:
    """Draw faces, check them and write the chosen ones."""
    torch.set_num_threads(1)
    pool = list(candidates(work, draws, seed, temperature))
    picked = pick_varied(pool, count, share)
    if len(picked) < count:
        raise FacesError(f"only {len(pool)} of {draws} draws passed the checks", "draw more with --draws")
    faces = out / "faces"
    faces.mkdir(parents=True, exist_ok=True)
    for old in faces.glob("sample_*.jpg"):
        old.unlink()
    rows = []
    for number, candidate in enumerate(picked, 1):
        name = f"sample_{number:03d}.jpg"
        (faces / name).write_bytes(candidate.file)
        rows.append({"file": name, "score": round(candidate.score, 3), "nearest_photo": round(candidate.nearest, 3)})
    summary = figures(picked, draws, len(pool))
    (out / "samples.json").write_text(json.dumps({**summary, "files": rows}, indent=1) + "\n")
    typer.echo(json.dumps(summary, indent=1))


if __name__ == "__main__":
    app()
