"""Launching: plan, render, submit. Everything is refused before anything is done."""

from __future__ import annotations

import dataclasses
import importlib
import json
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hpcvlm.errors import HpcvlmError
from hpcvlm.ops.context import Context
from hpcvlm.ops.names import family, make_way
from hpcvlm.ops.prepare import Prepared, materials, prepare, prepare_all
from hpcvlm.plan.model import Issue, LaunchPlan, LaunchRequest, PlanResult
from hpcvlm.render.model import JobFile, RenderedJob
from hpcvlm.render.script import render_job
from hpcvlm.site.schema import SiteSpec
from hpcvlm.submit.record import JobRecord, read_record
from hpcvlm.system.files import read_text

if TYPE_CHECKING:
    from hpcvlm.ops.template_cache import TemplateCache

REQUEST_NAME = "request.json"


def plan_and_render(
    request: LaunchRequest, ctx: Context, site: SiteSpec | None = None
) -> tuple[PlanResult, RenderedJob]:
    """What a launch would submit first, byte for byte, and what is wrong with it.

    Changes nothing.
    """
    result = prepare(request, ctx, site)
    return result, render_job(result.plan, materials())


def plan_and_render_all(
    request: LaunchRequest, ctx: Context, site: SiteSpec | None = None
) -> tuple[PlanResult, tuple[tuple[LaunchPlan, RenderedJob], ...]]:
    """Everything that a launch would submit, the first job first. Changes nothing."""
    prepared = prepare_all(request, ctx, site)
    return prepared.result, _rendered(prepared, None)


def launch(
    request: LaunchRequest,
    ctx: Context,
    site: SiteSpec | None = None,
    force: tuple[str, ...] = (),
) -> JobRecord:
    """Submit one endpoint: its job, and with ``keep`` all that take over from it.

    Args:
        request: what the user typed.
        ctx: the outside.
        site: used instead of the site's files.
        force: codes of arguable issues that the user knows better about.

    Returns:
        The record of the first job.

    Raises:
        HpcvlmError: with the first issue's code and every issue in its details, or as
            `hpcvlm.submit.job.submit_jobs`; nothing was submitted then, and nothing is left
            behind, but for ``submission-unconfirmed``: nobody can say, and `ls` shows it.
    """
    from hpcvlm.submit.job import submit_jobs

    # While Slurm is asked for its partitions.
    ahead = threading.Thread(target=_load_ahead)
    ahead.start()
    prepared = prepare_all(request, ctx, site)
    result = prepared.result
    issues = without_forced(result.issues, force)
    if issues:
        raise issues_error(issues)
    ahead.join()
    asked = _asked(prepared.request, force)
    jobs = [
        (plan, RenderedJob(job.script, (*job.files, asked)))
        for plan, job in _rendered(prepared, _compiled_templates(ctx))
    ]
    if request.name is not None:
        make_way(Path(result.plan.folder), result.plan.name, ctx)
    try:
        records = submit_jobs(jobs, runner=ctx.runner, clock=ctx.clock)
    except HpcvlmError as error:
        from hpcvlm.ops.why import explain_refusal

        raise explain_refusal(error, result.plan, ctx) from None
    more = () if len(records) == 1 else (_chain_note(records),)
    return replace(records[0], notes=(*result.notes, *more))


def add_successor(record: JobRecord, ctx: Context, site: SiteSpec | None = None) -> JobRecord:
    """Submit one more job for an endpoint, which takes over its name and key as soon as it can.

    It is planned anew from what the user typed at the launch, which lies in the job folder.

    Args:
        record: a job of the endpoint.
        ctx: the outside.
        site: used instead of the site's files.

    Raises:
        HpcvlmError: ``request-missing`` where the job folder does not say what was typed;
            ``endpoint-not-ready`` where the newest job has no number; else as `launch`.
    """
    from hpcvlm.submit.job import submit_jobs

    newest, generation = _newest(record, ctx)
    request, force = _asked_before(record)
    prepared = prepare_all(replace(request, name=record.shown_name, keep=None), ctx, site)
    if issues := without_forced(prepared.result.issues, force, strict=False):
        raise issues_error(issues)
    plan = prepared.generation(generation)
    job = render_job(plan, materials(), _compiled_templates(ctx))
    files = (*job.files, _asked(prepared.request, force))
    key = read_text(Path(newest.folder) / "key")
    (made,) = submit_jobs(
        [(plan, RenderedJob(job.script, files))],
        runner=ctx.runner,
        clock=ctx.clock,
        predecessor=newest,
        key=key,
    )
    return made


def _newest(record: JobRecord, ctx: Context) -> tuple[JobRecord, int]:
    """The job of an endpoint that begins last, and the generation of the one after it."""
    folders = family(ctx.settings.jobs / record.shown_name)
    known = [found for place in folders if (found := read_record(place)) is not None]
    newest = max(known, key=lambda found: found.generation, default=record)
    if not newest.job_id:
        raise HpcvlmError(
            "endpoint-not-ready",
            f"whether the job of {newest.name} was accepted is not known yet",
            f"hpcvlm status {newest.name}",
        )
    return newest, newest.generation + 1


def _rendered(
    prepared: Prepared, compiled: TemplateCache | None
) -> tuple[tuple[LaunchPlan, RenderedJob], ...]:
    texts = materials()
    plans = (prepared.result.plan, *prepared.successors())
    return tuple((plan, render_job(plan, texts, compiled)) for plan in plans)


def _asked(request: LaunchRequest, force: tuple[str, ...]) -> JobFile:
    """What was typed, for `add_successor`."""
    data = {"request": dataclasses.asdict(request), "force": list(force)}
    return JobFile(REQUEST_NAME, json.dumps(data, indent=2) + "\n")


def _asked_before(record: JobRecord) -> tuple[LaunchRequest, tuple[str, ...]]:
    known = {field.name for field in dataclasses.fields(LaunchRequest)}
    try:
        data = json.loads(read_text(Path(record.folder) / REQUEST_NAME) or "")
        typed = {key: value for key, value in data["request"].items() if key in known}
        for key in ("settings", "engine_arguments"):
            typed[key] = tuple(typed.get(key, ()))
        return LaunchRequest(**typed), tuple(data["force"])
    except (ValueError, TypeError, KeyError, AttributeError):
        raise HpcvlmError(
            "request-missing",
            f"{record.folder}/{REQUEST_NAME} does not say what was launched",
            f"hpcvlm launch {record.model} under another --name",
        ) from None


def _chain_note(records: Sequence[JobRecord]) -> str:
    numbers = ", ".join(record.job_id for record in records)
    return f"{len(records)} jobs take over from each other: {numbers}"


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


def without_forced(
    issues: tuple[Issue, ...], force: tuple[str, ...], *, strict: bool = True
) -> tuple[Issue, ...]:
    """The issues that still stand in the way.

    Args:
        issues: of a plan.
        force: codes of arguable ones that the user knows better about.
        strict: whether a code that is no issue here is an error.

    Raises:
        HpcvlmError: ``option-invalid`` for a code that is no issue here, or one that nobody can
            know better about.
    """
    for code in force:
        of_code = [issue for issue in issues if issue.code == code]
        if of_code and all(issue.arguable for issue in of_code):
            continue
        if not strict and not of_code:
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
