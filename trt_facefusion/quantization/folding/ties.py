"""Which channels of a graph have to be scaled alike, and which cannot be scaled at all: a union-find over channels.

The channels of a tensor are those of its axis 1. Every one belongs to a group; what is scaled is a whole group. Groups
are joined where an operator gives a scaled result only if its operands are scaled alike (an addition), and fixed where
something would see the scale (a sigmoid, an output of the graph).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray

from trt_facefusion.model.graph import GraphView

Groups = NDArray[np.int64]
"""The group of each channel of a tensor, [C]."""


class ScaleTies:
    """Groups of channels, while and after they are joined. ``deferred`` are products that are decided on last."""

    def __init__(self, view: GraphView) -> None:
        self.view = view
        self.deferred: list[onnx.NodeProto] = []
        self._parents: list[int] = []
        self._reasons: dict[int, str] = {}
        self._groups: dict[str, Groups] = {}

    @property
    def count(self) -> int:
        """How many groups there are, those included that were joined with others."""
        return len(self._parents)

    def count_channels(self, tensor: str) -> int:
        """Size of axis 1; 0 where there is none, or none that is known."""
        shape = self.view.shape(tensor) or ()
        return shape[1] if len(shape) > 1 and isinstance(shape[1], int) else 0

    def groups(self, tensor: str) -> Groups:
        """The group of each channel, as it is now; empty for a tensor without channels."""
        if tensor not in self._groups:
            return np.zeros(0, np.int64)
        raw = self._groups[tensor]
        return np.fromiter((self._find(group) for group in raw.tolist()), np.int64, len(raw))

    def reason(self, tensor: str) -> str | None:
        """Why no channel of the tensor can be scaled; None where at least one can."""
        groups = self.groups(tensor)
        if not len(groups):
            return "it has no channels of a known number"
        return self._reasons[int(groups[0])] if self.is_fixed(groups).all() else None

    def is_fixed(self, groups: Groups) -> NDArray[np.bool_]:
        """Which of ``groups`` cannot be scaled, [C]."""
        return np.fromiter((self._find(group) in self._reasons for group in groups.tolist()), np.bool_, len(groups))

    def open(self, tensor: str) -> Groups:
        """Give each channel of a tensor a group of its own."""
        start, count = len(self._parents), self.count_channels(tensor)
        self._parents += range(start, start + count)
        self._groups[tensor] = np.arange(start, start + count)
        return self._groups[tensor]

    def share(self, tensor: str, groups: Groups) -> None:
        """Put the channels of a new tensor into groups that there are."""
        self._groups[tensor] = groups

    def join(self, first: Groups, second: Groups) -> None:
        """Have channels [C] of two tensors scaled alike, one by one."""
        for one, other in zip(first.tolist(), second.tolist(), strict=True):
            root, joined = self._find(one), self._find(other)
            if root == joined:
                continue
            self._parents[joined] = root
            reason = self._reasons.pop(joined, None)
            if reason is not None:
                self._reasons.setdefault(root, reason)

    def fix(self, tensors: Iterable[str], reason: str) -> None:
        """Leave the channels of ``tensors`` as they are, and all that are scaled with them."""
        for tensor in tensors:
            for group in self.groups(tensor).tolist():
                self._reasons.setdefault(group, reason)

    def share_axis(self, tensors: Sequence[str]) -> bool:
        """Whether all ``tensors`` have one rank and one number of channels."""
        ranks = {len(self.view.shape(tensor) or ()) for tensor in tensors}
        counts = {self.count_channels(tensor) for tensor in tensors}
        return len(ranks) == 1 and len(counts) == 1 and 0 not in counts

    def _find(self, group: int) -> int:
        parents = self._parents
        while parents[group] != group:
            parents[group] = parents[parents[group]]
            group = parents[group]
        return group


def describe_node(node: onnx.NodeProto) -> str:
    """A node in a reason: its operator and its name."""
    return f"{node.op_type} {node.name!r}"
