#!/usr/bin/env bash
# A private, throw-away, real Slurm cluster on this machine, for tests.
#
#   slurm_cluster.sh up DIR       start it (a running one is left as it is)
#   slurm_cluster.sh env DIR      print the line to eval before using sbatch & co.
#   slurm_cluster.sh status DIR   print its nodes; exit status 1 when it is not up
#   slurm_cluster.sh down DIR     cancel its jobs and stop all it started
#
# and, to see what others do when a part of it fails:
#
#   slurm_cluster.sh stop|kill|start DIR DAEMON     with TERM, with KILL, again
#   slurm_cluster.sh pause|resume DIR DAEMON        with STOP, with CONT
#   slurm_cluster.sh off|on DIR NODE                as by the switch of the node:
#                                                   slurmd and all of its jobs
#   slurm_cluster.sh cut|mend DIR                   the network of the far node
#   slurm_cluster.sh heal DIR                       undo all of these
#   slurm_cluster.sh idle DIR                       wait until no node has a job
#
# DAEMON is munged, mariadbd, slurmdbd, slurmctld, or slurmd-NODE.
#
# Everything is in DIR: configuration, munge key and socket, accounting
# database, logs.  The TCP ports are chosen at "up".  So it lives beside an
# installed Slurm and beside other clusters of this script.  "up" after "down"
# gives a new, empty cluster; the logs of the last one stay until then.
#
#   nodes       gpu01 (gpu:A100:4, feature a100), gpu02 (gpu:H100:4, feature
#               h100), cpu01; 8 CPUs and 16000 MB each, whatever this machine
#               has; the GPUs are only names
#   partitions  gpu (default, 1 day), short (same nodes, 30 minutes), cpu (7 days)
#   accounting  account "acct" with the user root
#   processes   tracked by parentage.  HPCVLM_SLURM_PROCTRACK=cgroup at "up"
#               has them tracked by cgroups as most sites do (a plain scancel
#               then sends TERM to the batch script only, not to its children);
#               for a machine with cgroups v1, one such cluster at a time
#   faults      HPCVLM_SLURM_FAULTS=1 at "up": a node is down after 10 s of
#               silence instead of 300, a job that is over is forgotten after 5 s;
#               jobs of the partition low (gpu01) are preempted, and requeued if
#               they may be, by those of high (gpu01); gpu02 has a network and a
#               hostname of its own, which is its address, and which "cut" cuts; job
#               numbers begin anywhere, so that such clusters share no cgroup
#   version     the installed Slurm's; HPCVLM_SLURM_ROOT=ROOT at "up" takes that
#               of a folder made by slurm_root.sh.  Daemons, commands and jobs
#               then run inside ROOT, and see of this machine all but what
#               belongs to its own Debian (/usr, /etc, /var and the like)
#
# Needs root, and the packages of slurm_packages.sh or a folder of slurm_root.sh.
# Exit status: 0 done; 1 went wrong; 2 usage; 3 cannot be had on this machine.
set -euo pipefail
PROGRAM=slurm_cluster
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/setup/lib.sh
. "$here/lib.sh"

NODES=(gpu01 gpu02 cpu01)
DAEMONS=(munged mariadbd slurmdbd slurmctld "${NODES[@]/#/slurmd-}")
PROGRAMS=(munged mariadbd mariadb-install-db mariadb slurmdbd slurmctld slurmd
    sbatch scancel scontrol sinfo squeue srun sacct sacctmgr)
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

usage() {
    printf 'usage: %s up|down|status|env|cut|mend|heal|idle DIR\n' "${0##*/}" >&2
    printf '       %s stop|kill|start|pause|resume DIR DAEMON\n' "${0##*/}" >&2
    printf '       %s off|on DIR NODE\n' "${0##*/}" >&2
    exit 2
}

# --- what runs ------------------------------------------------------------

# pid_of DAEMON: its process id, if the process of its pid file is really it.
pid_of() {
    local pid name
    pid=$(cat "$dir/run/$1.pid" 2>/dev/null) && [ -n "$pid" ] || return 1
    name=$(cat "/proc/$pid/comm" 2>/dev/null) || return 1
    # comm holds 15 characters at most; ours are all shorter.
    [ "$name" = "${1%%-*}" ] || return 1
    # A pid file outlives its process; a process id is given again.
    { cat "/proc/$pid/environ" 2>/dev/null || true; } | tr '\0' '\n' |
        grep -xF "SLURM_CONF=$SLURM_CONF" >/dev/null || return 1
    printf '%s\n' "$pid"
}

all_up() {
    local daemon
    for daemon in "${DAEMONS[@]}"; do
        pid_of "$daemon" >/dev/null || return 1
    done
}

any_up() {
    local daemon
    for daemon in "${DAEMONS[@]}"; do
        if pid_of "$daemon" >/dev/null; then
            return 0
        fi
    done
    return 1
}

# wait_for SECONDS WHAT COMMAND...: until COMMAND succeeds.
wait_for() {
    local seconds=$1 what=$2 end
    shift 2
    end=$((SECONDS + seconds))
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$end" ] || break
        sleep 0.05
    done
    "$@" >/dev/null 2>&1 || fail "$what was not ready after $seconds s; see the logs in $dir/log"
}

# start DAEMON COMMAND...: with no open file of ours but its log.
start() {
    local daemon=$1
    shift
    (
        cd "$dir"
        exec </dev/null >>"$dir/log/$daemon.out" 2>&1 9>&-
        exec setsid "$@"
    ) || {
        tail -n 5 "$dir/log/$daemon.out" "$dir/log/$daemon.log" >&2 2>/dev/null || true
        fail "$daemon did not start; see the logs in $dir/log"
    }
}

# --- another Slurm than the installed one -------------------------------------

# With HPCVLM_SLURM_ROOT, DIR/bin has each program by its name, and stands before
# the others on PATH: here, and by "env" for who uses the cluster.
programs_of_root() {
    local program
    rm -rf "${dir:?}/bin"
    hash -r
    [ -n "$root" ] || return 0
    mkdir "$dir/bin"
    ln -s "$root" "$dir/bin/.root"
    for program in "${PROGRAMS[@]}"; do
        cp "$here/slurm_in_root.sh" "$dir/bin/$program"
    done
    PATH=$dir/bin:$PATH
}

# --- configuration --------------------------------------------------------

# Five free TCP ports below the range that the kernel hands out by itself.
free_ports() {
    python3 - <<'PYTHON'
import random
import socket

held = []
for port in random.sample(range(15000, 31000), 500):
    s = socket.socket()
    try:
        s.bind(("0.0.0.0", port))
    except OSError:
        continue
    held.append(s)
    if len(held) == 5:
        break
print(*(s.getsockname()[1] for s in held))
PYTHON
}

random_word() {
    od -An -N16 -tx1 /dev/urandom | tr -d ' \n'
}

configure() {
    local host password node i proctrack task controller=127.0.0.1 far=127.0.0.1
    local ctld_port dbd_port gpu01_port gpu02_port cpu01_port
    host=$(hostname -s)
    password=$(random_word)
    read -r ctld_port dbd_port gpu01_port gpu02_port cpu01_port < <(free_ports)
    [ -n "$cpu01_port" ] || fail "found no five free TCP ports"

    rm -rf "${dir:?}"/{etc,run,log,db,state,spool,dev}
    mkdir -p "$dir"/{etc,run,log,db,state,dev}
    for node in "${NODES[@]}"; do
        mkdir -p "$dir/spool/$node"
    done
    # A GPU of gres.conf must be a device file; which does not matter without
    # device control.
    for node in gpu01 gpu02; do
        for i in 0 1 2 3; do
            ln -s /dev/null "$dir/dev/$node-nvidia$i"
        done
    done

    (
        umask 077
        head -c 128 /dev/urandom >"$dir/etc/munge.key"
        cat >"$dir/etc/database.sql" <<SQL
create database slurm_acct_db;
create user 'slurm'@'localhost' identified by '$password';
grant all on slurm_acct_db.* to 'slurm'@'localhost';
SQL
        cat >"$dir/etc/slurmdbd.conf" <<CONF
AuthType=auth/munge
AuthInfo=socket=$dir/run/munge.socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort=$dbd_port
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=slurm
StoragePass=$password
StorageLoc=slurm_acct_db
LogFile=$dir/log/slurmdbd.log
PidFile=$dir/run/slurmdbd.pid
CONF
    )
    # Cgroups need not be ours to manage in a container.
    proctrack=linuxproc task=task/none
    if [ "${HPCVLM_SLURM_PROCTRACK:-linuxproc}" = cgroup ]; then
        proctrack=cgroup task=task/cgroup
        printf '%s\n' CgroupPlugin=cgroup/v1 CgroupMountpoint=/sys/fs/cgroup \
            >"$dir/etc/cgroup.conf"
        [ -z "$faults" ] || printf 'ConstrainRAMSpace=yes\n' >>"$dir/etc/cgroup.conf"
    elif [ -n "$root" ]; then
        # Since 23.11 slurmd sets up cgroups whether it uses them or not; 22.05
        # does not know the word.
        printf '%s\n' CgroupPlugin=disabled >"$dir/etc/cgroup.conf"
    fi
    if [ -n "$faults" ]; then
        far_network
        read -r _ controller far <"$dir/etc/network"
    fi
    cat >"$dir/etc/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$host($controller)
SlurmctldPort=$ctld_port
AuthType=auth/munge
AuthInfo=socket=$dir/run/munge.socket
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool/%n
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/slurmd-%n.log
SlurmctldPidFile=$dir/run/slurmctld.pid
SlurmdPidFile=$dir/run/slurmd-%n.pid
ProctrackType=proctrack/$proctrack
TaskPlugin=$task
JobAcctGatherType=jobacct_gather/linux
MpiDefault=none
MailProg=/bin/true
ReturnToService=2
# Nodes may have more than the machine has.
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=1000
SchedulerParameters=sched_interval=1,batch_sched_delay=0,bf_interval=1
KillWait=5
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort=$dbd_port
# Not a password: the munge socket to use towards slurmdbd.
AccountingStoragePass=$dir/run/munge.socket
AccountingStorageEnforce=associations
AccountingStorageTRES=gres/gpu,gres/gpu:A100,gres/gpu:H100
GresTypes=gpu
NodeName=DEFAULT CPUs=8 RealMemory=16000 State=UNKNOWN
NodeName=gpu01 NodeHostname=$host NodeAddr=127.0.0.1 Port=$gpu01_port Gres=gpu:A100:4 Features=a100
NodeName=gpu02 NodeHostname=$host NodeAddr=$far Port=$gpu02_port Gres=gpu:H100:4 Features=h100
NodeName=cpu01 NodeHostname=$host NodeAddr=127.0.0.1 Port=$cpu01_port
PartitionName=gpu Nodes=gpu01,gpu02 Default=YES MaxTime=1-00:00:00 State=UP
PartitionName=short Nodes=gpu01,gpu02 MaxTime=00:30:00 State=UP
PartitionName=cpu Nodes=cpu01 MaxTime=7-00:00:00 State=UP
CONF
    if [ -n "$faults" ]; then
        cat >>"$dir/etc/slurm.conf" <<CONF
SlurmdTimeout=10
MinJobAge=5
FirstJobId=$((RANDOM * 1000 + 1))
BatchStartTimeout=2
MessageTimeout=5
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PreemptExemptTime=0
PartitionName=low Nodes=gpu01 PriorityTier=1 PreemptMode=REQUEUE MaxTime=1-00:00:00 State=UP
PartitionName=high Nodes=gpu01 PriorityTier=100 PreemptMode=OFF MaxTime=1-00:00:00 State=UP
CONF
        # The others neither preempt nor are preempted.
        sed -i 's/^PartitionName=\(gpu\|short\|cpu\) /&PriorityTier=1 PreemptMode=OFF /' "$dir/etc/slurm.conf"
    fi
    cat >"$dir/etc/gres.conf" <<CONF
NodeName=gpu01 Name=gpu Type=A100 File=$dir/dev/gpu01-nvidia[0-3]
NodeName=gpu02 Name=gpu Type=H100 File=$dir/dev/gpu02-nvidia[0-3]
CONF
}

# --- the far node ---------------------------------------------------------------

# gpu02 in a network of its own: a pair of virtual interfaces, one end here, one
# there.  The file "network" has its name and the addresses of both ends.
far_network() {
    local number=$((RANDOM % 16384)) network here there
    network=hv$number
    # Of 198.18.0.0/15, which RFC 2544 keeps for tests between networks.
    here=198.18.$((number / 64)).$((number % 64 * 4 + 1))
    there=${here%.*}.$((${here##*.} + 1))
    command -v ip >/dev/null || cannot "there is no ip command (package iproute2) for a network of the far node"
    ip netns add "$network" 2>/dev/null ||
        cannot "this machine lets no process have a network of its own (ip netns add)"
    printf '%s %s %s\n' "$network" "$here" "$there" >"$dir/etc/network"
    ip link add "$network-a" type veth peer name "$network-b" netns "$network"
    ip address add "$here/30" dev "$network-a"
    ip link set "$network-a" up
    ip -n "$network" address add "$there/30" dev "$network-b"
    ip -n "$network" link set lo up
    ip -n "$network" link set "$network-b" up
}

remove_far_network() {
    local network rest
    read -r network rest 2>/dev/null <"$dir/etc/network" || return 0
    ip netns delete "$network" 2>/dev/null || true # the interfaces go with it
    rm -f "$dir/etc/network"
}

link_of_far_node() {
    local network rest
    read -r network rest 2>/dev/null <"$dir/etc/network" ||
        fail 'no node has a network of its own; HPCVLM_SLURM_FAULTS=1 at "up"'
    ip link set "$network-a" "$1"
}

# --- up ---------------------------------------------------------------------

# up_daemon DAEMON [OPTIONS...]: start it.
up_daemon() {
    local daemon=$1 network there
    shift
    case $daemon in
    munged) up_munged ;;
    mariadbd) run_mariadbd ;;
    slurmd-gpu02)
        if read -r network _ there 2>/dev/null <"$dir/etc/network"; then
            # shellcheck disable=SC2016 # $0 and $@ are of the inner shell
            start "$daemon" nsenter --net="/run/netns/$network" unshare --uts sh -c \
                'hostname "$0" && exec slurmd -N gpu02 "$@"' "$there" "$@"
        else
            start "$daemon" slurmd -N gpu02 "$@"
        fi
        ;;
    slurmd-*) start "$daemon" slurmd -N "${daemon#slurmd-}" "$@" ;;
    *) start "$daemon" "$daemon" "$@" ;;
    esac
}

up_munged() {
    # --force: the folders above DIR need not be as munge wants them, since
    # only root uses this one.
    start munged munged --force --key-file="$dir/etc/munge.key" \
        --socket="$dir/run/munge.socket" --pid-file="$dir/run/munged.pid" \
        --log-file="$dir/log/munged.log" --seed-file="$dir/run/munge.seed" \
        --num-threads=4
}

up_mariadbd() {
    # Temporary tables of its own: in the common folder those of two clusters may have one name.
    mkdir -p "$dir/run/mariadb"
    start mariadb-install mariadb-install-db --no-defaults --user=root --datadir="$dir/db" \
        --tmpdir="$dir/run/mariadb" --auth-root-authentication-method=socket --skip-test-db
    run_mariadbd
    mariadb --no-defaults --socket="$MYSQL_UNIX_PORT" <"$dir/etc/database.sql"
}

run_mariadbd() {
    (
        cd "$dir"
        exec </dev/null >>"$dir/log/mariadbd.out" 2>&1 9>&-
        exec setsid mariadbd --no-defaults --user=root --datadir="$dir/db" \
            --tmpdir="$dir/run/mariadb" \
            --socket="$MYSQL_UNIX_PORT" --pid-file="$dir/run/mariadbd.pid" \
            --skip-networking --innodb-buffer-pool-size=64M --loose-innodb-snapshot-isolation=OFF \
            --innodb-lock-wait-timeout=900 --innodb-flush-log-at-trx-commit=0
    ) &
    wait_for 30 "the database" mysql_ready
}

mysql_ready() {
    pid_of mariadbd && mariadb --no-defaults --socket="$MYSQL_UNIX_PORT" -e 'select 1'
}

accounting_ready() {
    sacctmgr -n list cluster
}

nodes_idle() {
    [ "$(sinfo -h -N -p gpu,cpu -o '%N %T')" = "$(printf '%s idle\n' cpu01 gpu01 gpu02)" ]
}

cmd_up() {
    local node program
    [ -z "$faults" ] || [ -z "$root" ] || fail "HPCVLM_SLURM_FAULTS goes with the installed Slurm only"
    [ "$(id -u)" -eq 0 ] || cannot "a private Slurm cluster must be started by root"
    if [ -n "$root" ]; then
        [ -e "$root/.hpcvlm-slurm-root" ] ||
            fail "$root is no folder of scripts/setup/slurm_root.sh, which makes one"
        case $dir/ in
        /bin/* | /boot/* | /etc/* | /lib*/* | /run/* | /sbin/* | /usr/* | /var/*)
            [ "${dir#/var/tmp/}" != "$dir" ] || fail "$dir is not to be seen inside $root; give a folder of /tmp" ;;
        esac
        unshare --mount true 2>/dev/null ||
            cannot "this machine lets no process have mounts of its own (unshare --mount)"
    else
        for program in "${PROGRAMS[@]}"; do
            command -v "$program" >/dev/null 2>&1 ||
                cannot "$program is not installed (scripts/setup/slurm_packages.sh installs it)"
        done
    fi
    # A path of a Unix socket has 107 characters at most.
    [ "${#dir}" -le 80 ] || fail "the path of $dir is too long (80 characters at most)"
    if [ ! -e "$marker" ] && [ -n "$(ls -A "$dir" 2>/dev/null)" ]; then
        fail "$dir holds something else; give an empty or a new folder"
    fi
    mkdir -p "$dir"
    : >"$marker"
    lock
    if all_up; then
        say "already up in $dir"
        return 0
    fi
    if any_up; then
        say "only a part of it runs; starting anew"
        stop_all
    fi
    programs_of_root
    configure
    up_munged
    up_mariadbd
    start slurmdbd slurmdbd
    wait_for 30 "slurmdbd" accounting_ready
    {
        sacctmgr -i add cluster test
        sacctmgr -i add account acct Description=tests Organization=tests
        sacctmgr -i add user root Account=acct
        # Slurm itself made root a user of the account root.
        sacctmgr -i modify user where name=root set DefaultAccount=acct
    } >>"$dir/log/sacctmgr.out" 2>&1 || fail "accounting could not be set up; see $dir/log/sacctmgr.out"
    start slurmctld slurmctld
    for node in "${NODES[@]}"; do
        up_daemon "slurmd-$node"
    done
    wait_for 30 "a node" nodes_idle
    wait_for 10 "sacct" sacct -n -X
    say "up in $dir: gpu01, gpu02, cpu01 are idle"
}

# --- down -------------------------------------------------------------------

no_jobs() {
    [ -z "$(squeue -h -o %i)" ]
}

# Processes that belong to a job of this cluster, by their environment; not us
# and not who called us.
job_processes() {
    python3 - "$SLURM_CONF" <<'PYTHON'
import os
import pathlib
import sys

conf = b"SLURM_CONF=" + os.fsencode(sys.argv[1])
spared = set()
pid = os.getpid()
while pid > 1:
    spared.add(str(pid))
    pid = int(pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
for proc in pathlib.Path("/proc").glob("[0-9]*"):
    try:
        words = (proc / "environ").read_bytes().split(b"\0")
    except OSError:  # gone, or a kernel thread
        continue
    if proc.name in spared or conf not in words:
        continue
    if any(word.startswith(b"SLURM_JOB_ID=") for word in words):
        print(proc.name)
PYTHON
}

# stop DAEMON: and wait until it is gone.
stop() {
    local daemon=$1 pid tries
    pid=$(pid_of "$daemon") || return 0
    kill -TERM "$pid" 2>/dev/null || return 0
    for ((tries = 0; tries < 200; tries++)); do
        pid_of "$daemon" >/dev/null || return 0
        sleep 0.05
    done
    say "$daemon did not stop by itself; killing it"
    kill -KILL "$pid" 2>/dev/null || true
}

stop_all() {
    local node pid what tries daemon
    for daemon in "${DAEMONS[@]}"; do
        pid=$(pid_of "$daemon") && kill -CONT "$pid"
    done
    if pid_of slurmctld >/dev/null; then
        # Pending and running ones, of everybody; then those that are slow to end.
        timeout 10 scancel --user=root 2>/dev/null || true
        for ((tries = 0; tries < 100; tries++)); do
            if no_jobs 2>/dev/null; then
                break
            fi
            sleep 0.1
        done
    fi
    for node in "${NODES[@]}"; do
        stop "slurmd-$node"
    done
    stop slurmctld
    for pid in $(job_processes); do
        what=$({ cat "/proc/$pid/cmdline" 2>/dev/null || true; } | tr '\0\n' '  ' | cut -c 1-100)
        say "a job left process $pid behind; killing it: $what"
        kill -KILL "$pid" 2>/dev/null || true
    done
    stop slurmdbd
    stop mariadbd
    stop munged
    remove_far_network
}

cmd_down() {
    [ -e "$marker" ] || {
        say "no cluster in $dir"
        return 0
    }
    lock
    stop_all
    say "down; logs are in $dir/log"
}

# --- faults ---------------------------------------------------------------------

# signalled SIGNAL: the daemon gets it.
signalled() {
    local pid
    pid=$(pid_of "$daemon") || fail "$daemon does not run"
    kill "-$1" "$pid"
}

cmd_start() {
    pid_of "$daemon" >/dev/null || start_again "$daemon"
}

# start_again DAEMON [OPTIONS...]: until it answers.
start_again() {
    local daemon=$1
    # What it left must not be taken for what it writes now.
    rm -f "$dir/run/$daemon.pid"
    up_daemon "$@"
    case $daemon in
    slurmdbd) wait_for 30 "$daemon" accounting_ready ;;
    slurmctld) wait_for 30 "$daemon" scontrol ping ;;
    *) wait_for 30 "$daemon" pid_of "$daemon" ;;
    esac
}

cmd_kill() {
    signalled KILL
    wait_for 10 "the end of $daemon" gone
}

gone() {
    ! pid_of "$daemon"
}

# Processes of the jobs of a node, those of Slurm that keep them first, so that
# nothing reports the end of the others.
node_processes() {
    python3 - "$SLURM_CONF" "$1" <<'PYTHON'
import os
import pathlib
import sys

conf, node = (os.fsencode(word) for word in sys.argv[1:])
marks = {b"SLURM_CONF=" + conf, b"SLURMD_NODENAME=" + node}
parents, names, found = {}, {}, set()
for proc in pathlib.Path("/proc").glob("[0-9]*"):
    try:
        head, _, tail = (proc / "stat").read_text().rpartition(")")
        parents[proc.name], names[proc.name] = tail.split()[1], head.partition("(")[2]
        if marks <= set((proc / "environ").read_bytes().split(b"\0")):
            found.add(proc.name)
    except OSError:  # gone
        continue
keepers = {parents[pid] for pid in found if names.get(parents.get(pid)) == "slurmstepd"}
grown = 0
while grown != len(found):
    grown = len(found)
    found |= {pid for pid, parent in parents.items() if parent in found | keepers}
print(*keepers, *(found - keepers))
PYTHON
}

cmd_off() {
    local pid
    if pid=$(pid_of "slurmd-$node"); then
        kill -KILL "$pid"
    fi
    for pid in $(node_processes "$node") $(node_processes "$node"); do
        kill -KILL "$pid" 2>/dev/null || true
    done
}

cmd_on() {
    # -b: it says that it has been booted anew.
    start_again "slurmd-$node" -b
}

cmd_heal() {
    local pid
    if [ -e "$dir/etc/network" ]; then
        link_of_far_node up
    fi
    for daemon in "${DAEMONS[@]}"; do
        if pid=$(pid_of "$daemon"); then
            kill -CONT "$pid"
        else
            start_again "$daemon"
        fi
    done
    for node in "${NODES[@]}"; do
        scontrol update "NodeName=$node" State=RESUME 2>/dev/null || true # it may need none
    done
}

# --- the rest -----------------------------------------------------------------

cmd_status() {
    if [ -e "$marker" ] && all_up; then
        sinfo -N -o '%N %P %G %T'
    else
        printf 'not up\n'
        return 1
    fi
}

cmd_env() {
    printf 'export SLURM_CONF=%q\n' "$SLURM_CONF"
    if [ -d "$dir/bin" ]; then
        printf 'export PATH=%q\n' "$PATH"
    fi
}

lock() {
    exec 9>"$dir/lock"
    flock -w 120 9 || fail "another run of this script holds $dir"
}

case ${1-} in
stop | kill | start | pause | resume | off | on) [ $# -eq 3 ] || usage ;;
*) [ $# -eq 2 ] || usage ;;
esac
[ -n "$2" ] || usage
case $1 in
off | on)
    node=$3
    case " ${NODES[*]} " in *" $node "*) ;; *) fail "no node is called $node; there are ${NODES[*]}" ;; esac
    ;;
*)
    daemon=${3-}
    case " ${DAEMONS[*]}  " in *" $daemon "*) ;; *) fail "no daemon is called $daemon; there are ${DAEMONS[*]}" ;; esac
    ;;
esac
faults=${HPCVLM_SLURM_FAULTS:-}
dir=$(realpath -m -- "$2")
marker=$dir/.slurm-cluster
root=${HPCVLM_SLURM_ROOT:+$(realpath -m -- "$HPCVLM_SLURM_ROOT")}
# Whatever "up" was told is what the other commands use.
if [ -d "$dir/bin" ]; then
    PATH=$dir/bin:$PATH
fi
# All commands and daemons below find the cluster by this, and slurmdbd its
# database by the other.
export SLURM_CONF=$dir/etc/slurm.conf MYSQL_UNIX_PORT=$dir/run/mysql.socket
# Settings of the caller must not reach them.
while read -r name; do
    unset "$name"
done < <(compgen -e | grep -E '^(SLURM_|SLURMD_|SBATCH_|SQUEUE_|SINFO_|SACCT_)' | grep -vx SLURM_CONF)

case $1 in
up) cmd_up ;;
down) cmd_down ;;
status) cmd_status ;;
env) cmd_env ;;
stop | kill | start | pause | resume | off | on | cut | mend | heal | idle)
    [ -e "$marker" ] || fail "no cluster in $dir"
    lock
    case $1 in
    stop) stop "$daemon" ;;
    pause) signalled STOP ;;
    resume) signalled CONT ;;
    cut) link_of_far_node down ;;
    mend) link_of_far_node up ;;
    idle) wait_for 60 "a node" nodes_idle ;;
    *) "cmd_$1" ;;
    esac
    ;;
*) usage ;;
esac
