"""Launching: plan, render, submit. Everything is refused before anything is done."""

from __future__ import annotations

import importlib
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hpcvlm.errors import HpcvlmError
from hpcvlm.ops.context import Context
from hpcvlm.ops.prepare import materials, prepare
from hpcvlm.plan.model import Issue, LaunchRequest, PlanResult
from hpcvlm.render.model import RenderedJob
from hpcvlm.render.script import render_job
from hpcvlm.site.schema import SiteSpec
from hpcvlm.submit.record import JobRecord, read_record

if TYPE_CHECKING:
    from hpcvlm.ops.template_cache import TemplateCache


def plan_and_render(
    request: LaunchRequest, ctx: Context, site: SiteSpec | None = None
) -> tuple[PlanResult, RenderedJob]:
    """What a launch would submit, byte for byte, and what is wrong with it. Changes nothing."""
    result = prepare(request, ctx, site)
    return result, render_job(result.plan, materials())


def launch(
    request: LaunchRequest,
    ctx: Context,
    site: SiteSpec | None = None,
    force: tuple[str, ...] = (),
) -> JobRecord:
    """Submit one endpoint.

    Args:
        request: what the user typed.
        ctx: the outside.
        site: used instead of the site's files.
        force: codes of arguable issues that the user knows better about.

    Raises:
        HpcvlmError: with the first issue's code and every issue in its details; nothing was
            submitted then, and nothing is left behind.
    """
    from hpcvlm.submit.job import submit_job

    # While Slurm is asked for its partitions.
    ahead = threading.Thread(target=_load_ahead)
    ahead.start()
    result = prepare(request, ctx, site)
    issues = without_forced(result.issues, force)
    if issues:
        raise issues_error(issues)
    ahead.join()
    job = render_job(result.plan, materials(), _compiled_templates(ctx))
    if request.name is not None:
        _make_way(Path(result.plan.folder), result.plan.name, ctx)
    record = submit_job(result.plan, job, runner=ctx.runner, clock=ctx.clock)
    return replace(record, notes=result.notes)


def _load_ahead() -> None:
    """Load what rendering and submitting will need."""
    from hpcvlm.submit.job import load_executors

    importlib.import_module("jinja2")
    load_executors()


def _compiled_templates(ctx: Context) -> TemplateCache:
    from hpcvlm.ops.template_cache import TemplateCache

    return TemplateCache(ctx.settings.state / "cache" / "templates")


def issues_error(issues: tuple[Issue, ...]) -> HpcvlmError:
    """All issues of a plan as one error; the first gives code and sentence."""
    first, *others = issues
    details = [f"{issue.sentence} (try: {remedy_of(issue)})" for issue in others]
    return HpcvlmError(first.code, first.sentence, remedy_of(first), tuple(details))


def remedy_of(issue: Issue) -> str:
    """What to do about an issue, with the way past it where there is one."""
    if not issue.arguable:
        return issue.remedy
    return f"{issue.remedy}; --force {issue.code} launches all the same"


def without_forced(issues: tuple[Issue, ...], force: tuple[str, ...]) -> tuple[Issue, ...]:
    """The issues that still stand in the way.

    Raises:
        HpcvlmError: ``option-invalid`` for a code that is no issue here, or one that nobody can
            know better about.
    """
    for code in force:
        of_code = [issue for issue in issues if issue.code == code]
        if of_code and all(issue.arguable for issue in of_code):
            continue
        arguable = sorted({issue.code for issue in issues if issue.arguable})
        why = "cannot be forced" if of_code else "is not among this launch's problems"
        raise HpcvlmError(
            "option-invalid",
            f"--force {code} {why}",
            f"--force {' or '.join(arguable)}" if arguable else "leave --force out",
            tuple(issue.sentence for issue in issues),
        )
    return tuple(issue for issue in issues if issue.code not in force)


def _make_way(folder: Path, name: str, ctx: Context) -> None:
    """Lets a name be used again when its last job is over; that job's folder is kept aside."""
    if not folder.exists():
        return
    from hpcvlm.watch.scheduler import LiveSource
    from hpcvlm.watch.state import read_state
    from hpcvlm.watch.verdict import Ended, Failed, Observation, decide

    record = read_record(folder)
    if record is not None:
        view = LiveSource(ctx.runner).view(record)
        now = ctx.clock.now()
        verdict = decide(Observation(now, record.submitted, read_state(folder), view, 0.0))
        if isinstance(verdict, (Failed, Ended)):
            _put_aside(folder, now)
            return
    raise HpcvlmError(
        "name-taken",
        f"there is an endpoint called {name!r} already",
        f"hpcvlm status {name}, hpcvlm stop {name}, or choose another --name",
    )


def _put_aside(folder: Path, now: float) -> None:
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(now))
    old = folder.parent.parent / "ended"
    old.mkdir(mode=0o700, exist_ok=True)
    shutil.move(folder, old / f"{folder.name}.{stamp}")
