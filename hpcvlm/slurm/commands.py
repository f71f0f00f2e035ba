"""The Slurm command lines that hpcvlm runs, and the environment they run in.

Output is asked for in explicit text formats, which are the same from Slurm 22.05 to the newest;
the JSON output is not. The free-text field (the job's name) comes last, so that a separator in it
does no harm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

Argv = tuple[str, ...]

SINFO_FIELDS = ("partition", "available", "time_limit", "nodes", "cpus", "memory", "gres")
_SINFO_FORMAT = "%P|%a|%l|%D|%c|%m|%G"

SQUEUE_FIELDS = (
    "job_id", "state", "reason", "nodes", "start", "end", "time_limit", "partition", "name",
)  # fmt: skip
_SQUEUE_FORMAT = "%i|%T|%r|%N|%S|%e|%l|%P|%j"

SACCT_FIELDS = (
    "job_id", "state", "exit_code", "nodes", "start", "end", "time_limit", "partition", "name",
)  # fmt: skip
_SACCT_FORMAT = "JobID,State,ExitCode,NodeList,Start,End,Timelimit,Partition,JobName"


def sinfo() -> Argv:
    """Every partition, one line for each kind of node in it."""
    return ("sinfo", "--noheader", "--exact", f"--format={_SINFO_FORMAT}")


ASSOCIATION_FIELDS = ("cluster", "account", "partition", "qos", "default_qos")
_ASSOCIATION_FORMAT = "Cluster,Account,Partition,QOS,DefaultQOS"

QOS_FIELDS = ("name", "max_time", "max_tres_per_user", "flags")
_QOS_FORMAT = "Name,MaxWall,MaxTRESPU,Flags"


def scontrol_config() -> Argv:
    """The controller's configuration, one parameter a line."""
    return ("scontrol", "show", "config")


def scontrol_partitions() -> Argv:
    """Every partition, hidden ones and those of other groups too, one a line."""
    return ("scontrol", "--all", "--oneliner", "show", "partition")


def scontrol_nodes() -> Argv:
    """Every node with what of its GPUs is in use, one a line."""
    return ("scontrol", "--all", "--details", "--oneliner", "show", "node")


def sacctmgr_associations(user: str) -> Argv:
    """What one user may submit with, on every cluster of the accounts' database."""
    return (
        *("sacctmgr", "--noheader", "--parsable2", "show", "associations", f"user={user}"),
        f"format={_ASSOCIATION_FORMAT}",
    )


def sacctmgr_qos() -> Argv:
    """Every QOS with the limits that may keep a job waiting."""
    return ("sacctmgr", "--noheader", "--parsable2", "show", "qos", f"format={_QOS_FORMAT}")


def sacctmgr_default_account(user: str) -> Argv:
    """The account that a user's jobs get when none is named."""
    return (
        *("sacctmgr", "--noheader", "--parsable2", "show", "user", user),
        "format=DefaultAccount",
    )


def squeue(job_ids: Sequence[str]) -> Argv:
    """These jobs, as long as Slurm's controller remembers them (MinJobAge after their end)."""
    return (*_squeue(), f"--jobs={','.join(job_ids)}")


def squeue_user(user: str | None = None) -> Argv:
    """One user's jobs, the caller's own when no user is named; also those just ended."""
    return (*_squeue(), f"--user={user}" if user else "--me")


_COMMENT_FORMAT = "%i|%u|%k|%j"


def squeue_comments() -> Argv:
    """The comments of everybody's jobs that wait, run or end just now."""
    return ("squeue", "--noheader", "--all", f"--format={_COMMENT_FORMAT}")


def _squeue() -> Argv:
    return ("squeue", "--noheader", "--all", "--states=all", f"--format={_SQUEUE_FORMAT}")


def sacct(job_ids: Sequence[str]) -> Argv:
    """These jobs in the accounts, without their steps."""
    return (
        "sacct",
        "--noheader",
        "--parsable2",
        "--allocations",
        f"--format={_SACCT_FORMAT}",
        f"--jobs={','.join(job_ids)}",
    )


def sbatch(script: str, dependency: str | None = None) -> Argv:
    """Submits a script and prints nothing but the job's number.

    Args:
        script: its path.
        dependency: as --dependency takes it; see `after`.
    """
    depends = (f"--dependency={dependency}",) if dependency else ()
    return ("sbatch", "--parsable", *depends, script)


def after(job_id: str, minutes: int) -> str:
    """A dependency: so many minutes after another job began (sbatch(1), --dependency=after)."""
    return f"after:{job_id}+{minutes}" if minutes else f"after:{job_id}"


FOLDER_FIELDS = ("job_id", "folder")
_FOLDER_FORMAT = "%i|%Z"


def squeue_folders() -> Argv:
    """The working directory of each of the caller's jobs, also of those just ended."""
    return (
        *("squeue", "--noheader", "--all", "--states=all", "--me"),
        f"--format={_FOLDER_FORMAT}",
    )


def sacct_folders(since: datetime) -> Argv:
    """The working directory of each of the caller's jobs in the accounts.

    Args:
        since: jobs that ended before it are left out; sacct takes it as local time.
    """
    return (
        *("sacct", "--noheader", "--parsable2", "--allocations"),
        f"--starttime={since.strftime('%Y-%m-%dT%H:%M:%S')}",
        "--format=JobID,WorkDir",
    )


def sbatch_test(script: str) -> Argv:
    """Asks whether and when a script could run; submits nothing."""
    return ("sbatch", "--test-only", script)


def scancel(job_id: str) -> Argv:
    """Ends a job: SIGTERM to its steps, SIGKILL after Slurm's KillWait."""
    return ("scancel", job_id)


def scancel_term(job_id: str) -> Argv:
    """Sends SIGTERM to the batch script alone, which then stops the server in its own order."""
    return ("scancel", "--batch", "--signal=TERM", job_id)


# Options given through the environment: they override what stands in a script (sbatch) or change
# what a command prints.
_OPTION_PREFIXES = ("SBATCH_", "SQUEUE_", "SINFO_", "SACCT_", "SCANCEL_")
# SLURM_* describes the job that hpcvlm itself may run in, and is wrong for another one; a few of
# them are options too (SLURM_HINT, SLURM_EXIT_ERROR, SLURM_TIME_FORMAT). What is kept says where
# the cluster is and who the user is to it.
_SLURM_PREFIX = "SLURM_"
_KEPT = frozenset({"SLURM_CLUSTERS", "SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT"})


def clean_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without what would change a Slurm command's output or a script's options."""
    return {
        name: value
        for name, value in environment.items()
        if name in _KEPT or not name.startswith((_SLURM_PREFIX, *_OPTION_PREFIXES))
    }


def query_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for squeue, sacct and sinfo: as `clean_environment`, with pinned formats.

    Times come as seconds since the epoch, which no time zone or change of clocks can make wrong.
    It is not for sbatch, which hands its environment on to the job.
    """
    return {**clean_environment(environment), "SLURM_TIME_FORMAT": "%s"}


# What the commands say where they are installed and no cluster is configured.
_NO_CLUSTER = (
    "Could not establish a configuration source",
    "Unable to process configuration file",
)


def is_not_configured(stderr: str) -> bool:
    """Whether a command failed since this machine belongs to no cluster."""
    return any(words in stderr for words in _NO_CLUSTER)
