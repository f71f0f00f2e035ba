"""Why an endpoint is as it is, from the files of its job and what Slurm says."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from hpcvlm.cli.why import as_dict, as_text
from hpcvlm.errors import HpcvlmError
from hpcvlm.ops import why_evidence
from hpcvlm.ops.context import Context
from hpcvlm.ops.why import explain_refusal, signatures, why
from hpcvlm.ops.why_evidence import read_log
from hpcvlm.plan.model import GpuRequest, LaunchRequest
from hpcvlm.slurm.commands import SACCT_FIELDS, SQUEUE_FIELDS
from hpcvlm.submit.record import JobRecord
from hpcvlm.system.process import Completed
from hpcvlm.system.settings import Settings
from tests.job_fixtures import make_plan
from tests.job_records import NOW, StillClock, record, said

KV = (
    "(EngineCore pid=4) ValueError: To serve at least one request with the model's max seq len "
    "(131072), (16.0 GiB KV cache is needed, which is larger than the available KV cache memory "
    "(8.0 GiB). Based on the available memory, the estimated maximum model length is 65536.\n"
)


class Slurm:
    """Answers by command; every other one is not there."""

    def __init__(self, **answers: str) -> None:
        self.answers = answers
        self.asked: list[str] = []

    def __call__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        timeout_s: float | None = 60.0,
        cwd: str | None = None,
    ) -> Completed:
        self.asked.append(argv[0])
        if argv[0] in self.answers:
            return Completed(0, self.answers[argv[0]], "")
        return Completed(127, "", f"{argv[0]}: not found")


def context(folder: Path, runner: Slurm | None = None) -> Context:
    return Context(
        settings=Settings(folder, folder / "config", folder / "site.yaml"),
        environment={"HOME": str(folder), "PATH": os.environ["PATH"]},
        runner=runner or Slurm(),
        clock=StillClock(),
    )


@pytest.fixture
def failed(tmp_path: Path) -> JobRecord:
    """A job that says that its engine ended."""
    made = record(tmp_path / "jobs", "e1", partition="gpu")
    said(made, "ended", NOW - 900, NOW - 60, reason="engine-exited", engine_exit=1)
    return made


def line_of(fields: Sequence[str], **values: str) -> str:
    """One line as squeue or sacct prints it."""
    return "|".join(values.get(field, "") for field in fields) + "\n"


def write(made: JobRecord, **texts: str) -> None:
    for name, text in texts.items():
        (Path(made.folder) / name.replace("__", ".")).write_text(text, encoding="utf-8")


def test_a_failed_start(failed: JobRecord, tmp_path: Path) -> None:
    write(failed, engine__out="one\n" + KV, engine__err="", job__err="")
    report = why("e1", context(tmp_path))
    found = report.diagnosis
    assert found.id == "kv-cache-too-small"
    assert "max_model_len 65536 fits: hpcvlm launch qwen --gpus A100:2 --set" in found.remedy
    assert found.evidence[0].where == "engine.out:2"
    assert "engine.out: 2 lines" in found.tried
    assert "engine.err: empty" in found.tried
    assert "sacct: it does not know the job, or does not answer" in found.tried
    text = as_text(report)
    assert text.splitlines()[0] == "name    e1"
    assert "cause   the memory left for the KV cache holds 65536 tokens" in text
    assert "engine.out:2  ValueError: To serve" in text
    data = as_dict(report)
    assert json.loads(json.dumps(data)) == data
    assert data["state"] == "failed"
    assert data["evidence"] == [
        {"file": "engine.out", "line": 2, "text": found.evidence[0].text},
    ]


def test_an_unknown_failure_shows_the_last_words(failed: JobRecord, tmp_path: Path) -> None:
    write(failed, engine__err="Traceback (most recent call last):\nNewError: of tomorrow\n")
    report = why("e1", context(tmp_path))
    assert report.diagnosis.id == "unknown"
    assert report.diagnosis.lines[0] == "engine.err:2: NewError: of tomorrow"
    assert "try     hpcvlm logs e1" in as_text(report)


def test_how_the_engine_ended_tells_nothing_where_the_job_has_stopped_it(
    tmp_path: Path,
) -> None:
    made = record(tmp_path / "jobs", "e1", partition="gpu")
    said(made, "ended", NOW - 900, NOW, reason="image-not-taken-in", engine_exit=0)
    write(made, engine__out="INFO fine\n", engine__err="")
    assert why("e1", context(tmp_path)).diagnosis.id == "image-not-taken-in"


def test_what_the_accounts_say_wins(failed: JobRecord, tmp_path: Path) -> None:
    write(failed, engine__out=KV)
    line = "41|OUT_OF_MEMORY|0:125||64G|00:10:00|10:00:00|gpu01|8|1\n"
    steps = line + "41.batch|OUT_OF_MEMORY|0:125|63G||00:10:00||gpu01|8|1\n"
    slurm = Slurm(sacct=steps)
    found = why("e1", context(tmp_path, slurm)).diagnosis
    assert found.id == "out-of-memory"
    assert "it was given 68.7 GB, and held 67.6 GB" in found.cause
    assert found.evidence[0].file == "sacct"
    assert slurm.asked.count("sacct") == 1
    assert "sinfo" not in slurm.asked


def test_limits_are_asked_for_only_where_they_are_needed(tmp_path: Path) -> None:
    made = record(tmp_path / "jobs", "e1", partition="gpu", time_limit_s=3600)
    said(made, "ended", NOW - 3600, NOW, reason="time-limit")
    found = why("e1", context(tmp_path, Slurm(sinfo="gpu|1-00:00:00\n"))).diagnosis
    assert found.id == "time-limit"
    assert "partition gpu allows 24h" in found.remedy
    assert "sinfo: the partitions' time limits" in found.tried


def test_a_full_disk_is_looked_at(failed: JobRecord, tmp_path: Path) -> None:
    write(failed, job__err="printf: write error: Disk quota exceeded\n")
    quota = "/home/me 49000000* 50000000 50000000 6days 1000 0 0\n"
    slurm = Slurm(quota=f"Disk quotas for user me (uid 1):\n{quota}")
    found = why("e1", context(tmp_path, slurm)).diagnosis
    assert found.id == "quota-exceeded"
    assert "it leaves" in found.cause
    assert f"free space of {failed.folder}" in found.tried


def test_heads_come_from_the_snapshot(failed: JobRecord, tmp_path: Path) -> None:
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    (snapshot / "config.json").write_text('{"text_config": {"num_attention_heads": 12}}')
    write(failed, engine__out="AssertionError: 3420 is not divisible by 8\n")
    plan = {"snapshot": {"path": str(snapshot)}, "gpus": {"count": 8, "type": "A100"}}
    write(failed, plan__json=json.dumps(plan))
    assert "divides 12" in why("e1", context(tmp_path)).diagnosis.remedy


def test_the_memory_arithmetic_is_asked(failed: JobRecord, tmp_path: Path) -> None:
    write(failed, engine__out="torch.OutOfMemoryError: CUDA out of memory.\n")
    found = why("e1", context(tmp_path)).diagnosis
    assert found.id == "gpu-out-of-memory"
    assert any(line.startswith("memory arithmetic:") for line in found.tried)


def test_what_fits_by_arithmetic_is_a_command(tmp_path: Path) -> None:
    made = record(tmp_path / "jobs", "e1", model="qwen2.5-vl-72b", gpus="A100-80:1")
    said(made, "ended", NOW - 900, NOW, reason="engine-exited", engine_exit=1)
    write(made, engine__out="torch.OutOfMemoryError: CUDA out of memory.\n")
    found = why("e1", context(tmp_path)).diagnosis
    assert "memory arithmetic: it does not fit" in found.tried
    assert found.remedy.startswith("by arithmetic this fits: hpcvlm launch qwen2.5-vl-72b")
    assert "--gpus A100-80:" in found.remedy


def test_a_remedy_without_numbers_is_better_than_none(
    failed: JobRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_arguments: object) -> None:
        raise KeyError("odd config")

    monkeypatch.setattr("hpcvlm.ops.models_fit.fit", broken)
    write(failed, engine__out="torch.OutOfMemoryError: CUDA out of memory.\n")
    found = why("e1", context(tmp_path)).diagnosis
    assert found.id == "gpu-out-of-memory"
    assert found.remedy.startswith("more GPUs")
    assert "numbers for the remedy: 'odd config'" in found.tried


def test_answers_of_the_engine_count(tmp_path: Path) -> None:
    made = record(tmp_path / "jobs", "e1")
    said(made, "ended", NOW - 900, NOW, reason="image-not-answered")
    write(made, probe__json='{"image": {"error":{"message":"x is not a multimodal model"}}}')
    found = why("e1", context(tmp_path)).diagnosis
    assert found.id == "no-vision"
    assert found.evidence[0].file == "probe.json"


def test_earlier_starts_of_the_engine_are_read_too(failed: JobRecord, tmp_path: Path) -> None:
    write(failed, engine__err="", engine__err__1="torch.OutOfMemoryError: CUDA out of memory\n")
    found = why("e1", context(tmp_path)).diagnosis
    assert found.evidence[0].where == "engine.err.1:1"


def test_a_job_of_this_machine_has_other_logs(tmp_path: Path) -> None:
    made = record(tmp_path / "jobs", "e1", executor="local", job_id="1", process_started=0)
    said(made, "ended", NOW - 900, NOW, reason="module-missing")
    (Path(made.folder) / "1_0_log.err").write_text(
        "job.sbatch: line 9: module: command not found\n"
    )
    found = why("e1", context(tmp_path)).diagnosis
    assert found.id == "modules-missing"
    assert found.evidence[0].where == "1_0_log.err:1"


def test_an_endpoint_that_was_stopped_is_no_failure(tmp_path: Path) -> None:
    made = record(tmp_path / "jobs", "e1")
    said(made, "ended", NOW - 900, NOW, reason="stopped")
    write(made, engine__err="torch.OutOfMemoryError: CUDA out of memory\n")
    over = line_of(SACCT_FIELDS, job_id="41", state="COMPLETED", exit_code="0:0", name="e1")
    found = why("e1", context(tmp_path, Slurm(squeue="", sacct=over))).diagnosis
    assert found.id == "ended"
    assert found.cause == "it is no failure: ended (stopped)"
    assert found.remedy == "hpcvlm launch qwen --gpus A100:2 starts another"


def test_one_that_was_cancelled(tmp_path: Path) -> None:
    made = record(tmp_path / "jobs", "e1")
    said(made, "weights", NOW - 900, NOW - 60)
    state = "CANCELLED by 0"
    brief = line_of(SACCT_FIELDS, job_id="41", state=state, exit_code="0:0", name="e1")
    whole = f"41|{state}|0:0||64G|00:10:00|10:00:00|gpu01|8|1\n"

    class Both(Slurm):
        def __call__(
            self,
            argv: Sequence[str],
            *,
            env: Mapping[str, str] | None = None,
            timeout_s: float | None = 60.0,
            cwd: str | None = None,
        ) -> Completed:
            self.answers["sacct"] = whole if "MaxRSS" in str(argv) else brief
            return super().__call__(argv)

    found = why("e1", context(tmp_path, Both(squeue=""))).diagnosis
    assert found.id == "cancelled"
    assert found.cause.endswith("by root, an administrator or Slurm itself")


def test_one_that_waits(tmp_path: Path) -> None:
    record(tmp_path / "jobs", "e1")
    line = line_of(
        SQUEUE_FIELDS, job_id="41", state="PENDING", reason="JobHeldUser", partition="gpu"
    )
    found = why("e1", context(tmp_path, Slurm(squeue=line))).diagnosis
    assert found.id == "held"
    assert found.remedy == "scontrol release 41"


def test_one_that_starts(tmp_path: Path) -> None:
    made = record(tmp_path / "jobs", "e1")
    said(made, "weights", NOW - 60, NOW - 30)
    line = line_of(SQUEUE_FIELDS, job_id="41", state="RUNNING", nodes="n1")
    found = why("e1", context(tmp_path, Slurm(squeue=line))).diagnosis
    assert found.cause == "nothing is wrong so far: it is in phase weights"
    assert "hpcvlm wait e1" in found.remedy


def test_one_whose_engine_is_started_again(tmp_path: Path) -> None:
    made = record(tmp_path / "jobs", "e1", restarts=3)
    said(made, "restarting", NOW - 60, NOW - 3, engine_restarts=1)
    write(made, engine__err__1="torch.AcceleratorError: CUDA error: misaligned address\n")
    line = line_of(SQUEUE_FIELDS, job_id="41", state="RUNNING", nodes="n1")
    found = why("e1", context(tmp_path, Slurm(squeue=line))).diagnosis
    assert found.id == "gpu-fault"
    assert found.cause.startswith("its engine ended, and is being started again: the engine's code")
    assert "starts of the engine after it had died: 1" in found.tried


def test_one_that_drains(tmp_path: Path) -> None:
    made = record(tmp_path / "jobs", "e1")
    said(made, "draining", NOW - 60, NOW - 3)
    line = line_of(SQUEUE_FIELDS, job_id="41", state="RUNNING", nodes="n1")
    found = why("e1", context(tmp_path, Slurm(squeue=line))).diagnosis
    assert found.cause.startswith("it takes no new requests")


def test_one_that_nobody_knows_about(tmp_path: Path) -> None:
    made = record(tmp_path / "jobs", "e1")
    said(made, "weights", NOW - 900, NOW - 60)
    found = why("e1", context(tmp_path)).diagnosis
    assert found.id == "not-known"
    assert "squeue" in found.cause
    assert "hpcvlm status e1" in found.remedy


def test_no_such_endpoint(tmp_path: Path) -> None:
    with pytest.raises(HpcvlmError) as error:
        why("none", context(tmp_path))
    assert error.value.code == "endpoint-unknown"


class TestReadingLogs:
    def test_a_long_log_is_read_at_both_ends(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(why_evidence, "_HEAD_BYTES", 100)
        monkeypatch.setattr(why_evidence, "_TAIL_BYTES", 100)
        monkeypatch.setattr(why_evidence, "_CHUNK", 64)
        path = tmp_path / "engine.out"
        lines = [f"line {n:>4}" for n in range(1, 501)]
        path.write_text("\n".join(lines) + "\n")
        parts, _ = read_log(path)
        assert len(parts) == 2
        for part in parts:
            inner = part.text.split("\n")[1:-1]  # the first and the last may be cut
            first = part.first_line + 1
            assert inner == lines[first - 1 : first - 1 + len(inner)]
        assert parts[0].first_line > 480

    def test_a_log_too_long_to_count_has_no_numbers(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name, value in (("_HEAD_BYTES", 10), ("_TAIL_BYTES", 10), ("_MOST_COUNTED", 5)):
            monkeypatch.setattr(why_evidence, name, value)
        path = tmp_path / "engine.out"
        path.write_text("x\n" * 100)
        parts, _ = read_log(path)
        assert [part.first_line for part in parts] == [0, 1]

    def test_what_cannot_be_read_is_said(self, tmp_path: Path) -> None:
        assert read_log(tmp_path) == ([], f"{tmp_path.name}: Is a directory")
        assert read_log(tmp_path / "none")[1] == "none: No such file or directory"

    def test_bytes_that_are_no_text(self, tmp_path: Path) -> None:
        (tmp_path / "engine.out").write_bytes(b"\xff\xfe\x00OK\n")
        parts, _ = read_log(tmp_path / "engine.out")
        assert "OK" in parts[0].text


def test_a_broken_installation_still_shows_the_last_words(
    failed: JobRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise HpcvlmError("installation-broken", "nothing there")

    monkeypatch.setattr("hpcvlm.resources.data_root", broken)
    signatures.cache_clear()
    write(failed, engine__err="torch.OutOfMemoryError: CUDA out of memory\n")
    found = why("e1", context(tmp_path)).diagnosis
    signatures.cache_clear()
    assert found.id == "unknown"
    assert "CUDA out of memory" in found.lines[0]


class TestRefusals:
    ERROR = HpcvlmError(
        "sbatch-refused",
        "sbatch refused the job: Requested time limit is invalid",
        "ask for less time, or for another partition",
    )
    PLAN = replace(
        make_plan(LaunchRequest("tiny-vlm")).plan,
        model="m",
        gpus=GpuRequest(1, "A100"),
        partition="gpu",
    )

    def test_the_remedy_has_the_cluster_s_numbers(self, tmp_path: Path) -> None:
        ctx = context(tmp_path, Slurm(sinfo="gpu|1-00:00:00\n"))
        told = explain_refusal(self.ERROR, self.PLAN, ctx)
        assert told.code == "sbatch-refused"
        assert told.sentence.startswith(self.ERROR.sentence)
        assert told.remedy == ("partition gpu allows 24h: hpcvlm launch m --gpus A100:1 --time 24h")

    def test_others_stay_as_they_are(self, tmp_path: Path) -> None:
        strange = HpcvlmError("sbatch-refused", "sbatch refused the job: because", "x")
        other = HpcvlmError("name-taken", "Invalid qos specification")
        assert explain_refusal(strange, self.PLAN, context(tmp_path)) is strange
        assert explain_refusal(other, self.PLAN, context(tmp_path)) is other
