"""The rendered script itself, run by a real bash around a stand-in engine that can misbehave."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from hpcvlm.engines.vllm import PHASES
from hpcvlm.plan.model import LaunchPlan, PlannedEngine
from tests.command import ROOT
from tests.job_fixtures import FAKE, FAKE_SITE, RunningJob, local_plan

pytestmark = pytest.mark.slow

UP_TO_PROBING = ["allocated", "container", "engine", "weights", "warm-up", "probing"]
UP_TO_READY = [*UP_TO_PROBING, "ready"]

Start = Callable[..., RunningJob]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts the script of a plan; the job is gone when the test is over."""
    jobs: list[RunningJob] = []

    def begin(plan: LaunchPlan, *, watch_argv: bool = False, **environment: str) -> RunningJob:
        tmp = tmp_path / f"run{len(jobs)}"
        job = RunningJob.start(plan, tmp, environment=environment, watch_argv=watch_argv)
        jobs.append(job)
        return job

    yield begin
    for job in jobs:
        job.close()


def plan_of(tmp_path: Path, mode: str = "ok", *settings: str, **over: object) -> LaunchPlan:
    """The bundled model in a folder whose name a shell would stumble over."""
    folder = tmp_path / 'it\'s a "state" $HOME `x`' / "mine"
    result = local_plan(folder, f"environment.FAKE_VLLM_MODE={mode}", *settings)
    assert result.issues == ()
    return dataclasses.replace(result.plan, **over)  # type: ignore[arg-type]


def engine(tmp_path: Path, text: str) -> PlannedEngine:
    """An engine of a test's own; Python text that may use the stand-in."""
    path = tmp_path / "engine.py"
    top = f"#!/usr/bin/env python3\nimport sys\nsys.path.insert(0, {str(ROOT)!r})\n"
    path.write_text(f"{top}import os, time\nfrom tests import fake_vllm\n{text}\n")
    path.chmod(0o755)
    return PlannedEngine("vllm", "0.32.0", (str(path),), None)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def assert_nothing_left(job: RunningJob) -> None:
    job.until_gone()
    assert list((job.scratch).iterdir()) == []
    assert not (job.folder / "curl.conf").exists()
    assert job.broken_states == []


def test_a_whole_life(tmp_path: Path, start: Start) -> None:
    plan = plan_of(tmp_path)
    job = start(plan, watch_argv=True)
    job.reach("ready")
    state = job.state
    assert (state["schema"], state["phase"], state["reason"]) == (1, "ready", "")
    assert 20000 <= state["port"] < 60000
    assert (state["host"], state["job_id"]) == (os.uname().nodename, str(job.process.pid))
    assert (state["engine_exit"], state["socket"], state["proof"]) == (None, None, "image")
    assert (state["restarts"], state["engine_restarts"]) == (0, 0)
    assert state["ends"] == int(state["started"]) + plan.time_limit_s
    assert state["started"] == state["phases"]["allocated"]
    assert state["since"] == state["phases"]["ready"]

    answers = json.loads((job.folder / "probe.json").read_text())
    assert answers["image"]["choices"][0]["message"]["content"] == "a red circle"
    assert answers["text"]["usage"]["prompt_tokens"] < answers["image"]["usage"]["prompt_tokens"]

    # Nobody but the owner, and the key in two files and no command line.
    modes = {path: mode_of(path) for path in [job.folder, *job.folder.rglob("*")]}
    assert {mode_of(p) for p in modes if p.is_dir()} == {0o700}
    assert {mode_of(p) for p in modes if p.is_file()} == {0o600}
    key = (job.folder / "key").read_text().strip()
    assert re.fullmatch(r"[A-Za-z0-9]{32,}", key)
    files = [path for path in modes if path.is_file()]
    assert {p.name for p in files if key in p.read_text()} == {"key", "curl.conf"}

    assert job.end(term=True) == 0
    state = job.state
    assert (state["phase"], state["reason"], state["engine_exit"]) == ("ended", "stopped", 0)
    assert job.phases == [*UP_TO_READY, "draining", "ended"]
    assert list(state["phases"].values()) == sorted(state["phases"].values())
    assert_nothing_left(job)
    assert job.said == ""
    assert (job.folder / "key").exists()
    assert any(b"/v1/chat/completions" in argv for argv in job.argvs)
    assert not any(key.encode() in argv for argv in job.argvs)


@dataclass(frozen=True)
class Course:
    """One way that a job can go, and how it must end.

    Attributes:
        mode: the stand-in's.
        code: exit code of the script.
        reason: in state.json.
        engine_exit: in state.json.
        phases: up to the last before `ended`.
        change: Python text that changes the stand-in before it starts.
        settings: of the model.
        stop: whether it is stopped once it is ready.
    """

    mode: str
    code: int
    reason: str
    engine_exit: int
    phases: list[str]
    change: str = ""
    settings: tuple[str, ...] = ()
    stop: bool = False


# Changes what the stand-in says to every request.
ANSWER = """
answer = fake_vllm.Handler.answer
def changed(self, status, body):
    usage = body.get("usage", {{}})
    {change}
    answer(self, status, body)
fake_vllm.Handler.answer = changed
"""
# vLLM's workers are processes of their own, and may outlive the one that was started.
WORKER = """
if os.fork() == 0:
    import signal
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(300)
"""
OTHER_NAME = "sys.argv[sys.argv.index('--served-model-name') + 1] = 'tiny-vlm-2'"
NO_TEXT = ANSWER.format(change="status = 503 if usage else status")
EMPTY_TEXT = ANSWER.format(change="usage['completion_tokens'] = 0")
EMPTY_REPLY = ANSWER.format(
    change="usage.get('prompt_tokens', 0) > 20 and usage.update(completion_tokens=0)"
)
DIES_OF_IT = ANSWER.format(change="usage.get('prompt_tokens', 0) > 20 and os._exit(5)")
NO_PORT = """
with open(os.environ["TRIES"], "a") as file: file.write(sys.argv[-1] + chr(10))
sys.exit("[Errno 98] Address already in use")
"""
LOADING = ["allocated", "container", "engine", "weights"]
STOPPED = [*UP_TO_READY, "draining"]
KILLED = 128 + signal.SIGKILL

COURSES = {
    "it dies while it loads": Course("die-loading", 1, "engine-exited", 1, LOADING),
    "it dies once it is ready": Course("die-after-ready", 1, "engine-exited", 3, UP_TO_READY),
    "it hangs": Course(
        "hang", 1, "start-timeout", 0, UP_TO_PROBING[:-1], settings=("start_timeout=2s",)
    ),
    "it does not see": Course("blind", 7, "image-not-taken-in", 0, UP_TO_PROBING),
    "it has no lock": Course("open", 7, "not-locked", 0, UP_TO_PROBING),
    "it refuses images": Course("image-500", 7, "image-not-answered", 0, UP_TO_PROBING),
    "it has another name": Course("ok", 7, "model-not-listed", 0, UP_TO_PROBING, OTHER_NAME),
    "it refuses text": Course("ok", 7, "text-not-answered", 0, UP_TO_PROBING, NO_TEXT),
    "it says nothing": Course("ok", 7, "text-not-answered", 0, UP_TO_PROBING, EMPTY_TEXT),
    "it is silent on images": Course("ok", 7, "image-not-answered", 0, UP_TO_PROBING, EMPTY_REPLY),
    "it dies of an image": Course("ok", 1, "engine-exited", 5, UP_TO_PROBING, DIES_OF_IT),
    "it ignores SIGTERM": Course("ignore-term", 0, "stopped", KILLED, STOPPED, stop=True),
    "a worker outlives its end": Course("ok", 0, "stopped", 0, STOPPED, WORKER, stop=True),
    "a worker outlives its death": Course(
        "die-after-ready", 1, "engine-exited", 3, UP_TO_READY, WORKER
    ),
    "a worker outlives its start": Course("die-loading", 1, "engine-exited", 1, LOADING, WORKER),
    "no port is free": Course(
        "ok", 1, "engine-exited", 1, ["allocated", "container", "engine"], NO_PORT
    ),
    "the first port is taken": Course("port-taken-once", 0, "stopped", 0, STOPPED, stop=True),
}
AT_ONCE = 4


def run(course: Course, tmp: Path) -> RunningJob:
    """One job from its start to its end."""
    tmp.mkdir()
    changed = {"engine": engine(tmp, f"{course.change}\nfake_vllm.main()")} if course.change else {}
    plan = plan_of(tmp, course.mode, *course.settings, stop_timeout_s=1, **changed)
    job = RunningJob.start(plan, tmp / "run", environment={"TRIES": str(tmp / "tries")})
    if course.stop:
        job.reach("ready")
    job.end(term=course.stop)
    return job


# Run once, on one worker, where pytest-xdist is told --dist loadgroup.
together = pytest.mark.xdist_group("courses")


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[RunningJob]]]:
    """Every course, run to its end; several at once, since they mostly wait."""
    folder = tmp_path_factory.mktemp("courses")
    with ThreadPoolExecutor(AT_ONCE) as pool:
        jobs = {
            name: pool.submit(run, course, folder / str(number))
            for number, (name, course) in enumerate(COURSES.items())
        }
    yield jobs
    for job in jobs.values():
        if job.exception() is None:
            job.result().close()


@together
@pytest.mark.parametrize("name", COURSES)
def test_how_it_ends(ended: dict[str, Future[RunningJob]], name: str) -> None:
    course, job = COURSES[name], ended[name].result()
    state = job.state
    assert (state["phase"], state["reason"]) == ("ended", course.reason), job.said
    assert job.process.returncode == course.code
    assert state["engine_exit"] == course.engine_exit
    assert job.phases == [*course.phases, "ended"]
    assert_nothing_left(job)


@together
def test_a_port_that_was_taken_is_replaced(ended: dict[str, Future[RunningJob]]) -> None:
    errors = (ended["the first port is taken"].result().folder / "engine.err").read_text()
    assert "already in use" not in errors
    assert "Application startup complete" in errors


@together
def test_five_ports_are_tried_and_no_more(ended: dict[str, Future[RunningJob]]) -> None:
    ports = (ended["no port is free"].result().tmp.parent / "tries").read_text().split()
    assert len(ports) == 5
    assert len(set(ports)) > 1


@together
def test_answers_are_kept_where_the_proof_failed(ended: dict[str, Future[RunningJob]]) -> None:
    kept = {
        name: json.loads((ended[name].result().folder / "probe.json").read_text())
        for name in ("it has no lock", "it refuses text", "it does not see", "it refuses images")
    }
    assert kept["it has no lock"] == {}
    assert kept["it refuses text"].keys() == {"text"}
    assert kept["it does not see"]["image"]["usage"]["prompt_tokens"] == 14
    assert kept["it refuses images"]["image"]["error"]["message"] == "out of memory"


def test_a_text_model_is_not_asked_about_a_picture(tmp_path: Path, start: Start) -> None:
    job = start(plan_of(tmp_path, "blind", "multimodal.limit_per_prompt=null"))
    job.reach("ready")
    assert not (job.folder / "payloads" / "image.json").exists()
    assert json.loads((job.folder / "probe.json").read_text()).keys() == {"text"}


@pytest.mark.parametrize(
    ("phase", "number"),
    [
        ("container", signal.SIGTERM),
        ("weights", signal.SIGUSR2),
        ("weights", signal.SIGINT),
        ("probing", signal.SIGTERM),
    ],
)
def test_it_can_be_stopped_at_any_time(
    tmp_path: Path, start: Start, phase: str, number: int
) -> None:
    late = ANSWER.format(change="usage and time.sleep(60)")
    plan = plan_of(tmp_path, "slow", engine=engine(tmp_path, f"{late}\nfake_vllm.main()"))
    job = start(plan)
    job.reach(phase)
    os.kill(job.process.pid, number)
    begun = time.monotonic()
    assert job.end() == 0
    assert time.monotonic() - begun < 15
    assert (job.state["phase"], job.state["reason"]) == ("ended", "stopped")
    assert job.phases[-2:] == ["draining", "ended"]
    assert "ready" not in job.phases
    assert_nothing_left(job)


def test_the_engine_gets_its_arguments_and_its_environment_exactly(
    tmp_path: Path, start: Start
) -> None:
    echo = tmp_path / "echo of 'it'.json"
    value = {"text": 'it\'s a "quoted" $(value) `x`, a \\ and ü', "n": [1, 2], " ": {"*": True}}
    extra = ("--hf-overrides", '{"a b": "c,d"}', "--", "", "~", "*", "-x=$HOME", "!", "a;b|c&d")
    result = local_plan(
        tmp_path / "mine",
        f"environment.FAKE_VLLM_ECHO={echo}",
        'environment.QUOTED=it\'s "so" $HOME `x` \\',
        "environment.EMPTY=",
        f"multimodal.processor={json.dumps(value)}",
        engine_arguments=extra,
    )
    plan = result.plan
    job = start(plan, VLLM_PORT="1", VLLM_X="leak", PYTHONPATH="/leak", LD_PRELOAD="")
    job.reach("ready")
    heard = json.loads(echo.read_text())
    port = str(job.state["port"])
    assert heard["argv"] == [*plan.engine_arguments, "--host", "127.0.0.1", "--port", port]
    assert json.loads(heard["argv"][heard["argv"].index("--mm-processor-kwargs") + 1]) == value
    assert heard["argv"][-4 - len(extra) : -4] == list(extra)
    environment = heard["environment"]
    assert {name: environment[name] for name, _ in plan.environment} == dict(plan.environment)
    named = {name for name, _ in plan.environment}
    assert not {"VLLM_PORT", "VLLM_X", "LD_PRELOAD", "PYTHONHOME"} & environment.keys() - named
    assert environment["PYTHONPATH"] == f"{plan.folder}/payloads"


FAKE_RUNTIME = """#!/bin/bash
# Keeps what it is told; then runs the command on this very machine, with the container's variables.
printf '%s\\0' "$@" >"$OUT/argv"
env -0 >"$OUT/environment"
while [[ $1 != *.sif ]]; do shift; done
shift
inside=(PATH="$PATH")
for name in "${!APPTAINERENV_@}"; do inside+=("${name#APPTAINERENV_}=${!name}"); done
exec env -i "${inside[@]}" "$@"
"""


@pytest.fixture
def runtime(tmp_path: Path) -> str:
    """A stand-in for apptainer, first on the PATH that is given."""
    program = tmp_path / "bin" / "apptainer"
    program.parent.mkdir()
    program.write_text(FAKE_RUNTIME)
    program.chmod(0o755)
    return f"{program.parent}:{os.environ['PATH']}"


def contained(tmp_path: Path, *, exists: bool = True) -> LaunchPlan:
    """The plan of an engine in an image whose name holds a blank."""
    image = tmp_path / "an image.sif"
    if exists:
        image.touch()
    text = json.dumps(
        {
            "engines": [{"version": "0.32.0", "image": str(image), "command": [str(FAKE)]}],
            "binds": ["/shared data:/data:ro"],
        }
    )
    return local_plan(tmp_path / "mine", "environment.A=it's $HOME", site_text=text).plan


def test_a_container_sees_what_it_is_given_and_nothing_else(
    tmp_path: Path, start: Start, runtime: str
) -> None:
    plan = contained(tmp_path)
    job = start(
        plan,
        PATH=runtime,
        OUT=str(tmp_path),
        APPTAINERENV_LEAK="1",
        SINGULARITYENV_LEAK="1",
        APPTAINER_BIND="/secret",
        SINGULARITY_BINDPATH="/secret",
        CUDA_VISIBLE_DEVICES="2,3",
        no_proxy="",
    )
    job.reach("ready")
    words = (tmp_path / "argv").read_text().split("\0")[:-1]
    workdir = words[words.index("--workdir") + 1]
    assert Path(workdir).is_relative_to(job.scratch)
    binds = [word for bind in plan.binds for word in ("--bind", bind.text)]
    assert words == [
        *("exec", "--nv", "--containall", "--no-home", "--workdir", workdir, "--pwd", "/tmp"),
        *binds,
        *(str(plan.engine.image), str(FAKE), *plan.engine_arguments),
        *("--host", "127.0.0.1", "--port", str(job.state["port"])),
    ]
    assert "/shared data:/data:ro" in words
    pairs = (tmp_path / "environment").read_text().split("\0")[:-1]
    ours = ("APPTAINERENV_", "SINGULARITYENV_")
    inside = dict(p.split("=", 1) for p in pairs if p.startswith(ours))
    assert "APPTAINER_NO_EVAL=1" in pairs
    expected = {**dict(plan.environment), "CUDA_VISIBLE_DEVICES": "2,3", "no_proxy": ""}
    assert inside == {f"APPTAINERENV_{name}": value for name, value in expected.items()}
    assert job.end(term=True) == 0
    assert list((job.scratch).iterdir()) == []


def without(tmp_path: Path, command: str) -> str:
    """A PATH with everything that the script needs, but for one command."""
    folder = tmp_path / "few"
    folder.mkdir()
    needed = "bash base64 cat chmod cp curl date env head mkdir mktemp mv python3 rm sleep tr uname"
    for name in set(needed.split()) - {command}:
        found = subprocess.run(["which", name], capture_output=True, text=True, check=True)
        (folder / name).symlink_to(found.stdout.strip())
    return str(folder)


def no_curl(tmp_path: Path) -> tuple[LaunchPlan, str]:
    return plan_of(tmp_path), without(tmp_path, "curl")


def no_snapshot(tmp_path: Path) -> tuple[LaunchPlan, str]:
    plan = plan_of(tmp_path)
    gone = dataclasses.replace(plan.snapshot, path="/no/such folder")
    return dataclasses.replace(plan, snapshot=gone), ""


def no_image(tmp_path: Path) -> tuple[LaunchPlan, str]:
    return contained(tmp_path, exists=False), ""


def no_runtime(tmp_path: Path) -> tuple[LaunchPlan, str]:
    return contained(tmp_path), without(tmp_path, "apptainer")


def no_module(tmp_path: Path) -> tuple[LaunchPlan, str]:
    return plan_of(tmp_path, modules=("apptainer/1.3",)), ""


def no_cache(tmp_path: Path) -> tuple[LaunchPlan, str]:
    return plan_of(tmp_path, cache="/proc/no cache"), ""


def no_media_root(tmp_path: Path) -> tuple[LaunchPlan, str]:
    text = f"{FAKE_SITE}media_root: /no/such pictures\n"
    return local_plan(tmp_path / "mine", site_text=text).plan, ""


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (no_curl, "curl-missing"),
        (no_snapshot, "snapshot-missing"),
        (no_image, "image-missing"),
        (no_runtime, "runtime-missing"),
        (no_module, "module-missing"),
        (no_cache, "cache-unwritable"),
        (no_media_root, "media-root-missing"),
    ],
)
def test_what_the_node_lacks_is_said_before_anything_is_started(
    tmp_path: Path,
    start: Start,
    make: Callable[[Path], tuple[LaunchPlan, str]],
    reason: str,
) -> None:
    plan, path = make(tmp_path)
    job = start(plan, PATH=path or os.environ["PATH"])
    assert job.end() == 1
    assert (job.state["phase"], job.state["reason"]) == ("ended", reason)
    assert job.phases == ["allocated", "ended"]
    assert job.state["engine_exit"] is None
    assert not (job.folder / "engine.out").exists()
    assert_nothing_left(job)


def test_modules_are_loaded_by_name(tmp_path: Path, start: Start) -> None:
    functions = tmp_path / "functions"
    loaded = shlex.quote(str(tmp_path / "loaded"))
    functions.write_text(f"module() {{ printf '%s|' \"$@\" >{loaded}; }}\n")
    job = start(plan_of(tmp_path, modules=("a/1", "b c/2")), BASH_ENV=str(functions))
    job.reach("container")
    assert (tmp_path / "loaded").read_text() == "load|a/1|b c/2|"


def test_slurm_s_own_words_are_in_the_state_and_a_requeued_job_begins_anew(
    tmp_path: Path, start: Start
) -> None:
    plan = plan_of(tmp_path, "slow")
    words = {"SLURM_JOB_ID": "4711", "SLURM_JOB_END_TIME": "1795247438"}
    first = start(plan, **words)
    first.reach("weights")
    key = (first.folder / "key").read_text()
    first.kill()
    begun = first.state["started"]
    assert first.phases == LOADING
    again = start(plan, **words, SLURM_RESTART_COUNT="1")
    again.until(lambda: again.state["restarts"] == 1)
    again.reach("engine")
    state = again.state
    assert (state["job_id"], state["ends"], state["restarts"]) == ("4711", 1795247438, 1)
    assert list(state["phases"]) == LOADING[: len(state["phases"])]
    assert state["started"] > begun
    assert (again.folder / "engine.out").read_text().count("server version") == 1
    assert (again.folder / "key").read_text() == key


def test_a_name_that_json_must_quote_is_found(tmp_path: Path, start: Start) -> None:
    job = start(plan_of(tmp_path, "ok", 'served_name=my "tiny" \\ * $HOME'))
    job.reach("ready")


def test_a_user_s_own_curl_settings_change_nothing(tmp_path: Path, start: Start) -> None:
    home = tmp_path / "home"
    home.mkdir()
    rc = 'include\nfail\nuser-agent = "mine"\nproxy = "http://127.0.0.1:9"\nrequest = "PUT"\n'
    (home / ".curlrc").write_text(rc)
    job = start(plan_of(tmp_path), HOME=str(home), http_proxy="http://127.0.0.1:9")
    job.reach("ready")


def test_what_the_log_says_of_readiness_is_not_believed(tmp_path: Path, start: Start) -> None:
    liar = tmp_path / "engine"
    liar.write_text("#!/bin/bash\necho 'INFO:     Application startup complete.' >&2\nsleep 60\n")
    liar.chmod(0o755)
    engine_ = PlannedEngine("vllm", "0.32.0", (str(liar),), None)
    job = start(plan_of(tmp_path, engine=engine_, start_timeout_s=0))
    assert job.end() == 1
    assert job.state["reason"] == "start-timeout"
    assert job.phases == ["allocated", "container", "engine", "ended"]


def test_phases_only_go_forward() -> None:
    """The order that the script keeps is the one that the progress display knows."""
    assert [phase for phase in PHASES if phase in UP_TO_READY] == UP_TO_READY
