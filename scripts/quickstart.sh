#!/usr/bin/env bash
# Sets everything up and builds a calibrated, verified INT8 engine of the bundled generator for an A10G (SM86).
# Further arguments go to `trt-ff build`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh torch rtx
exec .venv/bin/trt-ff build --int8 --fp16 --fp32 --calib samples/faces "$@"
