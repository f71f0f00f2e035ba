"""Why an endpoint failed, ended or waits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

from hpcvlm.diagnosis.judge import conclude, diagnose, find
from hpcvlm.diagnosis.model import Diagnosis, Evidence, PlanFacts, Quote, Signature
from hpcvlm.errors import HpcvlmError
from hpcvlm.ops.context import Context
from hpcvlm.ops.endpoints import Row, describe, status
from hpcvlm.ops.why_evidence import collect, enriched, plan_facts, with_limits
from hpcvlm.watch.verdict import Ended, Failed, Ready, Unknown, Waiting

if TYPE_CHECKING:
    from hpcvlm.plan.model import LaunchPlan

_PHASES = {
    "suspended": "Slurm has frozen it for a job that goes first, and lets it go on later",
    "unresponsive": "its engine runs, but has not answered the job for a while; if it goes on, "
    "the job ends it as hung",
    "draining": "it takes no new requests, finishes those that run, and ends",
}
_ENGINE_ENDS = ("engine-exited", "restarts-used-up")
FINE, ENDED, WAITING, NOT_KNOWN = "fine", "ended", "waiting", "not-known"


@dataclass(frozen=True, slots=True)
class Report:
    """One endpoint and why it is as it is.

    Attributes:
        row: as `status` shows it.
        diagnosis: of id ``fine`` for an endpoint that is ready.
    """

    row: Row
    diagnosis: Diagnosis


def why(name: str, ctx: Context) -> Report:
    """Why an endpoint is in its state.

    Raises:
        HpcvlmError: ``endpoint-unknown`` and ``endpoint-ambiguous``, as `find_record`.
    """
    row = status(name, ctx)
    return Report(row, diagnose_row(row, ctx))


def diagnose_row(row: Row, ctx: Context | None = None) -> Diagnosis:
    """The diagnosis of one endpoint; never fails itself.

    Args:
        row: the endpoint.
        ctx: the outside; this process's own when left out.
    """
    ctx = ctx or Context()
    verdict = row.verdict
    if isinstance(verdict, Failed):
        return _failed(row, verdict, ctx)
    if isinstance(verdict, Ended):
        return _ended(row, verdict, ctx)
    if isinstance(verdict, Waiting):
        return _waiting(row, verdict, ctx)
    if isinstance(verdict, Unknown):
        return _not_known(row, verdict)
    assert isinstance(verdict, Ready)  # noqa: S101 - the last kind of verdict
    said = "nothing is wrong: it is ready, and the engine has answered the job's own requests"
    return Diagnosis(FINE, said, "", (Quote("state.json", 0, "phase ready"),), ("state.json",))


def explain_refusal(error: HpcvlmError, plan: LaunchPlan, ctx: Context) -> HpcvlmError:
    """The refusal of a job by sbatch, with a remedy that has the cluster's numbers in it.

    Args:
        error: ``sbatch-refused``; any other comes back as it is.
        plan: what was asked for.
        ctx: the outside.
    """
    if error.code != "sbatch-refused":
        return error
    words = "\n".join((error.sentence, *error.details))
    evidence = Evidence(refusal=words, plan=_facts_of(plan))
    found = diagnose(evidence, signatures())
    if found.id == "partition-time-limit":
        found = diagnose(with_limits(evidence, ctx), signatures())
    if not found.known:
        return error
    return HpcvlmError(error.code, f"{error.sentence}: {found.cause}", found.remedy, error.details)


def _facts_of(plan: LaunchPlan) -> PlanFacts:
    return PlanFacts(
        name=plan.name,
        model=plan.model,
        gpus=plan.gpus.text,
        gpu_count=plan.gpus.count,
        partition=plan.partition or "",
        time_limit_s=plan.time_limit_s,
    )


@cache
def signatures() -> tuple[Signature, ...]:
    """The shipped signatures; read once, and only when something has failed.

    Raises:
        HpcvlmError: ``file-invalid``, ``installation-broken``.
    """
    from hpcvlm.diagnosis.signatures import read_signatures
    from hpcvlm.resources import data_root
    from hpcvlm.system.files import FolderOfTexts

    folder = FolderOfTexts(data_root() / "configs" / "failures")
    return read_signatures((name, folder.read(name) or "") for name in folder.names())


def _failed(row: Row, verdict: Failed, ctx: Context) -> Diagnosis:
    reason = verdict.reason
    # An engine that the job itself has stopped for another reason tells nothing by how it ended.
    if verdict.engine_exit is not None and reason in _ENGINE_ENDS:
        reason += f" exit={verdict.engine_exit}"
    evidence = collect(row.record, row.glance, ctx, reason=reason, verdict=verdict.evidence)
    return _diagnosed(row, evidence, ctx)


def _ended(row: Row, verdict: Ended, ctx: Context) -> Diagnosis:
    """An end that is no failure; its logs are full of what an engine says when it is stopped."""
    reason = verdict.reason or verdict.how
    evidence = collect(row.record, row.glance, ctx, reason=reason, verdict="")
    evidence = replace(evidence, logs=(), answers=())
    found = _diagnosed(row, evidence, ctx)
    if found.known:
        return found
    again = f"hpcvlm launch {row.record.model} --gpus {row.record.gpus}"
    said = f"it is no failure: {describe(verdict)}"
    return Diagnosis(ENDED, said, f"{again} starts another", (), evidence.tried)


def _waiting(row: Row, verdict: Waiting, ctx: Context) -> Diagnosis:
    plan = plan_facts(row.record, None)
    tried = ("squeue", "state.json")
    if verdict.phase == "queued":
        evidence = Evidence(pending=verdict.detail, plan=plan, tried=tried)
        found = _diagnosed(row, evidence, ctx)
        if found.known:
            return found
        said = verdict.detail or "Slurm does not say why yet"
        quotes = (Quote("squeue", 0, said),)
        remedy = f"hpcvlm wait {row.record.name}, or hpcvlm stop {row.record.name}"
        return Diagnosis(WAITING, f"it waits in the queue: {said}", remedy, quotes, tried)
    if verdict.phase == "restarting":
        return _restarting(row, verdict, ctx)
    said = _PHASES.get(verdict.phase, f"nothing is wrong so far: it is in phase {verdict.phase}")
    follow = f"hpcvlm wait {row.record.name} follows it, hpcvlm logs {row.record.name} shows more"
    return Diagnosis(WAITING, said, follow, (), tried)


def _restarting(row: Row, verdict: Waiting, ctx: Context) -> Diagnosis:
    """Why the engine that is being started again had ended."""
    evidence = collect(row.record, row.glance, ctx, reason="", verdict=verdict.detail)
    found = _diagnosed(row, evidence, ctx)
    return replace(found, cause=f"its engine ended, and is being started again: {found.cause}")


def _not_known(row: Row, verdict: Unknown) -> Diagnosis:
    said = f"what it does is not known: {verdict.why}; last seen: {verdict.last_seen}"
    cluster = row.glance.scheduler.cluster
    when = f"on a login node of {cluster}" if cluster else "once that answers"
    remedy = f"hpcvlm status {row.record.name}, {when}; the job may still run"
    return Diagnosis(NOT_KNOWN, said, remedy, (), ("squeue", "sacct", "state.json"))


def _diagnosed(row: Row, evidence: Evidence, ctx: Context) -> Diagnosis:
    """The diagnosis, with the numbers that its remedy needs."""
    known = _signatures_or_none()
    found = find(evidence, known)
    if found is not None:
        try:
            evidence = enriched(found[0].id, row.record, evidence, ctx)
        except Exception as error:  # noqa: BLE001 - a cause without numbers is better than none
            tried = (*evidence.tried, f"numbers for the remedy: {error}")
            evidence = replace(evidence, tried=tried)
    return conclude(found, evidence)


def _signatures_or_none() -> Sequence[Signature]:
    """No signatures where the installation is broken: the last telling lines are still shown."""
    try:
        return signatures()
    except HpcvlmError:
        return ()
