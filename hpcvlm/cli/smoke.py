"""hpcvlm smoke-test and demo."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpcvlm.cli import options
from hpcvlm.cli.moving_line import MovingLine
from hpcvlm.cli.output import data, data_json, note, paint, table
from hpcvlm.errors import HpcvlmError

if TYPE_CHECKING:
    from hpcvlm.probe.model import CaseResult, ProbeReport, Target


def smoke_test(
    name: Annotated[str | None, typer.Argument(help="Name, unique prefix or job id.")] = None,
    url: Annotated[str | None, typer.Option(help="Any other endpoint: http://host:port.")] = None,
    key_file: Annotated[
        Path | None, typer.Option(help="File with that endpoint's key, mode 0600.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Model id there; asked if left out.")] = None,
    image: Annotated[
        str | None, typer.Option(help="Also ask about this picture: a URL or a file.")
    ] = None,
    naming: Annotated[
        bool, typer.Option("--naming/--no-naming", help="The model must name what it is shown.")
    ] = True,
    seed: Annotated[int | None, typer.Option(help="Draw the pictures of an earlier test.")] = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds for one request.")] = 120.0,
    junit: Annotated[Path | None, typer.Option(help="Write a JUnit XML report here.")] = None,
    as_json: options.Json = False,
) -> None:
    """Prove that an endpoint can see: text, base64, URL, file, two images, streaming, limits."""
    from hpcvlm.ops.smoke import smoke_test as run

    with _target(name, url, key_file, model) as target, MovingLine() as line:
        report = run(
            target,
            image=image,
            require_naming=naming,
            seed=seed,
            timeout_s=timeout,
            on_result=None if as_json else _case_on(line),
        )
    finish(report, name or target.url, junit=junit, as_json=as_json)


def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave the endpoint running.")] = False,
) -> None:
    """Launch the bundled tiny model on this machine, prove that it sees, stop it."""
    from hpcvlm.cli.wait import wait_for
    from hpcvlm.ops.context import Context
    from hpcvlm.ops.demo import launch_demo
    from hpcvlm.ops.endpoints import ready_endpoint, stop
    from hpcvlm.ops.smoke import smoke_test as run
    from hpcvlm.ops.smoke import target_of
    from hpcvlm.submit.job import InterruptedAfterSubmit

    ctx = Context()
    try:
        record = launch_demo(ctx)
    except InterruptedAfterSubmit as interrupt:
        stop(interrupt.record, ctx)
        raise
    note(f"{paint(record.name, 'bold')}: {record.served_name} on {record.engine}, this machine")
    try:
        wait_for(record, ctx, cancel_on_interrupt=True, queue_timeout=None)
        note("")
        _, endpoint = ready_endpoint(record.name, ctx)
        with MovingLine() as line:
            report = run(target_of(record, endpoint), on_result=_case_on(line))
        finish(report, record.name)
    finally:
        if not keep:
            note(f"{record.name}: {stop(record, ctx)}")


def _case_on(line: MovingLine) -> Callable[[CaseResult], None]:
    """Shows what has just been found, until the report is complete."""
    return lambda result: line.show(f"{result.verdict.value:<8} {result.name:<13} {result.reason}")


def finish(
    report: ProbeReport, name: str, *, junit: Path | None = None, as_json: bool = False
) -> None:
    """Print the report.

    Raises:
        HpcvlmError: ``probe-failed`` when a case failed.
    """
    from hpcvlm.probe.report import as_dict, as_junit, as_rows

    if junit is not None:
        try:
            junit.write_text(as_junit(report), encoding="utf-8")
        except OSError as error:
            raise HpcvlmError(
                "file-unreadable", f"cannot write {junit}: {error.strerror}"
            ) from None
    if as_json:
        data_json(as_dict(report))
    else:
        header = ("CASE", "VERDICT", "SECONDS", "TOKENS", "SAYS")
        data(
            table(
                header, [(r.case, r.verdict, r.seconds, r.tokens, r.says) for r in as_rows(report)]
            )
        )
    if not report.ok:
        failed = [r for r in report.results if r.verdict.value == "failed"]
        first = failed[0] if failed else None
        raise HpcvlmError(
            "probe-failed",
            f"{name} failed {len(failed)} of {len(report.results)} cases"
            + (f"; {first.name}: {first.reason}" if first else "; nothing passed"),
            first.remedy if first else "",
        )


@contextmanager
def _target(
    name: str | None, url: str | None, key_file: Path | None, model: str | None
) -> Iterator[Target]:
    from hpcvlm.ops.context import Context
    from hpcvlm.ops.endpoints import ready_endpoint
    from hpcvlm.ops.smoke import foreign_target, target_of, way_to

    if (name is None) == (url is None):
        raise HpcvlmError(
            "option-invalid", "say which endpoint to test", "its NAME, or --url http://host:port"
        )
    if url is not None:
        yield foreign_target(url, key_file, model)
        return
    assert name is not None  # noqa: S101 - one of the two is given
    ctx = Context()
    record, endpoint = ready_endpoint(name, ctx)
    with way_to(record, endpoint, ctx, may_ask=sys.stdin.isatty()) as reachable:
        yield target_of(record, reachable)
