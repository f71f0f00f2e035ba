"""Judges what Slurm's commands answered."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from hpcvlm.doctor.model import Answer, Check, Question
from hpcvlm.errors import HpcvlmError
from hpcvlm.site.cluster import parse_sinfo
from hpcvlm.slurm.parse import parse_sbatch_test
from hpcvlm.slurm.records import parse_scontrol_config

PART = "Slurm"
PROGRAMS = Question("slurm-programs", PART, "programs")
CONTROLLER = Question("slurm", PART, "controller")
ACCOUNTING = Question("accounting", PART, "accounting")
_LOAD = "run hpcvlm on a login node, or load the site's slurm module"
_OLDEST = (22, 5)  # the oldest that hpcvlm's tests run against
_DISABLED = "accounting storage is disabled"


def judge_programs(missing: Sequence[str], wanted: Sequence[str]) -> Check:
    """Whether Slurm's programs are on PATH."""
    if not missing:
        return PROGRAMS.ok(", ".join(wanted))
    return PROGRAMS.failed(f"not on PATH: {', '.join(missing)}", _LOAD)


def judge_controller(ping: Answer, answer: Answer) -> Check:
    """Whether the controller answers ``scontrol show config``, and its version."""
    try:
        config = parse_scontrol_config(answer.code, answer.stdout, answer.stderr)
    except HpcvlmError as error:
        return CONTROLLER.failed(error.sentence, error.remedy)
    version, cluster = config.get("SLURM_VERSION"), config.get("ClusterName")
    seen = f"Slurm {version or 'of unknown version'}, cluster {cluster or 'without a name'}"
    down = [line.strip() for line in ping.stdout.splitlines() if " is DOWN" in line]
    if down:
        return CONTROLLER.warning(f"{seen}; {'; '.join(down)}", "tell the admins: scontrol ping")
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers and (int(numbers[1]), int(numbers[2])) < _OLDEST:
        return CONTROLLER.warning(
            f"{seen}; hpcvlm is tested with 22.05 and newer", "hpcvlm launch MODEL --dry-run"
        )
    return CONTROLLER.ok(seen)


def judge_accounting(answer: Answer, sacct: Answer) -> Check:
    """Which of three supported kinds of site this is: accounts, none, or out of reach.

    Args:
        answer: to ``scontrol show config``.
        sacct: what sacct said of the last hour.
    """
    kind = ""
    with suppress(HpcvlmError):
        config = parse_scontrol_config(answer.code, answer.stdout, answer.stderr)
        kind = config.get("AccountingStorageType").rpartition("/")[2] or "none"
    if kind == "none" or _DISABLED in sacct.stderr.lower():
        return ACCOUNTING.ok(
            "disabled on this cluster; a job's end is read from its own folder and squeue"
        )
    if sacct.code == 0:
        return ACCOUNTING.ok(f"sacct answers ({kind})" if kind else "sacct answers")
    if sacct.missing:
        return ACCOUNTING.ok("there is no sacct here; a job's end is read from its own folder")
    return ACCOUNTING.warning(
        f"sacct does not answer: {sacct.said}",
        "nothing, if it is down for a while; hpcvlm manages with squeue and the job's folder",
    )


@dataclass(frozen=True, slots=True)
class PartitionTrial:
    """What ``sbatch --test-only`` said of a one-GPU job in one partition.

    Attributes:
        asked: the options that ask for the GPU, as sbatch got them; empty where there is none.
        known: whether the site file names the partition, or it is Slurm's default.
        available: whether sinfo calls it up.
        answer: None where nothing was asked.
    """

    name: str
    asked: str
    known: bool
    available: bool
    answer: Answer | None


def judge_gpu_jobs(trials: Sequence[PartitionTrial]) -> list[Check]:
    """One check for each partition.

    A partition that the site file does not name may be somebody else's: its refusal is a warning,
    as long as another partition takes the job.
    """
    taken = any(part.answer is not None and part.answer.code == 0 for part in trials)
    return [_gpu_job(part, serious=part.known or not taken) for part in trials]


def gpu_job_question(partition: str) -> Question:
    """The check of one partition."""
    return Question(f"gpu-job:{partition}", PART, f"1 GPU in {partition}")


def _gpu_job(part: PartitionTrial, *, serious: bool) -> Check:
    question = gpu_job_question(part.name)
    if part.answer is None:
        return question.skipped("it has no GPUs" if part.available else "it is not up")
    if part.answer.timed_out:
        return question.unknown("sbatch --test-only did not answer in time", "try again later")
    try:
        tested = parse_sbatch_test(part.answer.code, part.answer.stdout, part.answer.stderr)
    except HpcvlmError as error:
        remedy = error.remedy or f"sbatch --test-only {part.asked} SCRIPT shows it"
        evidence = f"{error.sentence} ({part.asked})"
        return question.failed(evidence, remedy) if serious else question.warning(evidence, remedy)
    return question.ok(f"{part.asked}: {_foreseen(tested.sentence)}")


def _foreseen(sentence: str) -> str:
    """``would start at 2026-11-21T10:18:45 on gpu01``, from sbatch's sentence.

    sbatch: Job 2 to start at 2026-11-21T10:18:45 using 1 processors on nodes gpu01 in partition gpu
    """
    match = re.search(r"to start at (\S+).* on nodes (\S+)", sentence)
    return f"would start at {match[1]} on {match[2]}" if match else sentence


def no_partitions(sinfo: Answer) -> Check:
    """In place of all partitions, when sinfo does not tell them; a launch asks it first."""
    question = Question("gpu-job", PART, "partitions")
    try:
        parse_sinfo(sinfo.code, sinfo.stdout, sinfo.stderr)
    except HpcvlmError as error:
        return question.failed(error.sentence, error.remedy or "run sinfo by hand")
    return question.failed("sinfo shows no partition", "run sinfo by hand")
