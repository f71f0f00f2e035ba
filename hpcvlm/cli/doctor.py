"""hpcvlm doctor: is this cluster as hpcvlm needs it?"""

from __future__ import annotations

import dataclasses
import sys
import threading
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Annotated

import typer

from hpcvlm.cli import options
from hpcvlm.cli.moving_line import MovingLine
from hpcvlm.cli.output import WIDTH, data, data_json, note, paint
from hpcvlm.errors import HpcvlmError

if TYPE_CHECKING:
    from hpcvlm.doctor.model import Check

_COLOURS = {"ok": "green", "warning": "yellow", "failed": "red", "skipped": "dim", "unknown": "dim"}
_QUIET_S = 2.0
_STATUS, _TITLE = 7, 20
_INDENT = " " * (2 + _STATUS + 2 + _TITLE + 2)


def doctor(
    on_node: Annotated[
        bool, typer.Option("--on-node", help="Also look at a compute node: submits a 5-minute job.")
    ] = False,
    partition: options.Partition = None,
    gpus: Annotated[
        str | None, typer.Option(help="GPUs of that job, e.g. 1 or A100:1; 1 if it has any.")
    ] = None,
    account: options.Account = None,
    url: Annotated[
        str, typer.Option(help="What the node tries to fetch; for information only.")
    ] = "https://huggingface.co",
    queue_timeout: Annotated[
        str, typer.Option(help="Cancel that job if it waits longer than this.")
    ] = "10m",
    deep: Annotated[
        bool, typer.Option("--deep", help="Start each image on this machine, too.")
    ] = False,
    only: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="Only this check; repeatable.")
    ] = None,
    skip: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="Not this check; repeatable.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Check that this cluster is as hpcvlm needs it; say what to change, exit 1 if it is not."""
    from hpcvlm.ops.context import Context
    from hpcvlm.ops.doctor import any_failed, examine
    from hpcvlm.ops.doctor_look import DoctorRequest
    from hpcvlm.slurm.time import parse_duration

    request = DoctorRequest(
        on_node=on_node,
        partition=partition,
        gpus=gpus,
        account=account,
        url=url,
        deep=deep,
        only=tuple(only or ()),
        skip=tuple(skip or ()),
        queue_timeout_s=parse_duration(queue_timeout, "--queue-timeout"),
    )
    try:
        with _Steps() as steps:
            checks = examine(request, Context(), steps)
    except KeyboardInterrupt:
        raise HpcvlmError("interrupted", "interrupted; no job was submitted") from None
    if as_json:
        data_json([dataclasses.asdict(check) for check in checks])
    else:
        data(report(checks))
        note(_summary(checks))
    if any_failed(checks):
        raise typer.Exit(1)


def report(checks: Sequence[Check]) -> str:
    """The checks under their headings; under each that is not ok, what to do."""
    lines = []
    for part, group in groupby(checks, lambda check: check.part):
        lines.append(paint(part, "bold", sys.stdout))
        for check in group:
            lines += _lines(check)
    return "\n".join(lines) if lines else "no check was asked for"


def _lines(check: Check) -> list[str]:
    status = paint(f"{check.status.value:<{_STATUS}}", _COLOURS[check.status.value], sys.stdout)
    first, *more = _wrapped(check.evidence)
    lines = [f"  {status}  {check.title:<{_TITLE}}  {first}".rstrip()]
    lines += [_INDENT + line for line in more]
    if check.remedy:
        first, *more = _wrapped(f"try: {check.remedy}")
        lines += [_INDENT + line for line in (first, *more)]
    return lines


def _wrapped(text: str) -> list[str]:
    import textwrap

    width = WIDTH - len(_INDENT)
    # A path is copied and pasted: it is never cut.
    lines = textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
    return lines or [""]


def _summary(checks: Sequence[Check]) -> str:
    counts = {name: sum(check.status.value == name for check in checks) for name in _COLOURS}
    counted = [
        f"{count} {name}{'s' if name == 'warning' and count > 1 else ''}"
        for name, count in counts.items()
        if count
    ]
    return ", ".join(counted)


class _Steps(MovingLine):
    """Says what is being done: at once on a terminal, elsewhere what takes over two seconds."""

    def __init__(self) -> None:
        super().__init__()
        self._timer: threading.Timer | None = None

    def __call__(self, words: str) -> None:
        """The next step has begun."""
        self.clear()
        if self.live:
            self.show(f"… {words}")
            return
        self._timer = threading.Timer(_QUIET_S, note, [f"… {words}"])
        self._timer.daemon = True
        self._timer.start()

    def clear(self) -> None:
        """The step is over."""
        if self._timer is not None:
            self._timer.cancel()
        super().clear()
