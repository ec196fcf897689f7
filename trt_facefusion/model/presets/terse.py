"""Descriptions that do not mention what was added to them later and is not used.

Keys of engines and calibrations are made from these texts: they stay what they were.
"""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any, ClassVar


class Terse:
    """Base of dataclasses (``repr=False``) that leave fields of ``ADDED`` out while they have their default."""

    ADDED: ClassVar[frozenset[str]] = frozenset()

    def list_fields(self) -> dict[str, Any]:
        """Name -> value of every field that is said; those that say nothing of what is fed (``repr=False``) are not."""
        values = {}
        for field in fields(self):  # type: ignore[arg-type]
            setting = getattr(self, field.name)
            default = field.default if field.default is not MISSING else None
            if field.repr and (field.name not in self.ADDED or setting != default):
                values[field.name] = setting
        return values

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={setting!r}" for name, setting in self.list_fields().items())
        return f"{type(self).__name__}({settings})"
