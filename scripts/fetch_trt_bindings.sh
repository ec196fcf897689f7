#!/usr/bin/env bash
# Fetches TensorRT's own Python bindings (2.6 MB, without the library behind them) and builds null stand-ins for that
# library, so that the tests can look every use of the API up in the real thing. Needs pip and a C compiler, no GPU.
# Usage: scripts/fetch_trt_bindings.sh [FOLDER]   (default: $TRT_FF_BINDINGS or ~/.cache/trt-facefusion/bindings)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=${1:-${TRT_FF_BINDINGS:-$HOME/.cache/trt-facefusion/bindings}}
python="$here/../.venv/bin/python"
[ -x "$python" ] || python=python3
mkdir -p "$folder"

stub() { # version, library, macro, build number
    gcc -O1 -fPIC -shared "-D$3" "-DNULL_BUILD_VERSION=$4" "-Wl,-soname,lib$2.so.$1" \
        -o "$folder/$1/lib$2.so.$1" "$here/../tests/contract/nvstub.c"
}

fetch() { # major version, package, version, build number
    local tag
    tag=$("$python" -c 'import sys; print("cp%d%d" % sys.version_info[:2])')
    if compgen -G "$folder/wheels/$2-$3-$tag-*.whl" >/dev/null && [ -d "$folder/$1/tensorrt_bindings" ]; then return; fi
    mkdir -p "$folder/$1" "$folder/wheels"
    "$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: -d "$folder/wheels" "$2==$3"
    stub "$1" nvinfer INFER "$4"
    stub "$1" nvinfer_plugin PLUGIN "$4"
    stub "$1" nvonnxparser PARSER "$4"
    "$python" -m zipfile -e "$folder/wheels/$2-$3-"*.whl "$folder/$1"
}

fetch 10 tensorrt_cu12_bindings 10.16.1.11 101601
fetch 11 tensorrt_cu13_bindings 11.4.0.106 110400
echo "$folder"
