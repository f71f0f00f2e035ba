"""The Python API without a job: its names, its requests, its end, its thread."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
import threading
import time
import types
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import hpcvlm
from hpcvlm.endpoints.endpoint import Endpoint as Address
from hpcvlm.ops.api_keeper import Keeper
from hpcvlm.ops.context import Context
from hpcvlm.submit.job import InterruptedAfterSubmit
from hpcvlm.submit.record import JobRecord
from hpcvlm.system.settings import Settings
from tests.command import ROOT
from tests.job_records import HOUR, NOW, record, said

KEY = "k" * 43


class SetClock:
    """A clock that is set."""

    def __init__(self) -> None:
        self.time = NOW

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        raise AssertionError(seconds)


@pytest.fixture
def jobs(tmp_path: Path) -> Path:
    return tmp_path / "state" / "jobs"


@pytest.fixture
def context(jobs: Path, tmp_path: Path) -> Context:
    return Context(Settings(jobs.parent, tmp_path / "c", tmp_path / "s"), {}, clock=SetClock())


# ---- the package


def test_importing_it_loads_next_to_nothing() -> None:
    code = (
        "import hpcvlm, sys; print([m for m in sys.modules if m.startswith(('hpcvlm.', 'httpx'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_its_names_are_there_and_no_others() -> None:
    for name in hpcvlm.__all__:
        assert getattr(hpcvlm, name) is not None
    assert dir(hpcvlm) == sorted(hpcvlm.__all__)
    with pytest.raises(AttributeError, match="'launhc'"):
        hpcvlm.launhc  # type: ignore[attr-defined]  # noqa: B018
    assert (Path(hpcvlm.__file__).parent / "py.typed").exists()


def test_the_page_about_it_names_what_there_is() -> None:
    page = (ROOT / "docs" / "how-to" / "use-from-python.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) >= 4
    for block in blocks:
        compile(block, "use-from-python.md", "exec")
    used = set(re.findall(r"(?<![-\w])endpoint\.(\w+)", page)) | set(
        re.findall(r"`\.(\w+)[`(]", page)
    )
    assert {"ask", "client", "key", "async_client"} < used
    assert [name for name in used if not hasattr(hpcvlm.Endpoint, name)] == []
    for name in re.findall(r"\bhpcvlm\.(\w+)", page):
        assert name in hpcvlm.__all__, name


# ---- what is asked for


def request(**more: Any) -> Any:
    return hpcvlm.launch("m", start=False, **more)._request


def test_what_is_said_becomes_a_request() -> None:
    asked = request(
        gpus=2,
        time=timedelta(hours=2),
        settings={"environment.A": "yes", "max-model-len": 4096, "x": [1, True]},
        engine_args=["--a"],
        keep="3d",
        idle=timedelta(minutes=30),
        restarts=2,
        listen="socket",
        media_root=Path("/data"),
    )
    assert (asked.gpus, asked.time, asked.keep, asked.idle) == ("2", "7200s", "3d", "1800s")
    assert asked.settings == ('environment.A="yes"', "max-model-len=4096", "x=[1, true]")
    assert (asked.restarts, asked.listen, asked.media_root) == (2, "socket", "/data")
    assert asked.engine_arguments == ("--a",)
    assert request(settings=["a=b"]).settings == ("a=b",)


def test_a_lease_is_the_default_and_can_be_switched_off() -> None:
    assert request().lease_s == 300
    assert request(lease=None).lease_s is None
    assert request(on_exit="leave").lease_s is None
    with pytest.raises(hpcvlm.HpcvlmError, match="lease=0"):
        request(lease=0)
    with pytest.raises(hpcvlm.HpcvlmError, match="on_exit='keep'"):
        request(on_exit="keep")


def test_before_it_is_launched_it_says_so() -> None:
    endpoint = hpcvlm.launch("m", start=False)
    assert repr(endpoint) == "<hpcvlm.Endpoint m (not launched)>"
    for read in ("name", "url", "key", "job_id"):
        with pytest.raises(hpcvlm.HpcvlmError, match="is not launched"):
            getattr(endpoint, read)
    endpoint.stop()


def test_errors_tell_programs_what_to_do_and_travel_between_processes() -> None:
    error = hpcvlm.HpcvlmError("code", "sentence", "remedy", ("detail",))
    assert error.__notes__ == ["detail", "try: remedy"]
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    assert (copy.code, copy.sentence, copy.remedy) == ("code", "sentence", "remedy")
    assert copy.details == ("detail",)


# ---- its end


class Launched:
    """What happens instead of a launch, and what was asked of it."""

    def __init__(self, jobs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.jobs = jobs
        self.calls: list[str] = []
        self.interrupt = False
        self.wait_raises: BaseException | None = None
        monkeypatch.setattr("hpcvlm.ops.launch.launch", self.launch)
        monkeypatch.setattr("hpcvlm.ops.endpoints.wait", self.wait)
        monkeypatch.setattr("hpcvlm.ops.stop.stop_endpoint", self.stop)
        monkeypatch.setattr("hpcvlm.ops.stop.drain_endpoint", self.drain)

    def launch(self, asked: Any, _ctx: Context, *, force: tuple[str, ...]) -> JobRecord:
        self.calls.append("launch")
        made = record(self.jobs, asked.name or "made-up", executor="local")
        said(made, "ready", NOW, NOW)
        (Path(made.folder) / "key").write_text(KEY)
        (Path(made.folder) / "key").chmod(0o600)
        if self.interrupt:
            raise InterruptedAfterSubmit(made)
        return made

    def wait(self, made: JobRecord, *_: object, **__: object) -> Any:
        self.calls.append("wait")
        if self.wait_raises is not None:
            raise self.wait_raises
        key = str(Path(made.folder) / "key")
        address = Address(made.name, "qwen", "http://127.0.0.1:9", key, None)
        return types.SimpleNamespace(endpoint=address, record=made, verdict=None)

    def stop(self, jobs: list[JobRecord], _ctx: Context) -> None:
        self.calls.append(f"stop {','.join(job.name for job in jobs)}")

    def drain(self, jobs: list[JobRecord], _ctx: Context) -> None:
        self.calls.append(f"drain {','.join(job.name for job in jobs)}")


@pytest.fixture
def launched(jobs: Path, monkeypatch: pytest.MonkeyPatch) -> Launched:
    return Launched(jobs, monkeypatch)


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("hpcvlm ")]


def test_a_block_stops_it(launched: Launched, context: Context) -> None:
    with hpcvlm.launch("m", name="e", context=context) as endpoint:
        assert endpoint.url == "http://127.0.0.1:9"
        assert endpoint.base_url == "http://127.0.0.1:9/v1"
        assert endpoint.model == "qwen"
        assert endpoint.key == KEY
        assert KEY not in repr(endpoint) + str(vars(endpoint))
        assert threads() == ["hpcvlm e"]
        assert (endpoint.folder / "lease").stat().st_mode & 0o777 == 0o600
    assert launched.calls == ["launch", "wait", "stop e"]
    assert threads() == []


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit])
def test_whatever_leaves_the_block_stops_it(
    launched: Launched, context: Context, kind: type[BaseException]
) -> None:
    with pytest.raises(kind), hpcvlm.launch("m", name="e", context=context):
        raise kind
    assert launched.calls[-1] == "stop e"


@pytest.mark.parametrize("kind", [KeyboardInterrupt, OSError])
def test_a_start_that_is_given_up_leaves_nothing(
    launched: Launched, context: Context, kind: type[BaseException]
) -> None:
    launched.wait_raises = kind()
    with pytest.raises(kind):
        hpcvlm.launch("m", name="e", context=context)
    assert launched.calls == ["launch", "wait", "stop e"]
    assert threads() == []


def test_ctrl_c_while_it_is_submitted(launched: Launched, context: Context) -> None:
    launched.interrupt = True
    with pytest.raises(KeyboardInterrupt):
        hpcvlm.launch("m", name="e", context=context)
    assert launched.calls == ["launch", "stop e"]


def test_draining_and_leaving(launched: Launched, context: Context) -> None:
    with hpcvlm.launch("m", name="e", on_exit="drain", context=context):
        pass
    assert launched.calls[-1] == "drain e"
    with hpcvlm.launch("m", name="f", on_exit="leave", context=context) as endpoint:
        assert not (endpoint.folder / "lease").exists()
    assert launched.calls[-1] == "wait"
    assert threads() == []


def test_without_a_block_start_and_stop(launched: Launched, context: Context) -> None:
    endpoint = hpcvlm.launch("m", name="e", start=False, context=context)
    assert launched.calls == []
    endpoint.start(wait=False)
    assert launched.calls == ["launch"]
    assert endpoint.start() is endpoint.start()
    endpoint.stop()
    endpoint.stop()
    assert launched.calls == ["launch", "wait", "stop e", "stop e"]
    endpoint.start().stop()
    assert launched.calls[4:] == ["launch", "wait", "stop e"]


def test_a_child_of_fork_ends_nothing(launched: Launched, context: Context) -> None:
    endpoint = hpcvlm.launch("m", name="e", context=context)
    endpoint._owner = os.getpid() + 1
    endpoint._leave()
    assert launched.calls[-1] == "wait"
    endpoint._owner = os.getpid()
    endpoint._leave()
    assert launched.calls[-1] == "stop e"


def test_what_cannot_be_stopped_is_a_warning(
    launched: Launched, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise hpcvlm.HpcvlmError("slurm-unavailable", "cannot stop e", "hpcvlm stop e")

    monkeypatch.setattr("hpcvlm.ops.stop.stop_endpoint", refuse)
    with (
        pytest.warns(hpcvlm.EndpointWarning, match=r"cannot stop e \(hpcvlm stop e\)"),
        hpcvlm.launch("m", name="e", context=context),
    ):
        pass


def test_attached_endpoints_are_never_ended(
    launched: Launched, context: Context, jobs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(jobs, "e", executor="local")
    with hpcvlm.attach("e", context=context) as endpoint:
        assert repr(endpoint) == "<hpcvlm.Endpoint e (attached)>"
    assert launched.calls == ["wait"]
    monkeypatch.setenv("HPCVLM_STATE", str(jobs.parent))
    copy = pickle.loads(pickle.dumps(endpoint))  # noqa: S301 - our own
    assert (copy.name, copy._owns) == ("e", False)
    with pytest.raises(hpcvlm.HpcvlmError, match="no endpoint is called"):
        hpcvlm.attach("nope", context=context)


def test_a_launched_one_is_pickled_as_an_attached_one(
    launched: Launched, context: Context, jobs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HPCVLM_STATE", str(jobs.parent))
    with hpcvlm.launch("m", name="e", context=context) as endpoint:
        assert pickle.loads(pickle.dumps(endpoint))._owns is False  # noqa: S301


# ---- the thread


class Told(list[hpcvlm.EndpointEvent]):
    @property
    def kinds(self) -> list[str]:
        return [event.kind for event in self]


def keeper(made: JobRecord, lease_s: float | None = 100.0) -> tuple[Keeper, SetClock, Told]:
    clock, told = SetClock(), Told()
    return Keeper(made, lease_s, clock, told.append), clock, told


def test_the_lease_of_every_generation_is_touched(jobs: Path) -> None:
    made = record(jobs, "e")
    record(jobs, "e~2", endpoint="e", generation=2)
    other = record(jobs, "e2")
    kept, _, told = keeper(made)
    assert kept.step_s == 15.0
    kept.look()
    first = [(jobs / name / "lease").stat().st_mtime_ns for name in ("e", "e~2")]
    kept.look()
    assert [(jobs / name / "lease").stat().st_mtime_ns for name in ("e", "e~2")] > first
    assert not (Path(other.folder) / "lease").exists()
    assert not told
    assert keeper(made, 8.0)[0].step_s == 2.0


def test_a_lease_that_cannot_be_touched_is_told_once(jobs: Path) -> None:
    made = record(jobs, "e")
    (Path(made.folder) / "lease").mkdir()
    kept, _, told = keeper(made)
    kept.look()
    kept.look()
    assert told.kinds == ["lease-failed"]
    assert "ends in 100 s" in told[0].text


def test_the_end_is_told_at_thirty_and_at_ten_minutes(jobs: Path) -> None:
    made = record(jobs, "e")
    said(made, "ready", NOW, NOW, ends=NOW + HOUR)
    kept, clock, told = keeper(made)
    for minutes in range(0, 60, 5):
        clock.time = NOW + 60 * minutes
        kept.look()
    assert [round((event.left_s or 0) / 60) for event in told] == [30, 10]
    assert told[0].text == "e: its time is over in 30 minutes; hpcvlm extend asks for more"
    # hpcvlm extend was there: both marks count anew.
    (Path(made.folder) / "ends").write_text(f"{int(NOW + 4 * HOUR)}\n")
    clock.time = NOW + 3.6 * HOUR
    kept.look()
    assert round(told[-1].left_s or 0) == round(0.4 * HOUR)


def test_a_short_job_is_not_announced_at_its_beginning(jobs: Path) -> None:
    made = record(jobs, "e", time_limit_s=900, executor="local")
    said(made, "ready", NOW, NOW)
    kept, clock, told = keeper(made)
    kept.look()
    assert not told
    clock.time = NOW + 400
    kept.look()
    assert [round(event.left_s or 0) for event in told] == [500]


def test_successors_put_off_the_end(jobs: Path) -> None:
    made = record(jobs, "e", keep_until=NOW + 72 * HOUR)
    said(made, "ready", NOW, NOW, ends=NOW + 300)
    kept, clock, told = keeper(made)
    kept.look()
    assert not told
    clock.time = NOW + 72 * HOUR - 900
    kept.look()
    assert told.kinds == ["expiring"]


def test_its_end_is_told_and_ends_the_thread(jobs: Path) -> None:
    made = record(jobs, "e")
    said(made, "ended", NOW, NOW, reason="idle")
    kept, _, told = keeper(made, 1.0)
    kept.start()
    kept._thread.join(timeout=10)
    assert not kept._thread.is_alive()
    assert [event.text for event in told] == ["e: its job has ended (idle)"]


def test_a_folder_that_is_gone_ends_it_too(jobs: Path) -> None:
    made = record(jobs, "e")
    (Path(made.folder) / "record.json").unlink()
    Path(made.folder).rmdir()
    kept, _, told = keeper(made)
    for _ in range(4):
        kept.look()
    assert told.kinds == []
    kept.look()
    assert told.kinds == ["ended"]


def test_a_listener_that_fails_costs_nobody_the_lease(
    jobs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = record(jobs, "e")
    said(made, "ready", NOW, NOW, ends=NOW + 60)

    def fail(_event: hpcvlm.EndpointEvent) -> None:
        raise ValueError("mine")

    kept = Keeper(made, 0.2, SetClock(), fail)
    kept.start()
    lease = Path(made.folder) / "lease"
    first = lease.stat().st_mtime_ns
    for _ in range(200):
        if lease.stat().st_mtime_ns > first:
            break
        time.sleep(0.05)
    assert lease.stat().st_mtime_ns > first
    assert kept._thread.is_alive()
    kept.stop()
    assert "ValueError: mine" in caplog.text


def test_without_a_listener_the_end_is_a_warning(
    launched: Launched, context: Context, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint = hpcvlm.launch("m", name="e", context=context)
    event = hpcvlm.EndpointEvent("expiring", "e", "e: soon", 60.0)
    with pytest.warns(hpcvlm.EndpointWarning, match="e: soon"):
        endpoint._tell(event)
    told: list[hpcvlm.EndpointEvent] = []
    endpoint._on_event = told.append
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        endpoint._tell(event)
    assert told == [event]
    endpoint.stop()
