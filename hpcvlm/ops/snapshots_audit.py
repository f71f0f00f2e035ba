"""Audits the store of snapshots, and tells what users' own caches hold a second time."""

from __future__ import annotations

import os
import pwd
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from hpcvlm.errors import HpcvlmError
from hpcvlm.ops.caches import searched_caches
from hpcvlm.ops.context import Context
from hpcvlm.ops.site_files import site_of
from hpcvlm.site.schema import SiteSpec
from hpcvlm.snapshots.access import group_number
from hpcvlm.snapshots.audit.audit import Access, Rule, audit_cache
from hpcvlm.snapshots.audit.duplicates import Duplicates, Held, find_caches, find_duplicates
from hpcvlm.snapshots.audit.kinds import AuditFinding
from hpcvlm.snapshots.listing.summary import OnProgress
from hpcvlm.snapshots.store import (
    cache_problem,
    distinct,
    iterate_cache,
    repository_names,
    scan_caches,
)


class Audited(NamedTuple):
    """One cache.

    Attributes:
        access: the rule that it was compared with.
        findings: errors first.
    """

    cache: Path
    access: Access
    findings: tuple[AuditFinding, ...]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class AuditReport:
    """The answer of `audit`.

    Attributes:
        audited: the caches, in the order in which they were named.
        patterns: where users' own caches were looked for.
        users: number of users' caches that were read.
        duplicates: what they hold that is elsewhere, too; None where no pattern is known.
        unreadable: folder and reason; what lies there is not known.
    """

    audited: tuple[Audited, ...]
    patterns: tuple[str, ...]
    users: int
    duplicates: Duplicates | None
    unreadable: tuple[tuple[str, str], ...]

    @property
    def errors(self) -> int:
        """Number of findings that are errors."""
        return sum(one.severity == "error" for each in self.audited for one in each.findings)


def audit(
    ctx: Context,
    caches: Sequence[Path] = (),
    *,
    users: Sequence[str] = (),
    access: Access | None = None,
    on_progress: OnProgress | None = None,
) -> AuditReport:
    """Look at rights, owners, links and contents of caches; nothing is changed.

    Args:
        ctx: the outside.
        caches: those to look at; the site's store and caches when empty, and the user's own, to
            which no rule of the site applies, when the site has none.
        users: patterns of users' own caches, besides the site's `store.user_caches`.
        access: the rule, instead of the site's.
        on_progress: called after each repository.

    Raises:
        HpcvlmError: ``option-invalid`` for a cache that is not there; ``setting-invalid`` for a
            group of the site's that is unknown here.
    """
    site, _ = site_of(ctx)
    for cache in caches:
        if not os.path.lexists(cache.expanduser()):
            raise HpcvlmError(
                "option-invalid",
                f"{cache} is not there",
                "name a Hugging Face hub cache; hpcvlm snapshots ls shows those in use",
            )
    group = group_number(site.store.group)
    chosen = _chosen(site, ctx, [cache.expanduser().absolute() for cache in caches])
    audited = []
    for cache, of_site in chosen:
        rule_access: Access = access or (site.store.access if of_site else "any")
        rule = Rule(rule_access, group if of_site else None)
        findings = audit_cache(cache, rule, ctx.clock.now(), on_progress)
        audited.append(Audited(cache, rule_access, tuple(findings)))
    patterns = tuple(dict.fromkeys((*site.store.user_caches, *users)))
    if not patterns:
        return AuditReport(tuple(audited), (), 0, None, ())
    held, unreadable = _users(patterns, [cache for cache, _ in chosen], on_progress)
    duplicates = find_duplicates(scan_caches([cache for cache, _ in chosen]), held)
    return AuditReport(tuple(audited), patterns, len(held), duplicates, tuple(unreadable))


def _chosen(site: SiteSpec, ctx: Context, caches: list[Path]) -> list[tuple[Path, bool]]:
    """The caches, and whether the site's rule is for them."""
    if caches:
        return [(cache, True) for cache in distinct(caches)]
    *of_site, own = searched_caches(site, ctx)
    if not of_site:
        return [(own, False)] if os.path.exists(own) or cache_problem(own) else []  # noqa: PTH110
    return [(cache, True) for cache in distinct(of_site)]


def _users(
    patterns: Sequence[str], store: list[Path], on_progress: OnProgress | None
) -> tuple[list[Held], list[tuple[str, str]]]:
    found: list[Path] = []
    unreadable: dict[str, str] = {}
    for pattern in patterns:
        matched = find_caches(pattern)
        found += matched.caches
        unreadable.update(matched.unreadable)
    of_store = {os.path.realpath(cache) for cache in store}
    held = []
    for cache in distinct(found):
        if os.path.realpath(cache) in of_store:
            continue
        repositories = []
        total = len(repository_names(cache))
        for done, repository in enumerate(iterate_cache(cache), 1):
            repositories.append(repository)
            if on_progress:
                on_progress(cache, done, total)
            closed = [problem for problem in repository.problems if "ermission" in problem]
            unreadable.update({str(repository.path): problem for problem in closed[:1]})
        held.append(Held(_owner(cache), cache, repositories))
    return held, sorted(unreadable.items())


def _owner(cache: Path) -> str:
    try:
        number = cache.stat().st_uid
    except OSError:
        return "unknown"
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)
