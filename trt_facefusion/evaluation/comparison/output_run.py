"""Runs both models on faces, batch by batch, and compares what they give."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from polygraphy.comparator import Comparator

from trt_facefusion.engine.runtime.polygraphy import PolygraphyRunner, silence
from trt_facefusion.evaluation.comparison.layers import Values
from trt_facefusion.evaluation.comparison.outputs import OutputComparison, OutputDifference
from trt_facefusion.evaluation.comparison.pair import ModelPair
from trt_facefusion.evaluation.comparison.saved import SaveFolder
from trt_facefusion.faces.faceset import FaceSet
from trt_facefusion.quantization.calibration.reader import Batches
from trt_facefusion.types import Progress

Pictures = NDArray[np.float32]


def compare_outputs(
    pair: ModelPair, faces: FaceSet, save: SaveFolder, progress: Progress
) -> tuple[tuple[OutputDifference, ...], tuple[Pictures, Pictures]]:
    """All outputs by Polygraphy, and both models' pictures [N,H,W,3] (empty where no output is one)."""
    comparison = OutputComparison()
    pictures: tuple[list[Pictures], list[Pictures]] = ([], [])
    done, batch = 0, pair.batch
    with closing(_run_both(pair, faces)) as runs:
        for number, (feeds, outputs) in enumerate(runs):
            count = min(batch.size, len(faces) - done)
            comparison.add(*outputs, faces=count, batch=batch.size if batch.fixed else count)
            for batches, values in zip(pictures, outputs, strict=True):
                if pair.picture is not None and pair.picture_output is not None:
                    batches.append(pair.picture.decode(values[pair.picture_output])[:count])
            save.save_batch(number, feeds, outputs)
            done += count
            progress("outputs", done, len(faces))
    a, b = (np.concatenate(batches) if batches else np.zeros((0, 0, 0, 3), np.float32) for batches in pictures)
    return comparison.list_differences(), (a, b)


def _run_both(pair: ModelPair, faces: FaceSet) -> Generator[tuple[Values, tuple[Values, Values]], None, None]:
    """Each batch: what is fed, and what A and B give. One batch is held at a time."""
    fed: list[Values] = []
    feeder = pair.make_feeder(faces, fixed=pair.batch.fixed)

    def feed(indices: Any) -> Values:
        fed.append(dict(feeder(indices)))
        return fed[-1]

    takes = pair.a.runner.inputs
    runners = [PolygraphyRunner(partial(model.adapt_runner, takes), title) for model, title in pair.titled]
    batches = Batches(feed, len(faces), pair.batch.size)
    with silence(), closing(Comparator.run(runners, batches, streaming=True)) as stream:
        for results in stream:
            a, b = (dict(iterations[0].items()) for iterations in results.values())
            yield fed.pop(), (a, b)
