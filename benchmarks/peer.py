"""Shared by the benchmarks: vec-inf 0.9.0 in an environment of its own, set up for one model."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import yaml
from place import MODEL, Place

VERSION = "0.9.0"


def vec_inf() -> Path:
    """The vec-inf command; its environment is made when it is missing (from the package index)."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "hpcvlm" / f"bench-vec-inf-{VERSION}"
    command = folder / "bin" / "vec-inf"
    if not command.exists():
        print(f"installing vec-inf {VERSION} in {folder}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "-q", "-q"]
        quiet = "--disable-pip-version-check"
        subprocess.run([*pip, "install", quiet, f"vec-inf=={VERSION}"], check=True)
    return command


def environment(place: Place, *, gpus: str, partition: str, account: str) -> dict[str, str]:
    """What vec-inf needs to launch the workplace's model on its Slurm cluster.

    Its packaged configuration stays in use, as at its users'; the site's part is laid over it.
    """
    gpu_type, _, count = gpus.rpartition(":")
    config, weights = place.folder / "vec-inf", place.folder / "weights"
    for folder in (config, weights, place.folder / "vec-inf-work"):
        folder.mkdir(exist_ok=True)
    (weights / MODEL).symlink_to(place.snapshot)
    model = {
        "model_family": "tiny",
        "model_type": "VLM",
        "gpus_per_node": int(count),
        "num_nodes": 1,
        "cpus_per_task": 1,
        "mem_per_node": "1G",
        "vocab_size": 1000,
        "time": "00:30:00",
        "vllm_args": {"--max-model-len": 2048, "--tensor-parallel-size": int(count)},
    }
    defaults = {
        "cpus_per_task": "1",
        "mem_per_node": "1G",
        "time": "00:30:00",
        "qos": "",
        "partition": partition,
        "resource_type": gpu_type,
        "exclude": "",
        "nodelist": "",
        "bind": "",
        "venv": "apptainer",
        "data_type": "auto",
        "log_dir": str(place.folder / "vec-inf-logs"),
        "model_weights_parent_dir": str(weights),
    }
    required = {"work_dir": "VEC_INF_WORK_DIR"}
    if account:
        required["account"] = "VEC_INF_ACCOUNT"
    site = {
        "allowed_values": {
            "qos": [],
            "partition": [partition] if partition else [],
            "resource_type": [gpu_type] if gpu_type else [],
        },
        "default_args": defaults,
        "required_args": required,
    }
    (config / "models.yaml").write_text(yaml.safe_dump({"models": {MODEL: model}}))
    (config / "environment.yaml").write_text(yaml.safe_dump(site))
    return {
        **place.env,
        "VEC_INF_CONFIG_DIR": str(config),
        "VEC_INF_WORK_DIR": str(place.folder / "vec-inf-work"),
        "VEC_INF_ACCOUNT": account,
    }
