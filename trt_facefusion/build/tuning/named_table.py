"""The calibration table that a user named, in place of a calibration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from trt_facefusion.build.inputs import BuildInputs
from trt_facefusion.build.tuning.channels import pick_scaled_ranges
from trt_facefusion.errors import CalibrationCacheError
from trt_facefusion.model.graph import GraphView
from trt_facefusion.quantization.calibration.cache import load_named
from trt_facefusion.quantization.calibration.compare import assign_ranges
from trt_facefusion.quantization.calibration.table import CalibrationTable
from trt_facefusion.quantization.precision import plan_by_rules
from trt_facefusion.types import Precision

_SHOWN = 5


def require_int8(view: GraphView, amax: Mapping[str, float], path: Path) -> None:
    """Raise `CalibrationCacheError` if a table leaves no node to INT8: the engine would be one in name only."""
    readers = plan_by_rules(view, {}, "").names(Precision.INT8)
    if readers and not (amax and plan_by_rules(view, amax, "").names(Precision.INT8)):  # no range: rules ask for none
        tensor = view.nodes[readers[0]].input[0]
        raise CalibrationCacheError(
            f"{path} has no range for the tensor {tensor!r}, nor for any other that INT8 reads",
            "is it this model's cache? Calibrate the model by leaving --calib-cache out",
        )


def read_named_table(inputs: BuildInputs, path: Path) -> CalibrationTable:
    """The named table in this model's names; tensors without a range are told, and cost their readers INT8.

    Ranges behind scales of channels, if it has any, are kept under their own names.

    Raises:
        CalibrationCacheError: it is damaged, another model's, or leaves no node to INT8.
    """
    table = load_named(path, model_digest=inputs.view.digest)
    assigned = assign_ranges(table, inputs.view)
    require_int8(inputs.view, assigned.amax, path)
    if table.zeros:
        inputs.reporter.note(
            f"{path}: {len(table.zeros)} tensors were always zero, and have no range "
            f"({', '.join(table.zeros[:_SHOWN])}{' ...' if len(table.zeros) > _SHOWN else ''})"
        )
    if assigned.missing:
        inputs.reporter.warn(
            f"{path} has no range for {len(assigned.missing)} tensors ({', '.join(assigned.missing[:_SHOWN])}"
            f"{' ...' if len(assigned.missing) > _SHOWN else ''}): what reads them does not run in INT8"
        )
    return CalibrationTable({**assigned.amax, **pick_scaled_ranges(table, inputs.view)}, table.header)
