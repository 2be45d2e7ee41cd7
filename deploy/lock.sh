#!/usr/bin/env bash
# Resolves requirements/cpu.in and cpu-dev.in into the pinned cpu.txt and cpu-dev.txt, for Linux/x86_64 and Python 3.11.
# `deploy/lock.sh --upgrade` takes the newest versions that the .in files allow; without it, pins move only as they must.
# cpu-dev is resolved first and constrains cpu, so cpu.txt is always a subset of cpu-dev.txt.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly torch_index=https://download.pytorch.org/whl/cpu

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

"${PYTHON:-python3}" -m venv "$scratch/venv"
"$scratch/venv/bin/python" -m pip --disable-pip-version-check install --quiet uv==0.13.9
# uv does not read pip's own settings: a folder of wheels that pip is told of is told to uv as well.
export UV_FIND_LINKS=${UV_FIND_LINKS:-${PIP_FIND_LINKS:-}}

resolve() {
    local set=$1
    shift
    printf 'lock: requirements/%s.txt\n' "$set"
    "$scratch/venv/bin/uv" pip compile "requirements/$set.in" --output-file "requirements/$set.txt" --quiet \
        --override requirements/overrides.txt --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
        --no-header --no-annotate "$@"
}

resolve_with_or_without_torch_index() {
    resolve "$@" 2>"$scratch/reason" ||
        resolve "$@" --extra-index-url "$torch_index" --index-strategy unsafe-best-match ||
        { cat "$scratch/reason" >&2 && exit 1; }
}

resolve_with_or_without_torch_index cpu-dev "$@"
resolve_with_or_without_torch_index cpu --constraint requirements/cpu-dev.txt
