"""Options that several commands share, declared once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from hpcvlm.plan.model import LaunchRequest

Model = Annotated[str, typer.Argument(help="Model name, alias or repository id.")]
Gpus = Annotated[
    str | None, typer.Option(help="GPUs per node, TYPE:NUMBER or NUMBER, e.g. A100:4.")
]
Time = Annotated[str | None, typer.Option(help="Time limit: 2h, 90m, 2:00:00, or minutes.")]
Partition = Annotated[str | None, typer.Option(help="Slurm partition.")]
Account = Annotated[str | None, typer.Option(help="Slurm account.")]
Qos = Annotated[str | None, typer.Option(help="Slurm quality of service.")]
Constraint = Annotated[str | None, typer.Option(help="Slurm node features.")]
Nodes = Annotated[int | None, typer.Option(min=1, help="Nodes; one is all there is yet.")]
Name = Annotated[str | None, typer.Option(help="Name of the endpoint; made up if left out.")]
Executor = Annotated[
    str | None,
    typer.Option(help="slurm or local; slurm where sbatch answers if left out."),
]
MediaRoot = Annotated[
    str | None,
    typer.Option(help="Folder below which file:// images are allowed; the job's own if left out."),
]
EngineVersion = Annotated[
    str | None, typer.Option(help="Version of the engine; the newest that fits if left out.")
]
Listen = Annotated[
    str | None,
    typer.Option(help="Who reaches the engine: node, loopback (its node only) or socket (you)."),
]
Keep = Annotated[
    str | None,
    typer.Option(help="Keep the endpoint for so long, e.g. 3d: jobs that take over in turn."),
]
Idle = Annotated[
    str | None,
    typer.Option(help="End the job when no request has run for so long, e.g. 30m; or never."),
]
Restarts = Annotated[
    int | None,
    typer.Option(min=0, help="How often a crash or a preemption is followed by a new start."),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Set a key of the model's file, or site.KEY of the site's; repeatable.",
    ),
]
EngineArgs = Annotated[
    list[str] | None,
    typer.Option(
        "--engine-arg", metavar="ARG", help="Pass one argument to the engine as is; repeatable."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
CancelOnInterrupt = Annotated[
    bool, typer.Option("--cancel-on-interrupt", help="Ctrl-C stops the job, too.")
]
QueueTimeout = Annotated[
    str | None,
    typer.Option(help="Give up waiting in the queue after this long; the job stays."),
]


def request(
    model: str,
    *,
    gpus: str | None,
    time: str | None,
    partition: str | None,
    account: str | None,
    qos: str | None,
    constraint: str | None,
    nodes: int | None,
    name: str | None,
    executor: str | None,
    media_root: str | None,
    engine_version: str | None,
    settings: list[str] | None,
    engine_args: list[str] | None,
    listen: str | None = None,
    keep: str | None = None,
    idle: str | None = None,
    restarts: int | None = None,
) -> LaunchRequest:
    """The options of `launch`, `plan` and `render` as one value.

    Raises:
        HpcvlmError: ``option-invalid`` for an unknown executor.
    """
    from hpcvlm.plan.model import LaunchRequest

    if executor not in (None, "slurm", "local"):
        from hpcvlm.errors import HpcvlmError

        raise HpcvlmError(
            "option-invalid", f"--executor {executor!r} is not an executor", "slurm or local"
        )
    return LaunchRequest(
        model=model,
        name=name,
        gpus=gpus,
        time=time,
        partition=partition,
        account=account,
        qos=qos,
        constraint=constraint,
        nodes=nodes,
        executor=executor,
        media_root=media_root,
        engine_version=engine_version,
        settings=tuple(settings or ()),
        engine_arguments=tuple(engine_args or ()),
        listen=listen,
        keep=keep,
        idle=idle,
        restarts=restarts,
    )
