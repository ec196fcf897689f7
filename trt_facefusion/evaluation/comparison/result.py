"""What a comparison gives: differences of outputs, pictures and layers, and whether the tolerances were kept."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trt_facefusion.evaluation.accuracy.judge import Accuracy
from trt_facefusion.evaluation.comparison.handed_in import AgainstFile
from trt_facefusion.evaluation.comparison.layer_error import LayerError
from trt_facefusion.evaluation.comparison.outputs import OutputDifference
from trt_facefusion.evaluation.comparison.settings import DiffSettings


@dataclass(frozen=True)
class Check:
    """One tolerance: its limit, and the figure that is held to it (None: nothing finite was there)."""

    name: str
    limit: float
    value: float | None

    @property
    def passed(self) -> bool:
        """Whether it was kept."""
        return self.value is not None and self.value <= self.limit


@dataclass(frozen=True)
class LayerErrors:
    """The comparison of all tensors that both graphs know, the worst first."""

    faces: int
    errors: tuple[LayerError, ...]
    reshaped: tuple[str, ...]


@dataclass(frozen=True)
class DiffResult:
    """Everything that was compared; ``picture`` is None where no output is a picture."""

    a: dict[str, Any]
    b: dict[str, Any]
    faces: int
    batch: int
    outputs: tuple[OutputDifference, ...]
    picture: Accuracy | None
    picture_output: str | None
    layers: LayerErrors | None
    checks: tuple[Check, ...]
    saved: Path | None
    file: AgainstFile | None = None
    """Both sides against the file that A (else B) was built from; None where no manifest names one that is there."""

    @property
    def passed(self) -> bool:
        """Whether every tolerance was kept."""
        return all(check.passed for check in self.checks)

    def as_dict(self) -> dict[str, Any]:
        """The result as ``--json`` prints it."""
        picture = None if self.picture is None else {"output": self.picture_output, **self.picture.as_dict()}
        return {
            "schema": 1,
            "a": self.a,
            "b": self.b,
            "faces": self.faces,
            "batch": self.batch,
            "outputs": [output.as_dict() for output in self.outputs],
            "picture": picture,
            "against_file": None if self.file is None else self.file.as_dict(),
            "layers": None if self.layers is None else asdict(self.layers),
            "checks": [{**asdict(check), "passed": check.passed} for check in self.checks],
            "passed": self.passed,
            "saved": None if self.saved is None else str(self.saved),
        }


def check_tolerances(
    settings: DiffSettings, outputs: tuple[OutputDifference, ...], picture: Accuracy | None
) -> tuple[Check, ...]:
    """Hold the figures of the picture and of every output to the tolerances that ``settings`` name."""
    checks = []
    if settings.max_ssim_drop is not None and picture is not None:
        checks.append(Check("--max-ssim-drop", settings.max_ssim_drop, picture.ssim_drop))
    if settings.atol is not None:
        for output in outputs:
            largest = None if output.nonfinite else output.max_abs
            checks.append(Check(f"--atol of {output.name}", settings.atol, largest))
    return tuple(checks)
