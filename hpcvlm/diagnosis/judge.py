"""Evidence and signatures to a diagnosis."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from hpcvlm.diagnosis.model import UNKNOWN, Diagnosis, Evidence, Log, Quote, Signature
from hpcvlm.diagnosis.remedies import computed, in_your_words
from hpcvlm.engines.vllm_log import Statement, Weight, distinct, statements, telling

_MOST_EVIDENCE = 3
_MOST_TELLING = 6
_LAST_EVENTS = 2
_LONGEST_VALUE = 160
_LONGEST_QUOTE = 400
_MOST_SEARCHED = 4000  # of one message; what matters stands at its beginning
# What the engine says when it begins to serve; what it says after that tells why it stopped.
_SERVING = re.compile(r"Application startup complete|Starting vLLM (?:API )?server")
_ENGINE_LOGS = ("engine.out", "engine.err")
_LAST_LINES = 1000  # of an engine that served; older complaints were about requests


class Said(NamedTuple):
    """Something that a pattern may match, and where it stands."""

    text: str
    quote: Quote
    statement: Statement | None = None


Found = tuple[Signature, list[tuple[Said, re.Match[str]]]]


def diagnose(evidence: Evidence, signatures: Sequence[Signature]) -> Diagnosis:
    """Why a job failed or waits.

    Args:
        evidence: everything that was found.
        signatures: of `read_signatures`; the first one that fits is the answer.
    """
    return conclude(find(evidence, signatures), evidence)


def find(evidence: Evidence, signatures: Sequence[Signature]) -> Found | None:
    """The first signature that fits, and what it fits; None when none does."""
    said = _said(evidence)
    told = any(e.statement and e.statement.weight <= Weight.RECORD for e in said["patterns"])
    serving = _served(evidence)
    for signature in signatures:
        if (signature.alone and told) or (signature.start_only and serving):
            continue
        if found := list(_matches(signature, said)):
            return signature, found
    return None


def conclude(found: Found | None, evidence: Evidence) -> Diagnosis:
    """The diagnosis of what was found; the evidence may have grown since, by what it computes with.

    Args:
        found: of `find`.
        evidence: that was looked at.
    """
    if found is None:
        return _unknown(evidence)
    signature, places = found
    groups: dict[str, str] = {}
    for _, match in places:
        for name, value in match.groupdict().items():
            groups.setdefault(name, "")
            groups[name] = groups[name] or _value(value)
    plan = evidence.plan
    planned = {"image": plan.image, "snapshot": plan.snapshot, "cache": plan.cache}
    values = _Values({**planned, **{name: said for name, said in groups.items() if said}})
    said = computed(signature.id, groups, evidence)
    cause = said.cause or signature.cause.format_map(values).rstrip(" :")
    remedy = said.remedy or signature.remedy.format_map(values).rstrip(" :")
    return Diagnosis(
        signature.id,
        cause + said.more,
        in_your_words(remedy, evidence.plan),
        _quotes([each for each, _ in places]),
        evidence.tried,
    )


class _Values(dict[str, str]):
    """What the log did not name leaves no gap."""

    def __missing__(self, key: str) -> str:
        return ""


def _unknown(evidence: Evidence) -> Diagnosis:
    logs = tuple(_part(log, evidence) for log in evidence.logs)
    last = telling([log.text for log in logs], _MOST_TELLING)
    quotes = tuple(_quote(each, logs) for each in last)
    quotes += _last_events(evidence.events)
    if evidence.verdict:
        quotes = (*quotes, Quote("verdict", 0, evidence.verdict))
    follow = "; the last telling lines follow" if last else ", and its logs say nothing"
    return Diagnosis(UNKNOWN, f"the cause is unknown{follow}", "", quotes, evidence.tried)


def _last_events(events: Log | None) -> tuple[Quote, ...]:
    if events is None:
        return ()
    lines = [(n, line) for n, line in enumerate(events.text.splitlines()) if line.strip()]
    return tuple(
        Quote(events.file, events.first_line + n if events.first_line else 0, _cut(line))
        for n, line in lines[-_LAST_EVENTS:]
    )


def _said(evidence: Evidence) -> dict[str, list[Said]]:
    """What each kind of pattern is held against."""
    logs = tuple(_part(log, evidence) for log in evidence.logs)
    found = sorted(statements(*(log.text for log in logs)), key=lambda each: each.weight)
    once = {each.text: each for each in reversed(found)}
    ordered = [each for each in found if once[each.text] is each]
    slurm = evidence.slurm
    ended = f"{slurm.state} exit={slurm.exit_code} signal={slurm.signal}" if slurm.state else ""
    return {
        "patterns": [Said(each.text, _quote(each, logs), each) for each in ordered],
        "answers": [Said(log.text, _whole(log)) for log in evidence.answers],
        "reasons": _one(evidence.reason, "state.json", evidence.verdict or evidence.reason),
        "slurm": _one(ended, "sacct", slurm.line or ended),
        "pending": _one(evidence.pending, "squeue", evidence.pending),
        "refusals": [
            Said(line, Quote("sbatch", 0, line)) for line in evidence.refusal.splitlines()
        ],
    }


def _one(text: str, file: str, quoted: str) -> list[Said]:
    return [Said(text, Quote(file, 0, quoted))] if text else []


def _served(evidence: Evidence) -> bool:
    """Whether the engine whose end this is had served; one that was started again may not have."""
    latest = [log for log in evidence.logs if log.file in _ENGINE_LOGS]
    return evidence.was_ready and any(_SERVING.search(log.text) for log in latest)


def _part(log: Log, evidence: Evidence) -> Log:
    """Of an engine that has served only what it said afterwards, and lately."""
    if not evidence.was_ready:
        return log
    begun = 0
    for match in _SERVING.finditer(log.text):
        begun = match.end()
    lines = log.text[begun:].split("\n")
    skipped = log.text.count("\n", 0, begun) + max(0, len(lines) - _LAST_LINES)
    first = log.first_line + skipped if log.first_line else 0
    return Log(log.file, "\n".join(lines[-_LAST_LINES:]), first)


def _matches(
    signature: Signature, said: Mapping[str, Sequence[Said]]
) -> Iterable[tuple[Said, re.Match[str]]]:
    for kind, found in said.items():
        for pattern in getattr(signature, kind):
            for each in found:
                if match := pattern.search(each.text[:_MOST_SEARCHED]):
                    yield each, match


def _quotes(found: Sequence[Said]) -> tuple[Quote, ...]:
    """A few of the places, those that repeat one another left out."""
    place = {each.statement: each.quote for each in found if each.statement is not None}
    kept = distinct(place, _MOST_EVIDENCE)
    by_line = {(each.log, each.line): quote for each, quote in place.items()}
    logs = [by_line[each.log, each.line] for each in kept]
    others = [each.quote for each in found if each.statement is None]
    return tuple(dict.fromkeys([*logs, *others]))[:_MOST_EVIDENCE]


def _quote(statement: Statement, logs: Sequence[Log]) -> Quote:
    log = logs[statement.log]
    line = log.first_line + statement.line - 1 if log.first_line else 0
    return Quote(log.file, line, _cut(statement.text))


def _whole(log: Log) -> Quote:
    return Quote(log.file, 0, _cut(" ".join(log.text.split())))


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_QUOTE else text[: _LONGEST_QUOTE - 1].rstrip() + "…"


def _value(text: str | None) -> str:
    """A group as it may stand in a sentence."""
    clean = " ".join((text or "").split()).rstrip(".,;:")
    return clean if len(clean) <= _LONGEST_VALUE else clean[: _LONGEST_VALUE - 1].rstrip() + "…"
