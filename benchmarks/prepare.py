"""What preparing changes: graphs tried against onnxruntime running the file as it is, and the largest difference.

python benchmarks/prepare.py
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "tests"), str(Path(__file__).parents[1] / "tests" / "graph")]

from small_graphs import difference, trials  # noqa: E402


def main() -> None:
    """Print a line for each graph that differs, then the sums."""
    worst, count, operators = (0.0, "none"), Counter[int](), set[str]()
    for trial in trials():
        found = difference(trial)
        worst = max(worst, (found, str(trial)))
        count[trial.opset] += 1
        operators |= {node.op_type for node in trial.model.graph.node}
        if found > 1e-5:
            print(f"{trial}: {found:.2g}")
    print(f"{count.total()} graphs over {len(operators)} operators; largest difference {worst[0]:.2g} ({worst[1]})")
    print("graphs at each opset: " + ", ".join(f"{opset}: {number}" for opset, number in sorted(count.items())))


if __name__ == "__main__":
    main()
