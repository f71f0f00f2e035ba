"""Looks at a compute node: says what the node part shall look at, and judges what it saw."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import socket
import time
from pathlib import Path

from hpcvlm.doctor import job, network, node
from hpcvlm.doctor.model import Check
from hpcvlm.doctor.seen import Seen, finished, host, last_step, parse_seen
from hpcvlm.errors import HpcvlmError
from hpcvlm.ops.doctor_containers import installs_of
from hpcvlm.ops.doctor_job import Watched, remove, run_job
from hpcvlm.ops.doctor_look import FOLDER_TIMEOUT_S, Look, within
from hpcvlm.ops.doctor_storage import cache_root, weight_folders
from hpcvlm.plan.gpus import ChosenGpus
from hpcvlm.resources import data_root
from hpcvlm.submit.record import JobRecord
from hpcvlm.system.files import read_tail

_REACH_TIMEOUT_S = 3.0
_HIGH_PORTS = (20000, 60000)  # where jobs choose theirs


def look_on_node(look: Look) -> list[Check]:
    """Run the node part through Slurm, or on this machine where there is none, and judge it.

    Raises:
        HpcvlmError: ``interrupted``; the job is cancelled then.
    """
    gpus = job.gpus_of(_gpus(look), look.site)
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(look.ctx.clock.now()))
    folder = look.ctx.settings.state / "doctor" / f"{stamp}-{secrets.token_hex(3)}"
    token = secrets.token_hex(16)
    look.on_step("submitting the node part")
    try:
        script = _script(look, folder, gpus)
        record, watched = run_job(look, folder, script, token, gpus.slurm.count)
    except HpcvlmError as error:
        if error.code == "interrupted":
            raise
        return [node.JOB.failed(error.sentence, error.remedy or "hpcvlm doctor --only gpu-job")]
    except OSError as error:
        return [
            node.JOB.failed(
                f"cannot write {folder}: {error.strerror}",
                "set HPCVLM_STATE to a folder that login and compute nodes share",
            )
        ]
    seen = parse_seen(watched.text)
    checks = [_judge_job(look, record, watched, seen)]
    if seen:
        checks += node.judge_node(seen, _login(look, gpus, token, watched))
        checks.append(_reach(look, host(seen)))
    if finished(seen) or watched.gave_up:
        remove(folder)
    return checks


def _login(look: Look, gpus: ChosenGpus, token: str, watched: Watched) -> node.Login:
    installs = installs_of(look)
    return node.Login(
        site=look.site,
        token=token,
        gpus=gpus.slurm.count,
        gpu_type=None if gpus.type is None else (gpus.asked.type or "", gpus.type),
        installs=installs,
        versions=[install.version for install in installs],
        weights=[str(path) for path in weight_folders(look)],
        token_back=watched.token_back,
    )


def _partition(look: Look) -> str | None:
    return look.request.partition or look.site.partition


def _gpus(look: Look) -> str:
    """As asked for; else one, where there are any."""
    if look.request.gpus is not None:
        return look.request.gpus
    if look.executor == "local":
        path = look.ctx.environment.get("PATH")
        return "1" if shutil.which("nvidia-smi", path=path) else "0"
    if look.cluster is None:
        return "1"
    chosen = look.cluster.partition(_partition(look))
    return "1" if chosen is None or chosen.gpu_types else "0"


def _script(look: Look, folder: Path, gpus: ChosenGpus) -> str:
    partition, account = _partition(look), look.request.account
    installs = installs_of(look)
    weights = [str(path) for path in weight_folders(look) if _is_named(look, path)]
    images = [str(Path(i.image).parent) for i in installs if i.image and "/" in i.image]
    template = data_root() / "templates" / "sbatch" / "doctor_node.sh"
    return job.node_script(
        template.read_text(encoding="utf-8"),
        job.job_options(
            look.site, partition, gpus, job.NODE_MINUTES, folder=str(folder), account=account
        ),
        folder=str(folder),
        site=look.site,
        installs=installs,
        gpus=gpus.slurm.count,
        url=look.request.url,
        folders=list(dict.fromkeys([*weights, *images])),
        cache=str(cache_root(look)),
    )


def _is_named(look: Look, path: Path) -> bool:
    """A hub cache of the site must be on the node; the user's own only if it is here."""
    named = {str(Path(text).expanduser()) for text in look.site.hub_caches}
    return str(path) in named or bool(within(FOLDER_TIMEOUT_S, path.exists))


def _judge_job(look: Look, record: JobRecord, watched: Watched, seen: Seen) -> Check:
    view, folder = watched.view, record.folder
    reason = view.reason if view is not None else ""
    if watched.left:
        return node.JOB.failed(
            f"job {record.job_id} was told to stop and is still there",
            f"scancel {record.job_id}; squeue -j {record.job_id} shows it",
        )
    if watched.gave_up:
        return node.JOB.failed(
            f"job {record.job_id} waited in the queue for {look.request.queue_timeout_s:.0f} s "
            f"({reason or 'no reason given'}) and was cancelled",
            "hpcvlm doctor --on-node --queue-timeout 1h, or another --partition",
        )
    if finished(seen):
        return node.JOB.ok(_ran(record, seen))
    said = read_tail(Path(folder) / "job.err", 400).strip()
    state = view.raw if view is not None and view.raw else "unknown to Slurm"
    if not seen:
        return node.JOB.failed(
            f"job {record.job_id} ended ({state}) and left nothing in {folder}"
            + (f": {said}" if said else ""),
            "set HPCVLM_STATE to a folder that login and compute nodes share",
        )
    return node.JOB.failed(
        f"job {record.job_id} ended ({state}) while {last_step(seen)}"
        + (f": {said}" if said else ""),
        f"ls {folder}",
    )


def _ran(record: JobRecord, seen: Seen) -> str:
    name, _, slurm_name, partition, *_ = (*seen["host"][0], "", "", "", "")
    if record.executor == "local":
        return f"ran on this machine, {name}"
    alias = f" ({name})" if slurm_name and slurm_name != name else ""
    return f"job {record.job_id} ran on {slurm_name or name}{alias} in partition {partition}"


def _reach(look: Look, name: str) -> Check:
    if look.executor == "local" or name in {"", socket.gethostname()}:
        return network.REACH.skipped("the job ran on this very machine")
    look.on_step(f"connecting to {name}")
    loopback = look.site.listen != "node"
    addresses = within(_REACH_TIMEOUT_S * 2, lambda: _resolve(name)) or []
    outcome = _knock(addresses[0]) if addresses and not loopback else ""
    return network.judge_reach(name, addresses, outcome, loopback=loopback)


def _resolve(name: str) -> list[str]:
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError:
        return []
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def _knock(address: str) -> str:
    """Try a port where nobody should listen: a refusal comes from the node itself."""
    port = _HIGH_PORTS[0] + secrets.randbelow(_HIGH_PORTS[1] - _HIGH_PORTS[0])
    try:
        with socket.create_connection((address, port), timeout=_REACH_TIMEOUT_S):
            return "open"
    except TimeoutError:
        return "timed out"
    except OSError as error:
        return "refused" if error.errno == errno.ECONNREFUSED else os.strerror(error.errno or 0)
