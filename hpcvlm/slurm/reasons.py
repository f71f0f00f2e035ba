"""Why Slurm keeps a job waiting, in words, and what can be done about it.

The words are those of squeue(1), "JOB REASON CODES", and of Slurm's page job_reason_codes.html; a
test holds every reason that libslurm 22.05, 24.11 and 26.05 knows against this table. A reason
that is not known is shown as it is.
"""

from __future__ import annotations

import re

_REASONS = {
    "AccountNotAllowed": "its account is not allowed in its partition",
    "AccountingPolicy": "a limit of its account or QOS keeps it waiting",
    "AssociationJobLimit": "your association already has its maximum number of jobs",
    "AssociationResourceLimit": "your association has reached a resource limit",
    "AssociationTimeLimit": "your association has used up its time",
    "BadConstraints": "no node can ever satisfy the job's constraints",
    "BeginTime": "its earliest start time has not come yet",
    "BlockFreeAction": "its block of nodes cannot be allocated at present",
    "BlockMaxError": "its block of nodes has too many errors",
    "BurstBufferOperation": "a burst buffer operation failed",
    "BurstBufferResources": "waiting for burst buffer space",
    "BurstBufferStageIn": "its burst buffer is being filled",
    "Cleaning": "its previous run is still being cleaned up",
    "DeadLine": "it could not end before its deadline",
    "Dependency": "waiting for another job that it depends on",
    "DependencyNeverSatisfied": "it depends on a job that failed, so it will never start",
    "FedJobLock": "waiting for the clusters of the federation to agree",
    "FrontEndDown": "no front end node is up",
    "InactiveLimit": "it reached the system's inactivity limit",
    "InvalidAccount": "its account is not valid (any more)",
    "InvalidQOS": "its QOS is not valid (any more)",
    "JobArrayTaskLimit": "its array already runs as many tasks as allowed",
    "JobHeldAdmin": "held by an administrator",
    "JobHeldUser": "held by its user",
    "JobHoldMaxRequeue": "held, because it was requeued too often",
    "JobLaunchFailure": "it could not be launched on its node",
    "Licenses": "waiting for a licence",
    "MaxBatchRequeue": "held, because it was requeued too often",
    "MaxMemPerLimit": "it asks for more memory per CPU or node than allowed",
    "MaxPoweredUpNodes": "the site already has as many nodes powered up as it allows",
    "MaxRequeue": "it was requeued as often as allowed",
    "MpiPortsBusy": "no ports are free for its MPI processes",
    "NodeDown": "a node that it needs is down",
    "NonZeroExitCode": "its script ended with an error",
    "NvidiaImexChannels": "no NVIDIA IMEX channel is free",
    "OutOfMemory": "it ran out of memory",
    "PartitionConfig": "its partition does not allow what it asks for",
    "PartitionDown": "its partition is down",
    "PartitionInactive": "its partition starts no jobs at present",
    "PartitionNodeLimit": "it asks for more nodes than its partition has or allows",
    "PartitionTimeLimit": "its time limit is longer than its partition allows",
    "PowerNotAvail": "there is not enough electrical power for it",
    "PowerReserved": "electrical power is reserved for others",
    "Priority": "waiting behind jobs with higher priority",
    "Prolog": "the cluster prepares its nodes",
    "QOSJobLimit": "its QOS already has its maximum number of jobs",
    "QOSNotAllowed": "its QOS is not allowed in this partition or for this account",
    "QOSResourceLimit": "its QOS has reached a resource limit",
    "QOSTimeLimit": "its QOS has used up its time",
    "QOSUsageThreshold": "usage is below what its QOS demands",
    "RaisedSignal": "its script was ended by a signal",
    "ReqNodeNotAvail": "the nodes it needs are down, drained or reserved",
    "Reservation": "waiting for its reservation to begin",
    "ReservationDeleted": "its reservation was deleted",
    "ReservationInvalid": "its reservation is not valid for it",
    "Resources": "waiting for free resources",
    "SchedDefer": "the scheduler has put it off",
    "SystemFailure": "the cluster had a failure",
    "TimeLimit": "it reached its time limit",
    "WaitingForScheduling": "the scheduler has not looked at it yet",
}

# Families of reasons such as QOSMaxJobsPerUserLimit, AssocGrpGRES, QOSGrpCpuLimit; the first
# pattern that fits tells.
_FAMILIES = (
    (r"QOSMaxJobs", "its QOS already runs as many of your jobs as it allows"),
    (r"QOSMaxSubmit", "its QOS already holds as many of your jobs as it allows"),
    (r"QOSMaxWall", "its time limit is longer than its QOS allows"),
    (r"QOSMax", "it asks for more than its QOS allows one job or user"),
    (r"QOSMin", "it asks for less than its QOS demands"),
    (r"QOSGrp", "all jobs of its QOS together have reached a limit"),
    (r"AssocMaxJobs", "your account already runs as many jobs as it may"),
    (r"AssocMaxSubmit", "your account already holds as many jobs as it may"),
    (r"AssocMaxWall", "its time limit is longer than your account allows"),
    (r"AssocMax", "it asks for more than your account allows one job or user"),
    (r"AssocGrp", "all jobs of your account together have reached a limit"),
    (r"MaxJobsPerAccount", "your account already runs as many jobs as it may"),
    (r"MaxSubmitJobsPerAccount", "your account already holds as many jobs as it may"),
    (r"MaxGRESPerAccount", "your account uses as many GPUs as it may"),
    (r"Max\w+PerAccount", "your account uses as much as its QOS allows one account"),
    (r"Max\w+PerUser", "you use as much as its QOS allows one user"),
    (r"MaxTRESPer", "it asks for more than one job, user or account may have"),
    (r"ReqNodeNotAvail", "the nodes it needs are down, drained or reserved"),
)

# Reasons that no waiting ends. {job} is the job's number.
_RELEASE = "scontrol release {job} lets it go on"
_SUBMIT_ANEW = "scancel {job}, and launch it anew"
_STUCK = {
    "AccountNotAllowed": "launch it anew with an --account or --partition that go together",
    "BadConstraints": "launch it anew with other --gpus, --constraint or --partition",
    "BurstBufferOperation": "ask the site's admins; scontrol show job {job} shows the failure",
    "DeadLine": _SUBMIT_ANEW,
    "DependencyNeverSatisfied": _SUBMIT_ANEW,
    "InvalidAccount": "launch it anew with another --account; sacctmgr show assoc user=$USER",
    "InvalidQOS": "launch it anew with another --qos; sacctmgr show assoc user=$USER",
    "JobHeldAdmin": "ask the site's admins why they hold it: scontrol show job {job}",
    "JobHeldUser": _RELEASE,
    "JobHoldMaxRequeue": f"{_RELEASE}, once its node is sound",
    "JobLaunchFailure": f"{_RELEASE}, once its node is sound",
    "MaxBatchRequeue": f"{_RELEASE}, once its node is sound",
    "MaxMemPerLimit": "launch it anew with less memory, or more CPUs, per GPU",
    "PartitionConfig": "launch it anew with another --partition",
    "PartitionNodeLimit": "launch it anew with other --gpus or --partition; sinfo shows nodes",
    "PartitionTimeLimit": "scontrol update JobId={job} TimeLimit=LESS, or launch with less --time",
    "QOSNotAllowed": "launch it anew with another --qos or --partition",
    "ReservationDeleted": "launch it anew without the reservation",
    "ReservationInvalid": "launch it anew without the reservation",
}
_STUCK_FAMILIES = (
    (r"(QOS|Assoc)MaxWall", "scontrol update JobId={job} TimeLimit=LESS, or launch with less"),
    (r"QOSMin", "launch it anew with another --qos, or ask for more"),
    (r"(QOS|Assoc)Max\w+Per(Job|Node)", "launch it anew with fewer --gpus or less --time"),
)
# States in which Slurm holds a job, whatever reason it shows.
_HELD_STATES = frozenset({"REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"})


def reason_sentence(reason: str) -> str:
    """Why a job is pending, in words, with Slurm's own word; an unknown reason as it is.

    ``None``, which Slurm shows before it has looked at a job, gives an empty text.
    """
    reason = _bare(reason)
    word = _word(reason)
    sentence = _REASONS.get(word) or _family(_FAMILIES, word)
    return f"{sentence} ({reason})" if sentence else reason


def reason_remedy(reason: str, job_id: str, raw_state: str = "PENDING") -> str:
    """What to do about a job that no waiting starts; empty for one that only has to wait.

    Args:
        reason: as squeue shows it.
        job_id: of the job.
        raw_state: Slurm's own word for its state.
    """
    word = _word(_bare(reason))
    remedy = _STUCK.get(word) or _family(_STUCK_FAMILIES, word)
    if not remedy and (raw_state in _HELD_STATES or "held state" in reason):
        remedy = _RELEASE
    return remedy.replace("{job}", job_id)


def _bare(reason: str) -> str:
    reason = reason.strip()
    if reason.startswith("("):
        reason = reason[1:].removesuffix(")")
    return "" if reason == "None" else reason


def _word(reason: str) -> str:
    return re.split(r"[,(]", reason)[0].strip()


def _family(families: tuple[tuple[str, str], ...], word: str) -> str:
    return next((text for pattern, text in families if re.match(pattern, word)), "")
