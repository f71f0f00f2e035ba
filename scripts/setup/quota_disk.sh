#!/usr/bin/env bash
# A small file system with a quota that holds for everybody, root too, for tests.
#
#   quota_disk.sh up DIR      mount it on the new folder DIR; 4 MB may be used
#   quota_disk.sh down DIR    unmount it and remove all of it
#
# It is a Btrfs in the file DIR.img, whose quota groups give "Disk quota
# exceeded" (EDQUOT) as the quotas of a centre's file system do.
#
# Needs root, and a kernel with Btrfs and loop devices.
# Exit status: 0 done; 1 went wrong; 2 usage; 3 cannot be had on this machine.
set -euo pipefail
PROGRAM=quota_disk
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/setup/lib.sh
. "$here/lib.sh"
PATH=$PATH:/usr/sbin:/sbin

LIMIT=4M

usage() {
    printf 'usage: %s up|down DIR\n' "${0##*/}" >&2
    exit 2
}

up() {
    [ "$(id -u)" -eq 0 ] || cannot "a file system must be mounted by root"
    command -v mkfs.btrfs >/dev/null || apt_install btrfs-progs
    grep -qw btrfs /proc/filesystems || modprobe btrfs 2>/dev/null ||
        cannot "this kernel has no Btrfs, and so no quotas for everybody"
    mkdir "$dir"
    # mkfs.btrfs asks for 109 MB; the file has holes where nothing is written.
    truncate -s 160M "$dir.img"
    mkfs.btrfs -q "$dir.img" 2>/dev/null || fail "mkfs.btrfs $dir.img failed"
    mount -o loop "$dir.img" "$dir" || cannot "this machine mounts no file (mount -o loop)"
    btrfs quota enable "$dir"
    btrfs qgroup limit "$LIMIT" "$dir"
}

down() {
    umount "$dir" 2>/dev/null || umount --lazy "$dir"
    rm -f "$dir.img"
    rmdir "$dir"
}

[ $# -eq 2 ] || usage
dir=$(realpath -m -- "$2")
case $1 in
up) up ;;
down) down ;;
*) usage ;;
esac
