"""How a job lives: where it listens, how long it is kept, when it ends by itself, who is told."""

from __future__ import annotations

from typing import NamedTuple

from hpcvlm.engines.vllm_flags import flag
from hpcvlm.errors import HpcvlmError
from hpcvlm.plan.chain import even_time_s, job_count, overlap_s
from hpcvlm.plan.model import Issue, LaunchRequest, PlannedNotify
from hpcvlm.plan.sources import COMMAND_LINE, Sources
from hpcvlm.site.schema import SiteSpec
from hpcvlm.slurm.time import parse_duration

LISTEN = ("node", "loopback", "socket")
_ADDRESSES = {"node": "0.0.0.0"}  # noqa: S104 - every request needs the key
_LOOPBACK = "127.0.0.1"
NEVER = "never"
# Slurm's word that a job's time is up comes up to 120 s before the end (WARN_BEFORE_END_S, and 60 s
# more by sbatch(1)); a start and the hand-over need some more.
_SHORTEST_OVERLAP_S = 300


class Kept(NamedTuple):
    """How an endpoint outlasts its jobs.

    Attributes:
        keep_s: seconds for which it is kept; None for one job without successors.
        time_limit_s: of each job.
        overlap_s: seconds before the end of a job at which its successor may begin; 0 without.
    """

    keep_s: int | None
    time_limit_s: int
    overlap_s: int


def check_life(request: LaunchRequest) -> None:
    """Refuse what cannot be read.

    Raises:
        HpcvlmError: ``option-invalid`` or ``time-invalid``.
    """
    if request.listen is not None and request.listen not in LISTEN:
        raise HpcvlmError(
            "option-invalid",
            f"--listen {request.listen!r} is no way to listen",
            "node, loopback or socket",
        )
    if request.restarts is not None and request.restarts < 0:
        raise HpcvlmError(
            "option-invalid", f"--restarts {request.restarts} is no number of restarts", "0 or more"
        )
    if request.keep is not None:
        parse_duration(request.keep, "--keep")
    idle_s(request.idle, "--idle")


def idle_s(text: str | None, what: str) -> int | None:
    """Seconds without a request after which a job ends; None for never.

    Raises:
        HpcvlmError: ``time-invalid``.
    """
    if text is None or text == NEVER:
        return None
    return parse_duration(text, what)


def choose_listen(
    request: LaunchRequest, site: SiteSpec, executor: str, sources: Sources
) -> tuple[str, str]:
    """How the engine listens, and on which address.

    On this machine it is loopback unless somebody asks for a socket: what runs without Slurm is for
    the user who started it.
    """
    asked = request.listen or site.listen
    sources.say("listen", COMMAND_LINE if request.listen else "site.listen")
    if executor == "local" and asked == "node":
        asked = "loopback"
        sources.say("listen", "this machine")
    return asked, _ADDRESSES.get(asked, _LOOPBACK)


def listen_issues(listen: str, engine_version: str) -> list[Issue]:
    """A socket needs an engine that has --uds."""
    found = flag("uds")
    try:
        if listen != "socket" or found is None or found.in_version(engine_version):
            return []
    except HpcvlmError:  # a version that cannot be read is told elsewhere
        return []
    return [
        Issue(
            "listen-unsupported",
            "--listen",
            f"vLLM {engine_version} cannot listen on a Unix socket; {found.first} is the first "
            "that can",
            "--listen loopback, or a newer engine",
        )
    ]


def choose_kept(
    request: LaunchRequest,
    site: SiteSpec,
    *,
    time_limit_s: int,
    longest_s: int | None,
    start_timeout_s: int,
    sources: Sources,
) -> Kept:
    """How long each job runs where an endpoint outlasts them.

    Args:
        request: its ``keep``; without its ``time`` the jobs are as long as they may be, and share
            what is asked for evenly.
        site: may say the overlap.
        time_limit_s: of a job without successors.
        longest_s: what the partition allows, None when it has no limit.
        start_timeout_s: how long a start may take.
        sources: notes where the values are from.

    Raises:
        HpcvlmError: ``time-invalid``.
    """
    if request.keep is None:
        return Kept(None, time_limit_s, 0)
    keep_s = parse_duration(request.keep, "--keep")
    sources.say("keep", COMMAND_LINE)
    asked = parse_duration(site.keep.overlap, "keep.overlap") if site.keep.overlap else None
    sources.say("overlap", "site.keep.overlap" if asked else "model.start_timeout")
    if request.time is None:
        time_limit_s = even_time_s(keep_s, longest_s or keep_s, start_timeout_s, asked)
        sources.say("time", "from --keep")
    return Kept(keep_s, time_limit_s, overlap_s(time_limit_s, start_timeout_s, asked))


def keep_issues(request: LaunchRequest, site: SiteSpec, executor: str, kept: Kept) -> list[Issue]:
    """Why an endpoint cannot be kept for so long."""
    if kept.keep_s is None:
        return []
    if executor == "local":
        return [
            Issue(
                "keep-unsupported",
                "--keep",
                "--keep queues Slurm jobs, and nothing limits the time of a job on this machine",
                f"--time {request.keep}",
            )
        ]
    count = job_count(kept.keep_s, kept.time_limit_s, kept.overlap_s)
    if count <= site.keep.most_jobs:
        return []
    return [
        Issue(
            "keep-jobs",
            "--keep",
            f"--keep {request.keep} makes {count} jobs, and {site.name} takes at most "
            f"{site.keep.most_jobs} from one launch (site.keep.most_jobs)",
            "a longer --time, or a shorter --keep",
        )
    ]


def keep_notes(kept: Kept) -> tuple[str, ...]:
    """What a short overlap means for whoever sends requests."""
    if kept.keep_s is None or kept.keep_s <= kept.time_limit_s:
        return ()
    if kept.overlap_s >= _SHORTEST_OVERLAP_S:
        return ()
    sentence = (
        f"successors begin only {kept.overlap_s} s before the end of the job before them, and "
        "Slurm may tell that one to end 2 minutes earlier: expect gaps; a longer --time has none"
    )
    return (sentence,)


def choose_idle(request: LaunchRequest, site: SiteSpec, sources: Sources) -> int | None:
    """Seconds without a request after which the job ends; None for never.

    Raises:
        HpcvlmError: ``time-invalid``.
    """
    if request.idle is not None:
        sources.say("idle", COMMAND_LINE)
        return idle_s(request.idle, "--idle")
    sources.say("idle", "site.idle")
    return idle_s(site.idle, "site.idle")


def choose_restarts(request: LaunchRequest, site: SiteSpec, sources: Sources) -> int:
    """How often the engine is started again."""
    sources.say("restarts", "site.restarts" if request.restarts is None else COMMAND_LINE)
    return site.restarts if request.restarts is None else request.restarts


def choose_notify(site: SiteSpec, sources: Sources) -> PlannedNotify | None:
    """Who is told by the job itself; None where the site names nobody."""
    told = site.notify
    if not told.events or not (told.command or told.webhook_file or told.mail_to):
        return None
    sources.say("notify", "site.notify")
    return PlannedNotify(told.events, told.command, told.webhook_file, told.mail_to)
