"""Which of a model's stored engines to run on a machine."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from trt_facefusion.engine.backends import registry
from trt_facefusion.engine.backends.capabilities import Judged
from trt_facefusion.engine.store.fit import Machine, list_differences, list_misfits, suggest_rebuild
from trt_facefusion.engine.store.manifest import Manifest
from trt_facefusion.engine.store.store import Store
from trt_facefusion.errors import StoreError
from trt_facefusion.types import Precision


@dataclass(frozen=True)
class EngineSelection:
    """The engine to run, and what a person should know of why."""

    folder: Path
    manifest: Manifest
    notes: tuple[str, ...] = ()


def select_engine(
    folder: Path, machine: Machine, requested: Precision | None = None, *, stand_in: bool = False
) -> EngineSelection:
    """The engine of the model in ``folder`` (``engines/MODEL``) that fits ``machine``.

    What could only be simulated comes last. An engine of the GPU goes before one of the CPU; then the precision that
    is asked for (the cheapest where none is) goes first, then the safer ones, then the cheaper ones; then an engine
    that was built on this very GPU; then the newest. Engines whose files are damaged are passed over. With ``stand_in``
    every engine of a GPU fits: its typed ONNX is run on the CPU.

    Raises:
        StoreError: the folder holds no engines, or none that fits; the remedy is the command that builds one.
    """
    store = Store(folder.parent)
    entries = [(path, entry) for path, entry in store.list() if path.parent == folder]
    passed_over = [f"{path.name}: {entry.message}" for path, entry in entries if isinstance(entry, StoreError)]
    engines, of_other_models = _keep_one_model(
        [(path, entry) for path, entry in entries if isinstance(entry, Manifest)]
    )
    passed_over += of_other_models
    unfit = [
        (path, m, why) for path, m in engines if (why := list_misfits(m, machine)) and not (stand_in and _needs_gpu(m))
    ]
    misfits = {path for path, _, _ in unfit}
    order = _order_precisions(requested)
    fitting = sorted(
        ((path, m) for path, m in engines if path not in misfits),
        key=lambda entry: entry[1].created,
        reverse=True,
    )
    for path, manifest in sorted(fitting, key=lambda entry: _rank(entry[1], machine, order)):
        try:
            store.load(path)
        except StoreError as error:
            passed_over.append(f"{path.name}: {error.message}")
            continue
        notes = (*_explain(manifest, path, requested, unfit), *passed_over)
        changes = (f"{path.name}: {note}" for note in list_differences(manifest, machine))
        return EngineSelection(path, manifest, (*notes, *changes))
    raise _explain_none_fits(folder, machine, unfit, passed_over, order)


def _keep_one_model(engines: list[tuple[Path, Manifest]]) -> tuple[list[tuple[Path, Manifest]], list[str]]:
    """The engines of the model that was built last, and why the others were passed over.

    A folder holds engines of several models where a file was exported again and not every precision rebuilt, or where
    an earlier version put namesakes together.
    """
    newest = max((m.created, m.inputs.model_sha256) for _, m in engines)[1] if engines else ""
    of_other_models = [
        f"{path.name}: it was made from another model file (sha256 {m.inputs.model_sha256[:8]}) than the newest engine"
        for path, m in engines
        if m.inputs.model_sha256 != newest
    ]
    return [(path, m) for path, m in engines if m.inputs.model_sha256 == newest], of_other_models


def _order_precisions(requested: Precision | None) -> tuple[str, ...]:
    """Precisions from the best to the worst: the one that is asked for, the safer ones, then the cheaper ones."""
    everything = list(Precision)
    start = 0 if requested is None else everything.index(requested)
    return tuple(p.value for p in (*everything[start:], *reversed(everything[:start])))


def _needs_gpu(manifest: Manifest) -> bool:
    backend = registry.find_backend(manifest.backend)
    return backend is not None and backend.capabilities.needs_gpu


def _rank(manifest: Manifest, machine: Machine, order: tuple[str, ...]) -> tuple[int, ...]:
    names = registry.list_names()
    backend = registry.find_backend(manifest.backend)
    return (
        backend is not None and backend.capabilities.judged is Judged.SIMULATED and machine.chip is None,
        backend is not None and not backend.capabilities.needs_gpu,
        order.index(manifest.precision) if manifest.precision in order else len(order),
        names.index(manifest.backend) if manifest.backend in names else len(names),
        manifest.pins.device != machine.device,
    )


def _explain(
    selected: Manifest, path: Path, requested: Precision | None, unfit: list[tuple[Path, Manifest, tuple[str, ...]]]
) -> tuple[str, ...]:
    """Nothing where the engine is what was asked for; else what was not taken and why."""
    reasons = tuple(f"{other.name} does not fit: {'; '.join(why)}" for other, _, why in unfit)
    if requested is None:
        return (f"took {path.name}", *reasons) if reasons else ()
    if selected.precision == requested.value:
        return ()
    about = tuple(f"{p.name} does not fit: {'; '.join(why)}" for p, m, why in unfit if m.precision == requested.value)
    return (f"took {path.name} in place of {requested.value}", *(about or (f"no {requested.value} engine is stored",)))


def _explain_none_fits(
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
        suggest_rebuild(closest, machine),
    )
