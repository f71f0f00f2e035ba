"""Judges folders: writable, private, with room; quotas; the weights in a hub cache."""

from __future__ import annotations

import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from hpcvlm.doctor.model import Answer, Check, Question, size, some

PART = "storage"
GIB = 1 << 30
MIB = 1 << 20
# A job folder holds logs and payloads; compile caches of one model are some hundred MB.
STATE_NEEDS = 100 * MIB
CACHE_NEEDS = 5 * GIB
INODES_NEEDED = 10_000
QUOTA_WARN = 0.9
# docs.nvidia.com, NCCL user guide, "Shared memory": containers are to have --shm-size=1g.
SHM_NEEDS = 1 * GIB
# vLLM's sockets are TMPDIR/UUID (37 characters more); unix(7) ends a path at 107.
LONGEST_TMPDIR = 107 - 37
# Slurm's credentials allow 300 s (munge(7)); state.json's times are compared with this clock.
CLOCK_WARN_S = 5.0
CLOCK_FAIL_S = 300.0
_PRIVATE = 0o700
_CLOSED = "no file can be written there"


@dataclass(frozen=True, slots=True)
class FolderSeen:
    """What a look at a folder showed.

    Attributes:
        problem: why a file could not be written there; empty when one was, and was removed again.
        tried: the folder itself, or the nearest around it that is there.
        seconds: that took.
        free: bytes that the user may still write, None when the file system does not say.
        inodes: files that the user may still make; None where they are not counted.
        mode: permissions; None when the folder is not there yet.
        owned: whether it belongs to the user.
        clock_offset: seconds by which the file system's clock is ahead of this machine's.
    """

    problem: str = ""
    tried: str = ""
    seconds: float = 0.0
    free: int | None = None
    inodes: int | None = None
    mode: int | None = None
    owned: bool = True
    clock_offset: float | None = None


def judge_writable(question: Question, path: str, seen: FolderSeen, variable: str) -> Check:
    """Whether files can be written, flushed and removed in a folder."""
    if seen.problem:
        return question.failed(f"{path}: {seen.problem}", f"set {variable} to a folder of yours")
    later = "" if seen.tried == path else f", where {path} is made when it is needed"
    return question.ok(
        f"{seen.tried}: a file written, flushed and removed in {seen.seconds:.3f} s{later}"
    )


def judge_space(question: Question, path: str, seen: FolderSeen, needs: int) -> Check:
    """Whether there is room, and room for files; thresholds are part of the answer."""
    if seen.problem:
        return question.skipped(_CLOSED)
    if seen.free is None:
        return question.unknown(f"{path}: the file system does not say how much is free")
    inodes = "" if seen.inodes is None else f", {seen.inodes:,} files"
    evidence = f"{size(seen.free)}{inodes} free; wanted are {size(needs)}"
    if seen.inodes is not None:
        evidence += f" and {INODES_NEEDED:,} files"
    if seen.free < needs or (seen.inodes is not None and seen.inodes < INODES_NEEDED):
        return question.warning(f"{path}: {evidence}", "make room, or choose another folder")
    return question.ok(evidence)


def judge_private(question: Question, path: str, seen: FolderSeen, umask: int) -> Check:
    """Whether only the owner can enter the folder with the keys in it."""
    if seen.problem:
        return question.skipped(_CLOSED)
    if seen.mode is None:
        return question.ok(f"{path} is not there yet; it is made with mode 0700")
    mode = stat.S_IMODE(seen.mode)
    if not seen.owned:
        return question.failed(f"{path} belongs to somebody else", "set HPCVLM_STATE")
    if mode & ~_PRIVATE:
        return question.warning(
            f"{path} has mode {mode:04o} (umask {umask:04o}): others may list your endpoints",
            f"chmod 700 {path}",
        )
    return question.ok(f"{path} has mode {mode:04o} (umask {umask:04o})")


def judge_clock(question: Question, seen: FolderSeen) -> Check:
    """Whether this machine's clock agrees with that of the file system under the state folder."""
    if seen.clock_offset is None:
        return question.skipped(_CLOSED)
    return clock_check(question, seen.clock_offset, 1.0, "the file system's clock", "this machine")


def clock_check(question: Question, offset: float, error: float, who: str, other: str) -> Check:
    """Two clocks.

    Args:
        question: what is answered.
        offset: seconds by which `who` is ahead of `other`.
        error: how exact that is, in seconds.
        who: one clock, in words.
        other: the other.
    """
    ahead = "ahead of" if offset > 0 else "behind"
    evidence = f"{who} is {abs(offset):.1f} s {ahead} {other} (± {error:.1f} s)"
    certain = abs(offset) - error
    if certain > CLOCK_FAIL_S:
        return question.failed(evidence, "tell the admins: Slurm refuses credentials that old")
    if certain > CLOCK_WARN_S:
        return question.warning(evidence, "tell the admins: NTP is not running on one of them")
    return question.ok(evidence)


def judge_shm(question: Question, total: int | None, free: int | None) -> Check:
    """Shared memory (/dev/shm), through which the workers of one engine talk."""
    if total is None or free is None:
        return question.failed("there is no /dev/shm", "tell the admins: engines need /dev/shm")
    evidence = f"{size(free)} free of {size(total)}; wanted is {size(SHM_NEEDS)}"
    if free < SHM_NEEDS:
        return question.warning(evidence, "remove old files in /dev/shm; ask for a larger one")
    return question.ok(evidence)


def judge_scratch(
    question: Question, path: str, *, writable: bool, free: int | None, named: str
) -> Check:
    """A folder for temporary files.

    Args:
        question: what is answered.
        path: the folder.
        writable: whether a file can be made there.
        free: bytes, None when unknown.
        named: where the path comes from, as ``TMPDIR``.
    """
    if not writable:
        return question.failed(f"{named} {path} cannot be written", f"unset {named}, or mkdir it")
    room = "" if free is None else f", {size(free)} free"
    if len(path) > LONGEST_TMPDIR:
        return question.warning(
            f"{path} has {len(path)} characters; sockets in it need {LONGEST_TMPDIR} or fewer",
            "a shorter TMPDIR, for engines that run without a container",
        )
    return question.ok(f"{path} ({named}){room}")


@dataclass(frozen=True, slots=True)
class QuotaLine:
    """One file system's quota; sizes in bytes, None where there is no limit."""

    where: str
    used: int
    limit: int | None
    files: int
    files_limit: int | None


def parse_quota(text: str) -> list[QuotaLine]:
    """Lines of ``quota -w`` or ``lfs quota -q``: KiB, a ``*`` behind what is over.

    ``WHERE used soft hard [grace] files soft hard [grace]``, where grace is left out by quota
    when there is none and is ``-`` in Lustre's answer, and a long WHERE has a line of its own.
    """
    lines, words = [], text.split()
    starts = [i for i, word in enumerate(words) if word.startswith("/") or ":/" in word]
    for start, end in pairwise([*starts, len(words)]):
        row = words[start + 1 : end]
        blocks, rest = _triple(row)
        files, _ = _triple(rest)
        if blocks and files:
            used, limit = blocks[0] * 1024, _limit(blocks) * 1024 or None
            lines.append(QuotaLine(words[start], used, limit, files[0], _limit(files) or None))
    return lines


def _triple(words: Sequence[str]) -> tuple[list[int], Sequence[str]]:
    """Three numbers, and what comes after them and their grace time."""
    numbers: list[int] = []
    for i, word in enumerate(words):
        digits = word.strip("*[]")
        if digits.isdigit():
            numbers.append(int(digits))
        if len(numbers) == 3:  # noqa: PLR2004 - used, soft, hard
            rest = words[i + 1 :]
            has_grace = bool(rest) and not rest[0].strip("*[]").isdigit()
            return numbers, rest[1:] if has_grace else rest
    return [], words


def _limit(numbers: Sequence[int]) -> int:
    """The hard limit, else the soft one, else 0."""
    return numbers[2] or numbers[1]


def judge_quota(
    question: Question, home: str, answers: Sequence[tuple[str, Answer]], free: int | None
) -> Check:
    """Whether the home folder is near its quota; unknown is called unknown.

    Args:
        question: what is answered.
        home: the home folder.
        answers: (program, what it said) of those that were asked.
        free: bytes that statvfs calls free there.
    """
    room = "" if free is None else f"; the file system has {size(free)} free"
    for program, answer in answers:
        lines = parse_quota(answer.stdout) if not answer.missing else []
        limited = [line for line in lines if line.limit or line.files_limit]
        if limited:
            fullest = max(limited, key=_fullness)
            evidence = f"{program}: {_words(fullest)}"
            if _fullness(fullest) >= 1:
                return question.failed(evidence, "make room; cache_root: moves compile caches")
            if _fullness(fullest) >= QUOTA_WARN:
                return question.warning(evidence, "make room; cache_root: moves compile caches")
            return question.ok(evidence)
        if re.search(r":\s*none\s*$", answer.stdout) or lines:
            return question.ok(f"{program} shows no limit on {home}{room}")
    if all(answer.missing for _, answer in answers):
        asked = " or ".join(program for program, _ in answers)
        return question.unknown(f"there is no {asked} command{room}")
    said = "; ".join(f"{name}: {answer.said}" for name, answer in answers if not answer.missing)
    return question.unknown(f"{said}{room}")


def _fullness(line: QuotaLine) -> float:
    shares = [line.used / line.limit if line.limit else 0.0]
    shares.append(line.files / line.files_limit if line.files_limit else 0.0)
    return max(shares)


def _words(line: QuotaLine) -> str:
    room = f"{size(line.used)} of {size(line.limit)}" if line.limit else size(line.used)
    files = f"{line.files:,}" + (f" of {line.files_limit:,}" if line.files_limit else "")
    return f"{line.where} {room}, {files} files"


@dataclass(frozen=True, slots=True)
class HubSeen:
    """What a look into a hub cache showed.

    Attributes:
        problem: why it could not be listed; empty when it could.
        exists: whether it is there.
        whole: repositories whose snapshots are complete.
        broken: (repository, first problem) of the others.
        left: snapshots that were not looked at for want of time.
    """

    problem: str = ""
    exists: bool = True
    whole: tuple[str, ...] = ()
    broken: tuple[tuple[str, str], ...] = ()
    left: int = 0


def judge_hub(question: Question, path: str, seen: HubSeen, *, of_site: bool) -> Check:
    """Whether a hub cache can be read and the models in it are complete."""
    if not seen.exists:
        if of_site:
            return question.failed(f"{path} is not there", "correct 'hub_caches:' in the site file")
        return question.skipped(f"{path} is not there yet")
    if seen.problem:
        return question.failed(f"{path}: {seen.problem}", f"ls -ld {path}")
    later = f"; {seen.left} snapshots were not looked at for want of time" if seen.left else ""
    models = f"{len(seen.whole)} complete ({some(seen.whole, 3)})" if seen.whole else "none whole"
    if seen.broken:
        first, why = seen.broken[0]
        broken = some([name for name, _ in seen.broken], 3)
        return question.warning(
            f"{path}: {models}; {len(seen.broken)} not: {broken}; {first}: {why}{later}",
            f"hpcvlm snapshots verify {first} --repair",
        )
    return question.ok(f"{path}: {models}{later}" if seen.whole else f"{path} is empty{later}")
