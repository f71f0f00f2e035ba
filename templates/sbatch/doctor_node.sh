#!/bin/bash
# The node part of `hpcvlm doctor --on-node`: looks at the node that it runs on and changes nothing.
# hpcvlm puts the #SBATCH lines and the values of the variables below before this text. Each thing
# seen is one line of tab-separated words in $folder/seen.tsv; hpcvlm judges them on the login node.
# It needs bash, coreutils and curl, and survives the lack of any of them.
set -u -o pipefail
umask 077
export LC_ALL=C # programs are to say the same words everywhere

declare folder runtime gpus url           # the job folder; the site's runtime; GPUs asked for; what to fetch
declare -a modules folders engine_folders # to load; to look for; where compile caches go
scratch_root=${scratch_root-}             # where temporary files go at this site
seen=$folder/seen.tsv
image_deadline=140 # seconds from the start, after which no further image is tried

say() { # KEY WORD...: one observation
    local line=$1 word
    shift
    for word in "$@"; do
        word=${word//[$'\t\r\n']/ }
        line+=$'\t'${word:0:400}
    done
    printf '%s\n' "$line" >>"$seen"
}

step() { # WORDS: what is being done, for the person who waits
    say step "$*"
}

now() {
    date +%s.%N
}

has() { # COMMAND
    command -v "$1" >/dev/null 2>&1
}

answer() { # SECONDS COMMAND...: sets $code and $said; the exit status of what is not there is 127
    local seconds=$1
    shift
    said=$(timeout "$seconds" "$@" </dev/null 2>&1)
    code=$?
}

value_of() { # FILE: its first line, empty when there is none
    local line=''
    { read -r line <"$1"; } 2>/dev/null
    printf '%s' "$line"
}

# ---- is the folder really shared? Token there, token back, both clocks ------------------------
handshake() {
    local begun=$SECONDS said_hello seen_answer reply=''
    if [[ -r $folder/token ]]; then say token "$(<"$folder/token")"; else say token ''; fi
    said_hello=$(now)
    printf '%s\n' "$said_hello" >"$folder/.hello.new" && mv -f -- "$folder/.hello.new" "$folder/hello"
    while ((SECONDS - begun < 60)); do
        # It is read, not only looked for: opening a file makes NFS ask the server.
        reply=$(value_of "$folder/answer")
        if [[ -n $reply ]]; then break; fi
        sleep 0.1
    done
    seen_answer=$(now)
    say handshake "$said_hello" "$reply" "$seen_answer"
    say file-clock "$(stat -c %Y -- "$folder/hello" 2>/dev/null)" "$said_hello"
}

# ---- what is on the node ----------------------------------------------------------------------
tools() {
    say bash "$BASH_VERSION"
    if has curl; then
        answer 10 curl --disable --version
        say curl "${said%%$'\n'*}"
    else
        say curl ''
    fi
    for name in timeout stat df mktemp base64; do
        has "$name" || say lacking "$name"
    done
}

load_modules() {
    local name
    for name in ${modules[@]+"${modules[@]}"}; do
        # Not in a subshell: what it loads must stay.
        if ! module load "$name" >"$folder/module.out" 2>&1; then
            say module "$name" "$(tail -n 1 "$folder/module.out" 2>/dev/null)"
        fi
    done
}

gpu() {
    local line
    say gpus "$gpus" "${CUDA_VISIBLE_DEVICES-unset}"
    if ! has nvidia-smi; then
        say nvidia-smi 127 'no such command'
        return
    fi
    answer 60 nvidia-smi --query-gpu=name,memory.total,driver_version,compute_cap --format=csv,noheader,nounits
    say nvidia-smi "$code" "${said%%$'\n'*}"
    ((code == 0)) || return 0
    while IFS= read -r line; do say gpu "$line"; done <<<"$said"
}

container() {
    local name
    say user-namespaces "$(value_of /proc/sys/user/max_user_namespaces)" \
        "$(value_of /proc/sys/kernel/unprivileged_userns_clone)" \
        "$(value_of /proc/sys/kernel/apparmor_restrict_unprivileged_userns)"
    if { : <>/dev/fuse; } 2>/dev/null; then say fuse yes; else say fuse no; fi
    for name in squashfuse_ll squashfuse; do
        if has "$name"; then
            say squashfuse "$(command -v "$name")"
            break
        fi
    done
    [[ $runtime != none ]] || return 0
    answer 20 "$runtime" --version
    say runtime "$code" "$said"
    ((code == 0)) || return 0
    answer 20 "$runtime" buildcfg
    while IFS= read -r name; do
        if [[ $name == *_SUID_INSTALL=* ]]; then say buildcfg "$name"; fi
    done <<<"$said"
}

try_image() { # NAME PYTHON IMAGE COMMAND...: starts it, then asks the engine in it for its version
    local name=$1 python=$2 image=$3 begun ended
    shift 3
    if [[ $image == /* && ! -r $image ]]; then
        say image "$name" missing
        return
    fi
    if ((SECONDS > image_deadline)); then
        say image "$name" late
        return
    fi
    step "starting image $name"
    begun=$(now)
    answer 90 "$@" true
    ended=$(now)
    say image "$name" "$code" "$begun" "$ended" "${said##*$'\n'}"
    ((code == 0)) || return 0
    answer 45 "$@" "$python" -c 'import importlib.metadata as m; print(m.version("vllm"))'
    say engine "$name" "$code" "${said##*$'\n'}"
}

try_engine() { # NAME PYTHON: an engine that needs no container
    answer 45 "$2" -c 'import importlib.metadata as m; print(m.version("vllm"))'
    say engine "$1" "$code" "${said##*$'\n'}"
}

network() {
    local name
    for name in http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY; do
        # A proxy's address may hold a password: what stands before an @ is left out.
        if [[ -n ${!name-} ]]; then say proxy "$name" "${!name/\/\/*@/\/\/…@}"; fi
    done
    has curl || return 0
    answer 20 curl --disable --silent --show-error --max-time 5 --output /dev/null \
        --write-out '%{http_code} %{time_total}' "$url"
    say network "$code" "$said"
}

memory() {
    local controllers group folder file limit least='' name kib
    while IFS=: read -r _ controllers group; do
        case $controllers in
        '') folder=/sys/fs/cgroup$group file=memory.max ;;
        *memory*) folder=/sys/fs/cgroup/memory$group file=memory.limit_in_bytes ;;
        *) continue ;;
        esac
        # The limit of every group above counts, too.
        while [[ $folder == /sys/fs/cgroup/* ]]; do
            limit=$(value_of "$folder/$file")
            if [[ $limit =~ ^[0-9]{1,18}$ ]] && { [[ -z $least ]] || ((limit < least)); }; then least=$limit; fi
            folder=${folder%/*}
        done
    done </proc/self/cgroup
    while read -r name kib _; do
        if [[ $name == MemTotal: ]]; then say memory "$least" "$kib"; fi
    done </proc/meminfo
    say memlock "$(ulimit -l)"
}

look_at() { # KEY FOLDER WRITE: is it there, can it be read and written, what is it, how much is free
    local path=$2 there=no writable=no room='' file words
    # A file system whose server is away holds up whoever touches it.
    answer 20 ls -d -- "$path/."
    if ((code == 0)); then
        there=yes
        if [[ ! -r $path || ! -x $path ]]; then there=unreadable; fi
        room=$(timeout 20 df --output=fstype,size,avail --block-size=1 -- "$path" 2>/dev/null | tail -n 1)
    elif ((code == 124)); then
        there=hangs
    elif [[ $said == *'Permission denied'* ]]; then
        there=unreadable
    fi
    if [[ $3 == write && $there == yes ]]; then
        if file=$(timeout 20 mktemp -- "$path/.hpcvlm-doctor.XXXXXX" 2>/dev/null); then
            rm -f -- "$file"
            writable=yes
        fi
    fi
    read -r -a words <<<"$room"
    say "$1" "$path" "$there" "$writable" ${words[@]+"${words[@]}"}
}

main() {
    local path
    say host "$(uname -n)" "${SLURM_JOB_ID-}" "${SLURMD_NODENAME-}" "${SLURM_JOB_PARTITION-}" "$(uname -r)"
    handshake &
    step 'looking at the node'
    tools
    load_modules
    step 'asking nvidia-smi'
    if ((gpus > 0)); then gpu; fi
    container
    memory
    step 'looking at folders'
    look_at shm /dev/shm look
    # As a job does: the site's own folder first, made if it is missing.
    if [[ -n $scratch_root ]] && mkdir -p -- "$scratch_root" 2>/dev/null; then
        say scratch-from scratch_root
        look_at scratch "$scratch_root" write
    else
        say scratch-from "${TMPDIR:+TMPDIR}"
        look_at scratch "${TMPDIR:-/tmp}" write
    fi
    for path in ${folders[@]+"${folders[@]}"}; do look_at folder "$path" look; done
    for path in ${engine_folders[@]+"${engine_folders[@]}"}; do
        # A job makes what is missing of it.
        while [[ ! -e $path && $path == /*/* ]]; do path=${path%/*}; done
        look_at engine-folder "$path" write
    done
    step "fetching $url"
    network
    each_engine
    step 'waiting for the login node'
    wait
    say finished yes
}

main
