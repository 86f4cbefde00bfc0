#!/usr/bin/env bash
# ./run.sh [FLAGS...]          run the main job, experiments.digits_search, e.g. ./run.sh --macs=0.1
# ./run.sh test                lint, check types and run all tests
# ./run.sh test ARGS...        run pytest alone with these arguments
# ./run.sh MODULE ARGS...      run a module, e.g. ./run.sh experiments.llama_prune --macs=0.3
#
# The first call makes .venv and installs into it, with uv where that is installed (seconds), else with venv and pip
# (minutes); later calls install nothing until pyproject.toml changes.
#   PYTHON     the interpreter to use (default: the first suitable one of python3, python3.13, ...)
#   DMS_VENV   the environment's folder (default: .venv beside this file)
#   DMS_UV     the uv to use (default: the one on the path); empty: venv and pip
set -euo pipefail

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
venv=${DMS_VENV:-$root/.venv}
case $venv in /*) ;; *) venv=$PWD/$venv ;; esac
python=$venv/bin/python

fail() {
    printf 'run.sh: %s\n' "$*" >&2
    exit 2
}

# A name on the path may be a shim that leads nowhere, so it has to run.
uv=${DMS_UV-uv}
if [[ -z $uv ]] || ! "$uv" --version >/dev/null 2>&1; then
    [[ -z ${DMS_UV:-} ]] || fail "DMS_UV=$DMS_UV does not run; set it to the path of uv, or leave it empty for venv and pip"
    uv=
fi
if [[ -n $uv ]]; then needed=sys with=; else needed='ensurepip, sys, venv' with=' with venv and pip'; fi

suitable() {
    "$1" -c "import $needed; sys.exit(sys.version_info < (3, 11))" >/dev/null 2>&1
}

minor_version() {
    "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null
}

find_python() {
    local candidate
    if [[ -n ${PYTHON:-} ]]; then
        suitable "$PYTHON" || fail "PYTHON=$PYTHON is not a Python >= 3.11$with; set PYTHON to one that is"
        printf '%s\n' "$PYTHON"
        return
    fi
    for candidate in python3 python3.13 python3.12 python3.11 python; do
        if suitable "$candidate"; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    fail "no Python >= 3.11$with found; install one, or set PYTHON to its path"
}

usable_venv() {
    "$python" -m pip --version >/dev/null 2>&1 || return 1
    [[ -z ${PYTHON:-} ]] || [[ $(minor_version "$PYTHON") == "$(minor_version "$python")" ]]
}

# uv reads no settings of pip: those that it has none of its own for are handed on, a mirror, say, or a certificate.
hand_on() {
    local name=$1 of_pip=$2 between=${3:- } variable value
    variable=PIP_$(tr 'a-z-' 'A-Z_' <<<"$of_pip")
    [[ -z ${!name:-} ]] || return 0
    value=${!variable:-$("$base" -m pip config get "global.$of_pip" 2>/dev/null)} || return 0
    [[ -z $value ]] || export "$name=$(xargs -n 1 <<<"$value" | paste -s -d "$between" -)"
}

run_uv() {
    (
        base=$(find_python)
        hand_on UV_DEFAULT_INDEX index-url
        hand_on UV_INDEX extra-index-url
        hand_on UV_FIND_LINKS find-links ,
        hand_on UV_CONSTRAINT constraint
        hand_on SSL_CERT_FILE cert
        # pip takes the newest of all indices
        export UV_INDEX_STRATEGY=${UV_INDEX_STRATEGY:-unsafe-best-match}
        "$uv" --quiet "$@"
    )
}

# Build the environment anew unless it works. A folder that never was one is not ours to clear.
make_venv() {
    local base
    base=$(find_python)
    if [[ -e $venv && ! -e $venv/pyvenv.cfg && ! -e $venv/bin/python && -n $(ls -A -- "$venv") ]]; then
        fail "$venv holds something else than a virtual environment; move it away, or set DMS_VENV"
    fi
    printf 'run.sh: making %s with Python %s%s\n' "$venv" "$(minor_version "$base")" "${uv:+ and uv}" >&2
    if [[ -z $uv ]]; then
        "$base" -m venv --clear -- "$venv"
    else
        # --seed: pip, as venv has it, for whoever adds something later
        UV_VENV_CLEAR=1 run_uv venv --seed --python "$base" -- "$venv"
    fi
}

# Install what is given, as pip takes it.
add() {
    if [[ -z $uv ]]; then
        PIP_DISABLE_PIP_VERSION_CHECK=1 "$python" -m pip install --quiet "$@"
    else
        run_uv pip install --python "$python" "$@"
    fi
}

gpu_visible() {
    command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L 2>/dev/null | grep -q '^GPU '
}

# What an installation depends on: its content changes when one of these does.
stamp_text() {
    "$python" - "$root" "$1" <<'EOF'
import hashlib, pathlib, sys
root, extras = sys.argv[1:]
digest = hashlib.sha256(pathlib.Path(root, "pyproject.toml").read_bytes()).hexdigest()
print(f"{root} {extras} python {sys.version.split()[0]} pyproject {digest}")
EOF
}

# Have the package and these extras in the environment. Every set of extras has its own stamp: they add up.
install() {
    local extras=$1 stamp wanted
    if gpu_visible; then extras=$extras,cuda12; fi
    stamp=$venv/installed-${extras//,/-}
    wanted=$(stamp_text "$extras" 2>/dev/null) || wanted=
    if [[ -n $wanted && -f $stamp && $(<"$stamp") == "$wanted" && -z ${PYTHON:-} ]]; then return; fi
    usable_venv || make_venv
    wanted=$(stamp_text "$extras")
    if [[ -f $stamp && $(<"$stamp") == "$wanted" ]]; then return; fi
    printf 'run.sh: installing dms_jax[%s]; this takes some %s the first time\n' \
        "$extras" "$([[ -n $uv ]] && echo seconds || echo minutes)" >&2
    add --editable "${root}[$extras]"
    printf '%s\n' "$wanted" >"$stamp"
}

run_checks() {
    "$python" -m ruff check .
    "$python" -m ruff format --check .
    "$python" -m pyright --pythonpath "$python"
    exec "$python" -P -m pytest -n 2
}

run_tests() {
    cd -- "$root"
    # Two workers share the cores, so each keeps to few threads of its own.
    export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu} OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
    export XLA_FLAGS="${XLA_FLAGS:-} --xla_cpu_multi_thread_eigen=false"
    if (($#)); then exec "$python" -P -m pytest "$@"; fi
    run_checks
}

# -P keeps the caller's folder off the module path; relative paths in arguments still mean that folder.
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
if [[ ${1:-} == test ]]; then
    shift
    install test
    run_tests "$@"
fi
extras=data,hub,report,text
case ${1:-} in
    experiments.benchmarks*) extras=benchmarks,$extras ;;
    experiments.magika_prune) extras=magika,$extras ;;
esac
install "$extras"
if (($# == 0)) || [[ $1 == -* ]]; then set -- experiments.digits_search "$@"; fi
exec "$python" -P -m "$@"
