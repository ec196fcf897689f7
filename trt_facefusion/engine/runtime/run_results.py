"""Inputs and outputs on the disk, in the form that the `polygraphy` command opens: one JSON file per batch.

DIR/inputs/0000000000.json    polygraphy inspect data DIR/inputs      polygraphy run ... --load-inputs DIR/inputs
DIR/a/0000000000.json         polygraphy run --load-outputs DIR/a DIR/b
DIR/b/0000000000.json
DIR/layers/0000000000.json    one file for each group of tensors
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from polygraphy.comparator import IterationResult, RunResults
from polygraphy.json import to_json

from trt_facefusion.types import Array, Feeds

INPUTS = "inputs"


def save_inputs(folder: Path, number: int, feeds: Feeds) -> None:
    """Write the network inputs of one batch. Raises OSError."""
    _write(folder / INPUTS, number, dict(feeds))


def save_outputs(folder: Path, number: int, outputs: Mapping[str, Mapping[str, Array]]) -> None:
    """Write what one or more runners (by name) gave for one batch. Raises OSError."""
    results = RunResults()
    for runner, values in outputs.items():
        results.append((runner, [IterationResult(dict(values), runtime=None, runner_name=runner)]))
    _write(folder, number, results)


def _write(folder: Path, number: int, document: Any) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{number:010}.json").write_text(to_json(document), encoding="utf-8")
