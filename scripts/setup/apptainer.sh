#!/usr/bin/env bash
# Makes sure that a real Apptainer runs containers here, and prints its path.
#
# In this order: an apptainer or singularity of PATH that works; the package of
# the system's release; on Ubuntu the package archive of the Apptainer project;
# on Debian the package of a newer suite, unpacked under a private prefix with
# the C library that it needs, so that neither dpkg nor the system's own C
# library ever sees them.
#
#   APPTAINER_PREFIX  the private prefix          (/usr/local/lib/apptainer-prefix)
#   APPTAINER_BINDIR  where its commands are linked               (/usr/local/bin)
#   APPTAINER_SUITE   the Debian suite it is taken from                      (sid)
#   APPTAINER_DEBS    a folder kept between runs; when it already holds
#                     apptainer_*.deb and libc6_*.deb, no suite is asked
#
# Exit status: 0 works; 3 cannot be had on this machine (one line says why).
set -euo pipefail
PROGRAM=apptainer
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/setup/lib.sh
. "$here/lib.sh"

prefix=${APPTAINER_PREFIX:-/usr/local/lib/apptainer-prefix}
bindir=${APPTAINER_BINDIR:-/usr/local/bin}
suite=${APPTAINER_SUITE:-sid}
debs=${APPTAINER_DEBS:-}
export PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# works COMMAND: it builds an image and runs a program in it, as this user.
works() {
    rm -rf "$work/image.sif" "$work/tmp"
    mkdir -p "$work/tmp"
    cat >"$work/image.def" <<'DEF'
Bootstrap: scratch
%setup
    cd "$APPTAINER_ROOTFS"
    mkdir -p usr etc proc sys dev tmp var/tmp root home
    ln -sfn usr/bin bin; ln -sfn usr/sbin sbin; ln -sfn usr/lib lib; ln -sfn usr/lib64 lib64
    touch etc/passwd etc/group etc/hosts etc/resolv.conf etc/localtime
DEF
    {
        APPTAINER_TMPDIR=$work/tmp "$1" build "$work/image.sif" "$work/image.def" &&
            "$1" exec --bind /usr:/usr:ro "$work/image.sif" true
    } >"$work/try.log" 2>&1 </dev/null
}

done_with() {
    say "$("$1" --version): $1"
    printf '%s\n' "$1"
    exit 0
}

# --- is one there? -----------------------------------------------------------

for name in apptainer singularity "$prefix/bin/apptainer"; do
    if found=$(command -v "$name") && works "$found"; then
        done_with "$found"
    fi
done

# --- get one -------------------------------------------------------------------

command -v apt-get >/dev/null 2>&1 ||
    cannot "no working apptainer on PATH, and no apt-get to install one with"
need_root "installing Apptainer"

has_candidate() {
    LC_ALL=C apt-cache policy "$1" 2>/dev/null | grep -q '^  Candidate: [0-9]'
}

from_debian_suite() {
    local new=$work/new codename mirror key libdir loader file
    apt_install ca-certificates libseccomp2 libsqlite3-0 libcap2-bin squashfs-tools squashfuse \
        fuse-overlayfs e2fsprogs fuse2fs gocryptfs uidmap fakeroot patchelf
    debs=${debs:-$work/debs}
    mkdir -p "$debs"
    if ! ls "$debs"/apptainer_*.deb "$debs"/libc6_*.deb >/dev/null 2>&1; then
        # From the mirror that the system itself uses, with apt state of our own.
        # shellcheck disable=SC1091
        codename=$(. /etc/os-release && printf '%s' "${VERSION_CODENAME:-}")
        # shellcheck disable=SC2016
        mirror=$(apt-get indextargets --format '$(CODENAME) $(REPO_URI)' 'Created-By: Packages' |
            awk -v codename="$codename" '$1 == codename && !seen++ { print $2 }')
        [ -n "$mirror" ] || cannot "found no mirror for $codename in the apt sources"
        key=/usr/share/keyrings/debian-archive-keyring.gpg
        mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
        printf 'deb [signed-by=%s] %s %s main\n' "$key" "$mirror" "$suite" >"$work/sources.list"
        local apt=(apt-get -qq -o "Dir::Etc::SourceList=$work/sources.list"
            -o Dir::Etc::SourceParts=/dev/null -o "Dir::State::Lists=$work/lists"
            -o "Dir::Cache=$work/cache" -o Acquire::Languages=none
            -o APT::Sandbox::User=root)
        say "fetching apptainer and its C library from Debian $suite"
        { "${apt[@]}" update && (cd "$debs" && "${apt[@]}" download apptainer libc6); } \
            >"$work/fetch.log" 2>&1 || {
            tail -n 5 "$work/fetch.log" >&2
            cannot "apptainer could not be fetched from Debian $suite"
        }
    fi
    mkdir -p "$new"
    dpkg-deb -x "$(newest "$debs"/apptainer_*.deb)" "$work/apptainer"
    dpkg-deb -x "$(newest "$debs"/libc6_*.deb)" "$work/libc6"
    cp -a "$work/apptainer/usr/bin" "$work/apptainer/usr/lib" "$work/apptainer/etc" "$new/"
    libdir=$(basename "$new"/lib/*-linux-gnu*)
    mkdir -p "$new/libc" "$new/var/lib/apptainer/mnt/session"
    cp -a "$work/libc6/usr/lib/$libdir"/*.so* "$new/libc/"
    # Outside of /usr, Apptainer takes its prefix from where its starter lies:
    # Debian's lies two folders deep, so that would be PREFIX/lib.
    ln -s ../etc ../var ../bin "$new/lib/"
    ln -s . "$new/lib/lib"
    ln -sfn apptainer "$new/bin/singularity"
    ln -sfn run-singularity.apptainer "$new/bin/run-singularity"
    # An RPATH, not a RUNPATH: Apptainer runs itself with an LD_LIBRARY_PATH of
    # the system's libraries, which only the former precedes.
    loader=$(basename "$new"/libc/ld-linux*.so.*)
    for file in "$new/bin/apptainer" "$new/lib/$libdir/apptainer/bin/"*; do
        patchelf --set-interpreter "$prefix/libc/$loader" --force-rpath \
            --set-rpath "$prefix/libc" "$file"
    done
    "${AS_ROOT[@]}" mkdir -p "$(dirname "$prefix")" "$bindir"
    "${AS_ROOT[@]}" rm -rf "$prefix" "$prefix.new"
    "${AS_ROOT[@]}" cp -a --no-preserve=ownership "$new" "$prefix.new"
    "${AS_ROOT[@]}" mv "$prefix.new" "$prefix"
    for file in apptainer singularity run-singularity; do
        "${AS_ROOT[@]}" ln -sfn "$prefix/bin/$file" "$bindir/$file"
    done
}

newest() {
    printf '%s\n' "$@" | sort -V | tail -n 1
}

# What a container host lacks that Apptainer takes for granted.
configure_host() {
    local command=$1 etc=$2 held last full file
    # A root without all capabilities cannot hand all of them on.
    # shellcheck disable=SC2016
    held=$("${AS_ROOT[@]}" awk '/^CapPrm/ { print $2 }' /proc/self/status)
    last=$(cat /proc/sys/kernel/cap_last_cap)
    full=$(printf '%016x' $(((1 << (last + 1)) - 1)))
    if [ "$held" != "$full" ]; then
        "${AS_ROOT[@]}" sed -i \
            's/^root default capabilities = .*/root default capabilities = file/' \
            "$etc/apptainer.conf"
        : | "${AS_ROOT[@]}" tee "$etc/capability.json" >/dev/null
        "${AS_ROOT[@]}" "$command" -s capability add --user root \
            "$(capsh --decode="$held" | sed 's/.*=//' | tr '[:lower:]' '[:upper:]')"
    fi
    # For `apptainer build --fakeroot` as root.
    for file in /etc/subuid /etc/subgid; do
        grep -qs '^root:' "$file" ||
            printf 'root:1000000000:65536\n' | "${AS_ROOT[@]}" tee -a "$file" >/dev/null
    done
    # As udev does where it runs: every user may mount through FUSE.
    if [ -c /dev/fuse ]; then
        "${AS_ROOT[@]}" chmod 0666 /dev/fuse
    fi
}

if [ -x "$prefix/bin/apptainer" ]; then
    # It was there but did not work: put the host right (a device node keeps its
    # mode until the next boot), and if that does not help, install it anew.
    configure_host "$prefix/bin/apptainer" "$prefix/etc/apptainer"
    if works "$prefix/bin/apptainer"; then
        done_with "$prefix/bin/apptainer"
    fi
fi
distribution=$(
    # shellcheck disable=SC1091
    . /etc/os-release 2>/dev/null && printf '%s' "${ID:-}"
)
if has_candidate apptainer || { [ "$distribution" = ubuntu ] && {
    apt_install software-properties-common
    "${AS_ROOT[@]}" add-apt-repository -y ppa:apptainer/ppa >"$work/ppa.log" 2>&1 ||
        cannot "the package archive ppa:apptainer/ppa could not be added: $(tail -n 1 "$work/ppa.log")"
    has_candidate apptainer
}; }; then
    apt_install apptainer libcap2-bin squashfuse fuse-overlayfs uidmap
    command=$(command -v apptainer) || cannot "the package apptainer brought no command"
    configure_host "$command" /etc/apptainer
elif [ "$distribution" = debian ]; then
    from_debian_suite
    command=$prefix/bin/apptainer
    configure_host "$command" "$prefix/etc/apptainer"
else
    cannot "no package apptainer for $distribution; see https://apptainer.org/docs/admin/latest/installation.html"
fi
works "$command" ||
    cannot "$command is installed but runs no container here: $(tail -n 1 "$work/try.log")"
done_with "$command"
