"""What must be known of a drop-in file to use it: its providers and their options, and what each tool wants."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from trt_facefusion.dropin.border import Border
from trt_facefusion.dropin.check import STEP, Difference

TENSORRT, CUDA, CPU = "TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"
_KEEP_TYPES = {"trt_fp16_enable": "0", "trt_int8_enable": "0", "trt_bf16_enable": "0", "trt_engine_cache_enable": "1"}
"""With all of these off, onnxruntime asks TensorRT 10 and later for strong types: those that the graph says."""
_EXACT_SUMS = {"session.x64quantprecision": "1"}
"""On processors without VNNI onnxruntime adds products of INT8 in 16 bits otherwise, which overflow unseen."""
_PLAIN_QUANTISERS = {"session.disable_quant_qdq": "1"}
"""Lets the CPU provider compute what a GPU would, in floats between the quantisers."""


@dataclass(frozen=True)
class Content:
    """What is in the graph: quantisers as the CPU provider wants them, quantisers at all (Q/DQ), FP16."""

    for_cpu: bool
    quantised: bool
    half: bool


@dataclass(frozen=True)
class Notes:
    """All that is said beside a drop-in file. ``crc32`` is FaceFusion's hash of it (8 hex digits)."""

    file: str
    precision: str
    content: Content
    border: Border
    runtime: str
    difference: Difference
    sha256: str
    crc32: str
    matrix: str | None
    template: str
    left_out: tuple[str, ...] = ()
    table: str | None = None

    @property
    def providers(self) -> tuple[str, ...]:
        """The providers that run it fast, the best first."""
        return (CPU,) if self.content.for_cpu else (TENSORRT, CUDA, CPU)

    def as_dict(self) -> dict[str, Any]:
        """The notes as a document of plain values."""
        return {
            "schema": 1,
            "file": self.file,
            "sha256": self.sha256,
            "crc32": self.crc32,
            "precision": self.precision,
            "takes": [asdict(spec) for spec in self.border.inputs],
            "gives": [asdict(spec) for spec in self.border.outputs],
            "as_in_the_original": self.border.original is not None,
            "left_out": list(self.left_out),
            "embedding_matrix": self.matrix,
            "crop_template": self.template,
            "onnxruntime": f">={self.runtime}",
            "providers": list(self.providers),
            "provider_options": {} if self.content.for_cpu else {TENSORRT: dict(_KEEP_TYPES)},
            "session_config": self._choose_session_config(),
            "calibration_table": None if self.table is None else self._describe_table(self.table),
            "against_the_engine": {**asdict(self.difference), "one_step": STEP},
            "notes": list(self.describe()),
            "tools": dict(self._describe_tools()),
        }

    def describe(self) -> Iterator[str]:
        """What people should know, a sentence or two at a time."""
        if self.border.original is None:
            yield "the original file was not at hand: inputs and outputs are those of the engine (name it: --original)"
        if self.left_out:
            yield f"outputs of the original that the engine does not have: {', '.join(self.left_out)}"
        yield from self._describe_providers()
        if self.difference.visible:
            yield (
                f"with default session options pixels differ from the engine's by up to {self.difference.largest:.4f} "
                f"(one step of 8 bits is {STEP:.4f}): set the session_config of these notes"
            )

    def _choose_session_config(self) -> dict[str, str]:
        """What a session on the CPU is to be opened with, so that it computes what the engine does."""
        if not self.content.quantised:
            return {}
        return dict(_EXACT_SUMS if self.content.for_cpu else _PLAIN_QUANTISERS)

    def _describe_providers(self) -> Iterator[str]:
        if self.content.for_cpu:
            yield "it is quantised for the CPU provider; for a GPU export an engine that was built for one"
            yield "on processors without VNNI set session.x64quantprecision to 1, or sums of products overflow unseen"
            return
        yield "TensorRT's provider keeps its types where fp16, int8 and bf16 are off (provider_options); unproven here"
        if self.content.quantised:
            yield "the CUDA provider has no INT8 convolutions: there it is right, but no faster; export FP16 for it"
        if self.content.half:
            yield "the CPU provider computes FP16 in FP32 and drops the rounding between operators"

    def _describe_table(self, name: str) -> dict[str, Any]:
        """For the original file through TensorRT 10, which takes ranges from a table."""
        options = {
            "trt_int8_enable": "1",
            "trt_fp16_enable": "1",
            "trt_int8_calibration_table_name": name,
            "trt_int8_use_native_calibration_table": "0",
        }
        return {"file": name, "for": "the original file, TensorRT 10 only", "provider_options": options}

    def _describe_tools(self) -> Mapping[str, str]:
        reads = "the last initializer is the embedding's matrix, as it reads it" if self.matrix else "no matrix needed"
        return {
            "insightface": f"model_zoo.get_model('{self.file}', providers=[...]): input 0 is "
            f"{self.border.inputs[0].name}, {reads}",
            "facefusion": "put it in the place of the file in .assets/models, and write the crc32 of these notes into "
            "the .hash file beside it; it binds inputs by name",
            "deep-live-cam": "put it into models/ under the name that it looks for; it opens it through insightface",
        }
