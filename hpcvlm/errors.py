"""The one error type that users see, and the exit codes of the command line."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What the process tells its caller; documented in docs/reference/exit-codes.md."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    REFUSED = 4
    START_FAILED = 5
    TIMED_OUT = 6
    PROBE_FAILED = 7
    INTERRUPTED = 130


class HpcvlmError(Exception):
    """A failure that a user can act on: what is wrong, and what to type next.

    Args:
        code: stable identifier, such as ``model-unknown``; `hpcvlm.cli.errors` maps it to an
            exit code.
        sentence: what is wrong, naming the file, line, key or flag.
        remedy: what to do or type next; empty when there is nothing to suggest.
        details: further lines, such as another program's own words.
    """

    def __init__(
        self, code: str, sentence: str, remedy: str = "", details: tuple[str, ...] = ()
    ) -> None:
        super().__init__(sentence)
        self.code = code
        self.sentence = sentence
        self.remedy = remedy
        self.details = details
        for line in (*details, *((f"try: {remedy}",) if remedy else ())):
            self.add_note(line)  # shown where it ends a program that uses the Python API

    def __reduce__(self) -> tuple[type[HpcvlmError], tuple[str, str, str, tuple[str, ...]]]:
        """A worker process hands it back whole."""
        return HpcvlmError, (self.code, self.sentence, self.remedy, self.details)
