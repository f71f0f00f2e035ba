"""Reads vLLM's log: how far the weights are, and what it says about its own end.

vLLM's own records go to stdout, uvicorn's and the final traceback to stderr; the prefix before a
message changed several times, so only messages are matched.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

_LONGEST_LINE = 400
_LONGEST_READ = 2000  # of one line of the log; what matters stands at its beginning
_LONGEST_MESSAGE = 8  # lines of one message that are read
_SHORTEST_ECHO = 20  # a shorter text within another one says nothing

_SHARDS = re.compile(r"checkpoint shards:\s+(\d+)% Completed \| (\d+)/(\d+)")

# "(EngineCore_DP0 pid=27) ERROR 11-21 04:05:40 [core.py:15] text" and its older and newer forms.
_PREFIX = re.compile(
    r"(?P<process>\([\w-]+(?: [\w-]+=[^\s)]+)+\) ?|\[rank\d+\]: ?)?"
    r"(?P<record>(?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL) "
    r"\d\d-\d\d \d\d:\d\d:\d\d\S* (?:\[[^\]]+\]|[\w.]+:\d+\]) ?)?"
)
# With what turns the direction of writing: nothing of it may reach the terminal of a reader.
_CONTROL = re.compile(
    r"\x1b\[[0-9;?]*[A-Za-z]"
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]"
)
_AFTER_BAR = re.compile(r"(?<=\])(?=slurmstepd\S*: error)")  # a progress bar ends without newline
_ROUTINE_LEVELS = frozenset({"DEBUG", "INFO", "WARNING"})

_TRACEBACK = "Traceback (most recent call last):"
_LINK = re.compile(r"During handling of the above exception|The above exception was the direct")
_FRAME = re.compile(r'\s+File "|[\s|+]*[\^~]+\s*$')
_NOISE = re.compile(
    r"resource_tracker|^nanobind: | - leaked |^ - \.\.\. skipped"
    r"|(?:Future|Syntax|Deprecation)Warning"
    r"|^\[?W\d{3,4} |^(?:INFO|DEBUG)\s*:|\d+%[^%]*\d+/\d+ \[|^Retrying in |^Process [\w-]+:$"
)
_EXCEPTION = re.compile(r"[A-Za-z_][\w.]*(?:Error|Exception|Exit|Interrupt)(?:: |$)")
_BARE = re.compile(r"[A-Za-z_][\w.]*")
_NAMED = re.compile(r"[A-Za-z_][\w.]*(?:: |:?$)")  # what a traceback ends with
_LAST_WORDS = re.compile(
    r"^(?:FATAL|ERROR|CRITICAL)\s*:|^slurmstepd\S*: error|^srun: error|\berror: |^\[E\d"
    r"|CUDA initialization"
    r"|Fatal Python error|^terminate called|\bKilled\b|Bus error|Segmentation fault|Segfault"
    r"|command not found|cannot open shared object|No module named|GLIBC_[\d.]+' not found"
    r"|No space left on device|[Qq]uota exceeded"
)
# What follows from another failure.
_CONSEQUENCE = re.compile(
    r"Engine core initialization failed|Engine process failed to start|EngineDeadError"
    r"|EngineCore (?:failed to start|encountered)|EngineCore hit an exception"
    r"|WorkerProc (?:failed to start|hit an exception|initialization failed)"
    r"|Error raised in subprocess|returned non-zero exit status"
    r"|Worker failed with error|Worker proc \S+ died|Engine core proc \S+ died"
    r"|output_handler failed|Invocation of \w+ method failed|KeyboardInterrupt|CancelledError"
    r"|\bKilled\b|Exited with exit code|CANCELLED (?!.*DUE TO)"
)

_PYDANTIC = re.compile(r"(validation errors? for \w+) (?=Value error)")
_PYDANTIC_TAIL = re.compile(
    r"\s*\[type=\w+, input_value=.*?input_type=\w+\]|\s*For further information visit \S+"
    r"|\s*For more information check: \S+"
)
_RETRY = re.compile(r",? retrying \d+ of \d+")
_HEAD = re.compile(r"[A-Za-z_][\w.]*: (?:\d+ validation errors? for \w+: Value error, )?")


class Weight(IntEnum):
    """How much a statement says about why the engine ended; less is more."""

    CAUSE = 0
    RECORD = 1
    CONSEQUENCE = 2
    REMARK = 3


@dataclass(frozen=True, slots=True)
class Statement:
    """One message of a log, its lines joined, without prefix.

    Attributes:
        text: the message.
        weight: how much it says about the end.
        line: number of its first line in its text, from 1.
        log: which of the texts it is from, from 0.
    """

    text: str
    weight: Weight
    line: int = 0
    log: int = 0


@dataclass(frozen=True, slots=True)
class _Line:
    origin: str
    process: str
    level: str
    body: str
    number: int


def shard_progress(log: str) -> tuple[int, int] | None:
    """How many weight files are loaded, of how many; None when the log does not say yet."""
    found = _SHARDS.findall(log)
    if not found:
        return None
    _, done, total = found[-1]
    return int(done), int(total)


def telling_lines(stdout: str, stderr: str, most: int = 6) -> list[str]:
    """The lines that say why the engine ended, the root cause first.

    An engine process's exception comes before the server's own, which only reports that the
    engine is gone. Of exceptions that were raised from one another the outermost comes first: it
    is the one that was worded for a reader. When no line looks like an error, the last lines are
    given.
    """
    return [_cut(each.text) for each in telling((stdout, stderr), most)]


def telling(logs: Sequence[str], most: int = 6) -> list[Statement]:
    """As `telling_lines`, with the place of each.

    Args:
        logs: texts of logs, that of the engine's standard output first.
        most: how many are given.
    """
    found = statements(*logs)
    causes = [each for each in found if each.weight <= Weight.RECORD]
    chosen = causes or [each for each in found if each.weight == Weight.CONSEQUENCE]
    if chosen:
        return distinct(sorted(chosen, key=lambda each: each.weight), most)
    lines = [(number, line) for number, text in enumerate(logs) for line in _lines(text)]
    last: dict[str, Statement] = {}
    for log, line in lines:
        if line.body and not (_NOISE.search(line.body) or line.body[:1].isspace()):
            text = _cut(line.body.strip())
            last.setdefault(text, Statement(text, Weight.REMARK, line.number, log))
    return list(last.values())[-most:]


def statements(*logs: str) -> list[Statement]:
    """Every message that may tell of a failure, in order, one log's after the other's.

    What vLLM itself calls information or a warning is left out, and so are tracebacks' frames.
    """
    return [
        replace(each, log=number) for number, log in enumerate(logs) for each in _statements(log)
    ]


def distinct(found: Iterable[Statement], most: int) -> list[Statement]:
    """The first statements that do not merely repeat one another, cut to a readable length."""
    kept: list[Statement] = []
    for each in found:
        if not any(_echoes(each.text, other.text) for other in kept):
            kept.append(each)
            if len(kept) == most:
                break
    return [replace(each, text=_cut(each.text)) for each in kept]


def _statements(log: str) -> Iterator[Statement]:
    """One stream's statements; processes that write at the same time are read apart."""
    by_process: dict[str, list[tuple[int, _Line]]] = {}
    for number, line in enumerate(_lines(log)):
        by_process.setdefault(line.process, []).append((number, line))
    chains: list[tuple[int, list[Statement]]] = []
    for numbered in by_process.values():
        numbers = [number for number, _ in numbered]
        for index, chain in _chains([line for _, line in numbered]):
            chains.append((numbers[index], chain))
    for _, chain in sorted(chains, key=lambda pair: pair[0]):
        yield from reversed(chain)


def _chains(lines: Sequence[_Line]) -> list[tuple[int, list[Statement]]]:
    """Statements of one process, those raised from one another together, by first line."""
    chains: list[tuple[int, list[Statement]]] = []
    last: list[Statement] = []  # the chain of the last exception
    linked = raised = False
    index = 0
    while index < len(lines):
        start, line = index, lines[index]
        index += 1
        if line.body.endswith(_TRACEBACK):
            raised = True
        elif _LINK.match(line.body):
            linked = True
        elif _says_something(line):
            exception = (_NAMED if raised else _EXCEPTION).match(line.body) is not None
            text, index = _message(lines, start)
            if exception and raised and _BARE.fullmatch(text):
                text += _raised_by(lines, start)
            weight = _weight(text, exception=exception, record=_begins_record(lines, start))
            chain = last if exception and linked else []
            if not chain:
                chains.append((start, chain))
            chain.append(Statement(text, weight, line.number))
            if exception:
                last, linked, raised = chain, False, False
    return chains


def _raised_by(lines: Sequence[_Line], start: int) -> str:
    """The code that an exception without words came from; it stands above it, between frames."""
    for line in reversed(lines[max(0, start - 2) : start]):
        if line.body[:1].isspace() and not _FRAME.match(line.body):
            return f": {line.body.strip()}"
    return ""


def _begins_record(lines: Sequence[_Line], start: int) -> bool:
    """Whether a line is the first of a log record; a later paragraph only goes on with it."""
    line, before = lines[start], lines[start - 1] if start else None
    goes_on = before is not None and before.origin == line.origin and not before.body.strip()
    return bool(line.level) and not goes_on


def _says_something(line: _Line) -> bool:
    """Neither routine nor a traceback's frame nor empty."""
    return (
        bool(line.body.strip())
        and not line.body[0].isspace()
        and line.level not in _ROUTINE_LEVELS
        and not _NOISE.search(line.body)
    )


def _weight(text: str, *, exception: bool, record: bool) -> Weight:
    if _CONSEQUENCE.search(text):
        return Weight.CONSEQUENCE
    if exception or _LAST_WORDS.search(text):
        return Weight.CAUSE
    return Weight.RECORD if record else Weight.REMARK


def _message(lines: Sequence[_Line], start: int) -> tuple[str, int]:
    """The message that begins at a line, joined, and the index after it.

    Only an exception and a record go on over several lines, up to an empty one.
    """
    first = lines[start]
    end = start + 1
    if first.level or _NAMED.match(first.body):
        while end < len(lines) and end - start < _LONGEST_MESSAGE and _goes_on(first, lines[end]):
            end += 1
    text = " ".join(line.body.strip() for line in lines[start:end])
    text = _PYDANTIC_TAIL.sub("", text)
    return _RETRY.sub("", _PYDANTIC.sub(r"\1: ", text)).strip(), end


def _goes_on(first: _Line, line: _Line) -> bool:
    body = line.body
    return (
        line.origin == first.origin
        and bool(body.strip())
        and not body.endswith(_TRACEBACK)
        and not any(pattern.match(body) for pattern in (_LINK, _FRAME, _EXCEPTION))
        and not _NOISE.search(body)
        and (body[0].isspace() or not _LAST_WORDS.search(body))
    )


def _lines(log: str) -> Iterator[_Line]:
    """The log's lines, their prefix taken off, their indentation kept.

    What a progress bar wrote over counts as a line of its own, with the number of the whole.
    """
    for number, whole in enumerate(log.split("\n"), start=1):
        for raw in _AFTER_BAR.sub("\r", whole).split("\r"):
            line = _CONTROL.sub("", raw[:_LONGEST_READ])
            prefix = _PREFIX.match(line)
            end = prefix.end() if prefix else 0
            parts = prefix.groupdict() if prefix else {}
            yield _Line(
                origin=line[:end],
                process=parts.get("process") or "",
                level=parts.get("level") or "",
                body=line[end:].rstrip(),
                number=number,
            )


def _echoes(text: str, other: str) -> bool:
    """Whether one of two texts is within the other, apart from the exceptions' names."""
    cores = [_HEAD.sub("", each, count=1) for each in (text, other)]
    return cores[0] in other or (len(cores[1]) >= _SHORTEST_ECHO and cores[1] in text)


def _cut(text: str) -> str:
    if len(text) <= _LONGEST_LINE:
        return text
    return text[: _LONGEST_LINE - 1].rstrip() + "…"
