"""The folder of ``--save``: inputs, outputs and one face's layers, as `polygraphy` opens them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from trt_facefusion.engine.runtime.run_results import save_inputs, save_outputs
from trt_facefusion.engine.store.atomic import commit_folder
from trt_facefusion.errors import BadInputError, StoreError
from trt_facefusion.evaluation.comparison.layers import Values

_LOCAL = "B's node on A's inputs"


@dataclass(frozen=True)
class SaveFolder:
    """Writes what was run below ``folder``; nothing where it is None. ``titles`` are those of A and B."""

    folder: Path | None
    titles: tuple[str, str]

    def save_batch(self, number: int, feeds: Values, outputs: tuple[Values, Values]) -> None:
        """The inputs of one batch, and the outputs of both models."""
        if self.folder is None:
            return
        save_inputs(self.folder, number, feeds)
        for title, values, side in zip(self.titles, outputs, "ab", strict=True):
            save_outputs(self.folder / side, number, {title: values})

    def save_layers(self, number: int, a: Values, b: Values, local: Values) -> None:
        """One group of tensors on the first face: A's, B's, and those of B's nodes on A's inputs."""
        if self.folder is None:
            return
        of_one_face = [{name: values[name][:1] for name in b} for values in (a, b, local)]
        save_outputs(self.folder / "layers", number, dict(zip((*self.titles, _LOCAL), of_one_face, strict=True)))


@contextmanager
def open_save_folder(final: Path | None) -> Iterator[Path | None]:
    """A folder to fill, which is ``final`` in the end; nothing is ever replaced.

    Raises:
        BadInputError: something is there already.
        StoreError: it cannot be written to.
    """
    if final is None:
        yield None
        return
    if final.exists() and (not final.is_dir() or any(final.iterdir())):
        raise BadInputError(f"--save {final}: something is there already", "name a folder that does not exist yet")
    try:
        with commit_folder(final) as folder:
            yield folder
    except StoreError as error:
        raise StoreError(error.message, error.remedy.replace("--output", "--save")) from error
