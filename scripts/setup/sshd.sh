#!/usr/bin/env bash
# Finds or fetches OpenSSH's server, for the tests of `hpcvlm connect`, and makes sure that this
# machine lets them have networks of their own.  Prints the path of sshd.
#
# Nothing is installed: the package is unpacked into a folder of the cache, no service is started,
# and no file of this machine's own ssh is read or changed.
#
# Exit status: 0 it is there; 3 cannot be had on this machine (one line says why).
set -euo pipefail
PROGRAM=sshd
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/setup/lib.sh
. "$here/lib.sh"

cache=${XDG_CACHE_HOME:-$HOME/.cache}/hpcvlm/sshd
PATH=$PATH:/usr/sbin:/sbin

[ "$(id -u)" -eq 0 ] || cannot "a login node and a compute node of their own need root"
for tool in ip ss nsenter unshare ssh ssh-keygen; do
    command -v "$tool" >/dev/null || cannot "there is no $tool on this machine"
done
name=hpcvlm-try-$$
ip netns add "$name" 2>/dev/null || cannot "this machine lets nobody have network name spaces (ip netns add)"
trap 'ip netns del "$name" 2>/dev/null' EXIT
ip -n "$name" link add try0 type veth peer name try1 2>/dev/null ||
    cannot "this machine has no virtual network cards (ip link add type veth)"
unshare --mount true 2>/dev/null ||
    cannot "this machine lets no process have mounts of its own (unshare --mount)"

# runs SSHD: whether all its libraries are here.
runs() { [ -x "$1" ] && ! ldd "$1" 2>/dev/null | grep -q 'not found'; }

sshd=$(command -v sshd || true)
if [ -z "$sshd" ]; then
    sshd=$cache/usr/sbin/sshd
    if ! runs "$sshd"; then
        for tool in apt-get dpkg-deb; do
            command -v "$tool" >/dev/null || cannot "there is no sshd here, and no $tool to fetch it with"
        done
        work=$(mktemp -d)
        trap 'ip netns del "$name" 2>/dev/null; rm -rf "$work"' EXIT
        chmod 755 "$work" # for the user as whom apt fetches
        say "fetching openssh-server"
        fetch() { (cd "$work" && apt-get -qq download openssh-server) >"$work/log" 2>&1; }
        fetch || { apt-get -qq update >/dev/null 2>&1 && fetch; } ||
            cannot "apt-get could not fetch openssh-server: $(tail -n 1 "$work/log")"
        mkdir -p "$cache"
        dpkg-deb -x "$work"/openssh-server_*.deb "$cache"
        runs "$sshd" || cannot "libraries for sshd are missing: $(ldd "$sshd" | grep 'not found' | tr -s '\t\n' ' ')"
    fi
fi
printf '%s\n' "$sshd"
