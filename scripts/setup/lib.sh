# shellcheck shell=bash
# Shared by the scripts of this folder (sourced, never run).

# The name a script says before each of its messages; each script sets its own.
: "${PROGRAM:=setup}"

say() { printf '%s: %s\n' "$PROGRAM" "$*" >&2; }

# fail MESSAGE: something went wrong.
fail() {
    say "error: $*"
    exit 1
}

# cannot MESSAGE: this part cannot be had on this machine.  Exit status 3 tells
# the caller to go on without it; the message is the one line of reason.
cannot() {
    say "cannot: $*"
    exit 3
}

# need_root WHAT: sets AS_ROOT to the words that run a command as root; none when
# we are root.  Ends with "cannot WHAT ..." when there is no way.
need_root() {
    if [ "$(id -u)" -eq 0 ]; then
        AS_ROOT=()
    elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
        # -n: never ask for a password.
        AS_ROOT=(sudo -n)
    else
        cannot "$1 needs root or a sudo that asks for no password"
    fi
}

installed() {
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

# Installs Debian packages that are not there yet, without starting a service.
# Reads the package lists anew only when the packages are not found in them.
apt_install() {
    local missing=() package
    for package in "$@"; do
        installed "$package" || missing+=("$package")
    done
    if [ "${#missing[@]}" -eq 0 ]; then
        return 0
    fi
    command -v apt-get >/dev/null 2>&1 ||
        cannot "no apt-get here, and these packages are missing: ${missing[*]}"
    need_root "installing packages"
    say "installing ${missing[*]}"
    local log
    log=$(mktemp)
    if ! _apt_install_without_services "$log" "${missing[@]}"; then
        tail -n 20 "$log" >&2
        rm -f "$log"
        cannot "apt-get could not install ${missing[*]}"
    fi
    rm -f "$log"
}

_apt_install_without_services() (
    log=$1
    shift
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        # invoke-rc.d asks this file; 101 means "do not start the service".
        trap '"${AS_ROOT[@]}" rm -f "$policy"' EXIT
        printf '#!/bin/sh\nexit 101\n' | "${AS_ROOT[@]}" tee "$policy" >/dev/null
        "${AS_ROOT[@]}" chmod 755 "$policy"
    fi
    _apt_get "$log" "$@" || {
        "${AS_ROOT[@]}" apt-get -qq update >>"$log" 2>&1 && _apt_get "$log" "$@"
    }
)

_apt_get() {
    local log=$1
    shift
    "${AS_ROOT[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y \
        --no-install-recommends -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=120 \
        "$@" >>"$log" 2>&1
}
