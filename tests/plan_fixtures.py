"""What the tests of planning share."""

from __future__ import annotations

from typing import Any

from hpcvlm.plan.model import Issue, LaunchPlan, LaunchRequest, PlanResult
from tests.job_fixtures import make_plan

TINY = "tiny-vlm"
LLAMA = "llama-3.2-11b-vision"
IMAGE = "/images/vllm-0.32.0.sif"
IN_IMAGE = f"engines: [{{version: 0.32.0, image: {IMAGE}}}]\n"
ON_DISK = frozenset({IMAGE})


def plan_in_image(asked: LaunchRequest, *more: str, **found: Any) -> PlanResult:
    found = {"images_on_disk": ON_DISK, **found}
    return make_plan(asked, site_text=IN_IMAGE + "".join(more), **found)


def option(plan: LaunchPlan, name: str) -> str | None:
    """The value of one `#SBATCH` line; None when there is no such line."""
    return {o.name: o.value for o in plan.sbatch}.get(name)


def argument(plan: LaunchPlan, flag: str) -> str:
    return plan.engine_arguments[plan.engine_arguments.index(flag) + 1]


def only_issue(result: PlanResult) -> Issue:
    (issue,) = result.issues
    return issue
