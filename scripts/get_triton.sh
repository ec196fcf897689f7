#!/usr/bin/env bash
# Makes .triton/ (or the folder named): a real Triton server with its python backend, from PyPI, and what the packaged
# models import, with NumPy 1. The tests of tests/triton_repository that need it are skipped without it. Takes a few minutes, once.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
place=${1:-.triton}
release=nvidia-pytriton==0.7.0
python=${PYTHON:-.venv/bin/python}
[ -x "$python" ] || python=python3

requirements=$(PYTHONPATH=. "$python" -c 'from trt_facefusion.triton.deploy import list_requirements; print("\n".join(list_requirements()))')
stamp="$place/.ready-$(printf '%s\n' "$release" "$requirements" | sha256sum | cut -c1-16)"
if [ -e "$stamp" ]; then
    exit 0
fi
if [ "$(uname -sm)" != "Linux x86_64" ]; then
    echo "no Triton: PyPI has it for Linux on x86_64 only" >&2
    exit 1
fi
"$python" -m venv "$place"
mapfile -t packages <<<"$requirements"
"$place/bin/python" -m pip install --quiet --disable-pip-version-check "${packages[@]}"
"$place/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps "$release" # its client is not needed

# The backend's process for this Python is not where Triton looks for it.
version=$("$place/bin/python" -c 'import sys; print(f"{sys.version_info[0]}.{sys.version_info[1]}")')
server=$(echo "$place"/lib/python*/site-packages/pytriton/tritonserver)
stub=$(cd "$server" && pwd)/python_backend_stubs/$version/triton_python_backend_stub
if [ ! -e "$stub" ]; then
    echo "no Triton: its python backend is not there for Python $version" >&2
    exit 1
fi
ln -sf "$stub" "$server/backends/python/triton_python_backend_stub"
rm -f "$place"/.ready-*
touch "$stamp"
