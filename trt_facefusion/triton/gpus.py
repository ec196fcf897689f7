"""Which engine serves which GPU. Every GPU that is named has one, because Triton would fall back without a word.

Triton takes ``cc_model_filenames`` by compute capability, and for one that is not listed the default file. So the
default names a file that is not there, unless one engine really runs on all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trt_facefusion.engine.backends.pins import parse_target
from trt_facefusion.engine.store.manifest import Manifest
from trt_facefusion.engine.timing.gpus import get_gpu
from trt_facefusion.errors import BadInputError

NO_ENGINE = "no_engine_for_this_gpu.plan"
"""The default file where engines are for certain GPUs: it is not there, so another GPU is an error in Triton's log."""
_AMPERE = (8, 0)

Capability = tuple[int, int]


@dataclass(frozen=True)
class EngineFiles:
    """``files`` are names in the version's folder by number of the engine; ``by_capability`` names by GPU (``8.6``)."""

    files: tuple[str, ...]
    by_capability: Mapping[str, str]
    default: str


def assign_engines(manifests: Sequence[Manifest], folders: Sequence[Path], gpus: Sequence[str]) -> EngineFiles:
    """A file for each of ``manifests``, and for each GPU that is named (like ``a10g``) the one it loads.

    Without ``gpus`` those of the engines' own compute capabilities.

    Raises:
        BadInputError: nothing is known of a GPU, none of the engines runs on one, or two are for the same.
    """
    capabilities = [_find_capability(manifest) for manifest in manifests]
    named: dict[str, Capability] = {gpu: get_gpu(gpu).compute_capability for gpu in gpus}
    own = {f"compute capability {_format(c)}": c for c in capabilities if c is not None}
    _refuse_twice(capabilities, folders)
    files = _name_files(capabilities)
    table: dict[str, str] = {}
    for gpu, capability in (named or own).items():
        number = _find_engine(manifests, capabilities, capability)
        if number is None:
            raise BadInputError(_explain_missing(gpu, capability, capabilities), _suggest(manifests[0], capability))
        table[_format(capability)] = files[number]
    portable = next((n for n, manifest in enumerate(manifests) if _is_portable(manifest)), None)
    return EngineFiles(files, table, NO_ENGINE if portable is None else files[portable])


def _find_capability(manifest: Manifest) -> Capability | None:
    """The compute capability that an engine is for; None for one that runs on more."""
    return None if _is_portable(manifest) else manifest.pins.compute_capability or parse_target(manifest.target)


def _is_portable(manifest: Manifest) -> bool:
    """Whether it runs on Ampere and later GPUs."""
    return manifest.pins.hardware_compatibility == "ampere_plus"


def _find_engine(
    manifests: Sequence[Manifest], capabilities: Sequence[Capability | None], capability: Capability
) -> int | None:
    exact = [number for number, own in enumerate(capabilities) if own == capability]
    portable = [n for n, manifest in enumerate(manifests) if _is_portable(manifest) and capability >= _AMPERE]
    return next(iter(exact + portable), None)


def _refuse_twice(capabilities: Sequence[Capability | None], folders: Sequence[Path]) -> None:
    for number, capability in enumerate(capabilities):
        if capability in capabilities[:number]:
            first = folders[capabilities.index(capability)]
            where = "Ampere and later GPUs" if capability is None else f"the compute capability {_format(capability)}"
            raise BadInputError(f"{first} and {folders[number]} are both for {where}", "name one of them")


def _name_files(capabilities: Sequence[Capability | None]) -> tuple[str, ...]:
    if len(capabilities) == 1:
        return ("model.plan",)
    return tuple("model.plan" if c is None else "model_sm{}{}.plan".format(*c) for c in capabilities)


def _explain_missing(gpu: str, capability: Capability, capabilities: Sequence[Capability | None]) -> str:
    has = ", ".join("Ampere and later" if c is None else _format(c) for c in capabilities)
    return (
        f"none of the engines runs on {gpu} (compute capability {_format(capability)}; the engines are for {has}), and "
        "Triton would load another GPU's without a word"
    )


def _suggest(manifest: Manifest, capability: Capability) -> str:
    return f"build one, on such a GPU: {manifest.rebuild_command('sm{}{}'.format(*capability))}; then name it, too"


def _format(capability: Capability) -> str:
    return "{}.{}".format(*capability)
