"""`hpcvlm plan`: everything that a launch would do, and every reason why it would be refused."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from hpcvlm.errors import HpcvlmError
from hpcvlm.ops.context import Context
from hpcvlm.ops.launch import plan_and_render
from hpcvlm.ops.names import refuse_taken
from hpcvlm.plan.explain import gpu_hours
from hpcvlm.plan.model import Issue, LaunchRequest, PlanResult
from hpcvlm.render.model import RenderedJob
from hpcvlm.site.schema import SiteSpec
from hpcvlm.slurm import commands
from hpcvlm.slurm.parse import TestedSubmission, parse_sbatch_test

_ASKING_S = 30.0


@dataclass(frozen=True, slots=True)
class PlanReport:
    """A plan, its script, its cost, and what Slurm says to it.

    Attributes:
        start: when and where Slurm would run it now; None when it was not or could not be asked.
        issues: the plan's own and Slurm's.
        gpu_hours: the most that the job can cost.
    """

    result: PlanResult
    job: RenderedJob
    start: TestedSubmission | None
    issues: tuple[Issue, ...]
    gpu_hours: float


def make_plan(request: LaunchRequest, ctx: Context, site: SiteSpec | None = None) -> PlanReport:
    """Plan a launch and ask Slurm about it. Changes nothing, submits nothing.

    Raises:
        HpcvlmError: what cannot even be planned.
    """
    result, job = plan_and_render(request, ctx, site)
    start, refusals = None, []
    if request.name is not None:
        try:
            refuse_taken(Path(result.plan.folder), result.plan.name, ctx)
        except HpcvlmError as error:
            refusals.append(Issue(error.code, "--name", error.sentence, error.remedy))
    if result.plan.executor == "slurm":
        try:
            start = _ask_slurm(job.script, ctx)
        except HpcvlmError as error:
            refusals.append(Issue(error.code, "sbatch --test-only", _words(error), error.remedy))
    issues = (*result.issues, *refusals)
    return PlanReport(result, job, start, issues, gpu_hours(result.plan))


def _ask_slurm(script: str, ctx: Context) -> TestedSubmission:
    """When the script could run.

    Raises:
        HpcvlmError: ``sbatch-refused``, ``slurm-unavailable`` or ``slurm-output``.
    """
    environment = commands.clean_environment(ctx.environment)
    with tempfile.TemporaryDirectory(prefix="hpcvlm.") as folder:
        path = Path(folder) / "job.sbatch"
        path.write_text(script, encoding="utf-8")
        done = ctx.runner(commands.sbatch_test(str(path)), env=environment, timeout_s=_ASKING_S)
    return parse_sbatch_test(done.code, done.stdout, done.stderr)


def _words(error: HpcvlmError) -> str:
    return "; ".join((error.sentence, *error.details))
