"""Three versions of Slurm, four years apart, are the same cluster to hpcvlm.

The answers are those of real clusters with one configuration (tests/e2e/slurm_versions.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import pytest

from hpcvlm.errors import HpcvlmError
from hpcvlm.site.cluster import Cluster, parse_sinfo
from hpcvlm.site.discover import site_facts
from hpcvlm.site.facts import Answers, SiteFacts
from hpcvlm.slurm import commands
from hpcvlm.slurm.accounts import parse_associations, parse_default_account, parse_qos
from hpcvlm.slurm.model import SlurmJob
from hpcvlm.slurm.parse import (
    Submission,
    parse_sacct,
    parse_sbatch,
    parse_sbatch_test,
    parse_scancel,
    parse_squeue,
)
from hpcvlm.slurm.records import (
    NodeRecord,
    SlurmConfig,
    parse_scontrol_config,
    parse_scontrol_nodes,
    parse_scontrol_partitions,
)
from hpcvlm.slurm.states import JobPhase
from tests.e2e.slurm_versions import INSTALLED, OTHERS, Answer, captured

VERSIONS = (INSTALLED, *OTHERS)
each_version = pytest.mark.parametrize("version", VERSIONS)
each_other = pytest.mark.parametrize("version", OTHERS)
T = TypeVar("T")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def read(parser: Callable[[int, str, str], T], answer: Answer) -> T:
    return parser(answer.code, answer.stdout, answer.stderr)


def first(version: str, name: str, parser: Callable[[int, str, str], T]) -> T:
    return read(parser, captured(version, name)[0])


# ---- What was typed ---------------------------------------------------------------------------


@each_version
def test_the_captures_are_of_the_commands_that_hpcvlm_types_now(version: str) -> None:
    typed = {
        "sinfo": commands.sinfo(),
        "config": commands.scontrol_config(),
        "partitions": commands.scontrol_partitions(),
        "nodes": commands.scontrol_nodes(),
        "associations": commands.sacctmgr_associations("root"),
        "qos": commands.sacctmgr_qos(),
        "default_account": commands.sacctmgr_default_account("root"),
        "squeue": commands.squeue([str(n) for n in range(1, 8)]),
        "sacct": commands.sacct([str(n) for n in range(1, 8)]),
        "sbatch": commands.sbatch("ok.sh"),
        "scancel": commands.scancel("1"),
    }
    assert {name: captured(version, name)[0].argv for name in typed} == typed
    assert captured(version, "scancel")[2].argv == commands.scancel_term("1")


@each_version
def test_the_captures_are_of_that_version(version: str) -> None:
    config = first(version, "config", parse_scontrol_config)
    assert config.get("SLURM_VERSION").startswith(f"{version}.")


# ---- The cluster ------------------------------------------------------------------------------


def cluster(version: str) -> Cluster:
    """In an order of our own: sinfo's is that of no version."""
    found = first(version, "sinfo", parse_sinfo)
    return Cluster(
        tuple(replace(p, gpu_types=tuple(sorted(p.gpu_types))) for p in found.partitions)
    )


@each_other
def test_sinfo_shows_the_same_cluster(version: str) -> None:
    assert cluster(version) == cluster(INSTALLED)
    assert cluster(version).gpu_types() == {"A100": 4, "H100": 4}


@each_other
def test_scontrol_shows_the_same_partitions(version: str) -> None:
    now = first(version, "partitions", parse_scontrol_partitions)
    assert {part.name for part in now} == {"gpu", "short", "cpu"}
    before = first(INSTALLED, "partitions", parse_scontrol_partitions)
    assert {p.name: p for p in now} == {p.name: p for p in before}


def nodes(version: str) -> dict[str, NodeRecord]:
    """Without PLANNED, which the scheduler adds when it likes, and without GPUs that are none."""
    return {
        node.name: replace(
            node,
            state=node.state.removesuffix("+PLANNED"),
            gres_used=tuple(one for one in node.gres_used if one.count),
        )
        for node in first(version, "nodes", parse_scontrol_nodes)
    }


@each_other
def test_scontrol_shows_the_same_nodes(version: str) -> None:
    assert nodes(version) == nodes(INSTALLED)
    assert [one.count for one in nodes(version)["gpu02"].gres_used] == [4]


@each_version
def test_a_planned_node_is_usable(version: str) -> None:
    assert all(node.usable for node in first(version, "nodes", parse_scontrol_nodes))


@each_other
def test_what_hpcvlm_reads_of_the_configuration_is_the_same(version: str) -> None:
    def facts(config: SlurmConfig) -> tuple[object, ...]:
        return (
            config.get("ClusterName"),
            config.accounting,
            config.enforces,
            config.gpus_per_node,
            config.seconds("KillWait"),
            config.seconds("MinJobAge"),
            config.seconds("OverTimeLimit"),
            config.get("ProctrackType"),
            config.get("SelectType"),
        )

    now = facts(first(version, "config", parse_scontrol_config))
    assert now == facts(first(INSTALLED, "config", parse_scontrol_config))
    assert now[:6] == ("test", True, ("associations",), True, 5, 300)


@each_other
def test_sacctmgr_shows_the_same_accounts(version: str) -> None:
    now = first(version, "associations", parse_associations)
    assert set(now) == set(first(INSTALLED, "associations", parse_associations))
    assert {row.account for row in now} == {"acct", "root"}
    assert first(version, "qos", parse_qos) == first(INSTALLED, "qos", parse_qos)
    assert first(version, "default_account", parse_default_account) == "acct"


def site(version: str) -> SiteFacts:
    """The facts of the site file, but for the words that tell the version."""
    facts = site_facts(
        Answers(
            cluster=cluster(version),
            config=first(version, "config", parse_scontrol_config),
            partitions=first(version, "partitions", parse_scontrol_partitions),
            nodes=first(version, "nodes", parse_scontrol_nodes),
            associations=tuple(
                sorted(first(version, "associations", parse_associations), key=lambda a: a.account)
            ),
            default_account=first(version, "default_account", parse_default_account),
            qos=first(version, "qos", parse_qos),
            user="root",
        )
    )
    assert facts.version.startswith(version)
    # task/none of 22.05 is (null) now: shown as it is.
    notes = tuple(note for note in facts.notes if not note.startswith("TaskPlugin="))
    assert len(notes) == len(facts.notes) - 1
    return replace(facts, version="", notes=notes)


@each_other
def test_the_site_file_is_made_of_the_same_facts(version: str) -> None:
    assert site(version) == site(INSTALLED)


# ---- Jobs -------------------------------------------------------------------------------------


def settled(jobs: list[SlurmJob]) -> dict[str, SlurmJob]:
    """Jobs by name, with times as what is known of them, rounded over the seconds of a run."""
    return {
        job.name: replace(
            job,
            start=job.start and _EPOCH,
            end=job.end
            and (
                job.start and _EPOCH + timedelta(minutes=round((job.end - job.start).seconds / 60))
            ),
        )
        for job in jobs
    }


@each_other
@pytest.mark.parametrize(("name", "parser"), [("squeue", parse_squeue), ("sacct", parse_sacct)])
def test_jobs_look_the_same(
    version: str, name: str, parser: Callable[[int, str, str], list[SlurmJob]]
) -> None:
    assert settled(first(version, name, parser)) == settled(first(INSTALLED, name, parser))


@each_version
def test_states_and_reasons_are_known(version: str) -> None:
    jobs = settled(first(version, "squeue", parse_squeue))
    assert {name: job.state for name, job in jobs.items()} == {
        "done": JobPhase.DONE,
        "failed": JobPhase.FAILED,
        "cancelled": JobPhase.CANCELLED,
        "without GPU": JobPhase.RUNNING,
        "running": JobPhase.RUNNING,
        "waiting": JobPhase.PENDING,
        "too long|here": JobPhase.PENDING,
    }
    assert jobs["waiting"].reason in {"Resources", "Priority"}
    assert jobs["too long|here"].reason == "PartitionTimeLimit"
    told = settled(first(version, "sacct", parse_sacct))
    assert {name: job.state for name, job in told.items()} == {n: j.state for n, j in jobs.items()}
    assert told["failed"].exit_code == 3


@each_version
def test_a_job_that_slurm_does_not_know_is_no_job(version: str) -> None:
    assert read(parse_squeue, captured(version, "squeue")[1]) == []
    assert read(parse_sacct, captured(version, "sacct")[1]) == []


# ---- Submitting and stopping ------------------------------------------------------------------


def outcome(parser: Callable[[int, str, str], object], answer: Answer) -> object:
    """What comes of it: a submission without its number, or the error with all that is told."""
    try:
        value = read(parser, answer)
    except HpcvlmError as error:
        return error.code, error.sentence, error.remedy, error.details
    return replace(value, job_id="") if isinstance(value, Submission) else value


@each_other
def test_sbatch_refuses_in_the_same_words(version: str) -> None:
    now = [outcome(parse_sbatch, answer) for answer in captured(version, "sbatch")]
    assert now == [outcome(parse_sbatch, answer) for answer in captured(INSTALLED, "sbatch")]


@each_version
def test_every_refusal_is_one(version: str) -> None:
    answers = {" ".join(answer.argv[2:-1]): answer for answer in captured(version, "sbatch")}
    codes = {
        asked: isinstance(told, tuple) and told[0]
        for asked, answer in answers.items()
        for told in (outcome(parse_sbatch, answer),)
    }
    # A QOS is looked at only where AccountingStorageEnforce has qos.
    taken = {"", "--qos=nope"}
    assert codes == {asked: asked not in taken and "sbatch-refused" for asked in answers}
    assert len(codes) == 10


@each_version
def test_test_only_tells_the_start(version: str) -> None:
    free, busy, wrong = captured(version, "sbatch_test")
    soon, late = (read(parse_sbatch_test, answer) for answer in (free, busy))
    assert soon.start is not None
    assert late.start is not None
    assert timedelta(hours=1) < late.start - soon.start < timedelta(hours=3)
    assert late.sentence.endswith("on nodes gpu02 in partition gpu")
    with pytest.raises(HpcvlmError, match="Invalid partition name specified"):
        read(parse_sbatch_test, wrong)


@each_other
def test_scancel_answers_the_same(version: str) -> None:
    now = [outcome(parse_scancel, answer) for answer in captured(version, "scancel")]
    assert now == [outcome(parse_scancel, answer) for answer in captured(INSTALLED, "scancel")]
    assert now[:3] == [True, True, False]


@each_version
def test_a_slurm_that_does_not_answer_is_told_apart(version: str) -> None:
    parsers: dict[str, Callable[[int, str, str], object]] = {
        "sinfo": parse_sinfo,
        "squeue": parse_squeue,
        "sacct": parse_sacct,
        "sbatch": parse_sbatch,
        "scancel": parse_scancel,
    }
    answers = captured(version, "unreachable")
    assert [answer.argv[0] for answer in answers] == list(parsers)
    for answer in answers:
        with pytest.raises(HpcvlmError) as caught:
            read(parsers[answer.argv[0]], answer)
        assert caught.value.code == "slurm-unavailable"
