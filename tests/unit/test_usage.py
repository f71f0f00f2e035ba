"""Usage: sacct's answers, joined with the jobs' own records."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from hpcvlm.errors import HpcvlmError
from hpcvlm.ops import usage as usage_module
from hpcvlm.ops.context import Context
from hpcvlm.ops.usage import UsageReport, parse_since, usage
from hpcvlm.ops.usage_book import JobUse, gpu_count, note_use, read_book, use_of
from hpcvlm.slurm.usage import JobCost, parse_costs, sacct_costs
from hpcvlm.system.process import Completed
from hpcvlm.system.settings import Settings
from tests.job_records import HOUR, NOW, StillClock, active, record, said

# Printed by sacct 22.05.8 with AccountingStoreFlags=job_comment set between the jobs 2 and 5.
SACCT = """\
1|root|1795278702|1795278702|17|billing=1,cpu=1,gres/gpu:a100=1,gres/gpu=1,mem=1000M,node=1|
2|nobody|1795278719|1795278719|2|billing=1,cpu=1,gres/gpu:a100=1,gres/gpu=1,mem=1000M,node=1|
5|root|1795278735|1795278735|1|billing=1,cpu=1,gres/gpu:a100=1,gres/gpu=1,mem=1000M,node=1|\
hpcvlm:org/m@abc
"""


class Slurm:
    """Answers sacct and scontrol."""

    def __init__(self, sacct: str = "", *, code: int = 0, config: str = "") -> None:
        self.sacct, self.code, self.config = sacct, code, config
        self.asked: list[tuple[str, ...]] = []

    def __call__(self, argv: Sequence[str], **_: object) -> Completed:
        self.asked.append(tuple(argv))
        if argv[0] == "sacct":
            return Completed(self.code, self.sacct, "sacct: error: no" if self.code else "")
        return Completed(0, self.config, "")


@pytest.fixture
def jobs(tmp_path: Path) -> Path:
    return tmp_path / "state" / "jobs"


@pytest.fixture
def me(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(usage_module.getpass, "getuser", lambda: "ann")  # type: ignore[attr-defined]
    return "ann"


def ask(jobs: Path, slurm: Slurm, tmp_path: Path, *, days: float = 30, **over: Any) -> UsageReport:
    tools = tmp_path / "tools"
    tools.mkdir(exist_ok=True)
    for name in ("sacct", "scontrol"):
        (tools / name).touch()
        (tools / name).chmod(0o755)
    settings = Settings(jobs.parent, tmp_path / "config", tmp_path / "no")
    ctx = Context(settings, {"PATH": str(tools)}, slurm, StillClock())
    return usage(NOW - days * 24 * HOUR, ctx, **over)


def line(job: str, user: str, seconds: int, gpus: str = "gres/gpu=2", comment: str = "") -> str:
    submitted = int(NOW - 10 * HOUR)
    return f"{job}|{user}|{submitted}|{submitted}|{seconds}|cpu=1,{gpus}|{comment}\n"


def test_what_sacct_printed_is_read() -> None:
    assert parse_costs(0, SACCT, "") == [
        JobCost("1", "root", 1795278702.0, 17, 1, ""),
        JobCost("2", "nobody", 1795278719.0, 2, 1, ""),
        JobCost("5", "root", 1795278735.0, 1, 1, "org/m"),
    ]


@pytest.mark.parametrize(
    ("tres", "gpus"),
    [
        ("billing=8,cpu=8,gres/gpu:a100=4,gres/gpu=4,node=1", 4),
        ("cpu=8,gres/gpu:a100=2,gres/gpu:h100=1", 3),
        ("cpu=8,gres/gpumem=4,mem=1G", None),
        ("cpu=8,mem=1G,node=1", None),
        ("", None),
    ],
)
def test_gpus_are_counted_once(tres: str, gpus: int | None) -> None:
    assert parse_costs(0, f"1|u|1|1|5|{tres}|", "")[0].gpus == gpus


def test_a_comment_with_separators_and_line_breaks_is_no_job_of_its_own() -> None:
    text = "7|u|1|1|5|gres/gpu=1|a|b\nsecond|line hpcvlm:org/m@abc\n8|u|1|1|5|gres/gpu=1|\n"
    assert [cost.job_id for cost in parse_costs(0, text, "")] == ["7", "8"]


def test_a_site_without_accounting_is_an_error_with_its_words() -> None:
    with pytest.raises(HpcvlmError) as error:
        parse_costs(1, "", "Slurm accounting storage is disabled")
    assert error.value.code == "slurm-unavailable"


def test_the_formats_are_explicit() -> None:
    argv = sacct_costs("2026-11-01T00:00:00", all_users=True)
    assert {"--allusers", "--duplicates", "--truncate", "--parsable2", "--allocations"} < set(argv)
    assert "--allusers" not in sacct_costs("2026-11-01T00:00:00", all_users=False)


def test_hours_are_slurm_s_and_tokens_the_job_s(jobs: Path, tmp_path: Path, me: str) -> None:
    made = record(jobs, "a")
    said(made, "ready", NOW - 9 * HOUR, NOW - 8 * HOUR)
    active(made, NOW - 5, tokens=(7, 1000, 200))
    # Two runs: it was put back once.
    slurm = Slurm(line("41", me, 3600) + line("41", me, 1800) + line("99", me, 50_000))
    report = ask(jobs, slurm, tmp_path)
    (one,) = report.sums
    assert (one.user, one.model, one.jobs) == ("ann", "qwen", 1)
    assert one.gpu_hours == pytest.approx(3.0)
    assert (one.requests, one.prompt_tokens, one.generation_tokens) == (7, 1000, 200)
    assert [job.source for job in report.jobs] == ["accounts"]
    assert len(slurm.asked) == 1
    assert not report.notes


def test_without_accounting_the_records_tell_and_it_is_said(
    jobs: Path, tmp_path: Path, me: str
) -> None:
    made = record(jobs, "a")
    said(made, "ended", NOW - 9 * HOUR, NOW - 4 * HOUR)
    local = record(jobs, "b", executor="local", job_id="77", gpus="1")
    said(local, "ready", NOW - 2 * HOUR, NOW - 2 * HOUR)
    active(local, NOW - HOUR, tokens=(1, 2, 3))
    report = ask(jobs, Slurm(code=1), tmp_path)
    assert report.total.gpu_hours == pytest.approx(5 * 2 + 1)
    assert "from the jobs' own records" in report.notes[0]
    assert {job.source for job in report.jobs} == {"records"}


def test_only_what_lies_in_the_time_counts(jobs: Path, tmp_path: Path, me: str) -> None:
    said(record(jobs, "a"), "ended", NOW - 9 * HOUR, NOW - 4 * HOUR)
    said(record(jobs, "b", job_id="42"), "ended", NOW - 90 * HOUR, NOW - 80 * HOUR)
    record(jobs, "waits", job_id="43")
    report = ask(jobs, Slurm(code=1), tmp_path, days=6 / 24)
    assert report.total.jobs == 1
    assert report.total.gpu_hours == pytest.approx(2 * 2)


def test_cleaned_up_and_earlier_jobs_count_once(jobs: Path, tmp_path: Path, me: str) -> None:
    made = record(jobs, "a")
    said(made, "ended", NOW - 9 * HOUR, NOW - 8 * HOUR)
    active(made, NOW - 8 * HOUR, tokens=(1, 10, 5))
    note_use(jobs.parent, use_of(made))
    note_use(jobs.parent, use_of(made))
    book = jobs.parent / "usage.jsonl"
    assert book.stat().st_mode & 0o777 == 0o600
    with book.open("a") as stream:
        stream.write('{"endpoint": "half')
    earlier = record(jobs.parent / "ended", "a.20261101", job_id="40", endpoint="a")
    said(earlier, "ended", NOW - 20 * HOUR, NOW - 19 * HOUR)
    report = ask(jobs, Slurm(code=1), tmp_path)
    assert (report.total.jobs, report.total.prompt_tokens) == (2, 10)
    assert report.total.gpu_hours == pytest.approx(4.0)
    note_use(jobs.parent, use_of(earlier))
    assert [use.job_id for use in read_book(jobs.parent)] == ["41", "41", "40"]


def test_others_are_known_by_their_comments_alone(jobs: Path, tmp_path: Path, me: str) -> None:
    said(record(jobs, "a"), "ready", NOW - HOUR, NOW - HOUR)
    sacct = (
        line("41", me, 3600, comment="hpcvlm:org/qwen@abc")
        + line("50", "bob", 7200, "gres/gpu=4", "hpcvlm:org/qwen@abc")
        + line("51", "bob", 7200, "gres/gpu=4", "project x hpcvlm:org/other@abc")
        + line("52", "bob", 7200, "gres/gpu=4", "training")
    )
    slurm = Slurm(sacct, config="AccountingStoreFlags    = job_comment,job_env\n")
    report = ask(jobs, slurm, tmp_path, all_users=True)
    found = {(one.user, one.model): one for one in report.sums}
    assert set(found) == {("ann", "qwen"), ("bob", "qwen"), ("bob", "org/other")}
    assert found["bob", "qwen"].gpu_hours == pytest.approx(8.0)
    assert found["bob", "qwen"].prompt_tokens is None
    assert report.notes == ("requests and tokens of other users are in their own records",)


def test_what_slurm_does_not_keep_or_show_is_said(
    jobs: Path, tmp_path: Path, me: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage_module.os, "geteuid", lambda: 1000)  # type: ignore[attr-defined]
    config = "AccountingStoreFlags    = (null)\nPrivateData             = jobs,usage\n"
    report = ask(jobs, Slurm(config=config), tmp_path, all_users=True)
    assert any("AccountingStoreFlags has no job_comment" in line for line in report.notes)
    assert any("PrivateData=jobs,usage" in line for line in report.notes)


def test_a_number_that_slurm_gives_again_is_another_job(
    jobs: Path, tmp_path: Path, me: str
) -> None:
    made = record(jobs, "new", submitted=NOW)
    said(made, "ready", NOW, NOW)
    old = f"41|{me}|{int(NOW - 20 * 24 * HOUR)}|1|3600|gres/gpu=2|\n"
    assert ask(jobs, Slurm(old), tmp_path).total.gpu_hours == 0


def test_where_gpus_are_not_counted_the_request_is(jobs: Path, tmp_path: Path, me: str) -> None:
    record(jobs, "a")
    assert ask(jobs, Slurm(line("41", me, 3600, "mem=1G")), tmp_path).total.gpu_hours == 2.0


@pytest.mark.parametrize(("text", "count"), [("A100:4", 4), ("2", 2), ("0", 0), ("A100", 0)])
def test_gpu_counts_of_records(text: str, count: int) -> None:
    assert gpu_count(text) == count


def test_ages_and_dates(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_since("30d", NOW) == NOW - 30 * 24 * HOUR
    assert parse_since("2026-11-01", NOW) == 1793491200.0
    for wrong in ("2999-01-01", "soon", "2026-13-01", "-3d"):
        with pytest.raises(HpcvlmError, match="--since"):
            parse_since(wrong, NOW)


def test_a_use_that_began_never_has_no_seconds() -> None:
    use = JobUse("a", "m", "r", "slurm", "1", 1.0, None, None, 4)
    assert use.seconds_since(0) == 0
