"""A thread that stays with an endpoint for as long as the program does that launched it.

It touches the file ``lease`` in the job folder, so that the job ends itself when this process dies
in whatever way, and it tells when the end is near.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from hpcvlm.ops.api_events import EndpointEvent, OnEvent
from hpcvlm.ops.extend import ENDS_NAME
from hpcvlm.ops.names import family
from hpcvlm.submit.record import JobRecord
from hpcvlm.system.clock import Clock
from hpcvlm.system.files import PRIVATE_FILE, read_text
from hpcvlm.watch.expiry import WARN_BEFORE_S
from hpcvlm.watch.state import JobState, read_state

_log = logging.getLogger("hpcvlm")
LEASE_NAME = "lease"
# Touches within the lease: three may be lost, to a file system that is slow.
_TOUCHES = 4
_LONGEST_STEP_S = 15.0
_MINUTE_S = 60.0


class Keeper:
    """Keeps one endpoint alive and watches its clock.

    Args:
        record: the first job of the endpoint.
        lease_s: seconds without a touch after which the job ends itself; None to touch nothing.
        clock: tells the time.
        tell: called, in this thread, for each event.
    """

    def __init__(
        self, record: JobRecord, lease_s: float | None, clock: Clock, tell: OnEvent
    ) -> None:
        self._record = record
        self._lease_s = lease_s
        self._clock = clock
        self._tell = tell
        self._over = threading.Event()
        self._warned: set[tuple[float, int]] = set()
        self._lease_trouble = False
        self._missing = 0
        self._thread = threading.Thread(
            target=self._run, name=f"hpcvlm {record.shown_name}", daemon=True
        )

    @property
    def step_s(self) -> float:
        """Seconds between two looks."""
        if self._lease_s is None:
            return _LONGEST_STEP_S
        return min(_LONGEST_STEP_S, self._lease_s / _TOUCHES)

    def start(self) -> None:
        """Begin, with a first touch before this returns."""
        self.look()
        self._thread.start()

    def stop(self) -> None:
        """End it. The lease runs out from now on."""
        self._over.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout=self.step_s)

    def look(self) -> None:
        """Touch the lease and tell what is to be told, once."""
        folders = chain_folders(self._record)
        if not folders:
            # A shared file system that is away for a moment looks the same.
            self._missing += 1
            if self._missing > _TOUCHES:
                self._over.set()
                self._say("ended", f"its folder {self._record.folder} is gone")
            return
        self._missing = 0
        if self._lease_s is not None:
            self._touch(folders)
        states = [state for folder in folders if (state := read_state(folder)) is not None]
        if states and len(states) == len(folders) and all(s.phase == "ended" for s in states):
            self._over.set()
            reason = states[-1].reason
            self._say("ended", f"its job has ended ({reason})")
            return
        self._warn(self._ends(folders[-1], states[-1] if states else None))

    def _run(self) -> None:
        while not self._over.wait(self.step_s):
            try:
                self.look()
            except Exception:  # noqa: BLE001 - whatever it is, the job must not end for it
                _log.exception("looking after %s", self._record.shown_name)

    def _touch(self, folders: Sequence[Path]) -> None:
        trouble = None
        for folder in folders:
            try:
                descriptor = os.open(
                    folder / LEASE_NAME, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE
                )
                try:
                    os.utime(descriptor)
                finally:
                    os.close(descriptor)
            except OSError as error:
                trouble = error
        if trouble is not None and not self._lease_trouble:
            words = trouble.strerror or type(trouble).__name__
            self._say(
                "lease-failed",
                f"its lease cannot be touched ({words}); it ends in {self._lease_s:g} s unless "
                "that works again",
            )
        self._lease_trouble = trouble is not None

    def _ends(self, folder: Path, state: JobState | None) -> float | None:
        """When the endpoint ends: its last job, or what `hpcvlm extend` has made of that."""
        if self._record.keep_until is not None:
            return self._record.keep_until
        with suppress(ValueError):
            return float(read_text(folder / ENDS_NAME) or "")
        if state is None:
            return None
        if state.ends is not None:
            return state.ends
        return state.started + self._record.time_limit_s if self._is_local else None

    @property
    def _is_local(self) -> bool:
        return self._record.executor == "local"

    def _warn(self, ends: float | None) -> None:
        """Once for each mark and end; a mark that lies before the beginning is none."""
        if ends is None:
            return
        left = ends - self._clock.now()
        passed = [
            mark for mark in WARN_BEFORE_S if left <= mark < self._record.time_limit_s and left > 0
        ]
        new = [mark for mark in passed if (mark, int(ends)) not in self._warned]
        self._warned.update((mark, int(ends)) for mark in passed)
        if new:
            minutes = max(1, round(left / _MINUTE_S))
            self._say(
                "expiring", f"its time is over in {minutes} minutes; hpcvlm extend asks for more",
                left,
            )  # fmt: skip

    def _say(self, kind: str, text: str, left_s: float | None = None) -> None:
        name = self._record.shown_name
        try:
            self._tell(EndpointEvent(kind, name, f"{name}: {text}", left_s))
        except Exception:  # noqa: BLE001 - of the program's own listener, or a warning that is an error
            _log.exception("telling of %s", name)


def chain_folders(record: JobRecord) -> list[Path]:
    """The folders of all jobs of an endpoint that are there, the first one first."""
    found = family(Path(record.folder).parent / record.shown_name)
    return sorted(found, key=lambda path: (len(path.name), path.name))
