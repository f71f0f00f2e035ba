"""What hpcvlm makes in its own folders, and how it is taken away: whole, or not at all."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hpcvlm.system.files import make_private_folder

TRASH = "trash"
MEDIA = "media"
PAYLOADS = "payloads"

# What hpcvlm, its job and submitit put into a job folder. Anything else is somebody's own.
_JOB_FILES = frozenset(
    (
        "activity.json", "curl.conf", "drain", "ends", "engine.err", "engine.out", "events.log",
        "job.err", "job.out", "job.sbatch", "key", "lease", "plan.json", "probe.json",
        "record.json", "request.json", "state.json", "verdict.json",
    )
)  # fmt: skip
_PAYLOAD_FILES = frozenset(
    ("draining", "files.txt", "hpcvlm_guard.py", "image.json", "key", "text.json")
)
_SESSION_FILES = frozenset(("key", "lock", "session.json"))
# Names that submitit.core.utils.JobPaths gives, such as 4711_0_log.out.
_SUBMITIT = re.compile(r"\d+_(?:submitted\.(?:pkl|sh)|\d+_(?:log\.(?:out|err)|result\.pkl))")
# What an engine that was started again said before: engine.err.1
_EARLIER_LOG = re.compile(r"engine\.(?:out|err)\.\d+")
# What NFS keeps of a file that is deleted while somebody has it open (nfs(5), "silly rename").
_STILL_OPEN = re.compile(r"\.nfs[0-9a-f]+")
# What stands before and after the name of a file that is being written: .state.json.new by the
# job, .record.json.abcd1234 by hpcvlm.system.files.write_atomically.
_UNFINISHED = re.compile(r"\.(?P<name>.+)\.(?:new|[a-z0-9_]{8})")
_CLOCK = re.compile(r"\.clock\.[a-z0-9_]{8}")
_TEMPLATE = re.compile(r"[0-9a-f]{40}")
_COMPILED = re.compile(r"hpcvlm_guard\.[\w.-]+\.pyc(?:\.\d+)?")


@dataclass(frozen=True, slots=True)
class Seen:
    """A file or folder as it was when it was looked at.

    Attributes:
        inode: device and number, which tell it from a later one of the same name.
        modified: seconds since the epoch; of a folder the newest of all that is in it.
        size: bytes, of a folder with all that is in it.
        problem: why it must stay; empty when it may go.
    """

    path: Path
    inode: tuple[int, int]
    modified: float
    size: int
    problem: str = ""


def look_at(path: Path, known: Callable[[str, os.stat_result], bool]) -> Seen:
    """Look at a folder, or a file, without following any link.

    Args:
        path: the folder.
        known: whether hpcvlm makes something of this relative path.

    Raises:
        OSError: it is gone, or not everything in it can be read.
    """
    top = path.lstat()
    inode = (top.st_dev, top.st_ino)
    if stat.S_ISLNK(top.st_mode):
        return Seen(path, inode, top.st_mtime, 0, "it is a link")
    if top.st_uid != os.geteuid():
        return Seen(path, inode, top.st_mtime, 0, "it belongs to somebody else")
    size, modified, foreign = 0, top.st_mtime, []
    for name, status in _below(path) if stat.S_ISDIR(top.st_mode) else [("", top)]:
        if stat.S_ISREG(status.st_mode):
            size += status.st_size
        modified = max(modified, status.st_mtime)
        if name and not known(name, status):
            foreign.append(name)
    return Seen(path, inode, modified, size, _strangers(foreign))


def made_for_a_job(name: str, status: os.stat_result) -> bool:
    """Whether hpcvlm, its job or submitit makes such a thing in a job folder."""
    folder, _, last = name.rpartition("/")
    if stat.S_ISDIR(status.st_mode):
        return name in (MEDIA, PAYLOADS, f"{PAYLOADS}/__pycache__")
    if not stat.S_ISREG(status.st_mode):
        return False
    if folder == "":
        patterns = (_SUBMITIT, _EARLIER_LOG, _STILL_OPEN)
        return whole_name(last) in _JOB_FILES or any(p.fullmatch(last) for p in patterns)
    if folder == PAYLOADS:
        return whole_name(last) in _PAYLOAD_FILES
    return folder == f"{PAYLOADS}/__pycache__" and bool(_COMPILED.fullmatch(last))


def made_for_a_session(name: str, status: os.stat_result) -> bool:
    """Whether `hpcvlm connect` makes such a thing in the folder of a session."""
    return stat.S_ISREG(status.st_mode) and whole_name(name) in _SESSION_FILES


def made_here(name: str, status: os.stat_result) -> bool:
    """Whether it may have been in anything that is moved to the trash."""
    return made_for_a_job(name, status) or made_for_a_session(name, status)


def is_clock(name: str) -> bool:
    """Whether a look at the clock of the file system gives such a name to its file."""
    return bool(_CLOCK.fullmatch(name))


def whole_name(name: str) -> str:
    """``state.json`` of ``.state.json.new``, which was being written when its writer died."""
    match = _UNFINISHED.fullmatch(name)
    return match["name"] if match is not None else name


def is_template(name: str) -> bool:
    """Whether Jinja2 gives such a name to a compiled template (jinja2.bccache, get_cache_key)."""
    return bool(_TEMPLATE.fullmatch(whole_name(name)))


def throw_away(seen: Seen, state: Path, known: Callable[[str, os.stat_result], bool]) -> str:
    """Move something into the trash, if it is still what was seen, and delete it there.

    The move is one step, so that whatever stops this leaves the folder whole or in the trash,
    where the next cleanup finds it.

    Returns:
        Why it stays; empty when it is gone.

    Raises:
        OSError: it could not be moved or deleted; what was moved is in the trash.
    """
    now = look_at(seen.path, known)
    if now.inode != seen.inode or now.modified > seen.modified:
        return "it has changed meanwhile"
    if now.problem:
        return now.problem
    trash = state / TRASH
    make_private_folder(trash, exist_ok=True)
    place = trash / f"{seen.path.name}.{secrets.token_hex(4)}"
    seen.path.rename(place)
    moved = look_at(place, known)
    if moved.inode != seen.inode or moved.problem:
        # Somebody was faster between the look and the move.
        if not seen.path.exists():
            place.rename(seen.path)
        return "it has changed meanwhile"
    delete(place)
    return ""


def delete(path: Path) -> None:
    """Delete a file, or a folder with all that is in it; links are deleted, not followed.

    Raises:
        OSError: something could not be deleted.
    """
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _strangers(names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"it holds {min(names)}{more}, which hpcvlm did not make"


def _below(top: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Everything below a folder with its relative path; links are shown, not followed.

    Raises:
        OSError: a folder cannot be read.
    """
    waiting = [""]
    while waiting:
        place = waiting.pop()
        with os.scandir(top / place) as entries:
            for entry in entries:
                name = f"{place}{entry.name}"
                status = entry.stat(follow_symlinks=False)
                yield name, status
                if stat.S_ISDIR(status.st_mode):
                    waiting.append(f"{name}/")
