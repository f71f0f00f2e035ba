#!/usr/bin/env bash
# Makes a folder with another version of Slurm, for slurm_cluster.sh: a small
# Debian of the suite that carries that version, with the daemons, the commands,
# munge and MariaDB.  Nothing of it is mixed into this machine's packages.
#
#   slurm_root.sh VERSION [DIR]                make it, or find it complete; print its path
#   slurm_root.sh --print-path VERSION [DIR]   print its path; exit status 1 if it is not there
#
#   VERSION   24.11 (Debian 13, trixie) or 26.05 (Debian 14, forky)
#   DIR       the path   (${XDG_CACHE_HOME:-~/.cache}/hpcvlm/slurm-VERSION)
#
# The packages come from the mirror of this machine's own apt sources.
# About 150 MB to fetch, 0.6 GB on disk, one to two minutes.  Needs root.
# Messages go to stderr; the last line of stdout is the path.
#
# Exit status: 0 it is there; 1 went wrong; 2 usage; 3 cannot be had on this
# machine (one line says why).
set -euo pipefail
PROGRAM=slurm_root
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/setup/lib.sh
. "$here/lib.sh"

readonly NEED_MB=2000
readonly DEFAULT_MIRROR=http://deb.debian.org/debian
# python3 and curl are for the jobs, which run inside.
readonly PACKAGES=(slurmctld slurmd slurm-client slurmdbd munge mariadb-server python3 curl)
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

usage() {
    printf 'usage: %s [--print-path] 24.11|26.05 [DIR]\n' "${0##*/}" >&2
    exit 2
}

print_path=
if [ "${1-}" = --print-path ]; then
    print_path=1
    shift
fi
[ $# -eq 1 ] || [ $# -eq 2 ] || usage
version=$1
case $version in
24.11) suite=trixie ;;
26.05) suite=forky ;;
*) usage ;;
esac
dir=$(realpath -m -- "${2:-${XDG_CACHE_HOME:-$HOME/.cache}/hpcvlm/slurm-$version}")
# Inside the folder, so that a process in it can tell where it is.
stamp_file=$dir/.hpcvlm-slurm-root
stamp="$version $suite ${PACKAGES[*]}"

# The stamp is written last, so an interrupted installation never has one.
complete() {
    [ "$(head -n 1 "$stamp_file" 2>/dev/null)" = "$stamp" ] && [ -x "$dir/usr/sbin/slurmctld" ]
}

if [ -n "$print_path" ]; then
    printf '%s\n' "$dir"
    complete
    exit
fi

found() {
    say "complete: $dir"
    printf '%s\n' "$dir"
    exit 0
}

if complete; then
    found
fi

# --- can it be had here? -------------------------------------------------------

[ "$(id -u)" -eq 0 ] || cannot "a root folder with another Slurm must be made by root"
unshare --mount true 2>/dev/null || cannot "this machine lets no process have mounts of its own (unshare --mount)"

mkdir -p "$(dirname "$dir")"
exec 9>"$dir.lock"
if ! flock -n 9; then
    say "another run makes it; waiting"
    flock 9
    if complete; then
        found
    fi
fi
apt_install debootstrap debian-archive-keyring

# The mirror of this machine's Debian, not that of its security updates.
mirror() {
    apt-get indextargets --format "\$(REPO_URI)" 'Created-By: Packages' 'Label: Debian' 2>/dev/null |
        grep -m 1 -E '^https?://' || printf '%s\n' "$DEFAULT_MIRROR"
}

# What apt reaches the mirror through, for programs that do not ask apt.
proxy_of_apt() {
    local proxy=
    eval "$(apt-config shell proxy Acquire::http::Proxy)"
    [ -z "$proxy" ] || [ "$proxy" = DIRECT ] || export http_proxy="$proxy"
}

# --- make it ---------------------------------------------------------------------

log=$(mktemp)
trap 'rm -f "$log"' EXIT

# quietly COMMAND...: its output is shown only if it fails.
quietly() {
    if "$@" >"$log" 2>&1 </dev/null 9>&-; then
        return 0
    fi
    grep -vE '^I: (Retrieving|Validating|Extracting|Unpacking|Configuring)' "$log" | tail -n 15 >&2
    return 1
}

# inside COMMAND...: in the new root, with mounts that end with the command.
inside() {
    # shellcheck disable=SC2016  # for the inner shell
    unshare --mount sh -c '
        mount --bind "$1" "$1" && mount -t proc proc "$1/proc" && mount --rbind /dev "$1/dev" &&
        shift && exec chroot "$@"' sh "$dir" "$dir" env \
        DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"
}

# A mirror may lag behind the date until which its lists call themselves current.
# They are signed all the same; and what is wanted is one version, not the newest.
readonly APT=(apt-get -qq -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-unsafe-io
    -o APT::Install-Recommends=false -o Acquire::Languages=none
    -o Acquire::Check-Valid-Until=false)

rm -f "$stamp_file"
if [ -e "$dir" ]; then
    [ -e "$dir/debootstrap" ] || [ -e "$dir/etc/debian_version" ] || [ -z "$(ls -A "$dir")" ] ||
        fail "$dir is there and is no root folder of Debian; move it or name another"
    say "removing an incomplete or an older root in $dir"
    rm -rf --one-file-system "$dir"
fi
free_mb=$(df -Pm "$(dirname "$dir")" | awk 'NR == 2 { print $4 }')
[ "$free_mb" -ge "$NEED_MB" ] ||
    fail "$(dirname "$dir") has $free_mb MB free; $NEED_MB MB are needed"
proxy_of_apt
mirror=$(mirror)

say "1/3 Debian $suite in $dir (one to two minutes, 0.6 GB)"
# An older debootstrap does not know the newest suites by name; all are made alike.
recipe=/usr/share/debootstrap/scripts/$suite
[ -e "$recipe" ] || recipe=/usr/share/debootstrap/scripts/sid
# Its mounts are in a name space of their own: none stays, whatever happens.
quietly unshare --mount env DEBIAN_FRONTEND=noninteractive \
    debootstrap --variant=minbase "$suite" "$dir" "$mirror" "$recipe" ||
    cannot "debootstrap could not make a Debian $suite from this machine's mirror"
printf '#!/bin/sh\nexit 101\n' >"$dir/usr/sbin/policy-rc.d"
chmod 755 "$dir/usr/sbin/policy-rc.d"
printf '%s\n' 'path-exclude=/usr/share/doc/*' 'path-exclude=/usr/share/man/*' \
    'path-exclude=/usr/share/locale/*' >"$dir/etc/dpkg/dpkg.cfg.d/small"
cp -L /etc/resolv.conf "$dir/etc/resolv.conf" 2>/dev/null || true
touch "$dir/etc/hosts" "$dir/etc/resolv.conf"

say "2/3 Slurm $version"
quietly inside "${APT[@]}" update || cannot "the package lists of Debian $suite could not be read"
candidate=$(inside apt-cache show --no-all-versions slurmctld 2>/dev/null | sed -n 's/^Version: //p')
case $candidate in
"$version".*) ;;
*) cannot "Debian $suite has Slurm ${candidate:-none} now, not $version" ;;
esac
quietly inside "${APT[@]}" install "${PACKAGES[@]}" ||
    cannot "the packages of Slurm $candidate could not be installed in $dir"
rm -rf "$dir"/var/cache/apt/*.bin "$dir"/var/cache/apt/archives/*.deb "$dir"/var/lib/apt/lists/*

say "3/3 checking"
[ "$(inside slurmctld -V)" = "slurm-wlm ${candidate%-*}" ] ||
    fail "slurmctld of $dir says $(inside slurmctld -V 2>&1), not slurm-wlm ${candidate%-*}"
printf '%s\nSlurm %s\n' "$stamp" "$candidate" >"$stamp_file"
found
