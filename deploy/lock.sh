#!/usr/bin/env bash
# Resolves requirements/cpu.in and cpu-dev.in into the pinned cpu.txt and cpu-dev.txt, for Linux/x86_64 and Python 3.11,
# and fails where the pins are not those of Python 3.12, too.
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

# resolve SET PYTHON-VERSION FILE [OPTION...], with PyTorch's own index where torch's CPU build is in no other.
resolve() {
    local set=$1 version=$2 file=$3
    shift 3
    printf 'lock: requirements/%s.txt, Python %s\n' "$set" "$version"
    compile "$set" "$version" "$file" "$@" 2>"$scratch/reason" ||
        compile "$set" "$version" "$file" "$@" --extra-index-url "$torch_index" --index-strategy unsafe-best-match
}

compile() {
    local set=$1 version=$2 file=$3
    shift 3
    "$scratch/venv/bin/uv" pip compile "requirements/$set.in" --output-file "$file" --quiet \
        --override requirements/overrides.txt --python-version "$version" --python-platform x86_64-manylinux_2_28 \
        --no-header --no-annotate "$@"
}

fail() {
    cat "$scratch/reason" >&2
    exit 1
}

resolve cpu-dev 3.11 requirements/cpu-dev.txt "$@" || fail
resolve cpu 3.11 requirements/cpu.txt --constraint requirements/cpu-dev.txt || fail
cp requirements/cpu-dev.txt "$scratch/cpu-dev.txt"
if resolve cpu-dev 3.12 "$scratch/cpu-dev.txt" --constraint requirements/cpu-dev.txt; then
    diff requirements/cpu-dev.txt "$scratch/cpu-dev.txt" ||
        { echo "lock: Python 3.12 needs other pins than 3.11" >&2 && exit 1; }
else
    echo "lock: not compared with Python 3.12, which no index in reach has all wheels for:" >&2
    cat "$scratch/reason" >&2
fi
