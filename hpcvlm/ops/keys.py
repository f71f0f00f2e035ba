"""A new key for an endpoint that runs: the old one stops opening it, nothing is started again."""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hpcvlm.endpoints.endpoint import KEY_NAME, is_reachable_here
from hpcvlm.endpoints.registry import all_records, find_record
from hpcvlm.errors import HpcvlmError
from hpcvlm.ops.context import Context
from hpcvlm.ops.endpoints import Row, look
from hpcvlm.system.files import PRIVATE_FILE
from hpcvlm.watch.sentences import describe
from hpcvlm.watch.verdict import Ended, Failed, Unknown, Waiting

if TYPE_CHECKING:
    from hpcvlm.probe.model import Target

# Of secrets.token_urlsafe(32): 256 bits.
FEWEST_CHARACTERS = 43
# NFS may show a change to other nodes after acregmax, 60 s by default (nfs(5)).
TAKEN_WITHIN_S = 90.0
_ASK_EVERY_S = 1.0
_ANSWER_TIMEOUT_S = 10.0
# Phases in which an engine has its key already, and is not ready.
_NOT_ASKED = frozenset({"unresponsive", "draining", "suspended"})


@dataclass(frozen=True, slots=True)
class Rotation:
    """What became of a new key.

    Attributes:
        endpoint: its name.
        key_files: the files that hold the new key, of every job of the endpoint that is not over.
        repaired: those of them that others could read until now.
        confirmed: the jobs that refuse the old key now and take the new one.
        unconfirmed: the jobs that run and cannot be asked from here, with the reason.
        waiting: the jobs that will start with the new key.
    """

    endpoint: str
    key_files: tuple[str, ...]
    repaired: tuple[str, ...]
    confirmed: tuple[str, ...]
    unconfirmed: tuple[str, ...]
    waiting: tuple[str, ...]


@dataclass(frozen=True, slots=True, repr=False)
class _KeyFile:
    """One key file, open and held; its old content is in no representation."""

    path: Path
    descriptor: int
    content: bytes
    private: bool

    @property
    def key(self) -> bytes:
        return self.content.strip()


def rotate_key(
    name: str, ctx: Context, *, on_wait: Callable[[str], None] = lambda _job: None
) -> Rotation:
    """Give every live job of an endpoint one new key, and wait until the old one opens none.

    The key is replaced in its file, whose inode stays: that is what a container has mounted. The
    engine's guard looks at the file once a second; on a shared file system the node may see the
    change up to a minute later.

    Args:
        name: endpoint, unique prefix or job id.
        ctx: the outside.
        on_wait: told which job is asked whether it takes the new key.

    Raises:
        HpcvlmError: ``endpoint-not-ready`` when all of its jobs are over; ``key-missing``,
            ``key-unwritable`` or ``key-in-change`` before anything was changed;
            ``key-not-taken`` when a job goes on taking the old key.
    """
    endpoint = find_record(ctx.settings.jobs, name).shown_name
    rows = _live(endpoint, ctx)
    with ExitStack() as held:
        files = [held.enter_context(_held(Path(row.record.folder) / KEY_NAME)) for row in rows]
        new = secrets.token_urlsafe(256)[: max(FEWEST_CHARACTERS, *(len(f.key) for f in files))]
        for file in files:
            _replace(file, new)
        ready = [(row, file) for row, file in zip(rows, files, strict=True) if row.endpoint]
        answers = [
            (row.record.name, _wait_until_taken(row, file, new, ctx, on_wait))
            for row, file in ready
        ]
    return Rotation(
        endpoint=endpoint,
        key_files=tuple(str(file.path) for file in files),
        repaired=tuple(str(file.path) for file in files if not file.private),
        confirmed=tuple(job for job, trouble in answers if not trouble),
        unconfirmed=(
            *(f"{job}: {trouble}" for job, trouble in answers if trouble),
            *(f"{row.record.name}: it is {describe(row.verdict)}" for row in rows if _serves(row)),
        ),
        waiting=tuple(row.record.name for row in rows if row.endpoint is None and not _serves(row)),
    )


def _serves(row: Row) -> bool:
    """Whether its engine may answer already, though it cannot be asked now."""
    verdict = row.verdict
    if isinstance(verdict, Unknown):
        return row.glance.state is not None
    return isinstance(verdict, Waiting) and verdict.phase in _NOT_ASKED


def _live(endpoint: str, ctx: Context) -> list[Row]:
    """The jobs of an endpoint that run, or may run."""
    records = [r for r in all_records(ctx.settings.jobs) if r.shown_name == endpoint]
    rows = [row for row in look(records, ctx) if not isinstance(row.verdict, (Ended, Failed))]
    if not rows:
        raise HpcvlmError(
            "endpoint-not-ready",
            f"{endpoint} is over: its key opens nothing any more",
            "hpcvlm launch makes a new key for every endpoint",
        )
    return rows


@contextmanager
def _held(path: Path) -> Iterator[_KeyFile]:
    """Open a key file for a change that nobody else makes at the same time."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise HpcvlmError(
            "key-missing",
            f"there is no key file {path}",
            "try again in a moment: a job that runs puts its key back",
        ) from None
    except OSError as error:
        raise _unwritable(path, error.strerror) from None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
            raise _unwritable(path, "it is not a plain file of yours")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise HpcvlmError(
                "key-in-change", f"somebody else is replacing the key in {path}", "try again later"
            ) from None
        except OSError:
            pass  # some network file systems have no locks
        content = os.pread(descriptor, found.st_size + 1, 0)
        private = not found.st_mode & (stat.S_IRWXG | stat.S_IRWXO)
        yield _KeyFile(path, descriptor, content, private)
    finally:
        os.close(descriptor)


def _replace(file: _KeyFile, new: str) -> None:
    """Write the new key over the old one.

    As one write of the whole content: what reads the file meanwhile finds a key of full length.
    """
    tail = file.content[len(file.content.rstrip()) :] or b"\n"
    content = new.encode("ascii") + tail
    try:
        if not file.private:
            os.fchmod(file.descriptor, PRIVATE_FILE)
        os.pwrite(file.descriptor, content, 0)
        os.ftruncate(file.descriptor, len(content))
        os.fsync(file.descriptor)
        _touch(file)
    except OSError as error:
        raise _unwritable(file.path, error.strerror) from None


def _touch(file: _KeyFile) -> None:
    """Mark the file as changed once more.

    The kernel sets the time of change before it puts the new bytes in place: a guard that looked in
    between has seen the new time with the old key.
    """
    now = time.time_ns()
    os.utime(file.descriptor, ns=(now, now))


def _wait_until_taken(
    row: Row, file: _KeyFile, new: str, ctx: Context, on_wait: Callable[[str], None]
) -> str:
    """Wait until a job refuses the old key and takes the new one; gives why it cannot be asked.

    Raises:
        HpcvlmError: ``key-not-taken``.
    """
    from hpcvlm.ops.smoke import target_of

    assert row.endpoint is not None  # noqa: S101 - the caller has looked
    if not is_reachable_here(row.endpoint):
        # Its address would be somebody else's program on this machine, who must not get the key.
        return f"it listens on {row.endpoint.host} alone"
    on_wait(row.record.name)
    target = target_of(row.record, row.endpoint)
    deadline = ctx.clock.now() + TAKEN_WITHIN_S
    while True:
        answers = _answers(target, (new, file.key.decode("ascii", "replace")))
        if answers == (200, 401):
            return ""
        if None in answers:
            return "it cannot be asked from here"
        if ctx.clock.now() > deadline:
            break
        _touch(file)
        ctx.clock.sleep(_ASK_EVERY_S)
    raise HpcvlmError(
        "key-not-taken",
        f"{row.record.name} does not take its new key: it answers {answers[0]} to the new one "
        f"and {answers[1]} to the old one after {TAKEN_WITHIN_S:.0f} s",
        f"hpcvlm stop {row.record.name}, and launch it again",
    )


def _answers(target: Target, keys: Sequence[str]) -> tuple[int | None, ...]:
    """The status of /v1/models for each key; None where nobody answered."""
    from hpcvlm.probe.asker import Asker

    found: list[int | None] = []
    for key in keys:
        with Asker(replace(target, key=key), _ANSWER_TIMEOUT_S) as asker:
            found.append(asker.get("/v1/models").status)
    return tuple(found)


def _unwritable(path: Path, why: str | None) -> HpcvlmError:
    return HpcvlmError(
        "key-unwritable",
        f"cannot replace the key in {path}: {why}",
        f"hpcvlm stop {path.parent.name}, and launch it again",
    )
