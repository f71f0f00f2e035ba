"""The private folders of one session, and the port: taken, and given back however it ends."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hpcvlm.system.files import make_private_folder, read_text, write_atomically

_FIRST_PORT = 18000  # below those that Linux hands out by itself (32768 on)
_PORTS = 10000
_SOCKETS_PREFIX = "hpcvlm-connect-"
# ssh adds up to 18 letters to the name of its control socket, and a path may have 107 bytes.
_LONGEST_TEMPORARY = 60
_MOST_SESSIONS = 100


@dataclass(frozen=True, slots=True)
class Folders:
    """The folders of one session.

    Attributes:
        home: ``connect/NAME`` below hpcvlm's own folder; of a second session ``NAME.2``.
        sockets: a folder with a short path, on a file system of this machine.
    """

    home: Path
    sockets: Path

    @property
    def key(self) -> Path:
        """Where a key that was fetched lies, for as long as the session lasts."""
        return self.home / "key"


@contextmanager
def session_folders(state: Path, name: str) -> Iterator[Folders]:
    """Private folders for one session, removed at its end.

    What a session left that was killed is removed by the next one of the same name.

    Args:
        state: hpcvlm's own folder.
        name: of the endpoint.

    Raises:
        OSError: they cannot be made.
    """
    home, lock = _take(state / "connect", name)
    sockets = None
    try:
        _remove_leftovers(home)
        sockets = Path(tempfile.mkdtemp(prefix=_SOCKETS_PREFIX, dir=_short_temporary()))
        told = json.dumps({"pid": os.getpid(), "sockets": str(sockets)})
        write_atomically(home / "session.json", told)
        yield Folders(home, sockets)
    finally:
        if sockets is not None:
            shutil.rmtree(sockets, ignore_errors=True)
        shutil.rmtree(home, ignore_errors=True)
        os.close(lock)


def _take(parent: Path, name: str) -> tuple[Path, int]:
    """The first folder of that name that nobody holds, and the lock on it."""
    for number in range(1, _MOST_SESSIONS):
        home = parent / (name if number == 1 else f"{name}.{number}")
        make_private_folder(home, exist_ok=True)
        lock = os.open(home / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            continue
        except OSError:
            pass  # a file system without locks: then without
        if _is_still(home / "lock", lock):
            return home, lock
        os.close(lock)
    raise BlockingIOError(f"{_MOST_SESSIONS} sessions of {name}")


def _is_still(path: Path, lock: int) -> bool:
    """Whether the file was not removed, by a session that ended, before it was locked."""
    try:
        return path.stat().st_ino == os.fstat(lock).st_ino
    except OSError:
        return False


def _remove_leftovers(home: Path) -> None:
    text = read_text(home / "session.json")
    try:
        sockets = Path(json.loads(text or "{}")["sockets"])
    except (ValueError, KeyError, TypeError):
        return
    if sockets.name.startswith(_SOCKETS_PREFIX) and not sockets.is_symlink():
        shutil.rmtree(sockets, ignore_errors=True)
    (home / "key").unlink(missing_ok=True)


def _short_temporary() -> str | None:
    """None for the usual folder for temporary files, if sockets can lie there."""
    usual = tempfile.gettempdir()
    return None if len(os.fsencode(usual)) <= _LONGEST_TEMPORARY and "%" not in usual else "/tmp"  # noqa: S108 - mkdtemp makes a private folder in it


def ports_for(name: str) -> range:
    """Ports to try, the same ones for the same name each time, so that addresses stay valid."""
    first = _FIRST_PORT + zlib.crc32(name.encode()) % _PORTS
    return range(first, first + 20)
