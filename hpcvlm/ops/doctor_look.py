"""What every part of the doctor looks with: the request, the outside, the site, the cluster."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from hpcvlm.doctor.model import Answer, matches
from hpcvlm.ops.context import Context
from hpcvlm.site.cluster import Cluster
from hpcvlm.site.schema import SiteSpec
from hpcvlm.slurm.commands import query_environment

OnStep = Callable[[str], None]
Seen = TypeVar("Seen")
ASK_TIMEOUT_S = 15.0
FOLDER_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class DoctorRequest:
    """What to look at.

    Attributes:
        on_node: also submit a short job that looks at a compute node.
        partition: for that job; the site's, else Slurm's own when None.
        gpus: for that job, ``1`` or ``A100:1``; one where the partition has any when None.
        account: for that job; the site's when None.
        url: what the node tries to fetch.
        deep: also start every image on this machine and ask for its version.
        only: ids or kinds of the checks that are wanted; all when empty.
        skip: ids or kinds of those that are not.
        queue_timeout_s: seconds that the job may wait before it is cancelled.
    """

    on_node: bool = False
    partition: str | None = None
    gpus: str | None = None
    account: str | None = None
    url: str = "https://huggingface.co"
    deep: bool = False
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    queue_timeout_s: float = 600.0

    def wants(self, check_id: str) -> bool:
        """Whether a check is asked for, by its id."""
        if self.only and not matches(check_id, self.only):
            return False
        return not matches(check_id, self.skip)

    def wants_kind(self, kind: str) -> bool:
        """Whether any check of a kind is asked for."""
        named = any(asked.partition(":")[0] == kind for asked in self.only)
        return (named or not self.only) and kind not in self.skip


@dataclass(frozen=True, slots=True)
class Look:
    """One examination.

    Attributes:
        executor: ``slurm`` or ``local``: where a launch would run its job.
        cluster: None without Slurm, or when sinfo did not answer.
        sinfo: what it said; None when it was not asked.
    """

    request: DoctorRequest
    ctx: Context
    on_step: OnStep
    site: SiteSpec
    executor: str
    cluster: Cluster | None
    sinfo: Answer | None

    def wants(self, *kinds: str) -> bool:
        """Whether a check of any of these kinds is asked for."""
        return any(self.request.wants_kind(kind) for kind in kinds)


def ask(
    ctx: Context, argv: Sequence[str], *, slurm: bool = False, timeout_s: float = ASK_TIMEOUT_S
) -> Answer:
    """Run a program that only asks; its absence and its silence are answers, too.

    Args:
        ctx: the outside.
        argv: the program and its arguments.
        slurm: whether Slurm's formats are to be pinned.
        timeout_s: seconds.
    """
    environment = query_environment(ctx.environment) if slurm else dict(ctx.environment)
    done = ctx.runner(argv, env=environment, timeout_s=timeout_s)
    return Answer(done.code, done.stdout, done.stderr)


def within(seconds: float, look: Callable[[], Seen]) -> Seen | None:
    """What a look at files gives, or None when it takes too long.

    A file system whose server is away holds up whoever touches it, for ever and beyond signals;
    so another thread touches it.
    """
    found: list[Seen] = []
    thread = threading.Thread(target=lambda: found.append(look()), daemon=True)
    thread.start()
    thread.join(seconds)
    return found[0] if found else None
