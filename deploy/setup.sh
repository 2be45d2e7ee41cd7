#!/usr/bin/env bash
# Makes .venv and installs a pinned requirement set, this project and its SDK. Run again, it does nothing.
#
#     deploy/setup.sh cpu         what serving needs            (requirements/cpu.txt)
#     deploy/setup.sh cpu-dev     serving, training and tests   (requirements/cpu-dev.txt)
#
# With --requirements-only as the second word the project itself is left out (images install it in a later layer).
# PYTHON names the interpreter, of Python 3.11 or 3.12; the default is the first there is of python3.11, python3.12,
# python3 and python. The pins are the same for both.
# A stamp in .venv is written last, so a set-up that was interrupted is not taken for a finished one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly allowed_pythons="3.11 or 3.12"
readonly torch_index=https://download.pytorch.org/whl/cpu
readonly venv=.venv
readonly installing=$venv/.installing
readonly log=$venv/setup.log

say() { printf 'setup: %s\n' "$*"; }
die() {
    printf 'setup: %s\n' "$*" >&2
    exit 1
}

python_version() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true; }

is_allowed() { [[ $1 == 3.11 || $1 == 3.12 ]]; }

find_python() {
    local name version
    if [[ -n ${PYTHON:-} ]]; then
        version=$(python_version "$PYTHON")
        is_allowed "$version" ||
            die "PYTHON=$PYTHON is ${version:-no Python that starts}; allowed is Python $allowed_pythons, which the" \
                "pinned requirements were resolved for."
        printf '%s\n' "$PYTHON"
        return
    fi
    for name in python3.11 python3.12 python3 python; do
        if is_allowed "$(python_version "$name")"; then
            printf '%s\n' "$name"
            return
        fi
    done
    die "no Python $allowed_pythons found, and the pinned requirements were resolved for these. Install one (Debian:" \
        "apt-get install python3.11 python3.11-venv) or name it: make PYTHON=/path/to/python3.12"
}

check_machine() {
    local python=$1 need_gib=$2 free_kib
    [[ $(uname -s)/$(uname -m) == Linux/x86_64 ]] ||
        die "this machine is $(uname -s)/$(uname -m); the pinned requirements are for Linux/x86_64."
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        die "$python has no venv module. Install it (Debian: apt-get install python3-venv, or python3.11-venv)."
    "$python" -c 'import ctypes; ctypes.CDLL("libnuma.so.1")' 2>/dev/null ||
        die "libnuma.so.1 is missing; vLLM on a CPU needs it. Install it (Debian: apt-get install libnuma1)."
    free_kib=$(df -Pk . | awk 'NR == 2 { print $4 }')
    ((free_kib >= need_gib * 1024 * 1024)) ||
        die "$(df -Ph . | awk 'NR == 2 { print $4 }') free in $PWD; the environment needs $need_gib GiB there." \
            "Free some space and run it again."
}

make_venv() {
    local python=$1
    if [[ -e $installing ]]; then
        say "an earlier set-up was interrupted while it installed; making $venv anew"
        rm -rf "$venv"
    elif [[ -e $venv ]] && ! "$venv/bin/python" -c 'import pip' 2>/dev/null; then
        say "$venv has no working Python with pip; making it anew"
        rm -rf "$venv"
    elif [[ -e $venv && $(python_version "$venv/bin/python") != "$(python_version "$python")" ]]; then
        say "$venv is not of Python $(python_version "$python"); making it anew"
        rm -rf "$venv"
    fi
    [[ -e $venv ]] || "$python" -m venv "$venv"
}

# Runs pip so that a signal ends it at once; the mark then stays and the next set-up starts afresh.
# A pip that fails by itself puts back what it had begun, so then the mark goes.
run_pip() {
    local pid status=0
    : >"$installing"
    "$venv/bin/python" -m pip --disable-pip-version-check install --no-deps --progress-bar on --log "$log" "$@" &
    pid=$!
    trap 'kill -TERM "$pid" 2>/dev/null; wait "$pid" 2>/dev/null; exit 130' INT TERM HUP
    wait "$pid" || status=$?
    trap - INT TERM HUP
    rm -f "$installing"
    return "$status"
}

install_requirements() {
    local file=$1
    say "installing $file into $venv (some minutes the first time)"
    rm -f "$log"
    run_pip --requirement "$file" && return
    grep -q 'No matching distribution found for torch==' "$log" ||
        die "pip could not install $file; its reason stands above, all of it in $log. Run it again to resume."
    say "torch's CPU build is not in the configured package index; trying PyTorch's own"
    run_pip --requirement "$file" --extra-index-url "$torch_index" ||
        die "pip could not install $file with $torch_index either; all of its words are in $log."
}

digest() { cat "$@" | sha256sum | cut -c1-16; }

# Console scripts carry the path of this folder: one that was moved or copied is installed again.
project_digest() { { cat pyproject.toml client/pyproject.toml && pwd; } | digest; }

# cpu.txt is a subset of cpu-dev.txt, so an environment that holds the second holds the first.
is_installed() { [[ ! -e $installing && (-e $stamp || -e $covering_stamp) ]] && is_of_named_python; }

is_of_named_python() {
    [[ -z ${PYTHON:-} || $(python_version "$PYTHON") == "$(python_version "$venv/bin/python")" ]]
}

ensure_requirements() {
    local set=$1 need_gib=$2 python
    is_installed && return
    python=$(find_python)
    check_machine "$python" "$need_gib"
    make_venv "$python"
    rm -f "$venv"/.installed-*
    install_requirements "requirements/$set.txt"
    : >"$stamp"
}

ensure_project() {
    local stamp
    stamp=$venv/.project-$(project_digest)
    [[ ! -e $installing && -e $stamp ]] && return
    rm -f "$venv"/.project-*
    run_pip --quiet --no-build-isolation --editable . --editable client ||
        die "pip could not install this project itself; its reason stands above, all of it in $log."
    : >"$stamp"
    say "$venv is ready"
}

main() {
    local set=${1:-} part=${2:-} need_gib
    case $set in
        cpu) need_gib=5 ;;
        cpu-dev) need_gib=6 ;;
        *) die "got '$set', allowed is cpu or cpu-dev" ;;
    esac
    case $part in
        '' | --requirements-only) ;;
        *) die "got '$part', allowed is --requirements-only or nothing" ;;
    esac
    stamp=$venv/.installed-$set-$(digest "requirements/$set.txt")
    covering_stamp=$venv/.installed-cpu-dev-$(digest requirements/cpu-dev.txt)

    exec 9<deploy/setup.sh
    flock -n 9 || { say "another set-up is running here; waiting for it" && flock 9; }
    ensure_requirements "$set" "$need_gib"
    [[ -n $part ]] || ensure_project
}

main "$@"
