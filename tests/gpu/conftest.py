"""Tests of the whole path on a GPU, with TensorRT itself. They skip, saying why, where something of it is missing.

``TRT_FF_REQUIRE_GPU=1`` makes that a failure. ``TRT_FF_EMULATED_GPU=1`` lets them run on the emulated driver and the
twin of TensorRT, which is how their own code is tested (tests/twin/test_acceptance.py).
"""

from __future__ import annotations

import importlib
import os
from typing import Any

import pytest
from twin.nets import Case

from trt_facefusion.doctor.driver import Gpu, ask_driver


def _missing(reason: str) -> None:
    if os.environ.get("TRT_FF_REQUIRE_GPU"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def gpu() -> Gpu:
    """The GPU that engines are built for."""
    driver = ask_driver()
    if not driver.gpus:
        _missing(f"no GPU: {driver.problem}")
    if driver.gpus[0].name.startswith("cuemu") and not os.environ.get("TRT_FF_EMULATED_GPU"):
        _missing("no GPU: the emulated one proves nothing here")
    for module, remedy in (("pycuda.driver", "pip install pycuda"), ("tensorrt", "pip install tensorrt")):
        try:
            importlib.import_module(module)
        except Exception as error:
            _missing(f"{module} cannot be imported: {error} ({remedy})")
    return driver.gpus[0]


@pytest.fixture(scope="session")
def trt(gpu: Gpu) -> Any:
    """TensorRT."""
    return importlib.import_module("tensorrt")


@pytest.fixture(scope="session")
def case() -> Case:
    """A small generator, calibrated and planned."""
    return Case()
