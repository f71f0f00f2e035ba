"""What scripts/provoke_failures.py does to Apptainer, bash, Slurm and vLLM: shell text by case."""

from __future__ import annotations

Cases = dict[str, tuple[str, str, str]]

# Runs in a mount namespace of its own, as root without the right to ignore a file's mode.
PRELUDE = r"""
set -u
small() { mkdir -p "$1"; mount -t tmpfs -o size="${2:-64k}" none "$1"; }
plain() { setpriv --bounding-set=-dac_override,-dac_read_search --inh-caps=-all "$@"; }
"""

APPTAINER = {
    "apptainer-image-missing": 'apptainer exec "$W/none.sif" true',
    "apptainer-image-cut": 'head -c 20000 "$SIF" >"$W/cut.sif"; apptainer exec "$W/cut.sif" true',
    "apptainer-image-empty": ': >"$W/empty.sif"; apptainer exec "$W/empty.sif" true',
    "apptainer-image-pointer": r"""
        printf 'version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n' >"$W/lfs.sif"
        apptainer exec "$W/lfs.sif" true""",
    "apptainer-image-architecture": r"""
        "$PYTHON" -c 'import sys
data = open(sys.argv[1], "rb").read()
table = slice(4096, 4096 + 48 * 585)  # the descriptors, each with its architecture
open(sys.argv[2], "wb").write(
    data[:45] + b"04" + data[47:4096] + data[table].replace(b"02\0", b"04\0") + data[table.stop:]
)' "$SIF" "$W/arm.sif"
        apptainer exec "$W/arm.sif" true""",
    "apptainer-image-forbidden": r"""
        cp "$SIF" "$W/mode.sif"; chmod 0 "$W/mode.sif"
        plain apptainer exec "$W/mode.sif" true""",
    "apptainer-command-missing": 'apptainer exec "$SIF" vllm serve',
    "apptainer-command-forbidden": 'apptainer exec "$SIF" /etc/passwd',
    "apptainer-bind-source-missing": 'apptainer exec --bind /no/such/hub "$SIF" true',
    "apptainer-bind-target-missing": r"""
        mkdir -p "$W/box/"{usr,etc,proc,sys,dev,tmp,root}; mkdir -p "$W/source"
        apptainer exec --writable --bind "$W/source:/no/such/target" "$W/box" true""",
    "apptainer-workdir-missing": r"""
        apptainer exec --containall --workdir "$W/no/such" "$SIF" true""",
    "apptainer-temporary-full": r"""
        small "$W/full"; APPTAINER_TMPDIR=$W/full TMPDIR=$W/full \
            apptainer exec --unsquash --userns "$BIG" true""",
    "apptainer-no-fuse": r"""
        chmod 755 "$W"; mount --bind /dev/null /dev/fuse
        setpriv --reuid=65534 --regid=65534 --clear-groups \
            env HOME=/tmp apptainer exec --userns "$SIF" true""",
    "apptainer-no-user-namespaces": r"""
        unshare --user --map-root-user bash -c '
            echo 0 >/proc/sys/user/max_user_namespaces
            apptainer exec --userns "$SIF" true'""",
    "apptainer-nvccli-missing": 'apptainer exec --nvccli "$SIF" true',
    "apptainer-pull-offline": r"""
        APPTAINER_CACHEDIR=$W/cache apptainer exec docker://registry.invalid/vllm:v1 true""",
    "apptainer-home-read-only": r"""
        apptainer exec --containall --no-home --bind /usr:/usr:ro,"$PYTHON_PREFIX" "$SIF" \
            "$PYTHON" -c 'import os; os.makedirs("/cache/vllm")'""",
    # A program of a newer Debian, as a library of a newer node bound into an older image.
    "container-libc-too-old": '"${XDG_CACHE_HOME:-$HOME/.cache}"/hpcvlm/slurm-26.05/usr/bin/sort',
    "apptainer-option-unknown": 'apptainer exec --nvidia "$SIF" true',
}

# With the image of scripts/setup/podman.sh, which holds nothing but a shell.
_PODMAN = 'CONTAINERS_CONF=$("$SETUP/podman.sh" | tail -n 1) podman run --rm --pull never '
_EMPTY = "localhost/hpcvlm-empty:1"
PODMAN = {
    "podman-image-missing": f"{_PODMAN} localhost/none:1 vllm",
    "podman-command-missing": f"{_PODMAN} --entrypoint vllm {_EMPTY}",
    "podman-command-forbidden": f"{_PODMAN} --entrypoint /etc {_EMPTY}",
    "podman-gpu-unknown": f"{_PODMAN} --device nvidia.com/gpu=all --entrypoint sh {_EMPTY}",
    "podman-bind-source-missing": f"{_PODMAN} --volume /no/such/hub:/hub --entrypoint sh {_EMPTY}",
}

FILES = {
    "module-vllm-missing": "/usr/bin/python3 -I -m vllm.entrypoints.openai.api_server --help",
    "command-not-found": "cd /; vllm-0.32 serve /models/tiny",
    "command-not-executable": r"""
        printf '#!/bin/sh\n' >"$W/engine"; chmod 600 "$W/engine"; "$W/engine" serve""",
    "interpreter-missing": r"""
        printf '#!/no/such/venv/bin/python3\n' >"$W/vllm"; chmod 755 "$W/vllm"; "$W/vllm" serve""",
    "module-command-missing": "module load vllm/0.32 || exit 1",
    "job-folder-full": r"""
        small "$W/jobs/e1" 8k; cd "$W/jobs/e1"; head -c 40000 /dev/zero >payload
        printf '{"schema": 1}\n' >.state.json.new && mv -f .state.json.new state.json""",
    "job-folder-read-only": r"""
        small "$W/jobs/e2"; mount -o remount,ro "$W/jobs/e2"
        mkdir -p "$W/jobs/e2/payloads" || exit 1""",
    "job-folder-forbidden": r"""
        mkdir -p "$W/jobs"; chmod 500 "$W/jobs"; plain mkdir -p "$W/jobs/e3/payloads" || exit 1""",
    "job-folder-not-there": 'printf x >"$W/jobs-gone/e4/.state.json.new"',
    "cache-full": r"""
        small "$W/cache"; "$PYTHON" -c 'open("'"$W"'/cache/inductor.so", "wb").write(b"0" * 200000)'
        """,
    "cache-forbidden": r"""
        mkdir -p "$W/locked"; chmod 0 "$W/locked"
        plain "$PYTHON" -c 'import os; os.makedirs("'"$W"'/locked/vllm")'""",
    "file-name-too-long": r"""
        "$PYTHON" -c 'open("'"$W"'/" + "x" * 300, "w")' 2>&1 | sed 's/x\{200,\}/xxxx/' >&2""",
    "open-files-limit": r"""
        ulimit -n 16; "$PYTHON" -c 'k = [open("/dev/null") for _ in range(40)]'""",
    "address-space-limit": r"""
        ulimit -v 400000; "$PYTHON" -c 'b = bytearray(4 << 30)'""",
    "address-space-limit-mmap": r"""
        ulimit -v 400000; "$PYTHON" -c 'import mmap; mmap.mmap(-1, 4 << 30)'""",
    "processes-limit": r"""
        chmod 755 "$W"; cat >"$W/many.py" <<'PY'
import os, time
for _ in range(60):
    if os.fork() == 0:
        time.sleep(3)
        os._exit(0)
PY
        cp "$W/many.py" /tmp/hpcvlm-many.py
        setpriv --reuid=64999 --regid=64999 --clear-groups bash -c \
            'ulimit -u 20; exec /usr/bin/python3 /tmp/hpcvlm-many.py'
        rm -f /tmp/hpcvlm-many.py""",
    "file-size-limit": r"""
        ulimit -f 8; "$PYTHON" -c 'import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
open("'"$W"'/big", "wb").write(b"0" * 100000)'""",
    "shared-memory-full": r"""
        small /dev/shm; "$PYTHON" -c 'from multiprocessing import shared_memory as s
m = s.SharedMemory(name="psm_hpcvlm", create=True, size=1 << 20)
m.buf[:] = bytes(1 << 20)'; echo "exit $?" >&2""",
    "engine-killed": r"""
        cat >"$W/job.sh" <<'JOB'
set -m; sleep 60 & engine=$!
set +m; sleep 0.2; kill -KILL "$engine"; wait "$engine"; echo "exit $?" >&2
JOB
        bash "$W/job.sh" """,
    "engine-crashed": r"""
        cat >"$W/job.sh" <<'JOB'
set -m; sleep 60 & engine=$!
set +m; sleep 0.2; kill -SEGV "$engine"; wait "$engine"; echo "exit $?" >&2
JOB
        bash "$W/job.sh" """,
    "library-missing": r"""
        cp /bin/true "$W/true"; patchelf --add-needed libcudart.so.12 "$W/true"; "$W/true" """,
    "not-a-program": r"""
        printf '\177ELF\2\1\1' >"$W/arm"; chmod 755 "$W/arm"; "$W/arm" """,
}

# sbatch refuses these: NAME.sbatch is what it says. What is done before, and after to undo it.
_OFF = "scontrol update partitionname=gpu state="
SBATCH = {
    "sbatch-account": ("--account=nobody", "", ""),
    "sbatch-partition": ("--partition=nowhere", "", ""),
    "sbatch-gpu-count": ("--gpus-per-node=A100:9", "", ""),
    "sbatch-gpu-type": ("--gpus-per-node=B200:1", "", ""),
    "sbatch-memory": ("--mem=900G", "", ""),
    "sbatch-feature": ("--constraint=h9000", "", ""),
    "sbatch-dependency": ("--dependency=afterok:x", "", ""),
    "sbatch-option": ("--no-such-option", "", ""),
    "sbatch-reservation": ("--reservation=none", "", ""),
    "sbatch-node-list": ("--nodelist=gpu99", "", ""),
    "sbatch-licence": ("--licenses=matlab:1", "", ""),
    "sbatch-partition-inactive": ("", f"{_OFF}INACTIVE", f"{_OFF}UP"),
}
# Those of a Slurm that enforces limits (AccountingStorageEnforce, EnforcePartLimits).
_QOS = "sacctmgr -i -Q modify qos normal set"
SBATCH_ENFORCED = {
    "sbatch-qos": ("--qos=nothing", "", ""),
    "sbatch-time-limit": ("--partition=short --time=2:00:00", "", ""),
    "sbatch-nodes": ("--nodes=50", "", ""),
    "sbatch-most-jobs": (
        "",
        f"{_QOS} maxsubmitjobsperuser=0; sleep 1",
        f"{_QOS} maxsubmitjobsperuser=-1; sleep 1",
    ),
}

# Why a job waits: how it is submitted; what is done before, and after to undo it.
PENDING = {
    "pending-dependency": (
        "--dependency=afterok:$(sbatch --parsable --partition=cpu --wait --wrap='exit 1' || true)",
        "",
        "",
    ),
    "pending-held": ("--hold", "", ""),
    "pending-begin-time": ("--begin=now+1hour", "", ""),
    "pending-partition-down": ("", f"{_OFF}DOWN", f"{_OFF}UP"),
    "pending-time-limit": ("--partition=short --time=2:00:00", "", ""),
    "pending-nodes": ("--nodes=50", "", ""),
    "pending-nodes-drained": (
        "",
        "scontrol update nodename=gpu01,gpu02 state=DRAIN reason=repair",
        "scontrol update nodename=gpu01,gpu02 state=RESUME",
    ),
    "pending-resources": (
        "--nodes=2 --exclusive",
        "sbatch --quiet --nodelist=gpu01 --time=5 --wrap='sleep 60'",
        "scancel --user=$USER",
    ),
    "pending-priority": (
        "--nodelist=gpu01 --exclusive --nice=5000",
        'f() { sbatch --quiet --nodelist=gpu01 --time=5 "$@" --wrap="sleep 9"; }; f; f --exclusive',
        "scancel --user=$USER",
    ),
}
PENDING_ENFORCED = {
    "pending-qos-limit": (
        "",
        f"{_QOS} maxjobsperuser=0; sleep 1",
        f"{_QOS} maxjobsperuser=-1; sleep 1",
    ),
    "pending-association-limit": (
        "",
        "sacctmgr -i -Q modify account acct set grpjobs=0; sleep 1",
        "sacctmgr -i -Q modify account acct set grpjobs=-1; sleep 1",
    ),
}

# Jobs that begin and fail: NAME.stderr is the job's, NAME.sacct what the accounts say.
JOBS = {
    "slurm-cancelled": ("--partition=cpu", "sleep 60", 'sleep 2; scancel "$job"'),
    "slurm-requeued": (
        "--partition=cpu --requeue --open-mode=append",
        '[ -z "${SLURM_RESTART_COUNT:-}" ] || exit 5; sleep 60',
        'sleep 3; scontrol requeue "$job"; sleep 2; scontrol update jobid="$job" starttime=now',
    ),
    "slurm-engine-exits": ("--partition=cpu", "exit 3", ""),
    "slurm-output-missing": ("--partition=cpu --error=/no/such/folder/job.err", "true", ""),
    "slurm-interpreter-missing": ("--partition=cpu", "#!/no/such/bash", ""),
    "slurm-folder-missing": ("--partition=cpu --chdir=/no/such/folder", "sleep 1", ""),
    "slurm-engine-killed": (
        "--partition=cpu",
        "set -m; sleep 60 & engine=$!; set +m; sleep 1; kill -KILL $engine; wait $engine; exit 1",
        "",
    ),
    "slurm-time-limit": ("--partition=cpu --time=1", "sleep 300", ""),
    "slurm-script-killed": ("--partition=cpu", "kill -KILL $$", ""),
    "slurm-healthy": ("--partition=cpu", "echo hello; sleep 1", ""),
}
# Needs HPCVLM_SLURM_FAULTS=1, with which a node is down after 10 s of silence.
FAULTS = {
    "slurm-node-failed": (
        "--partition=gpu --nodelist=gpu01 --no-requeue",
        "sleep 300",
        """sleep 2; "$SETUP/slurm_cluster.sh" off "$CLUSTER" gpu01; sleep 20
        "$SETUP/slurm_cluster.sh" on "$CLUSTER" gpu01; sleep 4""",
    ),
    "slurm-preempted": (
        "--partition=low --no-requeue --exclusive",
        "sleep 300",
        "sleep 2; sbatch --quiet --partition=high --exclusive --time=1 --wrap='sleep 1'",
    ),
}
# Needs jobs in memory cgroups: a machine with cgroups v1, and no other such cluster on it.
MEMORY = {
    "slurm-out-of-memory": (
        "--partition=cpu --mem=100M",
        "set -m; python3 -c 'bytearray(400 << 20)' & engine=$!; set +m; wait $engine; exit 1",
        "",
    ),
}
IN_CGROUPS = """
printf 'ConstrainRAMSpace=yes\\nConstrainSwapSpace=yes\\n' >>"$CLUSTER/etc/cgroup.conf"
sed -i 's/^TaskPlugin=.*/TaskPlugin=task\\/cgroup/' "$CLUSTER/etc/slurm.conf"
for daemon in slurmctld slurmd-cpu01; do
    "$SETUP/slurm_cluster.sh" stop "$CLUSTER" "$daemon"
    "$SETUP/slurm_cluster.sh" start "$CLUSTER" "$daemon"
done
sleep 3
"""

SERVE = (
    'timeout 150 "$VENV/bin/vllm" serve "$SNAP" --dtype float32 --max-model-len 1024'
    " --max-num-seqs 4 --enforce-eager --host 127.0.0.1 --port $((20000 + RANDOM)) "
)
ENGINE = {
    "port-variable": f"VLLM_PORT=tcp://10.0.0.1:8000 {SERVE}",
    "temporary-path-too-long": (
        f'export TMPDIR=$W/$(printf "x%.0s" {{1..120}}); mkdir -p "$TMPDIR"; {SERVE}'
    ),
    "engine-open-files": f"ulimit -n 20; {SERVE}",
    "engine-address-space": f"ulimit -v 2500000; {SERVE}",
    "engine-shared-memory": f"small /dev/shm 4k; {SERVE}",
    "engine-cache-full": (
        'small "$W/vc" 16k; export HOME=$W/vc VLLM_CACHE_ROOT=$W/vc TRITON_CACHE_DIR=$W/vc '
        f"TORCHINDUCTOR_CACHE_DIR=$W/vc; {SERVE.replace(' --enforce-eager', '')}"
    ),
    "engine-cache-read-only": (
        'small "$W/vr"; mount -o remount,ro "$W/vr"; export HOME=$W/vr VLLM_CACHE_ROOT=$W/vr '
        f"TORCHINDUCTOR_CACHE_DIR=$W/vr; {SERVE.replace(' --enforce-eager', '')}"
    ),
    "engine-no-compiler": (
        "export CXX=/no/such/g++ CC=/no/such/gcc TORCHINDUCTOR_CACHE_DIR=$W/ti "
        f"VLLM_CACHE_ROOT=$W/vn; {SERVE.replace(' --enforce-eager', '')}"
    ),
    "weights-pointer": r"""
        cp -r "$SNAP" "$W/lfs"
        printf 'version https://git-lfs.github.com/spec/v1\noid sha256:0\n' \
            >"$W/lfs/model.safetensors"; """
    + SERVE.replace("$SNAP", "$W/lfs"),
    "config-of-another": r"""
        cp -r "$SNAP" "$W/other"; sed -i 's/"hidden_size": *[0-9]*/"hidden_size": 96/' \
            "$W/other/config.json"; """
    + SERVE.replace("$SNAP", "$W/other"),
    "tokenizer-broken": r"""
        cp -r "$SNAP" "$W/tok"; head -c 300 "$SNAP/tokenizer.json" >"$W/tok/tokenizer.json"; """
    + SERVE.replace("$SNAP", "$W/tok"),
    "weights-forbidden": r"""
        cp -r "$SNAP" "$W/mode"; chmod 0 "$W/mode/model.safetensors"; plain """
    + SERVE.replace("$SNAP", "$W/mode"),
    "batched-tokens": SERVE + "--max-num-batched-tokens 2",
    "ray-missing": SERVE + "--distributed-executor-backend ray",
}

ENFORCE = """
cat >>"$CLUSTER/etc/slurm.conf" <<'CONF'
AccountingStorageEnforce=limits,qos
EnforcePartLimits=ALL
CONF
"$SETUP/slurm_cluster.sh" stop "$CLUSTER" slurmctld
"$SETUP/slurm_cluster.sh" start "$CLUSTER" slurmctld
sleep 2
"""
