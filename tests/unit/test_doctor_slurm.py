"""Slurm's answers and the site file, judged."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpcvlm.doctor import job, slurm
from hpcvlm.doctor import site as judge_site
from hpcvlm.doctor.model import Answer, Status
from hpcvlm.errors import HpcvlmError
from hpcvlm.ops.doctor_slurm import _untold
from hpcvlm.site.cluster import Cluster, parse_sinfo
from hpcvlm.site.load import load_site
from hpcvlm.site.schema import Notify, SiteSpec

# Slurm 22.05.8, `scontrol show config`, shortened.
CONFIG = """\
Configuration data as of 2026-11-21T10:18:45
AccountingStorageType   = accounting_storage/slurmdbd
ClusterName             = test
SLURM_CONF              = /etc/slurm/slurm.conf
SLURM_VERSION           = 22.05.8
"""
PING = "Slurmctld(primary) at vm is UP\n"
SINFO = """\
gpu*|up|1-00:00:00|2|8|16000|gpu:A100:4(S:0-1)
mixed|up|30:00|1|8|16000|gpu:A100:2,gpu:H100:2
plain|up|infinite|1|8|16000|gpu:4
cpu|up|7-00:00:00|1|8|16000|(null)
old|down|7-00:00:00|1|8|16000|gpu:V100:2
"""
TAKEN = Answer(
    0,
    "",
    "sbatch: Job 2 to start at 2026-11-21T10:18:45 using 1 processors on nodes gpu01 in "
    "partition gpu\n",
)
REFUSED = Answer(1, "", "allocation failure: Requested node configuration is not available\n")
NO_ACCOUNT = Answer(
    1, "", "allocation failure: Invalid account or account/partition combination specified\n"
)


def cluster() -> Cluster:
    return parse_sinfo(0, SINFO, "")


def site(text: str) -> SiteSpec:
    return load_site([("site", "site.yaml", "schema: 1\n" + text)])[0]


def test_a_controller_that_answers() -> None:
    check = slurm.judge_controller(Answer(0, PING), Answer(0, CONFIG))
    assert (check.status, check.evidence) == (Status.OK, "Slurm 22.05.8, cluster test")


@pytest.mark.parametrize(
    ("ping", "config", "status", "words"),
    [
        # Slurm 22.05.8 with a SLURM_CONF that names no file.
        (
            Answer(1),
            Answer(
                1,
                "",
                "scontrol: error: ClusterName needs to be specified\n"
                "scontrol: fatal: Unable to process configuration file\n",
            ),
            Status.FAILED,
            "Slurm did not answer: Unable to process configuration file",
        ),
        (Answer(127), Answer(127), Status.FAILED, "there is no scontrol command here"),
        (Answer(124), Answer(124), Status.FAILED, "scontrol did not answer in time"),
        (
            Answer(0, "Slurmctld(primary) at a is DOWN\nSlurmctld(backup) at b is UP\n"),
            Answer(0, CONFIG),
            Status.WARNING,
            "Slurmctld(primary) at a is DOWN",
        ),
        (
            Answer(0, PING),
            Answer(0, CONFIG.replace("22.05.8", "20.11.9")),
            Status.WARNING,
            "tested with 22.05",
        ),
    ],
)
def test_controllers_that_are_not_as_they_must_be(
    ping: Answer, config: Answer, status: Status, words: str
) -> None:
    check = slurm.judge_controller(ping, config)
    assert check.status is status
    assert words in check.evidence
    assert check.remedy


def test_programs() -> None:
    assert slurm.judge_programs([], ("sbatch", "srun")).status is Status.OK
    check = slurm.judge_programs(["srun"], ("sbatch", "srun"))
    assert (check.status, check.evidence) == (Status.FAILED, "not on PATH: srun")


@pytest.mark.parametrize(
    ("kind", "sacct", "status", "words"),
    [
        ("accounting_storage/slurmdbd", Answer(0, "1\n"), Status.OK, "sacct answers (slurmdbd)"),
        ("accounting_storage/none", Answer(0), Status.OK, "disabled"),
        ("(null)", Answer(1), Status.OK, "disabled"),
        (None, Answer(1, "", "Slurm accounting storage is disabled\n"), Status.OK, "disabled"),
        (None, Answer(0, "1\n"), Status.OK, "sacct answers"),
        (None, Answer(127), Status.OK, "there is no sacct"),
        (
            "accounting_storage/slurmdbd",
            Answer(1, "", "sacct: error: Problem talking to the database: Connection refused\n"),
            Status.WARNING,
            "Connection refused",
        ),
        ("accounting_storage/slurmdbd", Answer(124), Status.WARNING, "exit code 124"),
    ],
)
def test_accounting(kind: str | None, sacct: Answer, status: Status, words: str) -> None:
    config = CONFIG.replace("accounting_storage/slurmdbd", kind or "")
    answer = Answer(1, "", "no answer") if kind is None else Answer(0, config)
    check = slurm.judge_accounting(answer, sacct)
    assert check.status is status
    assert words in check.evidence


def trial(name: str, answer: Answer | None, *, known: bool = False) -> slurm.PartitionTrial:
    return slurm.PartitionTrial(name, "--gpus-per-node=A100:1", known, True, answer)


def test_a_partition_that_takes_the_job() -> None:
    [check] = slurm.judge_gpu_jobs([trial("gpu", TAKEN)])
    assert check.id == "gpu-job:gpu"
    assert check.status is Status.OK
    assert check.evidence == ("--gpus-per-node=A100:1: would start at 2026-11-21T10:18:45 on gpu01")


def test_somebody_else_s_partition_is_a_warning_as_long_as_another_takes_the_job() -> None:
    checks = slurm.judge_gpu_jobs([trial("gpu", TAKEN, known=True), trial("group", NO_ACCOUNT)])
    assert [check.status for check in checks] == [Status.OK, Status.WARNING]
    assert "--account" in checks[1].remedy
    [alone] = slurm.judge_gpu_jobs([trial("group", NO_ACCOUNT)])
    assert alone.status is Status.FAILED
    named = slurm.judge_gpu_jobs([trial("gpu", TAKEN), trial("big", REFUSED, known=True)])
    assert named[1].status is Status.FAILED
    assert "Requested node configuration is not available" in named[1].evidence


def test_partitions_that_cannot_be_asked() -> None:
    silent, empty = slurm.judge_gpu_jobs([trial("gpu", Answer(124)), trial("cpu", None)])
    assert silent.status is Status.UNKNOWN
    assert (empty.status, empty.evidence) == (Status.SKIPPED, "it has no GPUs")


def test_a_sinfo_that_tells_nothing_fails() -> None:
    refused = slurm.no_partitions(Answer(1, "", "sinfo: error: something\n"))
    assert (refused.status, "something" in refused.evidence) == (Status.FAILED, True)
    assert slurm.no_partitions(Answer(0, "what is this\n")).status is Status.FAILED
    assert slurm.no_partitions(Answer(0)).evidence == "sinfo shows no partition"


@pytest.mark.parametrize(
    ("text", "partition", "expected"),
    [
        ("", "gpu", {"gpus-per-node": "A100:1", "partition": "gpu"}),
        ("", "plain", {"gpus-per-node": "1"}),
        ("gpu_request: gres", "gpu", {"gres": "gpu:A100:1"}),
        (
            "gpu_request: constraint\ngpu_types: {A100: {constraint: a100-80}}",
            "gpu",
            {"gpus-per-node": "1", "constraint": "a100-80"},
        ),
        (
            "account: mine\nqos: high\ncpus_per_gpu: 8\nmemory_per_gpu: 60G\nsbatch: {comment: x}",
            "gpu",
            {"account": "mine", "qos": "high", "cpus-per-task": "8", "comment": "x"},
        ),
        (
            "account: mine\npartitions: {gpu: {account: theirs, cpus_per_gpu: 4}}",
            "gpu",
            {"account": "theirs", "cpus-per-task": "4", "mem-per-gpu": None},
        ),
        ("", "cpu", {"gpus-per-node": None, "gres": None, "cpus-per-task": None}),
    ],
)
def test_a_job_asks_as_the_site_file_says(
    text: str, partition: str, expected: dict[str, str | None]
) -> None:
    spec = site(text)
    gpus = job.gpus_of(job.first_gpu(cluster(), partition), spec)
    options = job.job_options(spec, partition, gpus, 1, folder="/s")
    assert {key: options.get(key) for key in expected} == expected
    assert options["time"] == "00:01:00"
    words = job.asked_words(options, gpus)
    assert all(f"--{key}=" in words for key in ("account", "qos") if key in options)
    assert ("gpu" in words) == (partition != "cpu")
    assert "mail-type" not in options
    lines = job.trial_script(options).splitlines()
    assert lines[0] == "#!/bin/bash"
    assert all(line.startswith("#SBATCH --") for line in lines[1:-1])


def test_a_type_may_be_named_as_users_type_it() -> None:
    spec = site("gpu_types: {A100: {slurm_name: nvidia_a100, aliases: [a100], request: gres}}")
    for typed in ("A100", "a100", "nvidia_a100"):
        options = job.job_options(spec, None, job.gpus_of(f"{typed}:2", spec), 5, folder="/s")
        assert options["gres"] == "gpu:nvidia_a100:2"


@pytest.mark.parametrize(
    ("text", "count", "kind"), [("2", 2, None), ("A100", 1, "A100"), ("1g.10gb:3", 3, "1g.10gb")]
)
def test_gpus_as_typed(text: str, count: int, kind: str | None) -> None:
    gpus = job.gpus_of(text, site(""))
    assert (gpus.slurm.count, gpus.slurm.type) == (count, kind)


@pytest.mark.parametrize("text", ["", "A100:", "A100:x", "-1:-1"])
def test_gpus_that_are_none(text: str) -> None:
    with pytest.raises(HpcvlmError) as caught:
        job.gpus_of(text, site(""))
    assert caught.value.code == "gpus-invalid"


@pytest.mark.parametrize(
    ("text", "status", "words"),
    [
        ("", Status.OK, "jobs go to gpu"),
        ("partition: mixed", Status.OK, "jobs go to mixed"),
        ("partition: gpus", Status.FAILED, "names gpus; Slurm has gpu, mixed"),
        ("partitions: {huge: {}}", Status.FAILED, "names huge"),
        ("partition: cpu", Status.WARNING, "cpu, which has no GPUs"),
    ],
)
def test_partitions_of_the_site_file(text: str, status: Status, words: str) -> None:
    check = judge_site.judge_partitions(site(text), cluster())
    assert check.status is status
    assert words in check.evidence
    assert check.remedy or status is Status.OK


def test_no_default_partition_anywhere() -> None:
    without = parse_sinfo(0, SINFO.replace("gpu*", "gpu"), "")
    assert judge_site.judge_partitions(site(""), without).status is Status.WARNING


@pytest.mark.parametrize(
    ("text", "status", "words"),
    [
        ("", Status.OK, "A100, H100, V100"),
        ("gpu_types: {A100: {}}", Status.OK, "A100"),
        ("gpu_types: {a100: {slurm_name: A100}}", Status.OK, "A100"),
        ("gpu_types: {a100: {}}", Status.FAILED, "a100 (a100), perhaps A100"),
        ("gpu_types: {big: {constraint: a100-80}}", Status.OK, "A100"),
    ],
)
def test_gpu_types_of_the_site_file(text: str, status: Status, words: str) -> None:
    check = judge_site.judge_gpu_types(site(text), cluster())
    assert check.status is status
    assert words in check.evidence


def test_site_files() -> None:
    refused = HpcvlmError("file-invalid", "site.yaml, line 3: partiton: no such key", "partition")
    assert judge_site.judge_files(["/a"], None, ["/a", "/b"]).status is Status.OK
    assert judge_site.judge_files([], None, ["/a", "/b"]).status is Status.WARNING
    check = judge_site.judge_files(["/a"], refused, ["/a", "/b"])
    assert (check.status, check.remedy) == (Status.FAILED, "partition")
    assert "line 3" in check.evidence


def test_engines_and_folders() -> None:
    assert judge_site.judge_engines(["vllm 0.33.0"]).evidence == "vllm 0.33.0"
    assert judge_site.judge_engines([]).status is Status.WARNING
    assert judge_site.judge_folders(["binds /x"], {"/x"}).status is Status.WARNING
    assert judge_site.judge_folders([], {"/x"}).status is Status.OK
    assert judge_site.judge_folders([], set()).status is Status.SKIPPED


def test_notices() -> None:
    told = Notify(events=("ready",), command=("/bin/true",))
    assert judge_site.judge_notify(told, []).evidence == "ready by notify.command"
    assert judge_site.judge_notify(told, ["no program /bin/true here"]).status is Status.WARNING
    check = judge_site.judge_notify(Notify(events=("ready",)), [])
    assert (check.status, "notify.command" in check.remedy) == (Status.WARNING, True)
    assert judge_site.judge_notify(Notify(), []).status is Status.SKIPPED


def test_what_keeps_a_job_from_telling_anybody(tmp_path: Path) -> None:
    hook = tmp_path / "hook"
    hook.write_text("https://hooks.example.org/x\n")
    hook.chmod(0o644)
    notify = Notify(command=("/no/such", "-x"), webhook_file=str(hook), mail_to="u@example.org")
    found = _untold(notify, str(tmp_path))
    assert found[:2] == ["no program /no/such here", "no program mail here"]
    assert "chmod 600" in found[2]
    hook.chmod(0o600)
    assert _untold(Notify(webhook_file=str(hook)), None) == []
    assert "No such file" in _untold(Notify(webhook_file=f"{hook}s"), None)[0]
