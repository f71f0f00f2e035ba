"""Reasons against a launch that need no arithmetic: the model, its files, several nodes."""

from __future__ import annotations

from collections.abc import Sequence

from hpcvlm.catalog.schema import ModelSpec
from hpcvlm.plan.model import Issue, LaunchRequest, PlannedSnapshot


def snapshot_issues(
    spec: ModelSpec,
    name: str,
    snapshot: PlannedSnapshot,
    problems: Sequence[str],
    on_disk: bool,
) -> list[Issue]:
    """Why the files cannot be served.

    Args:
        spec: the model.
        name: ``name`` or ``name:variant``.
        snapshot: where the files are, or would be.
        problems: what is wrong with them, in sentences.
        on_disk: whether any of them are there.
    """
    if spec.snapshot.path is not None:
        code, remedy = "snapshot-missing", "correct 'snapshot: path' in the model's file"
        if snapshot.image is not None:
            remedy += ", or make the image again: hpcvlm snapshots export REPO FILE.sqsh"
    elif on_disk:
        code, remedy = "snapshot-broken", f"hpcvlm snapshots verify {name} --repair"
    else:
        code, remedy = "snapshot-missing", f"hpcvlm snapshots pull {name}"
    return [Issue(code, "snapshot", problem, remedy) for problem in problems]


def unsupported(spec: ModelSpec) -> list[Issue]:
    """A model that no engine can serve."""
    if spec.unsupported is None:
        return []
    instead = " or ".join(spec.unsupported.instead)
    return [
        Issue(
            "model-unsupported",
            "MODEL",
            f"{spec.name} cannot be served: {spec.unsupported.reason}",
            f"hpcvlm launch {instead}" if instead else "hpcvlm models ls lists what can be",
        )
    ]


def one_node_only(request: LaunchRequest) -> Issue:
    """An endpoint on several nodes."""
    return Issue(
        "nodes-unsupported",
        "--nodes",
        f"--nodes {request.nodes}: one endpoint runs on one node",
        "leave --nodes out, and ask for more GPUs per node",
    )
