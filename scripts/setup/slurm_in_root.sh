#!/bin/sh
# One program of a folder of slurm_root.sh, run inside that folder.  slurm_cluster.sh
# copies this file to DIR/bin under the name of each program, beside a link ".root"
# to the folder; it is not run under its own name.
#
# The program sees this machine's files at their own paths, but /usr, /etc, /var and
# /run (except /var/tmp) are those of the folder.  The mounts are the process's own
# and end with it, so there is nothing to unmount.
set -eu

if [ "${1-}" != --mounted ]; then
    bin=$(dirname "$0")
    program=${0##*/}
    if [ -e /.hpcvlm-slurm-root ]; then
        # A job calls it, which is inside already.
        for folder in /usr/bin /usr/sbin; do
            [ ! -x "$folder/$program" ] || exec "$folder/$program" "$@"
        done
    fi
    exec unshare --mount "$0" --mounted "$(realpath "$bin/.root")" "$program" "$@"
fi

root=$2
program=$3
shift 3
mount --bind "$root" "$root"
for folder in /* /var/tmp; do
    case $folder in
    /bin | /boot | /etc | /lib* | /lost+found | /run | /sbin | /usr | /var) continue ;;
    esac
    if [ ! -d "$folder" ] || [ -L "$folder" ]; then
        continue
    fi
    [ -d "$root$folder" ] || mkdir -p "$root$folder"
    mount --rbind "$folder" "$root$folder"
done
# The names of nodes must mean the same on both sides.
mount --bind /etc/hosts "$root/etc/hosts"
# chroot goes to /; what is asked for by a relative path is not there.  bash can run
# a program under its bare name, which the program's messages then begin with.
# shellcheck disable=SC2016  # for the inner shell
exec chroot "$root" /bin/bash -c '
    program=$1 here=$2
    shift 2
    cd "$here" 2>/dev/null || cd /
    for folder in /usr/bin /usr/sbin; do
        [ ! -x "$folder/$program" ] || exec -a "$program" "$folder/$program" "$@"
    done
    echo "$program is not in the folder of slurm_root.sh" >&2
    exit 127' bash "$program" "$PWD" "$@"
