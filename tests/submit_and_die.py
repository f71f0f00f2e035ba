"""Submits a chain of jobs again and again, killed a step later each time, and tells what is left.

    python -m tests.submit_and_die FOLDER [once]

FOLDER/bin holds stand-ins for sbatch, squeue, sacct and srun. Prints one JSON line for each run.
With ``once`` it is sbatch that kills, and goes on for itself.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

from hpcvlm.endpoints.registry import all_records
from hpcvlm.plan.chain import generation_name
from hpcvlm.plan.model import LaunchPlan, LaunchRequest
from hpcvlm.render.model import JobFile, RenderedJob
from hpcvlm.submit.adopt import look_up
from hpcvlm.submit.job import load_executors, submit_jobs
from hpcvlm.system.clock import SystemClock
from hpcvlm.system.process import run
from tests.job_fixtures import make_plan

JOBS = 2
_WATCHED = {"open", "os.mkdir", "os.rename", "os.chmod", "os.remove", "subprocess.Popen"}


def plan(state: Path, generation: int) -> LaunchPlan:
    """One job of the endpoint."""
    name = generation_name("mine", generation)
    asked = LaunchRequest("tiny-vlm", gpus="A100:1", time="1h")
    made = make_plan(asked, name=name, folder=str(state / "jobs" / name)).plan
    return replace(made, endpoint="mine", generation=generation, overlap_s=600)


def die_at(step: int, state: Path) -> None:
    """SIGKILL at the so-manieth thing that changes a file of ours, or starts a program."""
    seen = 0

    def count(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        if event in _WATCHED and (event == "subprocess.Popen" or str(state) in str(arguments)):
            seen += 1
            if seen == step:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


def what_is_left(state: Path) -> dict[str, object]:
    """Jobs that Slurm has, and what the records say of them."""
    records = all_records(state / "jobs")
    folders = [folder.name for folder in (state / "jobs").glob("*")]
    return {
        "folders": sorted(folders),
        "records": sorted(record.name for record in records),
        "found": sorted(record.job_id or look_up(record, run).job_id for record in records),
        "accepted": sorted(
            line.partition("|")[0] for line in (state / "accepted").read_text().splitlines()
        ),
    }


def main(place: Path, *, once: bool) -> None:
    """Die at step 1, 2, 3 … until a run gets to its end."""
    load_executors()
    os.environ["PATH"] = f"{place / 'bin'}:{os.environ['PATH']}"
    job = RenderedJob("#!/bin/bash\n", (JobFile("job.sbatch", "#!/bin/bash\n", 0o700),))
    alive, step = False, 0
    while not alive:
        step += 1
        state = place / f"step{step}"
        state.mkdir()
        (state / "accepted").touch()
        os.environ["ACCEPTED"] = str(state / "accepted")
        jobs = [(plan(state, number), job) for number in range(1, JOBS + 1)]
        child = os.fork()
        if child == 0:
            if not once:
                die_at(step, state)
            submit_jobs(jobs, runner=run, clock=SystemClock())
            os._exit(0)
        alive = os.waitpid(child, 0)[1] == 0
        if once:
            _wait_for(state / "accepted")
        print(json.dumps({"step": step, "alive": alive, **what_is_left(state)}))
        if once:
            return


def _wait_for(accepted: Path) -> None:
    """Until the sbatch that outlived its caller has said what it did."""
    for _ in range(1000):
        if accepted.read_text():
            return
        time.sleep(0.01)


if __name__ == "__main__":
    main(Path(sys.argv[1]), once="once" in sys.argv)
