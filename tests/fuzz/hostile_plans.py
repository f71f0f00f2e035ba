"""Plans with a hostile text in every place that a person, a file or a folder's name can fill."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Any

from hpcvlm.plan.model import (
    Bind,
    LaunchPlan,
    LaunchRequest,
    PlannedNotify,
    SbatchOption,
    StagedFile,
)
from tests.fuzz import hostile
from tests.job_fixtures import make_plan

OCI = ("podman", "docker")
_FILES = (StagedFile("config.json", 10, "a" * 64), StagedFile("model.safetensors", 1000))
# Places whose values cannot be chosen freely: who limits them.
LIMITED = {
    "hpcvlm_version": "hpcvlm itself",
    "name": "ops/prepare.py: small letters, digits, dots, hyphens",
    "endpoint": "as name",
    "executor": "hpcvlm itself",
    "runtime": "site/schema.py: one of five words",
    "gpu_flag": "site/schema.py: one of three words",
    "listen": "site/schema.py: one of three words",
    "listen_host": "hpcvlm itself",
    "phases": "engines/vllm.py",
    "scratch_root": "site/schema.py: letters, digits, / . _ - and $NAME",
    "gpus": "plan/gpus.py: parse_gpus, and the site's schema",
    "prefetch": "plan/staging.py",
    "activity": "engines/vllm.py",
    "sources": "never in a script",
}


def shapes() -> list[LaunchPlan]:
    """Plans that between them have every part that a script can have."""
    image = "{version: 0.32.0, image: /images/vllm-0.32.0.sif}"
    staging = "staging: {folder: $TMPDIR, always: true, check: hashes}\n"
    sites = (
        f"schema: 1\nengines: [{image}]\nmodules: [one]\n",
        f"schema: 1\nruntime: singularity\nengines: [{image}]\nlisten: loopback\n{staging}",
        "schema: 1\nruntime: none\nengines: [{version: 0.32.0, command: [fuzz_engine]}]\n",
        "schema: 1\nruntime: none\nengines: [{version: 0.32.0, command: [fuzz_engine]}]\n"
        + staging,
        f"schema: 1\nruntime: podman\nengines: [{{version: 0.32.0, image: 'x:1'}}]\n{staging}",
        "schema: 1\nruntime: docker\nengines: [{version: 0.32.0, image: 'x:1'}]\n",
    )
    request = LaunchRequest("tiny-vlm", gpus="1", time="1h")
    found = [make_plan(request, site_text=text, files=_FILES).plan for text in sites]
    lively: dict[str, Any] = {
        "idle_s": 60,
        "restarts": 2,
        "lease_s": 60,
        "generation": 2,
        "keep_s": 86400,
        "overlap_s": 600,
        "predecessor": "/jobs/before",
        "notify": PlannedNotify(
            ("ready", "failed", "expiring", "ended"), ("fuzz_notify",), "/home/u/hook", "u@x.org"
        ),
    }
    more = [dataclasses.replace(plan, **lively) for plan in found[:3]]
    sockets = [
        dataclasses.replace(plan, listen="socket", **lively) for plan in (found[0], found[2])
    ]
    return [*found, *more, *sockets]


class Hostility:
    """Puts hostile texts into a plan, and the files that its script looks for onto the disk."""

    def __init__(self, rng: random.Random, folder: Path) -> None:
        self._rng = rng
        self._folder = folder
        self.texts = 0

    def text(self) -> str:
        """A text for a place that takes any."""
        self.texts += 1
        return hostile.text(self._rng)

    def texts_of(self, most: int) -> tuple[str, ...]:
        """Several of them."""
        return tuple(self.text() for _ in range(self._rng.randrange(1, most + 1)))

    def place(self, *, is_file: bool = False) -> str:
        """A hostile name of something that exists."""
        self.texts += 1
        while True:
            path = self._folder / hostile.file_name(self._rng)
            if not path.exists():
                break
        if is_file:
            path.touch()
        else:
            path.mkdir()
        return str(path)

    def variables(self) -> tuple[tuple[str, str], ...]:
        """An environment; names are limited by the schemas."""
        values = self.texts_of(8)
        return tuple((f"FUZZ_VARIABLE_{n}", value) for n, value in enumerate(values))

    def plan(self, base: LaunchPlan) -> LaunchPlan:
        """The plan with a hostile text in every place that can be filled."""
        contained = base.engine.image is not None
        oci = base.runtime in OCI
        folder = Path(self.place())
        (folder / "payloads").mkdir()
        (folder / "key").write_text("k" * 43 + "\n")
        snapshot = self.place()
        (Path(snapshot) / "config.json").touch()
        image = base.engine.image and (self.text() if oci else self.place(is_file=True))
        command = (base.engine.command[0], *self.texts_of(2))
        changes: dict[str, Any] = {
            "model": self.text(),
            "served_name": self.text(),
            "folder": str(folder),
            "sbatch": (*base.sbatch, *(SbatchOption("comment", t) for t in self.texts_of(4))),
            "partition": self.text(),
            "modules": self.texts_of(3) if base.modules else (),
            "binds": tuple(Bind(self.text(), self.text()) for _ in range(2)) if contained else (),
            "snapshot": dataclasses.replace(
                base.snapshot, repo=self.text(), path=snapshot, commit=self.text()
            ),
            "engine": dataclasses.replace(base.engine, image=image, command=command),
            "engine_arguments": self.texts_of(12),
            "environment": self.variables(),
            "media_root": self.place(),
            "cache": self.place(),
            "port_taken_text": self.text(),
            "log_markers": tuple(
                dataclasses.replace(m, text=self.text()) for m in base.log_markers
            ),
        }
        if base.predecessor is not None:
            changes["predecessor"] = self.place()
        if base.notify is not None:
            changes["notify"] = base.notify._replace(
                command=("fuzz_notify", *self.texts_of(2)),
                webhook_file=self.place(is_file=True),
                mail_to=self.text(),
            )
        if base.staging is not None:
            files = (*_FILES, StagedFile(self.text(), 1), StagedFile(self.text(), 2))
            changes["staging"] = dataclasses.replace(base.staging, files=files)
        return dataclasses.replace(base, **changes)


def unlimited_places(plan: LaunchPlan) -> set[str]:
    """The places of a plan that hold text and that nobody limits."""
    return {
        place.name
        for place in dataclasses.fields(plan)
        if place.name not in LIMITED and _has_text(getattr(plan, place.name))
    }


def _has_text(value: object) -> bool:
    if isinstance(value, str):
        return True
    if dataclasses.is_dataclass(value):
        return any(_has_text(getattr(value, f.name)) for f in dataclasses.fields(value))
    return isinstance(value, tuple) and any(map(_has_text, value))
