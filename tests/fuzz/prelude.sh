# Read by bash before a job's script (BASH_ENV): functions in place of every program but the engine,
# so that the script does all that it does up to the engine's start, at next to no cost.
# shellcheck shell=bash disable=SC2154,SC2317,SC2329
_frame() { # KIND WORDS...: what arrived, byte by byte, for the harness
    # A file for each process: bash writes long words in pieces, and notifiers run side by side.
    builtin printf '%s\0' "$@" "$FUZZ_END" >>"$FUZZ_OUT/frames.$BASHPID"
}

_engine() { # what the script starts: its arguments and its environment
    local name
    _frame argv "$@"
    for name in "${!APPTAINERENV_@}" "${!SINGULARITYENV_@}"; do
        _frame variable "${name#*ENV_}" "${!name}"
    done
    for name in "${!FUZZ_VARIABLE_@}"; do _frame variable "$name" "${!name}"; done
    if [[ -e $FUZZ_OUT/scratch/environment ]]; then
        local -a lines
        builtin mapfile -t lines <"$FUZZ_OUT/scratch/environment"
        _frame lines "${lines[@]}"
    fi
}

_end() { # the script waits for its engine: all that can be seen has been seen
    local name
    builtin trap - EXIT
    if declare -F let_go >/dev/null; then let_go; fi # it waits for the script's end
    wait
    if declare -F tell >/dev/null; then
        tell failed 'fuzz: text'
        wait
    fi
    for name in folder snapshot snapshot_image media_root cache container_image webhook_file; do
        if [[ -v $name ]]; then _frame value "$name" "${!name}"; fi
    done
    builtin exit 0
}

module() { _frame module "$@"; }
mktemp() { builtin printf '%s\n' "$FUZZ_OUT/scratch"; }
date() { if [[ $* == *.%* ]]; then builtin printf '1.000\n'; else builtin printf '1000\n'; fi; }
uname() { builtin printf 'node07\n'; }
wc() { builtin printf '10\n'; }
cat() { local -a all && builtin mapfile all && builtin printf '%s' "${all[@]}"; }
timeout() { _frame timeout "$@"; }
curl() { _frame curl "$@"; }
sleep() { _end; }
read() { # pause in the script; reading is as ever
    case "$BASHPID $* " in "$$ "*' -t '*) _end ;; esac
    builtin read "$@"
}
for _name in mkdir chmod chown mv cp rm rmdir ln touch base64 tr head tail stat df dd nice flock \
    setsid sha256sum mkfifo mail logger renice sync nproc free id; do
    eval "$_name() { :; }"
done
command_not_found_handle() { builtin printf '%s\n' "$1" >>"$FUZZ_OUT/unknown"; }
