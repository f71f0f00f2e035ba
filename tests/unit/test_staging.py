"""Copies on the node and reading ahead: what the rendered job does about it."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from hpcvlm.ops.prepare import materials
from hpcvlm.plan.model import (
    LaunchPlan,
    PlannedPrefetch,
    PlannedSnapshot,
    StagedFile,
)
from hpcvlm.plan.staging import staging_of
from hpcvlm.render.script import render_job
from hpcvlm.site.schema import Staging
from hpcvlm.snapshots.links import snapshot_files
from hpcvlm.watch.state import StagingState, parse_state
from tests.job_fixtures import RunningJob, local_plan
from tests.staging_fixtures import a_snapshot

# ---- the job ---------------------------------------------------------------------------------

Start = Callable[..., RunningJob]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    jobs: list[RunningJob] = []

    def begin(plan: LaunchPlan, **environment: str) -> RunningJob:
        tmp = tmp_path / f"run{len(jobs)}"
        jobs.append(RunningJob.start(plan, tmp, environment=environment))
        return jobs[-1]

    yield begin
    for job in jobs:
        job.close()


def plan_of(
    tmp_path: Path, *settings: str, name: str = "mine", folder: str = "$NODE", **over: Any
) -> LaunchPlan:
    """A job that stages a snapshot of its own into `tmp_path / node`.

    Args:
        tmp_path: of the test.
        settings: of the model.
        name: of the job.
        folder: the site's staging.folder.
        over: what differs in the plan of the staging.
    """
    repository = tmp_path / "hub dir" / "models--org--model"
    snapshot = repository / "snapshots" / ("c" * 40)
    if not repository.exists():
        a_snapshot(repository, snapshot)
    (tmp_path / "node").mkdir(exist_ok=True, mode=0o700)
    base = local_plan(tmp_path / "jobs" / name, *settings).plan
    planned = PlannedSnapshot("org/model", "c" * 40, str(snapshot), str(repository))
    files = tuple(
        StagedFile(f.path, f.size, sha256((snapshot / f.path).read_bytes()).hexdigest())
        for f in snapshot_files(snapshot)
    )
    section = Staging(folder=folder, always=True, streams=3, check="hashes", prefetch="never")
    staging = staging_of(None, section, planned, files, {})
    assert staging is not None
    return dataclasses.replace(
        base,
        snapshot=planned,
        staging=dataclasses.replace(staging, **over),
        prefetch=None,
        engine_arguments=tuple(
            word.replace(base.snapshot.path, str(snapshot)) for word in base.engine_arguments
        ),
    )


def private(tmp_path: Path) -> Path:
    return tmp_path / "node" / f"hpcvlm-{os.geteuid()}"


def book(tmp_path: Path) -> Path:
    return private(tmp_path) / f".org--model--{'c' * 40}"


def the_copy(tmp_path: Path) -> Path:
    return private(tmp_path) / f"org--model--{'c' * 40}"


def contents(folder: Path) -> dict[str, bytes]:
    found = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def ready(start: Start, plan: LaunchPlan, tmp_path: Path, **environment: str) -> RunningJob:
    job = start(plan, NODE=str(tmp_path / "node"), **environment)
    job.reach("ready")
    return job


slow = pytest.mark.slow


@slow
def test_the_engine_reads_a_copy_that_is_gone_at_the_end(tmp_path: Path, start: Start) -> None:
    echo = tmp_path / "echo.json"
    plan = plan_of(tmp_path, f"environment.FAKE_VLLM_ECHO={echo}")
    job = ready(start, plan, tmp_path)
    state = job.state
    assert list(state["phases"])[:3] == ["allocated", "staging", "container"]
    told = state["staging"]
    assert (told["how"], told["bytes"], told["why"]) == ("copied", 4_000_011, "")
    assert told["folder"] == str(the_copy(tmp_path))
    assert told["seconds"] > 0
    assert told["mb_per_s"] == pytest.approx(4.000011 / told["seconds"], abs=0.11)
    copied = contents(the_copy(tmp_path))
    assert copied == contents(Path(plan.snapshot.path))
    assert not any(path.is_symlink() for path in the_copy(tmp_path).rglob("*"))
    for path in [private(tmp_path), *private(tmp_path).rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
    argv = json.loads(echo.read_text())["argv"]
    assert argv[1] == str(the_copy(tmp_path))
    assert not [word for word in argv if plan.snapshot.path in word]
    parsed = parse_state(json.dumps(state))
    assert parsed is not None
    assert parsed.staging == StagingState(**told)
    assert job.end(term=True) == 0
    assert job.broken_states == []
    assert job.said == ""
    assert list((tmp_path / "node").iterdir()) == []
    assert list((job.scratch).iterdir()) == []


@slow
def test_a_large_file_is_copied_in_parts(tmp_path: Path, start: Start) -> None:
    plan = plan_of(tmp_path, part_bytes=100_003, streams=7)
    job = ready(start, plan, tmp_path)
    assert job.state["staging"]["how"] == "copied"
    assert contents(the_copy(tmp_path)) == contents(Path(plan.snapshot.path))


@slow
def test_a_copy_that_is_kept_is_used_again(tmp_path: Path, start: Start) -> None:
    plan = plan_of(tmp_path, keep=True)
    assert ready(start, plan, tmp_path).end(term=True) == 0
    kept = the_copy(tmp_path) / "config.json"
    made = kept.stat().st_ino
    again = ready(start, plan_of(tmp_path, name="again"), tmp_path)
    told = again.state["staging"]
    assert (told["how"], told["bytes"], told["mb_per_s"]) == ("reused", 4_000_011, 0)
    assert again.end(term=True) == 0
    assert kept.stat().st_ino == made


@slow
def test_the_last_of_two_jobs_takes_the_copy_away(tmp_path: Path, start: Start) -> None:
    slowly = {"PATH": slow_path(tmp_path, "cp", "[[ $* != */partial/* ]] || sleep 0.3")}
    first = start(plan_of(tmp_path), NODE=str(tmp_path / "node"), **slowly)
    first.reach("staging")
    second = start(plan_of(tmp_path, name="second"), NODE=str(tmp_path / "node"), **slowly)
    first.reach("ready")
    second.reach("ready")
    hows = [job.state["staging"]["how"] for job in (first, second)]
    assert sorted(hows) == ["copied", "reused"]
    assert first.end(term=True) == 0
    assert contents(the_copy(tmp_path)) == contents(Path(plan_of(tmp_path).snapshot.path))
    assert second.end(term=True) == 0
    assert list((tmp_path / "node").iterdir()) == []


@slow
def test_what_killed_jobs_have_left_does_no_harm(tmp_path: Path, start: Start) -> None:
    slowly = {"PATH": slow_path(tmp_path, "cp", "[[ $* != */partial/* ]] || sleep 60")}
    copying = start(plan_of(tmp_path), NODE=str(tmp_path / "node"), **slowly)
    copying.reach("staging")
    copying.until((book(tmp_path) / "partial").exists)
    (book(tmp_path) / "partial" / "half a file").touch()
    copying.kill()
    serving = ready(start, plan_of(tmp_path, name="serving"), tmp_path)
    assert serving.state["staging"]["how"] == "copied"
    assert "half a file" not in contents(the_copy(tmp_path))
    serving.kill()
    last = ready(start, plan_of(tmp_path, name="last"), tmp_path)
    assert last.state["staging"]["how"] == "reused"
    assert last.end(term=True) == 0
    assert list((tmp_path / "node").iterdir()) == []


@slow
def test_a_stop_ends_the_copy_at_once(tmp_path: Path, start: Start) -> None:
    slowly = {"PATH": slow_path(tmp_path, "cp", "[[ $* != */partial/* ]] || sleep 60")}
    job = start(plan_of(tmp_path), NODE=str(tmp_path / "node"), **slowly)
    job.reach("staging")
    job.until((book(tmp_path) / "partial").exists)
    began = time.monotonic()
    assert job.end(term=True) == 0
    assert time.monotonic() - began < 15
    assert job.phases == ["allocated", "staging", "draining", "ended"]
    assert list((tmp_path / "node").iterdir()) == []
    job.until_gone()
    assert job.said == ""


def served_from_the_store(job: RunningJob, plan: LaunchPlan) -> str:
    """Why there is no copy; the engine is ready all the same."""
    job.reach("ready")
    told = job.state["staging"]
    assert (told["how"], told["folder"], told["bytes"]) == ("skipped", "", 0)
    argv = json.loads((Path(plan.folder).parent / "echo.json").read_text())["argv"]
    assert argv[1] == plan.snapshot.path
    assert job.end(term=True) == 0
    assert job.said == ""
    why: str = told["why"]
    return why


def echoing(tmp_path: Path, **over: Any) -> LaunchPlan:
    echo = tmp_path / "jobs" / "echo.json"
    return plan_of(tmp_path, f"environment.FAKE_VLLM_ECHO={echo}", **over)


@slow
def test_a_file_that_is_not_what_its_manifest_says(tmp_path: Path, start: Start) -> None:
    plan = echoing(tmp_path)
    shard = Path(plan.snapshot.path) / "model-2.safetensors"
    shard.write_bytes(b"x" * 1_000_001)
    job = start(plan, NODE=str(tmp_path / "node"))
    why = served_from_the_store(job, plan)
    assert why == "model-2.safetensors is not what its manifest says"
    assert list((tmp_path / "node").iterdir()) == []


@slow
def test_a_snapshot_that_has_changed_since_it_was_planned(tmp_path: Path, start: Start) -> None:
    plan = echoing(tmp_path)
    (Path(plan.snapshot.path) / "model-2.safetensors").write_bytes(b"x")
    job = start(plan, NODE=str(tmp_path / "node"))
    assert "other files than when the job was planned" in served_from_the_store(job, plan)


@slow
def test_a_plain_folder_that_was_written_to_is_copied_anew(tmp_path: Path, start: Start) -> None:
    plan = plan_of(tmp_path, keep=True)
    assert ready(start, plan, tmp_path).end(term=True) == 0
    staging = plan.staging
    assert staging is not None
    config = Path(plan.snapshot.path) / "config.json"
    config.write_bytes(b"[]")
    by_size = tuple(file._replace(sha256="") for file in staging.files)
    late = plan_of(tmp_path, name="late", files=by_size)
    os.utime(config, (time.time() + 5, time.time() + 5))
    job = ready(start, late, tmp_path)
    assert job.state["staging"]["how"] == "copied"
    assert (the_copy(tmp_path) / "config.json").read_bytes() == b"[]"


@slow
@pytest.mark.parametrize(
    "how", ["link", "file", "open", "foreign", "around-foreign", "around-open"]
)
def test_a_folder_that_somebody_else_has_made_is_left_alone(
    how: str, tmp_path: Path, start: Start
) -> None:
    plan = echoing(tmp_path)
    trap = tmp_path / "trap"
    trap.mkdir(mode=0o700)
    place = private(tmp_path)
    if "foreign" in how and os.geteuid() != 0:
        pytest.skip("only root can give a folder to somebody else")
    expected = {
        "link": "is not a private folder",
        "file": "is not a private folder",
        "open": "is not a private folder",
        "foreign": "belongs to another user",
        "around-foreign": "belongs to another user",
        "around-open": "others may rename",
    }[how]
    if how == "link":
        place.symlink_to(trap)
    elif how == "file":
        place.touch()
    elif how == "open":
        place.mkdir()
        place.chmod(0o777)
    elif how == "foreign":
        place.mkdir(mode=0o700)
        os.chown(place, 65534, 65534)
    elif how == "around-foreign":
        os.chown(place.parent, 65534, 65534)
    else:
        place.parent.chmod(0o777)
    before = sorted((tmp_path / "node").iterdir())
    job = start(plan, NODE=str(tmp_path / "node"))
    assert expected in served_from_the_store(job, plan)
    assert list(trap.iterdir()) == []
    if not how.startswith("around"):
        assert sorted((tmp_path / "node").iterdir()) == before


@slow
def test_a_copy_that_takes_too_long_is_given_up(tmp_path: Path, start: Start) -> None:
    plan = dataclasses.replace(echoing(tmp_path, streams=1), start_timeout_s=16)
    slowly = slow_path(tmp_path, "cp", "[[ $* != */partial/* ]] || sleep 5")
    job = start(plan, NODE=str(tmp_path / "node"), PATH=slowly)
    assert "given up after half of the time" in served_from_the_store(job, plan)
    assert list((tmp_path / "node").iterdir()) == []


@slow
def test_a_sticky_folder_like_tmp_will_do(tmp_path: Path, start: Start) -> None:
    plan = plan_of(tmp_path)
    (tmp_path / "node").chmod(0o1777)
    assert ready(start, plan, tmp_path).state["staging"]["how"] == "copied"


@slow
@pytest.mark.parametrize(
    ("node", "expected"),
    [("", "staging.folder $NODE is '' on this node"), ("/proc/none", "cannot be written to")],
)
def test_a_node_without_the_folder(node: str, expected: str, tmp_path: Path, start: Start) -> None:
    plan = echoing(tmp_path)
    assert expected in served_from_the_store(start(plan, NODE=node), plan)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a file system in memory with certain options."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount")
    folder = tmp_path / "node"
    folder.mkdir(mode=0o700)

    def mount(options: str) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", f"mode=700,{options}", "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"mount: {done.stderr.strip()}")
        return folder

    yield mount
    subprocess.run(["umount", "--lazy", str(folder)], capture_output=True, check=False)


@slow
def test_too_small_a_disk(tmp_path: Path, small_disk: Callable[[str], Path], start: Start) -> None:
    plan = echoing(tmp_path)
    node = small_disk("size=3m")
    why = served_from_the_store(start(plan, NODE=str(node)), plan)
    assert why.startswith("the copy needs 4.0 MB, and 3.1 MB on ")
    assert list(node.iterdir()) == []


@slow
def test_a_disk_that_fills_up_during_the_copy(
    tmp_path: Path, small_disk: Callable[[str], Path], start: Start
) -> None:
    plan = echoing(tmp_path)
    node = small_disk("size=64m,nr_inodes=9")  # space enough, and files too few
    why = served_from_the_store(start(plan, NODE=str(node)), plan)
    assert "No space left on device" in why
    assert list(node.iterdir()) == []


@slow
def test_an_old_copy_that_nobody_uses_makes_way(
    tmp_path: Path, small_disk: Callable[[str], Path], start: Start
) -> None:
    plan = plan_of(tmp_path)
    node = small_disk("size=6m")
    for name, used in (("unused", False), ("used", True)):
        old, uses = private(tmp_path) / f"org--{name}", private(tmp_path) / f".org--{name}" / "uses"
        old.mkdir(parents=True)
        private(tmp_path).chmod(0o700)
        uses.mkdir(parents=True)
        (old / "weights").write_bytes(b"x" * (3_000_000 if name == "unused" else 100_000))
        if used:
            fields = Path("/proc/self/stat").read_text().rpartition(") ")[2].split()
            (uses / f"{os.getpid()}.{fields[19]}.{os.uname().nodename}").touch()
    job = ready(start, plan, tmp_path)
    assert job.state["staging"]["how"] == "copied"
    assert sorted(path.name for path in private(tmp_path).glob("org*")) == [
        the_copy(tmp_path).name,
        "org--used",
    ]
    assert job.end(term=True) == 0
    assert node.is_dir()


@slow
def test_a_job_that_ends_before_it_could_copy(tmp_path: Path, start: Start) -> None:
    plan = plan_of(tmp_path)
    gone = dataclasses.replace(
        plan,
        snapshot=dataclasses.replace(plan.snapshot, path="/no/such"),
        prefetch=PlannedPrefetch(3, ()),
    )
    job = start(gone, NODE=str(tmp_path / "node"))
    assert job.end() == 1
    assert (job.state["reason"], job.state["staging"]) == ("snapshot-missing", None)
    assert job.said == ""


@slow
def test_without_flock(tmp_path: Path, start: Start) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for folder in os.environ["PATH"].split(":"):
        for tool in Path(folder).glob("*") if Path(folder).is_dir() else ():
            if tool.name != "flock" and not (tools / tool.name).exists():
                (tools / tool.name).symlink_to(tool)
    dead = plan_of(tmp_path, name="dead")
    gone = start(
        dead,
        NODE=str(tmp_path / "node"),
        PATH=slow_path(tmp_path, "cp", "[[ $* != */partial/* ]] || sleep 60", tools),
    )
    gone.reach("staging")
    gone.until((book(tmp_path) / "partial").exists)
    gone.kill()
    first = start(plan_of(tmp_path), NODE=str(tmp_path / "node"), PATH=str(tools))
    second = start(plan_of(tmp_path, name="two"), NODE=str(tmp_path / "node"), PATH=str(tools))
    first.reach("ready")
    second.reach("ready")
    hows = [job.state["staging"]["how"] for job in (first, second)]
    assert sorted(hows) == ["copied", "reused"]
    assert first.end(term=True) == second.end(term=True) == 0
    assert list((tmp_path / "node").iterdir()) == []
    assert first.said == second.said == ""


def slow_path(tmp_path: Path, tool: str, first: str, rest: Path | None = None) -> str:
    """A PATH in which one tool does something else first."""
    folder = tmp_path / f"slow-{tool}"
    folder.mkdir()
    real = shutil.which(tool)
    (folder / tool).write_text(f'#!/bin/bash\n{first}\nexec {real} "$@"\n')
    (folder / tool).chmod(0o755)
    return f"{folder}:{rest or os.environ['PATH']}"


# ---- memory ----------------------------------------------------------------------------------


def functions_of(plan: LaunchPlan) -> str:
    """The functions of the rendered script that need nothing else of it."""
    script = render_job(plan, materials()).script
    rest = script.partition("# ---- many hands")[2]
    return f"set -u\n# {rest.partition('# ---- the proof')[0]}"


def free_memory(plan: LaunchPlan, first: str = "") -> int:
    text = f"{first}\n{functions_of(plan)}\nfree_memory"
    done = subprocess.run(["bash", "-c", text], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return int(done.stdout)


def test_free_memory_is_what_the_kernel_says(tmp_path: Path) -> None:
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    available = int(lines["MemAvailable"].split()[0]) * 1024
    assert 0 < free_memory(plan_of(tmp_path)) < available * 1.2


@pytest.fixture
def small_cgroup() -> Iterator[Path]:
    """A memory cgroup with a limit of 512 MiB, of whichever version this machine has."""
    for root, limit in (
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
        (Path("/sys/fs/cgroup"), "memory.max"),
    ):
        folder = root / f"hpcvlm-test-{os.getpid()}"
        try:
            folder.mkdir()
        except OSError:
            continue
        try:
            (folder / limit).write_text(str(512 * 1024**2))
            (folder / "below").mkdir()
            yield folder / "below"
        except OSError:
            continue
        else:
            return
        finally:
            for made in (folder / "below", folder):
                if made.is_dir():
                    made.rmdir()
    pytest.skip("no memory cgroup can be made here")


def test_the_limit_of_a_cgroup_above_counts(tmp_path: Path, small_cgroup: Path) -> None:
    free = free_memory(plan_of(tmp_path), f"echo $$ >'{small_cgroup}/cgroup.procs'")
    assert 400 * 1024**2 < free <= 512 * 1024**2


# ---- reading ahead ---------------------------------------------------------------------------


def reading_ahead(tmp_path: Path, *kinds: str, step_s: float = 0.01) -> LaunchPlan:
    plan = plan_of(tmp_path, f"environment.FAKE_VLLM_STEP_S={step_s}")
    return dataclasses.replace(plan, staging=None, prefetch=PlannedPrefetch(3, kinds, 100_003))


@slow
@pytest.mark.parametrize("kinds", [(), ("nosuch", "*")])
def test_weights_are_read_while_the_engine_starts(
    kinds: tuple[str, ...], tmp_path: Path, start: Start
) -> None:
    job = ready(start, reading_ahead(tmp_path, *kinds), tmp_path)
    told = job.state["staging"]
    assert (told["how"], told["folder"], told["why"]) == ("prefetched", "", "")
    assert told["bytes"] == 4_000_001  # the weights, and nothing else
    assert told["mb_per_s"] > 0
    assert job.end(term=True) == 0
    assert job.said == ""
    assert list((job.scratch).iterdir()) == []


@slow
def test_a_local_disk_is_not_read_ahead(tmp_path: Path, start: Start) -> None:
    job = ready(start, reading_ahead(tmp_path, "nfs*", "lustre"), tmp_path)
    assert job.state["staging"] is None
    assert parse_state(json.dumps(job.state)).staging is None  # type: ignore[union-attr]


@slow
def test_reading_ahead_ends_when_the_engine_is_ready_or_gone(tmp_path: Path, start: Start) -> None:
    slowly = {"PATH": slow_path(tmp_path, "dd", "sleep 0.3")}
    job = ready(start, reading_ahead(tmp_path, step_s=0.2), tmp_path, **slowly)
    told = job.state["staging"]
    assert told["how"] == "prefetched"
    assert 0 < told["bytes"] < 4_000_001
    assert job.end(term=True) == 0
    job.until_gone()
    assert job.said == ""


@slow
def test_a_job_without_room_for_a_copy_reads_ahead(tmp_path: Path, start: Start) -> None:
    both = plan_of(tmp_path)
    plan = dataclasses.replace(both, prefetch=PlannedPrefetch(3, ()))
    job = start(plan, NODE="")
    job.reach("ready")
    told = job.state["staging"]
    assert (told["how"], told["why"]) == ("prefetched", "staging.folder $NODE is '' on this node")
