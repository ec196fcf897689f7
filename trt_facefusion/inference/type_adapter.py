"""A runner that takes what another one takes, though its own types differ: TensorRT has no float64, a file may."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from types import TracebackType

from trt_facefusion.engine.runtime.base import Runner
from trt_facefusion.model.presets.fit import cast
from trt_facefusion.types import Array, Feeds, TensorSpec


class TypeAdapter:
    """``inner`` with the input types of ``takes``."""

    def __init__(self, inner: Runner, takes: Sequence[TensorSpec]) -> None:
        self._inner = inner
        self._types = {spec.name: spec.dtype for spec in inner.inputs}
        self.inputs = tuple(takes)

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """As of ``inner``."""
        return self._inner.outputs

    def infer(self, feeds: Feeds) -> dict[str, Array]:
        """As of ``inner``. Raises BadInputError where its types cannot hold ``feeds``."""
        return self._inner.infer(self._cast(feeds))

    def infer_async(self, feeds: Feeds) -> Future[dict[str, Array]]:
        """As of ``inner``."""
        return self._inner.infer_async(self._cast(feeds))

    def map(self, batches: Iterable[Feeds]) -> Iterator[dict[str, Array]]:
        """As of ``inner``."""
        return self._inner.map(self._cast(feeds) for feeds in batches)

    def close(self) -> None:
        """Close ``inner``."""
        self._inner.close()

    def __enter__(self) -> TypeAdapter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _cast(self, feeds: Feeds) -> Feeds:
        return {name: cast(tensor, self._types[name], name) for name, tensor in feeds.items()}
