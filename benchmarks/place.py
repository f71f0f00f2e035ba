"""Shared by the benchmarks: a workplace of hpcvlm's own, so that nothing of the user's is touched.

It has its state, its site file and a hub cache with a stand-in for the tiny model; the engine is
the fake one unless another is named.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

MODEL = "tiny-vlm"
REPO = "hpcvlm/tiny-vlm"
FAKE_VLLM = Path(__file__).resolve().parent.parent / "tests" / "fake_vllm.py"
FAKE_ENGINE = {"version": "0.32.0", "command": [sys.executable, str(FAKE_VLLM)]}
_COMMIT = "0" * 40
_OVER_STATES = ("", "CANCELLED", "COMPLETED", "FAILED", "TIMEOUT", "NODE_FAIL")


@dataclass(frozen=True)
class Place:
    """One workplace: its folder, and the environment that makes hpcvlm work there."""

    folder: Path
    env: dict[str, str]

    @property
    def jobs(self) -> Path:
        """The job folders."""
        return self.folder / "state" / "jobs"

    @property
    def snapshot(self) -> Path:
        """The stand-in for the tiny model's snapshot."""
        return self.folder / "hub" / _repository() / "snapshots" / _COMMIT

    def write_site(self, **site: object) -> None:
        """The site file; without `hub_caches` the one with the stand-in is searched."""
        values = {"schema": 1, "runtime": "none", "hub_caches": [str(self.folder / "hub")], **site}
        (self.folder / "site.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")

    def script(self, name: str, text: str) -> Path:
        """An executable file in the folder bin, which comes first on this workplace's PATH."""
        path = self.folder / "bin" / name
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)
        return path


@contextmanager
def workplace(folder: Path | None = None) -> Iterator[Place]:
    """A new workplace, removed at the end.

    Args:
        folder: where to make it; a temporary folder when left out.
    """
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    root = Path(tempfile.mkdtemp(prefix="hpcvlm-bench-", dir=folder)).resolve()
    dropped = ("HPCVLM_", "PYTHONDONTWRITEBYTECODE")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    env = {
        **kept,
        # As after pip install, all modules are compiled, but nothing is written beside them.
        "PYTHONPYCACHEPREFIX": str(root / "pycache"),
        "PATH": f"{root / 'bin'}:{os.environ['PATH']}",
        "HPCVLM_STATE": str(root / "state"),
        "HPCVLM_CONFIG": str(root / "config"),
        "HPCVLM_SITE": str(root / "site.yaml"),
        "NO_COLOR": "1",
    }
    place = Place(root, env)
    try:
        for name in ("bin", "config"):
            (root / name).mkdir()
        _write_hub(root / "hub")
        place.write_site(engines=[FAKE_ENGINE])
        yield place
    finally:
        shutil.rmtree(root, ignore_errors=True)


def have_slurm() -> bool:
    """Whether there is a Slurm that answers."""
    try:
        done = subprocess.run(["sinfo", "--noheader"], capture_output=True, check=False)
    except OSError:
        return False
    return done.returncode == 0


def need_slurm() -> None:
    """End with a sentence when there is no Slurm."""
    if not have_slurm():
        sys.exit("no Slurm here: scripts/setup/slurm_cluster.sh starts one on this machine")


def cancel(job_id: str, timeout_s: float = 60.0) -> None:
    """Cancel a job of this benchmark and wait until Slurm is done with it."""
    if not job_id.isdigit():
        sys.exit(f"not a job id: {job_id!r}")
    subprocess.run(["scancel", job_id], check=False, capture_output=True)
    ask = ["squeue", "--noheader", "--states=all", "--format=%T", f"--jobs={job_id}"]
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        state = subprocess.run(ask, check=False, capture_output=True, text=True).stdout.strip()
        if state in _OVER_STATES:
            return
        time.sleep(0.1)
    sys.exit(f"job {job_id} is still there after scancel")


def _repository() -> str:
    return "models--" + REPO.replace("/", "--")


def _write_hub(hub: Path) -> None:
    """A hub cache with a complete snapshot of no use: a configuration, and weights of 4 bytes."""
    snapshot = hub / _repository() / "snapshots" / _COMMIT
    refs = hub / _repository() / "refs"
    for folder in (snapshot, refs):
        folder.mkdir(parents=True)
    (refs / "main").write_text(_COMMIT, encoding="ascii")
    config = {"text_config": {"num_attention_heads": 4}}
    (snapshot / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tensor = {"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    header = json.dumps(tensor).encode()
    weights = len(header).to_bytes(8, "little") + header + bytes(4)
    (snapshot / "model.safetensors").write_bytes(weights)
