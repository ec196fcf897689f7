"""One streaming pass of a model over the calibration faces: a histogram for every tensor that is asked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from operator import length_hint
from typing import Any

import numpy as np
import onnx

from trt_facefusion.errors import BadInputError, ModelError, TrtFaceFusionError
from trt_facefusion.model import sessions
from trt_facefusion.quantization.calibration.histogram import Histogram
from trt_facefusion.quantization.calibration.reader import Batches
from trt_facefusion.quantization.calibration.resume import CalibrationCheckpoint
from trt_facefusion.quantization.calibration.taps import ScaledTensor, Tap, count_faces, list_unsized, make_taps
from trt_facefusion.types import Array, Feeds, Progress, silent

STAGE = "calibrate"
_MAX_WORKERS = 4


def collect(
    model: onnx.ModelProto,
    tensors: Sequence[str],
    batches: Iterable[Feeds],
    *,
    scaled: Mapping[str, tuple[ScaledTensor, ...]] | None = None,
    progress: Progress = silent,
    threads: int | None = None,
    checkpoint: CalibrationCheckpoint | None = None,
) -> dict[str, Histogram]:
    """Histograms of ``tensors`` (inputs of the graph or outputs of its nodes, floating point) over all ``batches``.

    They come in the order of the graph, whatever the order of ``tensors``; behind them those of ``scaled``: tensors of
    them whose channels are scaled and shifted. Of large maps only a part of the values is counted, and the largest
    magnitude of each sample (`make_taps`).

    While onnxruntime runs one batch, the activations of the one before are counted, then dropped: memory does not grow
    with the number of batches. ``model`` is not changed. ``progress`` counts batches. ``threads`` limits onnxruntime.

    With a ``checkpoint``, for which ``batches`` must be `Batches`, the pass continues one that was interrupted, and
    gives the same bits.

    Raises:
        BadInputError: no batches, or an input that holds NaN or infinite values.
        ModelError: a tensor that the model does not have or that is not floating point, a model that onnxruntime cannot
            run on these inputs, or an activation that becomes NaN or infinite.
    """
    if not tensors:
        return {}
    fed, tapped = locate_tensors(model.graph, tensors)
    scaled_tensors = scaled or {}
    behind = [tensor.name for tensors_behind in scaled_tensors.values() for tensor in tensors_behind]
    histograms = {name: Histogram() for name in (*fed, *tapped, *behind)}
    total = length_hint(batches)
    done = 0
    if checkpoint is not None and isinstance(batches, Batches):
        done, saved = checkpoint.load()
        histograms |= saved
        batches = batches.after(done)
    shapes, batches = measure_shapes(model, tapped, batches, threads)
    added, inner = make_taps(model, tapped, scaled_tensors, shapes)
    outputs = [name for tap in inner for name in tap.outputs]
    session = open_tapped_session(model, outputs, threads, added)
    all_taps = [*(Tap(name, (name,), scaled=scaled_tensors.get(name, ())) for name in fed), *inner]
    counting = _CountingPass(session, fed, outputs, all_taps, histograms, checkpoint)
    done = counting.run(batches, done, _count_workers(threads), lambda counted: progress(STAGE, counted, total))
    if checkpoint is not None:
        checkpoint.save(done, histograms, now=True)
    if not done:
        raise BadInputError("there is not one batch to calibrate on", "give a folder with faces")
    progress(STAGE, done, total or done)
    return histograms


@dataclass(frozen=True)
class _CountingPass:
    """Counts the activations of one batch while the session runs the next."""

    session: Any
    fed: Sequence[str]
    outputs: Sequence[str]
    taps: Sequence[Tap]
    histograms: Mapping[str, Histogram]
    checkpoint: CalibrationCheckpoint | None

    def run(self, batches: Iterable[Feeds], done: int, workers: int, report: Callable[[int], None]) -> int:
        """Count ``batches``, with ``done`` behind us; the number that is counted then, which ``report`` hears, too."""
        with ThreadPoolExecutor(workers, "histogram") as pool:
            counting: list[Future[None]] = []
            for feeds in batches:
                values = run_batch(self.session, self.fed, self.outputs, feeds)
                if counting:
                    done += self._finish(counting, done)
                    if self.checkpoint is not None:
                        self.checkpoint.save(done, self.histograms)
                counting = [
                    pool.submit(tap.count, [values[name] for name in tap.outputs], self.histograms) for tap in self.taps
                ]
                del feeds, values
                report(done)
            return done + self._finish(counting, done)

    def _finish(self, counting: list[Future[None]], batch: int) -> int:
        """Wait until a batch is counted and check it; the number of batches finished (0 or 1)."""
        for future in counting:
            future.result()
        require_finite(self.histograms, self.fed, batch)
        return 1 if counting else 0


def locate_tensors(graph: onnx.GraphProto, tensors: Sequence[str]) -> tuple[list[str], list[str]]:
    """Which of ``tensors`` are fed and which are made by nodes, both in the order of the graph."""
    names = set(tensors)
    weights = {weight.name for weight in graph.initializer}
    fed = [graph_input.name for graph_input in graph.input if graph_input.name in names - weights]
    tapped = [name for node in graph.node for name in node.output if name in names]
    for name in tensors:
        if name not in fed and name not in tapped:
            raise ModelError(
                f"the model has no activation {name!r}", "use the plan and the table of this model, not of another"
            )
    return fed, tapped


def measure_shapes(
    model: onnx.ModelProto, tensors: Sequence[str], batches: Iterable[Feeds], threads: int | None = None
) -> tuple[dict[str, tuple[int, ...]], Iterable[Feeds]]:
    """The shapes for one face of those of ``tensors`` whose size ``model`` does not say, seen in the first batch.

    They cost a run of their own, in which no tensor leaves the graph. Gives all ``batches`` back, too.
    """
    unsized = list_unsized(model, tensors)
    rest = iter(batches) if unsized else iter(())
    feeds = next(rest, None)
    if feeds is None:
        return {}, batches
    names = [f"{name}__shape" for name in unsized]
    added = onnx.GraphProto()
    pairs = zip(unsized, names, strict=True)
    added.node.extend(onnx.helper.make_node("Shape", [name], [shape]) for name, shape in pairs)
    session = open_tapped_session(model, names, threads, added)
    measured = dict(zip(unsized, _run(session, names, feeds), strict=True))
    faces = count_faces(model, feeds)
    shapes = {
        name: (max(int(shape[0]) // faces, 1), *map(int, shape[1:])) for name, shape in measured.items() if len(shape)
    }
    return shapes, batches if isinstance(batches, Batches) else chain([feeds], rest)


def _count_workers(threads: int | None) -> int:
    return min(_MAX_WORKERS, threads or os.cpu_count() or 1)


def require_finite(histograms: Mapping[str, Histogram], fed: Sequence[str], batch: int) -> None:
    """Hold what was counted up to ``batch`` against NaN and infinity.

    Raises:
        BadInputError: one of ``fed`` held such a value.
        ModelError: another tensor did.
    """
    for name, histogram in histograms.items():
        if histogram.non_finite and name in fed:
            raise BadInputError(
                f"the input {name!r} holds {histogram.non_finite} values that are NaN or infinite in batch {batch}",
                "check the faces and the preset's normalisation",
            )
        if histogram.non_finite:
            raise ModelError(
                f"the activation {name!r} has {histogram.non_finite} values that are NaN or infinite in batch {batch}",
                "the model is broken in FP32 already: check its weights, and that its inputs have the range it expects",
            )


def open_tapped_session(
    model: onnx.ModelProto, tapped: Sequence[str], threads: int | None, added: onnx.GraphProto | None = None
) -> Any:
    """A session of ``model`` whose outputs are ``tapped``: an output survives every graph optimisation.

    The nodes and constants of ``added`` come on top of the model's own.
    """

    import onnxruntime as ort

    def change(graph: onnx.GraphProto) -> None:
        if added is not None:
            graph.node.extend(added.node)
            graph.initializer.extend(added.initializer)
        if tapped:
            del graph.output[:]
            # onnxruntime infers the types of outputs that have none: more operators than onnx's own inference knows.
            graph.output.extend(onnx.ValueInfoProto(name=name) for name in tapped)

    try:
        # Threads that spin while they wait take the cores from the counting: 1.33 instead of 1.1 times a plain pass.
        options = sessions.make_session_options(threads, spin=False)
        # What takes values out runs right behind what makes them. In the usual order it runs last, and every activation
        # is held until then: of a network for 512 px, gigabytes.
        options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
        return sessions.open_session(model, options, change)
    except TrtFaceFusionError:
        raise
    except Exception as error:
        raise ModelError(
            f"onnxruntime cannot load the model: {_take_first_line(error)}",
            "calibration runs the FP32 model in onnxruntime: export it with operators that onnxruntime has",
        ) from error


def run_batch(session: Any, fed: Sequence[str], tapped: Sequence[str], feeds: Feeds) -> dict[str, Array]:
    """The batch's tensors by name: ``fed`` straight from the feeds, ``tapped`` from onnxruntime."""
    outputs = _run(session, tapped, feeds)
    values = {name: feeds[name] for name in fed} | dict(zip(tapped, outputs, strict=False))
    for name, tensor in values.items():
        if not isinstance(tensor, np.ndarray) or not np.issubdtype(tensor.dtype, np.floating):
            kind = getattr(tensor, "dtype", type(tensor).__name__)
            raise ModelError(f"{name!r} is not a floating point tensor but {kind}", "calibrate only tensors of numbers")
    return values


def _run(session: Any, outputs: Sequence[str], feeds: Feeds) -> list[Array]:
    try:
        # Without outputs the model still runs: faulty feeds must not pass.
        return list(session.run(outputs or None, dict(feeds)))
    except Exception as error:
        expected = ", ".join(f"{i.name}: {i.type} {i.shape}" for i in session.get_inputs())
        raise ModelError(
            f"onnxruntime cannot run the model on the calibration inputs: {_take_first_line(error)}",
            f"describe the inputs as the model declares them ({expected})",
        ) from error


def _take_first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
