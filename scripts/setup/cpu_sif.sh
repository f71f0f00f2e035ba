#!/usr/bin/env bash
# Builds the .sif in which the CPU build of vLLM runs in tests (containers/cpu-test.def).
#
#   cpu_sif.sh [OUT.sif]     default: ${XDG_CACHE_HOME:-~/.cache}/hpcvlm/vllm-cpu-test.sif
#
# A second run only checks it. Messages go to stderr; the last line of stdout is the path.
# Exit status: 0 it is there; 1 went wrong; 3 there is no Apptainer.
set -euo pipefail
PROGRAM=cpu_sif
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/setup/lib.sh
. "$here/lib.sh"

definition=$here/../../containers/cpu-test.def
out=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/hpcvlm/vllm-cpu-test.sif}
command -v apptainer >/dev/null || cannot "there is no apptainer command; run apptainer.sh first"

mkdir -p "$(dirname "$out")"
exec 9>"$out.lock"
flock 9
if ! cmp -s "$definition" "$out.def" || ! apptainer exec --bind /usr "$out" true 2>/dev/null; then
    say "building $out"
    log=$(mktemp)
    trap 'rm -f "$log" "$out.partial"' EXIT
    apptainer build --force "$out.partial" "$definition" >"$log" 2>&1 || {
        cat "$log" >&2
        fail "apptainer build failed"
    }
    mv "$out.partial" "$out"
    cp "$definition" "$out.def"
fi
printf '%s\n' "$out"
