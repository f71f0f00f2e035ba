"""hpcvlm usage, cleanup, extend: what they print, ask and refuse."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.command import ROOT, Command, Done
from tests.job_records import DAY, HOUR, NOW, active, record, said


@pytest.fixture
def hpcvlm(tmp_path: Path) -> Command:
    return Command(tmp_path, {"PATH": "/usr/bin:/bin"})


def slurm(tmp_path: Path, hpcvlm: Command, **answers: str) -> None:
    """Commands that answer as Slurm's do."""
    folder = tmp_path / "slurm"
    folder.mkdir(exist_ok=True)
    for name, script in answers.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    hpcvlm.environment["PATH"] = f"{folder}:/usr/bin:/bin"


def over(hpcvlm: Command, name: str, days: float = 10) -> Path:
    job_id = str(sum(name.encode()))
    made = record(hpcvlm.state / "jobs", name, submitted=NOW - (days + 1) * DAY, job_id=job_id)
    said(made, "ended", NOW - (days + 1) * DAY, NOW - days * DAY, reason="idle")
    active(made, NOW - days * DAY, tokens=(3, 1_234_567, 89))
    return Path(made.folder)


def ask(hpcvlm: Command, *arguments: str) -> Done:
    done = hpcvlm(*arguments)
    assert "Traceback" not in done.stderr, done.stderr
    assert all(len(line) <= 100 for line in done.stdout.splitlines() if not line.startswith(" "))
    return done


def test_usage_is_a_table_and_json(hpcvlm: Command, tmp_path: Path) -> None:
    over(hpcvlm, "a-name")
    over(hpcvlm, "b-name")
    record(hpcvlm.state / "jobs", "c", model="other/model-with-a-name-that-is-long" * 3)
    slurm(tmp_path, hpcvlm, sacct="echo 'accounting storage is disabled' >&2; exit 1")
    done = ask(hpcvlm, "usage")
    assert done.code == 0
    header, first, *rest = done.stdout.splitlines()
    assert header.split() == [
        "USER",
        "MODEL",
        "JOBS",
        "GPU",
        "HOURS",
        "REQUESTS",
        "TOKENS",
        "IN",
        "TOKENS",
        "OUT",
    ]
    assert first.split()[1:] == ["qwen", "2", "96.00", "6", "2,469,134", "178"]
    assert not rest
    assert "from the jobs' own records" in done.stderr
    loaded = ask(hpcvlm, "usage", "--json").json()
    assert loaded["total"]["gpu_hours"] == pytest.approx(96.0)
    assert loaded["rows"][0]["model"] == "qwen"
    assert loaded["notes"]
    told = ask(hpcvlm, "usage", "--since", "1d").stderr
    yesterday = time.strftime("%Y-%m-%d", time.localtime(time.time() - 86_400))
    assert f"no endpoint has run since {yesterday} " in told
    assert ask(hpcvlm, "usage", "--since", "soon").code == 2


def test_cleanup_shows_asks_and_deletes(hpcvlm: Command) -> None:
    old, young = over(hpcvlm, "old"), over(hpcvlm, "young", days=1)
    kept = over(hpcvlm, "kept")
    (kept / "thesis\x1b[2J.tex").write_text("mine")
    shown = ask(hpcvlm, "cleanup", "--dry-run")
    assert shown.code == 0
    assert shown.stdout.splitlines()[1].split()[:2] == ["job", "old"]
    assert "10 days" in shown.stdout
    assert "nothing was changed" in shown.stderr
    assert "thesis\\x1b[2J.tex, which hpcvlm did not make" in shown.stderr
    assert "\x1b" not in shown.stderr
    assert "1 more are over for less than 7d" in shown.stderr
    refused = ask(hpcvlm, "cleanup")
    assert refused.code == 2
    assert "add --yes" in refused.stderr
    assert old.is_dir()
    done = ask(hpcvlm, "cleanup", "--yes", "--json")
    assert done.code == 0
    loaded = done.json()
    assert [row["name"] for row in loaded["done"]] == ["old"]
    assert loaded["freed"] == loaded["bytes"] > 0
    assert not old.exists()
    assert young.is_dir()
    assert kept.is_dir()
    assert "nothing to delete" in ask(hpcvlm, "cleanup", "--yes").stderr
    assert ask(hpcvlm, "usage", "--json").json()["total"]["jobs"] == 3


@pytest.mark.parametrize(("answer", "gone"), [("y", True), ("n", False), ("", False)])
def test_cleanup_asks_on_a_terminal(hpcvlm: Command, answer: str, gone: bool) -> None:
    old = over(hpcvlm, "old")
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "hpcvlm", "cleanup"],
        env=hpcvlm.environment,
        cwd=ROOT,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        said_so = b""
        while b"[y/N]" not in said_so:
            said_so += os.read(ours, 1000)
        os.write(ours, f"{answer}\n".encode())
        while True:
            try:
                more = os.read(ours, 1000)
            except OSError:
                break
            if not more:
                break
            said_so += more
        code = process.wait(30)
    os.close(ours)
    assert b"WHY" in said_so
    assert old.exists() is not gone
    assert code == (0 if gone else 1)


SQUEUE = "echo '41|RUNNING|None|n1|{start}|{end}|{limit}|gpu|e'"


def test_extend_says_the_new_end(hpcvlm: Command, tmp_path: Path) -> None:
    record(hpcvlm.state / "jobs", "e")
    now = int(time.time())
    before = SQUEUE.format(start=now, end=now + 7200, limit="2:00:00")
    after = SQUEUE.format(start=now, end=now + 21600, limit="6:00:00")
    mark = tmp_path / "changed"
    slurm(
        tmp_path,
        hpcvlm,
        squeue=f"if [ -e {mark} ]; then {after}; else {before}; fi",
        scontrol=f'echo "$*" >{mark}',
    )
    done = ask(hpcvlm, "extend", "e", "--by", "4h", "--json")
    assert done.code == 0, done.stderr
    assert mark.read_text() == "update JobId=41 TimeLimit=06:00:00\n"
    assert done.json()["ends"] == now + 21600
    assert (hpcvlm.state / "jobs" / "e" / "ends").read_text() == f"{now + 21600}\n"


def test_extend_that_the_site_refuses(hpcvlm: Command, tmp_path: Path) -> None:
    record(hpcvlm.state / "jobs", "e")
    now = int(time.time())
    slurm(
        tmp_path,
        hpcvlm,
        squeue=SQUEUE.format(start=now, end=now + HOUR, limit="2:00:00"),
        scontrol="echo 'Access/permission denied for job 41' >&2; exit 1",
        sinfo="echo 'gpu*|up|1-00:00:00|2|8|16000|gpu:A100:4'",
    )
    done = ask(hpcvlm, "extend", "e", "--by", "4h")
    assert done.code != 0
    assert "Slurm does not give job 41 of e more time" in done.stderr
    assert "hpcvlm extend e --successor" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("e",), "say either how much longer"),
        (("e", "--by", "4h", "--successor"), "say either how much longer"),
        (("e", "--by", "soon"), "--by 'soon' is not a duration"),
    ],
)
def test_extend_needs_to_know_how(hpcvlm: Command, arguments: tuple[str, ...], words: str) -> None:
    record(hpcvlm.state / "jobs", "e")
    done = ask(hpcvlm, "extend", *arguments)
    assert done.code == 2
    assert words in done.stderr
    assert ask(hpcvlm, "extend", "nobody", "--by", "1h").code == 3
