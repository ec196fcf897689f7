"""Perceptual distances that were fitted to people: ST-LPIPS, and the classic LPIPS with the user's backbone."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib import metadata
from pathlib import Path

import numpy as np

from trt_facefusion.errors import BadInputError, ModelError, pip_install
from trt_facefusion.evaluation.accuracy.learned import (
    LEAST_SIDE_PX,
    RELU,
    TAP,
    LearnedDistance,
    Step,
    blur,
    conv,
    count_measured,
    pool,
)
from trt_facefusion.evaluation.accuracy.metric import Figure, Limit, Metric, PerFace, Pictures, Tools, mean_of_measured
from trt_facefusion.evaluation.accuracy.perceptual import FAMILY
from trt_facefusion.evaluation.accuracy.torch_weights import Weights, read_weights
from trt_facefusion.model.generators.checkpoint_file import read_checkpoint
from trt_facefusion.sampling import spread
from trt_facefusion.storage.files import digest_regular, require_regular_file

_SHIFT_TOLERANT: Sequence[Step] = (
    *(conv("net.slice1.0", pad=2), blur("net.slice1.1"), RELU, TAP),
    *(pool(1), blur("net.slice2.4"), conv("net.slice2.5", pad=2), RELU, TAP),
    *(pool(1), blur("net.slice3.8"), conv("net.slice3.9", pad=1), RELU, TAP),
    *(conv("net.slice4.11", pad=1), RELU, TAP),
    *(conv("net.slice5.13", pad=1), RELU, TAP),
)
_CLASSIC: Sequence[Step] = (
    *(conv("features.0", stride=4, pad=2), RELU, TAP),
    *(pool(2), conv("features.3", pad=2), RELU, TAP),
    *(pool(2), conv("features.6", pad=1), RELU, TAP),
    *(conv("features.8", pad=1), RELU, TAP),
    *(conv("features.10", pad=1), RELU, TAP),
)


class _Package:
    """A Python package that is only a folder of weights to us: it is never imported."""

    def __init__(self, name: str, weights: str) -> None:
        self.name, self._weights = name, weights

    @property
    def weights(self) -> Path | None:
        """The file of weights in it; None where it is not installed, or lacks them."""
        try:
            spec = importlib.util.find_spec(self.name)
        except (ImportError, ValueError):
            return None
        folders = [] if spec is None else [Path(folder) for folder in spec.submodule_search_locations or ()]
        return next((folder / self._weights for folder in folders if (folder / self._weights).is_file()), None)

    @property
    def version(self) -> str:
        try:
            return metadata.version(self.name)
        except metadata.PackageNotFoundError:
            return "of an unknown version"

    def require_weights(self) -> Path:
        """Raises `BadInputError` where they are missing."""
        weights = self.weights
        if weights is None:
            raise BadInputError(f"the package {self.name} is not installed, or lacks its weights", _install(self.name))
        return weights


def _install(package: str) -> str:
    """The command for one package; without what ``lpips`` would bring, because only its weights are read."""
    return "pip install --no-deps lpips" if package == "lpips" else pip_install("metrics")


_ST_LPIPS = _Package("stlpips_pytorch", "weights/vST0.0/alex_shift_tolerant.pth")
_LPIPS = _Package("lpips", "weights/v0.1/alex.pth")


class _Learned(Metric):
    """What the learned distances share. Of many large pictures some are measured, evenly spread; NaN for the others."""

    family = FAMILY
    least_side_px = LEAST_SIDE_PX

    @cached_property
    def _distance(self) -> LearnedDistance:
        raise NotImplementedError

    def describe_faces(self, faces: int, height: int, width: int) -> str:
        """`described`, with how many of the faces were measured where it was not all."""
        measured = count_measured(faces, height, width)
        return self.described + ("" if measured == faces else f", on {measured} of {faces} faces")

    def per_face(self, reference: Pictures, candidate: Pictures) -> PerFace:
        """The distance of each face that is measured."""
        faces, height, width = reference.shape[:3]
        chosen = spread(faces, count_measured(faces, height, width))
        values = np.full(faces, np.nan)
        values[chosen] = self._distance(reference[chosen], candidate[chosen])
        return values


class StLpips(_Learned):
    """Shift-tolerant LPIPS (Ghildyal and Liu, ECCV 2022) with AlexNet, by the weights of ``stlpips_pytorch``."""

    name = "st_lpips"
    preference = 1
    figures = (
        Figure(
            "st_lpips",
            "ST-LPIPS",
            mean_of_measured,
            alternative=True,
            limit=Limit(
                "max_st_lpips",
                "ST-LPIPS",
                "INT8: ST-LPIPS at most (extra metrics).",
                least=0.0,
            ),
        ),
    )

    @classmethod
    def can_measure(cls, tools: Tools) -> bool:
        """Whether the package is installed."""
        del tools
        return _ST_LPIPS.weights is not None

    @classmethod
    def require(cls, tools: Tools) -> str:
        """The digest of the weights."""
        del tools
        return digest_regular(_ST_LPIPS.require_weights(), "weights of ST-LPIPS", ModelError).hex()

    @cached_property
    def described(self) -> str:
        """With version and digest of the weights."""
        return f"ST-LPIPS (alex, {_ST_LPIPS.name} {_ST_LPIPS.version}, weights {self.require(self.tools)[:12]})"

    @cached_property
    def _distance(self) -> LearnedDistance:
        return LearnedDistance(_SHIFT_TOLERANT, read_weights(_ST_LPIPS.require_weights()))


class Lpips(_Learned):
    """LPIPS 0.1 (Zhang et al., CVPR 2018) with AlexNet: weights of ``lpips``, and the backbone that the user names."""

    name = "lpips"
    preference = 0
    figures = (
        Figure(
            "lpips",
            "LPIPS",
            mean_of_measured,
            alternative=True,
            limit=Limit(
                "max_classic_lpips",
                "LPIPS",
                "INT8: classic LPIPS at most (--lpips-backbone).",
                least=0.0,
            ),
        ),
    )

    @classmethod
    def can_measure(cls, tools: Tools) -> bool:
        """Whether the user named a backbone; what is wrong with it, or missing beside it, is an error."""
        return tools.lpips_backbone is not None

    @classmethod
    def require(cls, tools: Tools) -> str:
        """The digest of the weights and of the backbone."""
        if tools.lpips_backbone is None:
            raise BadInputError(
                "the classic LPIPS needs AlexNet's weights, which no package carries",
                "name torchvision's file (alexnet-owt-7be5be79.pth) with --lpips-backbone",
            )
        own = digest_regular(_LPIPS.require_weights(), "weights of LPIPS", ModelError)
        _read_backbone(tools.lpips_backbone)  # what is none is refused before anything is calibrated
        return hashlib.sha256(own + digest_regular(tools.lpips_backbone, "backbone", ModelError)).hexdigest()

    @cached_property
    def described(self) -> str:
        """With version and digest of both files."""
        return f"LPIPS 0.1 (alex, {_LPIPS.name} {_LPIPS.version}, weights {self.require(self.tools)[:12]})"

    @cached_property
    def _distance(self) -> LearnedDistance:
        if self.tools.lpips_backbone is None:
            raise ValueError("the classic LPIPS takes a backbone")
        backbone = _read_backbone(self.tools.lpips_backbone)
        return LearnedDistance(_CLASSIC, {**read_weights(_LPIPS.require_weights()), **backbone})


def _read_backbone(path: Path) -> Weights:
    """AlexNet's convolutions, as torchvision's file has them.

    Raises:
        ModelError: it is no such file, or torch, which reads it, is missing.
    """
    require_regular_file(path, "backbone", ModelError)
    if importlib.util.find_spec("torch") is None:
        raise ModelError(f"torch is needed to read {path}", pip_install("torch"))
    state = read_checkpoint(path, path.stat().st_size)
    names = [f"features.{number}.{part}" for number in (0, 3, 6, 8, 10) for part in ("weight", "bias")]
    tensors = state if isinstance(state, Mapping) else {}
    missing = [name for name in names if not hasattr(tensors.get(name), "numpy")]
    if missing:
        raise ModelError(
            f"{path} is no AlexNet as torchvision has it: it lacks {missing[0]}",
            "name torchvision's file (alexnet-owt-7be5be79.pth) with --lpips-backbone",
        )
    return {name: np.asarray(tensors[name].float().numpy(), np.float32) for name in names}
