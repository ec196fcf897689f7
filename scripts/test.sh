#!/usr/bin/env bash
# Sets everything up, then lints, checks types and runs the tests. Further arguments go to pytest (`-m slow`, a file ...).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh torch rtx openvino qnn metrics video provenance serve triton dev
# Once: TensorRT's own bindings. Where they cannot be had, the tests that need them are skipped.
scripts/fetch_trt_bindings.sh >/dev/null || echo "warning: no TensorRT bindings; see above" >&2
.venv/bin/ruff check .
.venv/bin/ruff format --check --quiet .
.venv/bin/mypy
.venv/bin/hadolint Dockerfile.ngc
# Once: pycuda on an emulated CUDA driver. Where it cannot be built, the tests that need it are skipped.
.venv/bin/python scripts/build_pycuda.py >/dev/null || echo "warning: no emulated CUDA driver; see above" >&2
exec .venv/bin/python -m pytest -n auto --maxprocesses 4 "$@"
