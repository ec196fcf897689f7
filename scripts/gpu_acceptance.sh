#!/usr/bin/env bash
# Everything that only a GPU can prove, in one go: installs TensorRT and pycuda, runs the GPU tests, builds FP32 and FP16,
# fits the model of time to their measured layers, then builds INT8, runs each engine against the FP32 network on faces,
# times it beside what was predicted, builds INT8 in several forms of its graph and keeps the fastest that is right in
# engines/ (KEEP=DIR), and writes all that to evidence.json.
# Needs NVIDIA's driver, and for pycuda a C++ compiler and the CUDA toolkit (nvcc on the PATH, or CUDA_ROOT).
#   scripts/gpu_acceptance.sh                                  TensorRT 10, the samples, the bundled generator
#   scripts/gpu_acceptance.sh 11 photos -- --onnx net.onnx --preset inswapper_128 --embedder w600k_r50.onnx
# TRT_FF_INSTALLED=1 takes what is installed in .venv as it is.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

tensorrt=10.16.1.11
if [ "${1:-}" = 11 ]; then tensorrt=11.4.0.106; fi
case "${1:-}" in 10 | 11) shift ;; esac
faces=samples/faces
if [ $# -gt 0 ] && [ "$1" != -- ]; then
    faces=$1
    shift
fi
output=${EVIDENCE:-evidence.json}
keep=${KEEP:-engines}
python=${PYTHON:-.venv/bin/python}

if [ -z "${TRT_FF_INSTALLED:-}" ]; then
    scripts/setup.sh torch dev
    cuda=$("$python" -c 'from trt_facefusion.doctor.driver import ask_driver; d = ask_driver(); print(d.cuda[0] if d.gpus else d.problem)')
    case "$cuda" in
        12 | 13 | 14) ;;
        *)
            echo "error: $cuda" >&2
            exit 4
            ;;
    esac
    if [ "$cuda" -gt 13 ]; then cuda=13; fi
    "$python" -m pip install --quiet -c constraints.txt "tensorrt-cu$cuda==$tensorrt" pycuda==2026.1 cuda-bindings polygraphy
fi

"$python" -m trt_facefusion.cli.main doctor || true
junit=$(mktemp --suffix=.xml)
trap 'rm -f "$junit"' EXIT
tests=0
TRT_FF_REQUIRE_GPU=1 "$python" -m pytest -m gpu tests/gpu -q -p no:cacheprovider --junitxml="$junit" || tests=$?
"$python" scripts/gpu_evidence.py --faces "$faces" --output "$output" --keep "$keep" --junit "$junit" "$@"
exit "$tests"
