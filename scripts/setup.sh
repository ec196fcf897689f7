#!/usr/bin/env bash
# Makes .venv with this project and the extras named as arguments; does nothing when that was done already.
#   scripts/setup.sh torch rtx openvino qnn metrics video provenance serve triton dev
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=""
for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11 python3.10; do
    if [ -n "$candidate" ] && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    echo "error: no Python 3.10 or later was found. Install one (apt-get install python3 python3-venv), or set PYTHON." >&2
    exit 1
fi

extras=$(printf '%s\n' "$@" | sort | paste -sd, -)
stamp=".venv/.ready-$(cat pyproject.toml constraints.txt <(echo "$extras $("$python" --version)") | sha256sum | cut -c1-16)"
if [ -e "$stamp" ]; then
    exit 0
fi

if [ ! -x .venv/bin/python ]; then
    if ! "$python" -c 'import ensurepip' 2>/dev/null; then
        # Debian and Ubuntu ship venv apart.
        if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
            apt-get update -qq && apt-get install -y -qq python3-venv >/dev/null
        else
            echo "error: this Python cannot make virtual environments. Run: sudo apt-get install python3-venv" >&2
            exit 1
        fi
    fi
    "$python" -m venv .venv
fi
echo "installing into .venv (once; torch is the largest part) ..." >&2
.venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$extras]"
touch "$stamp"
