"""The lock file: the snapshots that somebody answers for, in a form that is reviewed like code.

One file of a site, or of a user, in YAML; an entry is a `hpcvlm.snapshots.model.Approval`. It is
always written the same way, so that a diff shows what was changed and nothing else.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

# At run time, too: the types of a schema are read from this module.
from typing import Annotated, Literal

from hpcvlm.errors import HpcvlmError
from hpcvlm.site.schema import SiteSpec
from hpcvlm.snapshots.model import Approval
from hpcvlm.system.files import write_atomically
from hpcvlm.system.settings import Settings
from hpcvlm.yamlfile.check import build, read_mapping
from hpcvlm.yamlfile.schema import Rule, Section, about
from hpcvlm.yamlfile.text import KeyPath, file_error, line_of, parse_value

FILE_NAME = "snapshots.lock.yaml"

_MODE = 0o644  # a policy that every user's launch reads
_WAIT_S = 30.0
_POLL_S = 0.05
_PLAIN = re.compile(r"[A-Za-z](?:[A-Za-z0-9._:/+-]*[A-Za-z0-9])?")
_WORDS = ("repo", "manifest", "licence", "by")
_HEADER = """\
# Snapshots that somebody answers for. Written by `hpcvlm snapshots pin` and `unpin`; may be edited.
# Comments are lost when it is written again: words about an entry belong into its `why`.
"""
# Where flock does not work, such as on some network file systems.
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)

Commit = Annotated[
    str, Rule("a commit of 40 hexadecimal digits, in quotes", pattern=r"[0-9a-f]{40}")
]
Digest = Annotated[
    str,
    Rule(
        "the digest of a manifest, 'sha256:' and 64 hexadecimal digits; '' when unverified",
        pattern=r"(?:sha256:[0-9a-f]{64})?",
    ),
]
Repository = Annotated[
    str,
    Rule(
        "a Hugging Face repository, owner/name",
        pattern=r"[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9_.-]+",
    ),
]
Day = Annotated[str, Rule("a day as 'YYYY-MM-DD'", pattern=r"[0-9]{4}-[0-9]{2}-[0-9]{2}")]


class LockEntry(Section):
    """One approved snapshot."""

    repo: Repository = about("of the snapshot")
    commit: Commit = about("of the snapshot")
    manifest: Digest = about("digest of its manifest; empty when it was pinned unverified")
    licence: str = about("as its model card says it", default="")
    by: str = about("who pinned it")
    date: Day = about("when it was pinned")
    why: str = about("in the words of whoever pinned it", default="")


class LockFile(Section):
    """Snapshots that somebody answers for."""

    schema_version: Literal[1] = about("version of this schema", default=1, written="schema")
    snapshots: tuple[LockEntry, ...] = about("the approved ones", default=())


def lock_path(site: SiteSpec, settings: Settings) -> Path:
    """The lock file of this site: ``store.lock_file``, else one beside the user's site.yaml."""
    if site.store.lock_file:
        return Path(site.store.lock_file).expanduser().absolute()
    return settings.user_config / FILE_NAME


def read_lock(path: Path) -> tuple[Approval, ...]:
    """The entries of a lock file, by repository and commit; none where there is no file.

    Raises:
        HpcvlmError: ``file-unreadable``, or ``file-invalid`` with the line of every problem.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise HpcvlmError(
            "file-unreadable",
            f"{path}: the lock file cannot be read ({why})",
            "store.lock_file in the site's file says which file it is",
        ) from None
    return parse_lock(text, str(path))


def parse_lock(text: str, path: str) -> tuple[Approval, ...]:
    """The entries of a lock file's text.

    Raises:
        HpcvlmError: ``file-invalid``, with the line of every problem.
    """

    def locate(key: KeyPath) -> str:
        return f"{path}:{line_of(text, key) or 1}"

    made = build(LockFile, read_mapping(text, path), locate, path)
    seen: dict[tuple[str, str], int] = {}
    for number, entry in enumerate(made.snapshots):
        first = seen.setdefault((entry.repo.casefold(), entry.commit), number)
        if first != number:
            line = line_of(text, ("snapshots", number))
            other = line_of(text, ("snapshots", first))
            problem = f"{entry.repo}@{entry.commit} stands here a second time, first in line"
            raise file_error(path, line, f"{problem} {other}", "take one of the two out")
    return _sorted(_approval(entry) for entry in made.snapshots)


def lock_text(approvals: Iterable[Approval]) -> str:
    """A lock file's text: sorted, one block an entry, every entry with the same keys."""
    entries = _sorted(approvals)
    if not entries:
        return f"{_HEADER}schema: 1\nsnapshots: []\n"
    blocks = [
        "\n".join(
            f"{'  - ' if number == 0 else '    '}{key}: {_scalar(key, value)}"
            for number, (key, value) in enumerate(entry._asdict().items())
        )
        for entry in entries
    ]
    return f"{_HEADER}schema: 1\nsnapshots:\n" + "\n".join(blocks) + "\n"


def write_lock(path: Path, approvals: Iterable[Approval]) -> None:
    """Replace a lock file in one step; it keeps its mode. `update_lock` changes one safely.

    Raises:
        HpcvlmError: ``lock-unwritable``; or ``file-invalid`` for entries that could not be read
            again. The old file is then as it was.
    """
    text = lock_text(approvals)
    parse_lock(text, str(path))
    real = Path(os.path.realpath(path))  # a link into a checkout stays a link
    try:
        real.parent.mkdir(parents=True, exist_ok=True)
        mode = stat.S_IMODE(real.stat().st_mode) if real.exists() else _MODE
        write_atomically(real, text, mode)
    except OSError as error:
        raise _unwritable(path, error) from None


def update_lock(
    path: Path, change: Callable[[tuple[Approval, ...]], Sequence[Approval]]
) -> tuple[Approval, ...]:
    """Change a lock file so that of two who do it at once neither loses an entry.

    Args:
        path: the lock file.
        change: from the entries to the new ones; called while no other hpcvlm changes the file.

    Returns:
        The new entries. The file is not touched where they are the old ones.

    Raises:
        HpcvlmError: ``file-invalid``, ``file-unreadable``, ``lock-unwritable``, ``lock-busy``, and
            what `change` raises.
    """
    with _alone(path):
        before = read_lock(path)
        after = _sorted(change(before))
        if after != before:
            write_lock(path, after)
    return after


def approval_of(approvals: Iterable[Approval], repo: str, commit: str) -> Approval | None:
    """The entry of one snapshot; repositories' names differ by more than their case."""
    for entry in approvals:
        if entry.commit == commit and entry.repo.casefold() == repo.casefold():
            return entry
    return None


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold the lock of a lock file: a file beside it, since the file itself is replaced."""
    real = Path(os.path.realpath(path))
    beside = real.with_name(f".{real.name}.held")
    try:
        real.parent.mkdir(parents=True, exist_ok=True)
        # Whoever may write into the folder may take the lock, too.
        writable = stat.S_IMODE(real.parent.stat().st_mode) & 0o222 | 0o444
        descriptor = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, writable)
        with suppress(OSError):  # it is not ours; the umask does not count for ours
            os.fchmod(descriptor, writable)
    except OSError as error:
        raise _unwritable(path, error) from None
    try:
        _wait_for(descriptor, beside)
        yield
    finally:
        os.close(descriptor)


def _wait_for(descriptor: int, beside: Path) -> None:
    give_up = time.monotonic() + _WAIT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > give_up:
                raise HpcvlmError(
                    "lock-busy",
                    f"{beside}: another hpcvlm has changed the lock file for {_WAIT_S:.0f} s",
                    f"fuser {beside} shows which process; then try again",
                ) from None
            time.sleep(_POLL_S)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return
            raise _unwritable(beside, error) from None
        else:
            return


def _unwritable(path: Path, error: OSError) -> HpcvlmError:
    return HpcvlmError(
        "lock-unwritable",
        f"{path}: the lock file cannot be written ({error.strerror or error})",
        "ask who answers for it; store.lock_file in a site file of your own names another",
    )


def _sorted(approvals: Iterable[Approval]) -> tuple[Approval, ...]:
    return tuple(sorted(approvals, key=lambda entry: (entry.repo.casefold(), entry)))


def _approval(entry: LockEntry) -> Approval:
    return Approval(
        repo=entry.repo,
        commit=entry.commit,
        manifest=entry.manifest,
        licence=entry.licence,
        by=entry.by,
        date=entry.date,
        why=" ".join(entry.why.split()),
    )


def _scalar(key: str, text: str) -> str:
    """A text as YAML, in quotes where it is, or could be read as, more than a plain word."""
    line = "".join(letter if letter.isprintable() else " " for letter in text)
    if key in _WORDS and _PLAIN.fullmatch(line) and parse_value(line) == line:
        return line
    return json.dumps(line, ensure_ascii=False)
