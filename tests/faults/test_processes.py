"""No process can be started any more."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.place import Place, until

pytestmark = [pytest.mark.slow]
PIDS = Path("/sys/fs/cgroup/pids")


@pytest.fixture
def few_processes() -> Iterator[Path]:
    """A group with so many members at most; root is above ``ulimit -u``, but not above this."""
    folder = PIDS / f"hpcvlm-{uuid.uuid4().hex[:8]}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no group of processes can be made here: {error}")
    yield folder
    (folder / "pids.max").write_text("max")
    for pid in (folder / "cgroup.procs").read_text().split():
        (PIDS / "cgroup.procs").write_text(pid)
    folder.rmdir()


def inside(group: Path) -> tuple[str, ...]:
    """Words that start a program as a member."""
    return ("sh", "-c", f'echo $$ >{group}/cgroup.procs && exec "$@"', "sh")


@pytest.mark.parametrize("most", [1, 5])
def test_full_process_table_at_launch(here: Place, few_processes: Path, most: int) -> None:
    (few_processes / "pids.max").write_text(str(most))
    arguments = here.arguments("crowd", "--executor", "local", "--set", "start_timeout=20s")
    done = here.under(inside(few_processes), *arguments)
    assert done.code != 0
    assert "Traceback" not in done.stderr, done.stderr
    assert "try:" in done.stderr
    (few_processes / "pids.max").write_text("max")
    until(lambda: not here.processes(), lambda: f"{here.command_lines()} still run", 40)
    here.launch("crowd", "--executor", "local")


def test_full_process_table_while_it_serves(here: Place, few_processes: Path) -> None:
    done = here.under(inside(few_processes), *here.arguments("busy", "--executor", "local"))
    assert done.code == 0, done.stderr
    now = (few_processes / "pids.current").read_text()
    (few_processes / "pids.max").write_text(now)
    done = here.under(inside(few_processes), "status", "busy", "--json")
    assert "Traceback" not in done.stderr, done.stderr
    assert Path(f"/proc/{here.engine('busy')}").exists()
    (few_processes / "pids.max").write_text("max")
    assert here.becomes("busy", "ready")["url"]
    here.answers("busy")
