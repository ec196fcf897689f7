"""Which engines stand behind one name: those of one model, fed alike, from the cheapest to the safest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trt_facefusion.engine.store.machine import ask_machine_if_any
from trt_facefusion.engine.store.manifest import Manifest
from trt_facefusion.engine.store.store import MANIFEST
from trt_facefusion.errors import BadInputError, StoreError
from trt_facefusion.inference.open import OpenedModel, open_model
from trt_facefusion.inference.select import select_engine
from trt_facefusion.model.presets.contract import PRESET_FILE, Contract
from trt_facefusion.model.presets.document import describe
from trt_facefusion.storage.files import digest_regular
from trt_facefusion.types import Note, Precision, drop_note

ONNX = "onnx"
"""What stands for the precision of a bare ONNX file."""


@dataclass(frozen=True, eq=False)
class Member:
    """One engine: ``digest`` is the sha256 (hex) of its file, ``path`` what it is opened again by."""

    opened: OpenedModel
    digest: str
    path: Path

    @property
    def label(self) -> str:
        """What it is called."""
        return self.opened.label

    @property
    def precision(self) -> str:
        """What it was built in."""
        return ONNX if self.opened.manifest is None else self.opened.manifest.precision

    def reopen(self) -> OpenedModel:
        """The engine as it is on the disk now, every file of it held against its manifest.

        Raises:
            StoreError: a file is gone or damaged, or another engine lies in its place.
            BadInputError: nothing is there.
        """
        opened = open_model(self.path)
        if _digest(opened) != self.digest:
            raise StoreError(
                f"{self.label} on the disk is no longer the engine that the service began with",
                "restart the service to take the new one",
            )
        return opened


def find_members(
    paths: Sequence[Path], contract: Contract | None = None, device: int = 0, note: Note = drop_note
) -> tuple[Member, ...]:
    """The engines that ``paths`` name, the cheapest first; one that failed its gate stands behind those that passed.

    Args:
        paths: a model's folder, all precisions of which are taken that fit this machine; engines' folders; or one ONNX
            file.
        contract: how an ONNX file is fed; engines say it themselves.
        device: number of the GPU.
        note: takes messages.

    Raises:
        BadInputError: nothing is named, engines of several models or fed in several ways, or an ONNX file among others.
        StoreError: an engine is damaged, or none of a model fits this machine.
    """
    opened = [model for path in paths for model in _open_all(path, device, note)]
    unique = list({model.engine.resolve(): model for model in opened}.values())
    if not unique:
        raise BadInputError("no engine is named", "name an engine's folder, a model's folder or an ONNX file")
    described = [replace(model, contract=_require_contract(model, contract)) for model in unique]
    for model in described[1:]:
        require_alike(described[0], model)
    return tuple(name_apart(sorted((make_member(model) for model in described), key=_rank)))


def make_member(opened: OpenedModel) -> Member:
    """``opened`` with its digest."""
    return Member(opened, _digest(opened), opened.engine if opened.manifest is None else opened.engine.parent)


def keep_from(members: Sequence[Member], precision: Precision | None) -> list[Member]:
    """Those of ``precision`` and the safer ones; all where none is named, and bare ONNX files in any case.

    Raises:
        BadInputError: there are none.
    """
    order = [ONNX, *(p.value for p in Precision)]
    least = 0 if precision is None else order.index(precision.value)
    kept = [member for member in members if member.precision == ONNX or order.index(member.precision) >= least]
    if not kept and precision is not None:
        raise BadInputError(
            f"no engine of {precision.value} or safer is among {', '.join(member.label for member in members)}",
            "build one, or leave --precision out",
        )
    return kept


def name_apart(members: Sequence[Member]) -> list[Member]:
    """``members``, no two of which are called alike: the later ones get a number, as in two folders of one name."""
    seen: Counter[str] = Counter()
    apart = []
    for member in members:
        seen[member.label] += 1
        number = seen[member.label]
        label = member.label if number == 1 else f"{member.label} ({number})"
        apart.append(replace(member, opened=replace(member.opened, label=label)))
    return apart


def require_alike(first: OpenedModel, other: OpenedModel) -> None:
    """Raise BadInputError unless both are engines of one model that are fed alike."""
    if first.manifest is None or other.manifest is None:
        raise BadInputError(
            "a bare ONNX file stands for itself: nothing says of which model it is", "name it alone, or name engines"
        )
    digests = [model.manifest.inputs.model_sha256 for model in (first, other) if model.manifest is not None]
    if digests[0] != digests[1]:
        raise BadInputError(
            f"{first.label} and {other.label} are engines of two models (sha256 {digests[0][:8]} and {digests[1][:8]})",
            "name engines that were built of one model file",
        )
    assert first.contract is not None and other.contract is not None
    if not is_fed_alike(first.contract, other.contract):
        raise BadInputError(
            f"{first.label} and {other.label} are fed in two ways", "build both with the same --preset or --input"
        )


def is_fed_alike(first: Contract, other: Contract) -> bool:
    """Whether one face makes the same inputs for both, and their outputs are read alike."""
    values = [{name: content for name, content in c.files().items() if name != PRESET_FILE} for c in (first, other)]
    return _describe_feeding(first) == _describe_feeding(other) and values[0] == values[1]


def _describe_feeding(contract: Contract) -> dict[str, Any]:
    document = describe(contract.preset)
    return {key: part for key, part in document.items() if key not in {"name", "hints"}}


def _open_all(path: Path, device: int, note: Note) -> list[OpenedModel]:
    if not (path.is_dir() and not (path / MANIFEST).is_file() and any(path.glob(f"*/{MANIFEST}"))):
        return [open_model(path, None, device)]
    machine = ask_machine_if_any(device)
    models = []
    for precision in Precision:
        selection = select_engine(path, machine, precision)
        if selection.manifest.precision == precision.value:
            models.append(open_model(selection.folder))
        elif not models:
            for message in selection.notes:
                note(message)
    return models


def _require_contract(model: OpenedModel, contract: Contract | None) -> Contract:
    settled = model.contract or contract
    if settled is None:
        raise BadInputError(
            f"nothing says how {model.label} is fed", "name a --preset, or describe its inputs with --input"
        )
    return settled


def _rank(member: Member) -> tuple[bool, int]:
    manifest: Manifest | None = member.opened.manifest
    if manifest is None:
        return False, 0
    return not manifest.gate.passed, list(Precision).index(Precision(manifest.precision))


def _digest(opened: OpenedModel) -> str:
    if opened.manifest is not None:
        return opened.manifest.files[opened.engine.name].sha256
    return digest_regular(opened.engine, "model").hex()
