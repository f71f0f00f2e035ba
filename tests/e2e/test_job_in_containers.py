"""What a job tells an engine that runs in a real container: its socket, its new key, to drain."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hpcvlm.engines.vllm import activity_metrics
from hpcvlm.plan.model import LaunchPlan
from tests.command import ROOT
from tests.job_fixtures import RunningJob, local_plan
from tests.realparts import set_up

pytestmark = pytest.mark.slow

REAL_ENVIRONMENT = dict(os.environ)
FOLDERS = [*(f"/{name}" for name in ("usr", "lib", "lib64", "bin")), sys.base_prefix, str(ROOT)]
ENGINE = [sys.executable, str(ROOT / "tests" / "fake_vllm.py")]


def site(runtime: str, image: str) -> str:
    """The stand-in engine in an image."""
    engine = {"version": "0.32.0", "image": image, "command": ENGINE}
    binds = list(dict.fromkeys(FOLDERS))
    return json.dumps(
        {"schema": 1, "runtime": runtime, "gpu_flag": "", "binds": binds, "engines": [engine]}
    )


@pytest.fixture(params=[pytest.param("apptainer", marks=pytest.mark.apptainer), "podman"])
def inside(request: pytest.FixtureRequest) -> tuple[str, dict[str, str]]:
    """A site whose engine runs in a container, and the environment that its runtime needs."""
    if request.param == "podman":
        conf = set_up("podman.sh", environment=REAL_ENVIRONMENT)
        home = REAL_ENVIRONMENT["HOME"]
        text = site("podman", "localhost/hpcvlm-empty:1")
        return text, {"HOME": home, "CONTAINERS_CONF": conf}
    return site("apptainer", str(request.getfixturevalue("cpu_sif").image)), {}


@pytest.fixture
def job(tmp_path: Path, inside: tuple[str, dict[str, str]]) -> Iterator[RunningJob]:
    """A ready job whose engine listens on a socket."""
    text, environment = inside
    plan: LaunchPlan = local_plan(tmp_path / "mine", site_text=text).plan
    plan = dataclasses.replace(
        plan,
        listen="socket",
        activity=activity_metrics("0.32.0"),
        drain_grace_s=1,
        drain_timeout_s=30,
    )
    running = RunningJob.start(plan, tmp_path / "run", environment=environment)
    try:
        running.reach("ready")
        yield running
    finally:
        running.end(term=True)
        running.close()


def test_an_engine_in_a_container_hears_what_the_job_says(job: RunningJob) -> None:
    path = Path(job.state["socket"])
    assert path.is_relative_to(job.scratch)
    assert job.state["port"] is None
    old = (job.folder / "key").read_text().strip()
    assert job.chat()[0] == 200

    new = job.folder / ".new"
    new.write_text("another-key-0123456789\n")
    new.chmod(0o600)
    new.rename(job.folder / "key")
    job.until(lambda: job.chat(key=old)[0] == 401)
    assert job.chat()[0] == 200

    with ThreadPoolExecutor(1) as pool:
        long = pool.submit(job.chat, "sleep 6")
        (job.folder / "drain").write_text("drained\n")
        job.until(lambda: job.chat()[0] == 503)
        assert long.result()[0] == 200
    assert job.end() == 0
    assert job.state["reason"] == "drained"
    job.until_gone()
    assert list((job.scratch).iterdir()) == []
