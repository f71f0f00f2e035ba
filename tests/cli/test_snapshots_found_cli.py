"""Which snapshot `verify` and `export` take without a branch, and stores that are closed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.command import Command
from tests.hub_store import as_nobody
from tests.verify_fixtures import COMMIT, REPO, model_files, store

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="needs root to be another user")


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """A cache with one snapshot, which no branch names."""
    stored = store(tmp_path / "hub", model_files())
    (stored.path.parent.parent / "refs" / "main").unlink()
    return tmp_path / "hub"


def test_the_only_snapshot_of_a_repository_needs_no_revision(hub: Path, tmp_path: Path) -> None:
    hpcvlm = Command(tmp_path, {"HF_HUB_CACHE": str(hub)})
    verified = hpcvlm("snapshots", "verify", REPO)
    assert verified.code == 0, verified.stderr
    assert verified.stdout.startswith(f"{REPO} at {COMMIT[:12]}: whole")
    exported = hpcvlm("snapshots", "export", REPO, str(tmp_path / "m.tar"))
    assert exported.code == 0, exported.stderr


@pytest.mark.parametrize("verb", ["verify", "export"])
def test_a_revision_that_is_not_here_is_told_with_those_that_are(
    hub: Path, tmp_path: Path, verb: str
) -> None:
    hpcvlm = Command(tmp_path, {"HF_HUB_CACHE": str(hub)})
    file = [str(tmp_path / "m.tar")] if verb == "export" else []
    done = hpcvlm("snapshots", verb, REPO, *file, "--revision", "v2")
    assert done.code == 3
    assert COMMIT[:12] in done.stderr
    assert f"hpcvlm snapshots pull {REPO} --revision v2" in done.stderr


@needs_root
@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["verify", "--all"], 1),
        (["verify", "--all", "--quick", "--json"], 1),
        (["verify", REPO], 3),
        (["show", REPO], 3),
        (["audit"], 1),
    ],
)
def test_a_closed_cache_is_told_and_not_taken_for_an_empty_one(
    hub: Path, tmp_path: Path, arguments: list[str], code: int
) -> None:
    hub.chmod(0o700)
    program = (
        "import os, subprocess, sys\n"
        f"environment = {{'HOME': '/nonexistent', 'HF_HUB_CACHE': {str(hub)!r}}}\n"
        f"command = [sys.executable, '-m', 'hpcvlm', 'snapshots', *{arguments!r}]\n"
        "done = subprocess.run(command, env={**os.environ, **environment}, text=True,\n"
        "    capture_output=True)\n"
        "print(done.returncode, done.stdout, done.stderr)\n"
    )
    told = as_nobody(tmp_path, program)
    assert told.startswith(f"{code} "), told
    assert "Permission denied" in told
    assert "Traceback" not in told
