"""The files of `trt-ff plan`: the plan, what the search measured, and its chart."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from trt_facefusion.build.plan_only import PlanResult
from trt_facefusion.build.run_record import SEARCH
from trt_facefusion.errors import BadInputError
from trt_facefusion.report import charts
from trt_facefusion.storage.documents import DocumentError, decode, parse_json, read_bytes
from trt_facefusion.storage.files import write_atomic

CHART = "search.svg"


@dataclass(frozen=True)
class _LeftPlan:
    """Of the search's document, which plan stands beside it."""

    plan_sha256: str


def write_files(planned: PlanResult, output: Path) -> list[Path]:
    """Write the plan to ``output``, and search.json and search.svg beside it; gives all paths. Raises StoreError."""
    search = planned.search or {}
    chart = charts.make_standalone(charts.draw_pareto(search.get("points", []), search.get("objective", "")))
    text = planned.plan.dumps()
    search = {**search, **asdict(_LeftPlan(hashlib.sha256(text.encode()).hexdigest()))}
    files = {
        output: text,
        output.with_name(SEARCH): json.dumps(search, indent=1) + "\n",
        output.with_name(CHART): chart,
    }
    for path, text in files.items():
        write_atomic(path, text.encode())
    return list(files)


def require_unedited(output: Path) -> None:
    """Raise `BadInputError` if a file stands at ``output`` that this command did not leave there as it is."""
    if not output.exists():
        return
    with suppress(OSError, DocumentError):
        left = decode(_LeftPlan, parse_json(read_bytes(output.with_name(SEARCH))), "search", lenient=True)
        if left.plan_sha256 == hashlib.sha256(read_bytes(output)).hexdigest():
            return
    raise BadInputError(
        f"{output} exists, and is not as `trt-ff plan` left it: it may have been edited",
        "name another file with --output, or replace it with --force",
    )
