"""The Python API: an endpoint for as long as a program wants it.

``with hpcvlm.launch("qwen2.5-vl-7b", gpus="A100:1") as endpoint: endpoint.ask(...)``. Whatever ends
the program ends the job: leaving the block, an exception, Ctrl-C, and through the lease also what
leaves no time for anything (SIGKILL, ``os._exit``, a notebook's node that is gone).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from datetime import timedelta
from os import PathLike
from typing import TYPE_CHECKING, Literal

from hpcvlm.errors import HpcvlmError
from hpcvlm.ops.api_endpoint import Endpoint, OnExit
from hpcvlm.ops.api_events import EndpointEvent, EndpointStatus, EndpointWarning, OnEvent
from hpcvlm.plan.model import LaunchRequest

if TYPE_CHECKING:
    from hpcvlm.ops.context import Context

__all__ = [
    "Endpoint",
    "EndpointEvent",
    "EndpointStatus",
    "EndpointWarning",
    "HpcvlmError",
    "attach",
    "launch",
]

DEFAULT_LEASE_S = 300.0
_ON_EXIT = ("stop", "drain", "leave")


def launch(
    model: str,
    *,
    gpus: str | int | None = None,
    time: str | timedelta | None = None,
    name: str | None = None,
    partition: str | None = None,
    account: str | None = None,
    qos: str | None = None,
    constraint: str | None = None,
    executor: Literal["slurm", "local"] | None = None,
    media_root: str | PathLike[str] | None = None,
    engine_version: str | None = None,
    settings: Mapping[str, object] | Sequence[str] = (),
    engine_args: Sequence[str] = (),
    listen: Literal["node", "loopback", "socket"] | None = None,
    keep: str | timedelta | None = None,
    idle: str | timedelta | None = None,
    restarts: int | None = None,
    force: Sequence[str] = (),
    queue_timeout: str | timedelta | None = None,
    on_exit: OnExit = "stop",
    lease: float | None = DEFAULT_LEASE_S,
    on_event: OnEvent | None = None,
    start: bool = True,
    context: Context | None = None,
) -> Endpoint:
    """Launch an endpoint and wait until it has proved that it can see.

    As a context manager it ends with its block. Otherwise `Endpoint.stop` ends it, or the end of
    the interpreter.

    Args:
        model: name, alias or repository id, as for ``hpcvlm launch``.
        gpus: per node: ``"A100:4"`` or a number.
        time: how long the job may run: ``"2h"``.
        name: of the endpoint; made up if left out.
        partition: as for sbatch; so account, qos and constraint.
        account: as for sbatch.
        qos: as for sbatch.
        constraint: as for sbatch.
        executor: ``slurm`` or ``local``; slurm where sbatch answers if left out.
        media_root: folder below which ``file://`` pictures are allowed.
        engine_version: the newest that fits if left out.
        settings: keys of the model's file with their values, or texts ``KEY=VALUE``.
        engine_args: passed to the engine as they are.
        listen: how the engine listens; as the site says if left out.
        keep: how long successors keep it up, past the longest time of one job.
        idle: it ends itself when no request ran for so long.
        restarts: how often an engine that dies is started again.
        force: codes of problems to launch in spite of.
        queue_timeout: give up when the job waits in the queue for so long.
        on_exit: ``stop`` it, ``drain`` it (requests that run are answered first), or ``leave`` it
            running, without a lease.
        lease: seconds after which the job ends itself when this process no longer lives; None
            switches that off. A process that is stopped (SIGSTOP, a suspended machine) for so
            long loses its endpoint.
        on_event: told what happens, also from another thread; without it the end is announced by
            warnings of the class `EndpointWarning`. All events go to the logger ``hpcvlm``, too.
        start: False gives an endpoint that `Endpoint.start` or a ``with`` block launches.
        context: the outside; made from the environment if left out.

    Raises:
        HpcvlmError: what refuses the launch, or why it failed; nothing runs then.
    """
    from hpcvlm.ops.context import Context
    from hpcvlm.slurm.time import parse_duration

    if on_exit not in _ON_EXIT:
        raise HpcvlmError("option-invalid", f"on_exit={on_exit!r}", " or ".join(_ON_EXIT))
    request = LaunchRequest(
        model=model,
        name=name,
        gpus=None if gpus is None else str(gpus),
        time=_duration(time),
        partition=partition,
        account=account,
        qos=qos,
        constraint=constraint,
        executor=executor,
        media_root=None if media_root is None else os.fspath(media_root),
        engine_version=engine_version,
        settings=_settings(settings),
        engine_arguments=tuple(engine_args),
        listen=listen,
        keep=_duration(keep),
        idle=_duration(idle),
        restarts=restarts,
        lease_s=_lease(lease, on_exit),
    )
    waiting = _duration(queue_timeout)
    endpoint = Endpoint(
        "",
        context or Context(),
        request=request,
        force=tuple(force),
        on_exit=on_exit,
        queue_timeout_s=None if waiting is None else parse_duration(waiting, "queue_timeout"),
        on_event=on_event,
    )
    return endpoint.start() if start else endpoint


def attach(name: str, *, context: Context | None = None) -> Endpoint:
    """An endpoint that runs already, or will; it is never ended on exit.

    Args:
        name: its name, a unique prefix, or the job's id.
        context: the outside; made from the environment if left out.

    Raises:
        HpcvlmError: ``endpoint-unknown``, ``endpoint-ambiguous``.
    """
    from hpcvlm.endpoints.registry import find_record
    from hpcvlm.ops.context import Context

    ctx = context or Context()
    return Endpoint(find_record(ctx.settings.jobs, name).shown_name, ctx)


def _duration(value: str | timedelta | None) -> str | None:
    return f"{int(value.total_seconds())}s" if isinstance(value, timedelta) else value


def _settings(settings: Mapping[str, object] | Sequence[str]) -> tuple[str, ...]:
    if isinstance(settings, str):
        return (settings,)
    if not isinstance(settings, Mapping):
        return tuple(settings)
    # JSON is YAML, which --set reads; so a text stays a text, and True is not "True".
    return tuple(f"{key}={json.dumps(value)}" for key, value in settings.items())


def _lease(lease: float | None, on_exit: OnExit) -> int | None:
    if lease is None or on_exit == "leave":
        return None
    if lease < 1:
        raise HpcvlmError("option-invalid", f"lease={lease!r}", "seconds, such as 300, or None")
    return round(lease)
