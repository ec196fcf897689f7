"""Reads TensorRT-RTX's verbose build log: kernels with their types, and memory.

With DETAILED profiling verbosity one message starts with ``Layers:`` and holds a line for every kernel::

    Name: mid_myl0_3, LayerType: correlation, Inputs: [ { Name: ..., Dimensions: [1,32,64,64], ..., Datatype: Int8,
    Format: ... }], Constants: [...], Outputs: [...], TacticName: ..., StreamId: 0, Metadata: [ONNX Layer: mid][...]

Metadata holds the names of the ONNX nodes as they are in the file (a kernel's own name may be changed, or join several
with ``+``); a node without a name appears as ``node_of_`` and its first output.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from trt_facefusion.engine.backends.base import Kernel, TensorFormat

_DTYPES = {"float": "fp32", "half": "fp16", "bfloat16": "bf16", "int8": "int8", "uint8": "uint8", "bool": "bool"}

_KERNEL = re.compile(
    r"Name: (?P<name>.*?), LayerType: (?P<type>\w+), Inputs: \[(?P<inputs>.*?)\], Constants: \[(?P<constants>.*?)\], "
    r"Outputs: \[(?P<outputs>.*?)\], TacticName: (?P<tactic>.*?), StreamId: .*?Metadata: ?(?P<nodes>.*)"
)
_TENSOR = re.compile(
    r"\{ Name: (?P<name>.*?), (?:[A-Z]\w*: (?!\[)[^,]*, )*?Dimensions: \[(?P<shape>[-\d, ]*)\],"
    r".*?Datatype: (?P<dtype>\w+)(?:, Format: (?P<layout>.*?))? \}"
)
_NODE = re.compile(r"\[ONNX Layer: (.*?)\](?=[\x1e\x1f]*(?:\[ONNX Layer: |$))")  # separated by control characters
_MEMORY = re.compile(r"Total (Weights|Activation) Memory: (\d+) bytes")

# Without a driver every failed assertion is followed by this line; it explains nothing.
_NOISE = re.compile(r"cudaError ?35|CUDA driver version is insufficient|CUDA initialization failure")


@dataclass(frozen=True)
class LogFacts:
    """What a build log says. ``kernels_known`` is False when no kernel could be read or one of them could not."""

    kernels: tuple[Kernel, ...]
    kernels_known: bool
    weights_bytes: int | None
    activations_bytes: int | None


class LogBuffer:
    """Keeps a build log in memory: the last ``limit`` messages, and all those that hold facts or errors."""

    def __init__(self, limit: int = 2000) -> None:
        self._tail: deque[str] = deque(maxlen=limit)
        self._facts: list[str] = []
        self._errors: list[str] = []

    def add(self, severity: str, text: str) -> None:
        """Take one message; ``severity`` is VERBOSE, INFO, WARNING, ERROR or INTERNAL_ERROR."""
        if _NOISE.search(text):
            return
        if text.startswith("Layers:") or _MEMORY.search(text):
            self._facts.append(text)
        if text.startswith("Layers:"):
            return
        if severity.endswith("ERROR"):
            self._errors.append(text)
        self._tail.append(f"[{severity}] {text}")

    @property
    def errors(self) -> tuple[str, ...]:
        """The error messages, oldest first."""
        return tuple(self._errors)

    def tail(self, count: int) -> tuple[str, ...]:
        """The last ``count`` messages."""
        return tuple(self._tail)[-count:]

    def facts(self) -> LogFacts:
        """What the log says of kernels and memory."""
        return parse(self._facts)


def drop_noise(text: str) -> str:
    """``text`` without the lines that only say that this machine has no GPU driver."""
    return "\n".join(line for line in text.splitlines() if not _NOISE.search(line)).strip()


def parse(messages: Iterable[str]) -> LogFacts:
    """Kernels and memory from the messages of one build; unknown lines are passed over."""
    kernels: list[Kernel] = []
    unread = 0
    memory: dict[str, int] = {}
    for message in messages:
        for kind, size in _MEMORY.findall(message):
            memory[kind] = memory.get(kind, 0) + int(size)
        if not message.startswith("Layers:"):
            continue
        for line in _split_kernels(message):
            kernel = parse_kernel(line)
            if kernel is None:
                unread += 1
            else:
                kernels.append(kernel)
    all_read = bool(kernels) and not unread
    return LogFacts(tuple(kernels) if all_read else (), all_read, memory.get("Weights"), memory.get("Activation"))


def _split_kernels(message: str) -> list[str]:
    layers = message.partition("\nI/O Tensors:")[0].removeprefix("Layers:")
    return [line.strip() for line in layers.split("\n") if line.strip().startswith("Name: ")]


def parse_kernel(line: str) -> Kernel | None:
    """One line of the ``Layers:`` message, or None when it does not look like a kernel."""
    match = _KERNEL.match(line)
    if match is None:
        return None
    sections = {key: _parse_tensors(match[key]) for key in ("inputs", "constants", "outputs")}
    if any(tensors is None for tensors in sections.values()):
        return None
    return Kernel(
        name=match["name"],
        type=match["type"],
        nodes=tuple(_NODE.findall(match["nodes"])),
        inputs=sections["inputs"] or (),
        constants=sections["constants"] or (),
        outputs=sections["outputs"] or (),
        tactic=match["tactic"],
    )


def _parse_tensors(section: str) -> tuple[TensorFormat, ...] | None:
    tensors = tuple(
        TensorFormat(
            name=match["name"],
            dtype=_DTYPES.get(match["dtype"].lower(), match["dtype"].lower()),
            shape=tuple(int(axis) for axis in match["shape"].split(",") if axis.strip()),
            layout=match["layout"] or "",
        )
        for match in _TENSOR.finditer(section)
    )
    # Every tensor has exactly one type: a count that differs means that one was not understood.
    return tensors if len(tensors) == section.count("Datatype: ") else None
