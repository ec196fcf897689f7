"""Operators that change the layout of a tensor and none of its values."""

from __future__ import annotations

MOVING_OPERATORS = frozenset({"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity"})
"""Operators whose output holds the values of their first input and no others: both have the same histogram."""
