"""Qualcomm's chips whose neural processor engines are compiled for, by the numbers that its compiler knows them under.

Source of every row: Qualcomm's own table in ExecuTorch (`backends/qualcomm/serialization/qc_schema.py`, Qualcomm
Innovation Center, Inc.), which says the SoC model and the architecture of the Hexagon Tensor Processor (HTP) of each.
Only processors from v73 on are here: they compute FP16 beside integers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_SOC = Path("/sys/devices/soc0/machine")
"""Where Linux and Android say which chip of Qualcomm's this is."""


@dataclass(frozen=True)
class Chip:
    """A chip: the target's name, Qualcomm's SoC model, the HTP's architecture (73 is v73), and what it is sold as."""

    target: str
    soc_model: int
    htp_arch: int
    product: str


CHIPS = (
    Chip("sm8550", 43, 73, "Snapdragon 8 Gen 2"),
    Chip("sm8650", 57, 75, "Snapdragon 8 Gen 3"),
    Chip("sm8750", 69, 79, "Snapdragon 8 Elite"),
    Chip("sm8850", 87, 81, "Snapdragon 8 Elite Gen 5"),
)


def find_chip(target: str) -> Chip | None:
    """The chip of a target like ``sm8550``; None where nothing is known of it."""
    return next((chip for chip in CHIPS if chip.target == target), None)


def name_own_chip(path: Path = _SOC) -> str | None:
    """The target of the chip that this machine has, like ``sm8550``; None where it is none of Qualcomm's."""
    try:
        return path.read_text(encoding="ascii").strip().lower() or None
    except (OSError, UnicodeDecodeError):
        return None
