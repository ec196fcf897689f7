"""A model that is a torch network: a user's checkpoint with its factory, or the bundled reference generator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import onnx

from trt_facefusion.errors import ModelError
from trt_facefusion.model.export.source import Original, hash_parts
from trt_facefusion.model.export.torch_export import (
    TOLERANCE,
    check_forward,
    export_onnx,
    measure_difference,
    run_torch,
)
from trt_facefusion.model.generators import (
    REFERENCE_WEIGHTS,
    build_from_factory,
    load_reference,
    load_weights,
    read_weights,
)
from trt_facefusion.model.generators.local_code import collect_local_code, find_unseen_modules
from trt_facefusion.model.generators.torch_here import require_torch
from trt_facefusion.model.generators.user_code import run_user_code
from trt_facefusion.model.generators.weight_sets import WeightSet
from trt_facefusion.types import Array, Feeds

if TYPE_CHECKING:
    from torch import nn

    from trt_facefusion.model.generators.reference import ReferenceGenerator

_EXPORT_IT = "mend the network's code, or export it yourself and pass --onnx"


class _TorchSource:
    """Common to both torch sources: export once, compare with the network."""

    net: nn.Module

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs, in their order; empty where the export names them."""
        return ()

    def load(self, shapes: Mapping[str, tuple[int, ...]]) -> onnx.ModelProto:
        """The exported network."""
        require_torch()
        with run_user_code("the network", _EXPORT_IT, ModelError):
            check_forward(self.net, shapes)
            return export_onnx(self.net, shapes, self.outputs)
        raise AssertionError  # user_code swallows nothing

    def original(self) -> Original:
        """The network, run by torch."""
        return lambda feeds: run_torch(self.net, feeds)

    def check(self, outputs: Mapping[str, Array], feeds: Feeds) -> None:
        """Compare torch with the exported graph on real inputs."""
        with run_user_code("the network", _EXPORT_IT, ModelError):
            difference = measure_difference(self.net, outputs, feeds)
        if not difference <= TOLERANCE:
            raise ModelError(
                f"the exported graph differs from torch by {difference:.2g} of the largest output (limit {TOLERANCE})",
                "does the network use random numbers, or behave differently in training? export it yourself, --onnx",
            )


@dataclass(frozen=True)
class CheckpointSource(_TorchSource):
    """A user's checkpoint and the factory of its network."""

    path: Path
    factory: str
    weights_key: str | None = None
    """Which of several sets of weights in the file (see `choose_weights`)."""

    @property
    def name(self) -> str:
        """The checkpoint's stem."""
        return self.path.stem

    @cached_property
    def _weights(self) -> WeightSet:
        return read_weights(self.path, self.weights_key)

    @cached_property
    def net(self) -> nn.Module:  # type: ignore[override]
        """The network with the checkpoint's weights."""
        weights = self._weights  # first: it takes no code to tell that a file cannot be used
        net = build_from_factory(self.factory)
        load_weights(net, weights.tensors, self.path)
        return net

    @property
    def notes(self) -> tuple[str, ...]:
        """Which weights were loaded, and what of the factory's code counts for no digest; loads the network."""
        self.net  # noqa: B018
        w = self._weights
        what = f"{len(w.tensors)} tensors" + (f" of {w.where}" if w.where else "") + (" (EMA)" if w.averaged else "")
        alternatives = f"; there are also {', '.join(w.alternatives)} (--weights-key)" if w.alternatives else ""
        missed = find_unseen_modules(self._code, Path.cwd())
        summary = f"weights: {what} from {self.path}{alternatives}"
        if not missed:
            return (summary,)
        return summary, (
            f"warning: {', '.join(missed)} was loaded in a way that cannot be seen in the code of {self.factory}: "
            "after a change there, build with --force"
        )

    @cached_property
    def _code(self) -> dict[str, bytes]:
        return collect_local_code(self.factory.partition(":")[0], Path.cwd())

    def digest(self) -> str:
        """Digest of the checkpoint, the weights' key, the factory's name and all code that its import brings in."""
        module = self.factory.partition(":")[0]
        code = collect_local_code(module, Path.cwd())  # anew: it may have changed during the build
        first = code.pop(f"{module.replace('.', '/')}.py", b"")
        more = [part for label in sorted(code) for part in (label.encode(), code[label])]
        key = [] if self.weights_key is None else [b"weights key", self.weights_key.encode()]
        return hash_parts(self.path, self.factory.encode(), first, *more, *key)


@dataclass(frozen=True)
class ReferenceSource(_TorchSource):
    """The bundled reference generator."""

    weights: Path = REFERENCE_WEIGHTS
    notes: ClassVar[tuple[str, ...]] = ()

    @property
    def outputs(self) -> tuple[str, ...]:
        """The picture and its mask."""
        return self.net.OUTPUTS

    @property
    def name(self) -> str:
        """Always ``reference``."""
        return "reference"

    @cached_property
    def net(self) -> ReferenceGenerator:  # type: ignore[override]
        """The trained network."""
        return load_reference(self.weights)

    def digest(self) -> str:
        """Digest of the weights and of the code that uses them."""
        return hash_parts(self.weights, Path(__file__).parents[1] / "generators" / "reference.py")
