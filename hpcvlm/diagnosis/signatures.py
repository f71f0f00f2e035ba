"""The files of known failures: their schema, and the signatures that they hold.

The order of the files, and of the entries in each, decides: what ends an engine from outside
stands before what the engine says of itself, a particular cause before a general one.
"""

# Without `from __future__ import annotations`: the types are read at run time, and as texts each
# of them would have to be compiled a second time.
import re
import warnings
from collections.abc import Iterable
from typing import Annotated

from hpcvlm.diagnosis.model import Signature
from hpcvlm.yamlfile import validate
from hpcvlm.yamlfile.schema import Rule, Section, about


def _compiles(text: str) -> bool:
    try:
        with warnings.catch_warnings():  # what Python will read otherwise some day is none, either
            warnings.simplefilter("error")
            pattern = re.compile(text)
    except (re.error, OverflowError, RecursionError, Warning):
        return False
    return not pattern.search("")


Pattern = Annotated[
    str, Rule("a regular expression of Python that does not match nothing", accepts=_compiles)
]
Sentence = Annotated[
    str, Rule("a sentence on one line without a full stop", pattern=r"\S.*[^.\s]|\S")
]
Identifier = Annotated[str, Rule("small letters, digits and hyphens", pattern=r"[a-z0-9-]+")]


class Failure(Section):
    """One known failure."""

    id: Identifier = about("stable identifier; several entries may share one")
    patterns: list[Pattern] = about("match a message of a log", default_factory=list)
    answers: list[Pattern] = about(
        "match what the engine answered to the job's own questions", default_factory=list
    )
    reasons: list[Pattern] = about("match the verdict's reason", default_factory=list)
    slurm: list[Pattern] = about("match the state in Slurm's accounts", default_factory=list)
    pending: list[Pattern] = about("match why a job waits", default_factory=list)
    refusals: list[Pattern] = about("match what sbatch says to refuse a job", default_factory=list)
    alone: bool = about(
        "whether it counts only in logs that tell of no cause at all", default=False
    )
    cause: Sentence = about("what went wrong; names the groups of a pattern as {group}")
    remedy: Sentence = about("what to type or change; likewise")
    source: str = about("where the words are from")


class FailureFile(Section):
    """A file of known failures of one kind."""

    title: str = about("what its entries are about", written="about")
    start_only: bool = about(
        "whether these end only starts: of an engine that serves, such words are about a request",
        default=False,
    )
    failures: list[Failure] = about("the most telling first")


def read_signatures(files: Iterable[tuple[str, str]]) -> tuple[Signature, ...]:
    """The signatures of several files, in their order.

    Args:
        files: name and text of each.

    Raises:
        HpcvlmError: ``file-invalid``, with file and line.
    """
    return tuple(
        _signature(entry, file.start_only)
        for file in [validate(FailureFile, text, path) for path, text in files]
        for entry in file.failures
    )


def _signature(entry: Failure, start_only: bool) -> Signature:
    return Signature(
        id=entry.id,
        cause=entry.cause,
        remedy=entry.remedy,
        source=entry.source,
        alone=entry.alone,
        start_only=start_only,
        patterns=_compiled(entry.patterns),
        answers=_compiled(entry.answers),
        reasons=_compiled(entry.reasons),
        slurm=_compiled(entry.slurm),
        pending=_compiled(entry.pending),
        refusals=_compiled(entry.refusals),
    )


def _compiled(patterns: Iterable[str]) -> tuple[re.Pattern[str], ...]:
    return tuple(re.compile(pattern) for pattern in patterns)
