#!/usr/bin/env bash
# Installs Podman and makes it run containers on this machine, for the tests of
# `runtime: podman`.  Prints the path of a containers.conf for CONTAINERS_CONF:
# Podman's own limits are higher than a machine without privileges may set.
#
# Exit status: 0 it runs; 3 cannot be had on this machine (one line says why).
set -euo pipefail
PROGRAM=podman
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/setup/lib.sh
. "$here/lib.sh"

cache=${XDG_CACHE_HOME:-$HOME/.cache}/hpcvlm/podman
image=localhost/hpcvlm-empty:1

apt_install podman runc busybox-static
mkdir -p "$cache"
conf=$cache/containers.conf
files=$(ulimit -Hn)
cat >"$conf" <<EOT
[containers]
default_ulimits = ["nofile=$files:$files", "nproc=1024:1024"]
[engine]
runtime = "runc"
EOT
export CONTAINERS_CONF=$conf

# An image without anything in it: what a test needs is bound into it.
if ! podman image inspect "$image" >/dev/null 2>&1; then
    root=$(mktemp -d)
    trap 'rm -rf "$root"' EXIT
    mkdir -p "$root"/{bin,lib,lib64,usr,tmp,etc,dev,proc,sys}
    cp "$(command -v busybox)" "$root/bin/busybox"
    tar -C "$root" -c . | podman import - "$image" >/dev/null 2>&1 ||
        cannot "podman could not make an image"
fi
said=$(podman run --rm --network host "$image" /bin/busybox echo alive 2>&1) ||
    cannot "podman runs no container here: ${said##*$'\n'}"
[ "$said" = alive ] || cannot "podman runs no container here: ${said##*$'\n'}"
printf '%s\n' "$conf"
