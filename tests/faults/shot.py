"""`hpcvlm` that gets a signal at one step of its launch.

    python -m tests.faults.shot STEP SIGNAL ARGUMENTS...

The step is told by what Python is about to do (see sys.addaudithook): make a folder, run a program.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

# Each is given the event, its arguments as text, and how many sbatchs have been started before.
STEPS: dict[str, Callable[[str, str, int], bool]] = {
    "before-the-folder": lambda event, words, _: event == "os.mkdir" and "/new/" in words,
    "before-it-has-its-name": lambda event, words, _: event == "os.rename" and "/jobs/" in words,
    "before-sbatch": lambda event, words, before: _is_sbatch(event, words) and before == 0,
    "before-the-second-record": lambda event, words, before: (
        event == "os.rename" and "record.json" in words and before == 1
    ),
    "between-the-jobs": lambda event, words, before: _is_sbatch(event, words) and before == 1,
}


def _is_sbatch(event: str, words: str) -> bool:
    return event == "subprocess.Popen" and words.startswith("('sbatch'")


def shoot_at(step: str, number: int) -> None:
    """Send ourselves that signal, once, when it comes to that step."""
    reached = STEPS[step]
    before, over = 0, False

    def look(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal before, over
        if over or event not in ("os.mkdir", "os.rename", "subprocess.Popen"):
            return
        words = str(arguments)
        if reached(event, words, before):
            over = True
            Path(os.environ["HPCVLM_TEST_SHOT"]).touch()
            os.kill(os.getpid(), number)
        before += _is_sbatch(event, words)

    sys.addaudithook(look)


if __name__ == "__main__":
    shoot_at(sys.argv[1], signal.Signals[f"SIG{sys.argv[2]}"])
    sys.argv[1:] = sys.argv[3:]
    from hpcvlm.cli.main import main

    main()
