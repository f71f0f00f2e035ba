"""The command lines, and the environment they run in."""

from __future__ import annotations

from datetime import datetime

from hypothesis import given
from hypothesis import strategies as st

from hpcvlm.slurm import commands


def test_the_command_lines() -> None:
    assert commands.sinfo() == (
        "sinfo", "--noheader", "--exact", "--format=%P|%a|%l|%D|%c|%m|%G",
    )  # fmt: skip
    squeue = (
        "squeue",
        "--noheader",
        "--all",
        "--states=all",
        "--format=%i|%T|%r|%N|%S|%e|%l|%P|%j",
    )
    assert commands.squeue(["7", "12"]) == (*squeue, "--jobs=7,12")
    assert commands.squeue_user() == (*squeue, "--me")
    assert commands.squeue_user("ada") == (*squeue, "--user=ada")
    assert commands.sacct(["7", "12"]) == (
        "sacct",
        "--noheader",
        "--parsable2",
        "--allocations",
        "--format=JobID,State,ExitCode,NodeList,Start,End,Timelimit,Partition,JobName",
        "--jobs=7,12",
    )
    assert commands.sbatch("/jobs/a b/job.sbatch") == (
        "sbatch", "--parsable", "/jobs/a b/job.sbatch",
    )  # fmt: skip
    assert commands.sbatch("job.sbatch", commands.after("7", 50)) == (
        "sbatch", "--parsable", "--dependency=after:7+50", "job.sbatch",
    )  # fmt: skip
    assert commands.after("7", 0) == "after:7"
    assert commands.squeue_folders() == (
        "squeue", "--noheader", "--all", "--states=all", "--me", "--format=%i|%Z",
    )  # fmt: skip
    assert commands.sacct_folders(datetime(2026, 3, 1, 9, 5)) == (  # noqa: DTZ001
        "sacct", "--noheader", "--parsable2", "--allocations",
        "--starttime=2026-03-01T09:05:00", "--format=JobID,WorkDir",
    )  # fmt: skip
    assert commands.sbatch_test("job.sbatch") == ("sbatch", "--test-only", "job.sbatch")
    assert commands.scancel("7") == ("scancel", "7")
    assert commands.scancel_term("7") == ("scancel", "--batch", "--signal=TERM", "7")


def test_each_format_has_a_name_for_each_field() -> None:
    def count(argv: tuple[str, ...], separator: str) -> int:
        return next(word for word in argv if word.startswith("--format=")).count(separator) + 1

    assert count(commands.sinfo(), "|") == len(commands.SINFO_FIELDS)
    assert count(commands.squeue(["1"]), "|") == len(commands.SQUEUE_FIELDS)
    assert count(commands.sacct(["1"]), ",") == len(commands.SACCT_FIELDS)
    assert count(commands.squeue_folders(), "|") == len(commands.FOLDER_FIELDS)
    assert count(commands.sacct_folders(datetime.now().astimezone()), ",") == len(
        commands.FOLDER_FIELDS
    )


def test_a_users_options_do_not_reach_slurm() -> None:
    user = {
        "PATH": "/usr/bin",
        "HOME": "/home/ada",
        "SBATCH_PARTITION": "other",
        "SBATCH_TIMELIMIT": "1",
        "SQUEUE_FORMAT": "%i",
        "SQUEUE_STATES": "R",
        "SINFO_FORMAT": "%P",
        "SACCT_LOCAL": "1",
        "SCANCEL_INTERACTIVE": "1",
        "SLURM_TIME_FORMAT": "relative",
        "SLURM_JOB_ID": "5",
        "SLURM_MEM_PER_NODE": "1024",
        "SLURM_CONF": "/etc/slurm/slurm.conf",
        "SLURM_CONF_SERVER": "ctl",
        "SLURM_CLUSTERS": "north",
        "SLURM_JWT": "token",
    }
    kept = {
        "PATH": "/usr/bin",
        "HOME": "/home/ada",
        "SLURM_CONF": "/etc/slurm/slurm.conf",
        "SLURM_CONF_SERVER": "ctl",
        "SLURM_CLUSTERS": "north",
        "SLURM_JWT": "token",
    }
    assert commands.clean_environment(user) == kept
    assert commands.query_environment(user) == {**kept, "SLURM_TIME_FORMAT": "%s"}
    assert "SBATCH_PARTITION" in user


@given(st.dictionaries(st.from_regex(r"[A-Z_]{1,20}", fullmatch=True), st.text(max_size=5)))
def test_everything_else_is_kept(environment: dict[str, str]) -> None:
    clean = commands.clean_environment(environment)
    dropped = environment.keys() - clean.keys()
    prefixes = ("SLURM_", "SBATCH_", "SQUEUE_", "SINFO_", "SACCT_", "SCANCEL_")
    assert all(name.startswith(prefixes) for name in dropped)
    assert clean.items() <= environment.items()
