"""Which of a model's stored engines to run on a machine."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from trt_facefusion.engine.store.fit import Machine, differences, misfits, rebuild_remedy
from trt_facefusion.engine.store.manifest import Manifest
from trt_facefusion.engine.store.store import Store
from trt_facefusion.errors import StoreError
from trt_facefusion.types import Precision

_MAKERS = ("tensorrt", "tensorrt-rtx", "onnxruntime")


@dataclass(frozen=True)
class Choice:
    """The engine to run, and what a person should know of why."""

    folder: Path
    manifest: Manifest
    notes: tuple[str, ...] = ()


def choose(folder: Path, machine: Machine, wanted: Precision | None = None) -> Choice:
    """The engine of the model in ``folder`` (``engines/MODEL``) that fits ``machine``.

    An engine of the GPU goes before one of the CPU; then the wanted precision (the cheapest where none is wanted) goes
    first, then the safer ones, then the cheaper ones; then an engine that was built on this very GPU; then the newest.
    Engines whose files are damaged are passed over.

    Raises:
        StoreError: the folder holds no engines, or none that fits; the remedy is the command that builds one.
    """
    store = Store(folder.parent)
    entries = [(path, found) for path, found in store.list() if path.parent == folder]
    passed_over = [f"{path.name}: {found.message}" for path, found in entries if isinstance(found, StoreError)]
    known, others = _of_one_model([(path, found) for path, found in entries if isinstance(found, Manifest)])
    passed_over += others
    unfit = [(path, m, why) for path, m in known if (why := misfits(m, machine))]
    order = _order(wanted)
    fitting = sorted(
        ((path, m) for path, m in known if not misfits(m, machine)),
        key=lambda entry: entry[1].created,
        reverse=True,
    )
    for path, manifest in sorted(fitting, key=lambda entry: _rank(entry[1], machine, order)):
        try:
            store.load(path)
        except StoreError as error:
            passed_over.append(f"{path.name}: {error.message}")
            continue
        notes = (*_why(manifest, path, wanted, unfit), *passed_over)
        return Choice(path, manifest, (*notes, *(f"{path.name}: {note}" for note in differences(manifest, machine))))
    raise _none_fits(folder, machine, unfit, passed_over, order)


def _of_one_model(known: list[tuple[Path, Manifest]]) -> tuple[list[tuple[Path, Manifest]], list[str]]:
    """The engines of the model that was built last, and why the others were passed over.

    A folder holds engines of several models where a file was exported again and not every precision rebuilt, or where
    an earlier version put namesakes together.
    """
    newest = max((m.created, m.inputs.model_sha256) for _, m in known)[1] if known else ""
    others = [
        f"{path.name}: it was made from another model file (sha256 {m.inputs.model_sha256[:8]}) than the newest engine"
        for path, m in known
        if m.inputs.model_sha256 != newest
    ]
    return [(path, m) for path, m in known if m.inputs.model_sha256 == newest], others


def _order(wanted: Precision | None) -> tuple[str, ...]:
    """Precisions from the best to the worst: the wanted one, the safer ones, then the cheaper ones."""
    everything = list(Precision)
    start = 0 if wanted is None else everything.index(wanted)
    return tuple(p.value for p in (*everything[start:], *reversed(everything[:start])))


def _rank(manifest: Manifest, machine: Machine, order: tuple[str, ...]) -> tuple[int, ...]:
    maker = _MAKERS.index(manifest.backend) if manifest.backend in _MAKERS else len(_MAKERS)
    return (
        manifest.backend == "onnxruntime",
        order.index(manifest.precision) if manifest.precision in order else len(order),
        maker,
        manifest.pins.device != machine.device,
    )


def _why(
    taken: Manifest, path: Path, wanted: Precision | None, unfit: list[tuple[Path, Manifest, tuple[str, ...]]]
) -> tuple[str, ...]:
    """Nothing where the engine is what was asked for; else what was not taken and why."""
    reasons = tuple(f"{other.name} does not fit: {'; '.join(why)}" for other, _, why in unfit)
    if wanted is None:
        return (f"took {path.name}", *reasons) if reasons else ()
    if taken.precision == wanted.value:
        return ()
    about = tuple(f"{p.name} does not fit: {'; '.join(why)}" for p, m, why in unfit if m.precision == wanted.value)
    return (f"took {path.name} in place of {wanted.value}", *(about or (f"no {wanted.value} engine is stored",)))


def _none_fits(
    folder: Path,
    machine: Machine,
    unfit: list[tuple[Path, Manifest, tuple[str, ...]]],
    passed_over: list[str],
    order: tuple[str, ...],
) -> StoreError:
    if not unfit:
        detail = f" {' '.join(passed_over)}" if passed_over else ""
        return StoreError(
            f"{folder} holds no engine that can be used.{detail}",
            "Build one with `trt-ff build`, or list what is there: "
            f"trt-ff engines --output {shlex.quote(str(folder.parent))}",
        )
    closest = min((m for _, m, _ in unfit), key=lambda m: order.index(m.precision))
    reasons = [f"{path.name}: {'; '.join(why)}" for path, _, why in unfit]
    return StoreError(
        f"No engine in {folder} runs on this machine. {'. '.join([*reasons, *passed_over])}.",
        rebuild_remedy(closest, machine),
    )
