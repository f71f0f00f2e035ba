"""Several downloads at once: the first error ends them all, and so does Ctrl-C."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from hpcvlm.snapshots.pull.fetch import StoppedError

WORKERS = 8  # as huggingface_hub's snapshot_download
_LOOK_S = 0.1
_LAST_WORDS_S = 2.0

Job = Callable[[threading.Event], None]


def run_crew(jobs: Iterable[Job], on_look: Callable[[], None]) -> None:
    """Run jobs in threads, in their order.

    Args:
        jobs: each is given what tells it to stop, and then raises `StoppedError`.
        on_look: called by this thread while they run, and once they are over.

    Raises:
        Exception: the first that a job raised, once no other writes any more.
        KeyboardInterrupt: as soon as the jobs have stopped, or after two seconds.
    """
    waiting: queue.SimpleQueue[Job] = queue.SimpleQueue()
    for job in jobs:
        waiting.put(job)
    stop = threading.Event()
    errors: list[BaseException] = []
    # Daemons: a thread that waits for the network must not keep the process from ending.
    crew = [
        threading.Thread(target=_work, args=(waiting, stop, errors), daemon=True)
        for _ in range(min(WORKERS, waiting.qsize()))
    ]
    try:
        for thread in crew:
            thread.start()
        while alive := [thread for thread in crew if thread.is_alive()]:
            alive[0].join(_LOOK_S)
            on_look()
    except BaseException:
        stop.set()
        for thread in crew:
            thread.join(_LAST_WORDS_S / len(crew))
        raise
    if errors:
        raise errors[0]


def _work(
    waiting: queue.SimpleQueue[Job], stop: threading.Event, errors: list[BaseException]
) -> None:
    while not stop.is_set():
        try:
            waiting.get_nowait()(stop)
        except (queue.Empty, StoppedError):
            return
        except BaseException as error:  # noqa: BLE001 - raised by whoever waits
            errors.append(error)
            stop.set()


@contextmanager
def quiet_hub() -> Iterator[None]:
    """Keep huggingface_hub's own bars and warnings from the terminal."""
    import logging

    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    logger = logging.getLogger("huggingface_hub")
    level, silent = logger.level, are_progress_bars_disabled()
    logger.setLevel(logging.ERROR)
    disable_progress_bars()
    try:
        yield
    finally:
        logger.setLevel(level)
        if not silent:
            enable_progress_bars()
