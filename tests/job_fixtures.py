"""Plans made without asking anybody, and their scripts run as a scheduler would run them."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from hpcvlm.catalog.load import Layer, apply_settings, find_model
from hpcvlm.catalog.schema import ModelSpec
from hpcvlm.ops.prepare import materials
from hpcvlm.plan.build import Surroundings, build_plan
from hpcvlm.plan.model import LaunchPlan, LaunchRequest, PlannedSnapshot, PlanResult
from hpcvlm.render.script import render_job
from hpcvlm.resources import bundled_hub, shipped_models
from hpcvlm.site.load import load_site
from hpcvlm.site.schema import SiteSpec
from hpcvlm.snapshots.hub import find_snapshot
from hpcvlm.system.files import FolderOfTexts
from tests.command import ROOT

FAKE = ROOT / "tests" / "fake_vllm.py"
FAKE_SITE = f"schema: 1\nruntime: none\nengines: [{{version: 0.32.0, command: ['{FAKE}']}}]\n"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
MARK = "HPCVLM_TEST_MARK"
PATIENCE_S = 60.0
# A job that is over leaves nothing; on a busy machine its last processes take a moment to end.
GONE_S = 15.0


def model(name: str, *settings: str) -> ModelSpec:
    """A shipped model, with settings laid over it."""
    layers = [Layer("shipped", FolderOfTexts(shipped_models()))]
    return apply_settings(find_model(name, layers), settings).spec


def site(text: str = FAKE_SITE) -> SiteSpec:
    """A site from the text of its file."""
    return load_site([("site", "site.yaml", text)])[0]


def surroundings(**over: Any) -> Surroundings:
    """A place where everything is as it must be, with a snapshot that is not really there."""
    repository = "/hub/models--org--model"
    snapshot = PlannedSnapshot("org/model", COMMIT, f"{repository}/snapshots/{COMMIT}", repository)
    values: dict[str, Any] = {
        "executor": "slurm",
        "name": "mine",
        "folder": "/state/jobs/mine",
        "cluster": None,
        "snapshot": snapshot,
        "snapshot_problems": (),
        "attention_heads": None,
        "images_on_disk": frozenset(),
        "cache_root": "/state/cache",
        "sources": {},
    }
    return Surroundings(**{**values, **over})


def make_plan(
    asked: LaunchRequest,
    *,
    spec: ModelSpec | None = None,
    site_text: str = "",
    bare: bool = False,
    **found: Any,
) -> PlanResult:
    """A plan of the model that is asked for.

    Args:
        asked: the request.
        spec: used instead of the shipped model.
        site_text: of the site's file; the stand-in serves where it names no engine.
        bare: whether such a site has no engine at all.
        found: what differs in the surroundings.
    """
    here = site(site_text or "schema: 1\n")
    if not (bare or here.engines or here.image_folder):
        here = here.model_copy(update={"engines": site().engines})
    return build_plan(asked, spec or model(asked.model), here, surroundings(**found))


def local_plan(
    folder: Path, *settings: str, site_text: str = FAKE_SITE, **asked: Any
) -> PlanResult:
    """The plan of the bundled model with the stand-in engine, in a job folder of that name."""
    spec = model("tiny-vlm", "environment.FAKE_VLLM_STEP_S=0.01", *settings)
    found = find_snapshot(spec.snapshot.repo, spec.snapshot.revision, [bundled_hub()])
    assert found is not None
    planned = PlannedSnapshot(
        found.repo, found.commit, str(found.path), str(found.repository_folder)
    )
    around = surroundings(
        executor="local",
        folder=str(folder),
        snapshot=planned,
        cache_root=str(folder.parent / "cache"),
    )
    return build_plan(LaunchRequest("tiny-vlm", **asked), spec, site(site_text), around)


@dataclass
class RunningJob:
    """A rendered script in a process of its own, and everything that it says and starts."""

    folder: Path
    tmp: Path
    scratch: Path
    process: subprocess.Popen[str]
    mark: str
    _broken: list[str] = field(default_factory=list)
    _argvs: set[bytes] = field(default_factory=set)
    _over: threading.Event = field(default_factory=threading.Event)
    _watchers: list[threading.Thread] = field(default_factory=list)

    @classmethod
    def start(
        cls,
        plan: LaunchPlan,
        tmp: Path,
        *,
        environment: Mapping[str, str] | None = None,
        watch_argv: bool = False,
        edit: Callable[[str], str] = str,
        user: int | None = None,
    ) -> Self:
        """Write the script, and nothing else, and run it.

        Args:
            plan: what it is rendered from.
            tmp: a folder of its own, which need not be there.
            environment: what it finds besides a PATH and a home.
            watch_argv: whether the command lines of its processes are kept.
            edit: changes the script, for what no plan says.
            user: number of the user it runs as; ours where there is none.
        """
        tmp.mkdir(parents=True)
        script = tmp / "job.sbatch"
        script.write_text(edit(render_job(plan, materials()).script), encoding="utf-8")
        # The path of a Unix socket has 107 bytes at most, which pytest's own folders nearly fill.
        scratch = Path(tempfile.mkdtemp(prefix="hv"))
        if user is not None:
            for path in (tmp, script, scratch):
                os.chown(path, user, user)
        mark = uuid.uuid4().hex
        variables = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp),
            "LC_ALL": "C.UTF-8",
            "TMPDIR": str(scratch),
            MARK: mark,
        }
        with (tmp / "said").open("w") as said:
            process = subprocess.Popen(
                ["bash", str(script)],
                env={**variables, **(environment or {})},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                text=True,
                start_new_session=True,
                user=user,
                extra_groups=None if user is None else (),
            )
        job = cls(Path(plan.folder), tmp, scratch, process, mark)
        looks = [job._look_at_state, job._look_at_argvs] if watch_argv else [job._look_at_state]
        for look in looks:
            watcher = threading.Thread(target=job._watch, args=(look,), daemon=True)
            job._watchers.append(watcher)
            watcher.start()
        return job

    def close(self) -> None:
        """End it by force, if it still runs."""
        self._over.set()
        for watcher in self._watchers:
            watcher.join()
        self.kill()
        shutil.rmtree(self.scratch, ignore_errors=True)

    def kill(self) -> None:
        """End it as a failing node does."""
        self.process.kill()
        self.process.wait()
        while left := self.left():  # what was being started is not in the first list
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    @property
    def state(self) -> dict[str, Any]:
        """state.json."""
        loaded: dict[str, Any] = json.loads((self.folder / "state.json").read_text())
        return loaded

    @property
    def activity(self) -> dict[str, Any]:
        """activity.json; empty while there is none."""
        try:
            text = (self.folder / "activity.json").read_text()
        except FileNotFoundError:
            return {}
        loaded: dict[str, Any] = json.loads(text)
        return loaded

    @property
    def events(self) -> list[tuple[str, str]]:
        """Names and texts of events.log."""
        try:
            lines = (self.folder / "events.log").read_text().splitlines()
        except FileNotFoundError:
            return []
        words = (line.split(" ", 2) for line in lines)
        return [(name, text) for _, name, text in words]

    def request(
        self, path: str, body: object = None, *, key: str | None = None, timeout_s: float = 20.0
    ) -> tuple[int, dict[str, str], Any]:
        """Ask its engine as a client does: status, headers in small letters, JSON or text.

        Args:
            path: with its slash.
            body: posted as JSON, where there is one.
            key: used instead of the one in its folder.
            timeout_s: for connecting, and for every read.
        """
        state = self.state
        key = key or (self.folder / "key").read_text().strip()
        connection = http.client.HTTPConnection("127.0.0.1", state["port"], timeout=timeout_s)
        if state["socket"]:
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.settimeout(timeout_s)
            connection.sock.connect(state["socket"])
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        text = None if body is None else json.dumps(body)
        try:
            connection.request("GET" if text is None else "POST", path, text, headers)
            reply = connection.getresponse()
            said = reply.read().decode()
        finally:
            connection.close()
        found = {name.lower(): value for name, value in reply.getheaders()}
        kind = found.get("content-type", "")
        return reply.status, found, json.loads(said) if "json" in kind else said

    def chat(self, text: str = "hello", **options: Any) -> tuple[int, dict[str, str], Any]:
        """One text question."""
        content = [{"type": "text", "text": text}]
        body = {"model": "tiny-vlm", "messages": [{"role": "user", "content": content}]}
        return self.request("/v1/chat/completions", body, **options)

    @property
    def phases(self) -> list[str]:
        """The phases that were gone through, in their order."""
        return list(self.state["phases"])

    @property
    def said(self) -> str:
        """What the script wrote to its own streams."""
        return (self.tmp / "said").read_text()

    @property
    def broken_states(self) -> list[str]:
        """Contents of state.json, as found while the job ran, that were not whole."""
        return self._broken

    @property
    def argvs(self) -> set[bytes]:
        """Command lines of the job's processes, as found while it ran."""
        return self._argvs

    def until(self, done: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
        """Wait for something to become true."""
        deadline = time.monotonic() + patience_s
        while not done():
            assert time.monotonic() < deadline, self.said
            time.sleep(0.01)

    def reach(self, phase: str) -> None:
        """Wait for a phase; the job must not end before it."""

        def reached() -> bool:
            over = self.process.poll() is not None
            if (self.folder / "state.json").exists() and phase in self.phases:
                return True
            assert not over, (self.state, self.said)
            return False

        self.until(reached)

    def end(self, *, term: bool = False) -> int:
        """Wait for its end, after SIGTERM if that is asked for; gives the exit code."""
        if term:
            self.process.terminate()
        code = self.process.wait(PATIENCE_S)
        self._over.set()
        return code

    def until_gone(self) -> None:
        """Wait until nothing of it runs any more."""
        self.until(lambda: self.left() == [], GONE_S)

    def left(self) -> list[int]:
        """Processes of this job that still run."""
        needle = f"{MARK}={self.mark}".encode()
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if needle in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
            except OSError:
                continue
        return found

    def _watch(self, look: Callable[[], None]) -> None:
        while not self._over.is_set():
            look()
            self._over.wait(0.002)

    def _look_at_state(self) -> None:
        try:
            text = (self.folder / "state.json").read_text()
        except (FileNotFoundError, NotADirectoryError):
            return
        try:
            json.loads(text)
        except ValueError:
            self._broken.append(text)

    def _look_at_argvs(self) -> None:
        for pid in self.left():
            with suppress(OSError):
                self._argvs.add(Path(f"/proc/{pid}/cmdline").read_bytes())
