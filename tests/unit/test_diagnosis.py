"""What is said about a failed start, and that nothing is said about a healthy one."""

from __future__ import annotations

import re
import string
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from hpcvlm.diagnosis.judge import diagnose, find
from hpcvlm.diagnosis.model import Diagnosis, Evidence, Log, Signature
from hpcvlm.diagnosis.signatures import read_signatures
from hpcvlm.diagnosis.slurm_job import parse_sacct
from hpcvlm.engines.vllm_log import shard_progress, telling_lines
from hpcvlm.errors import HpcvlmError
from hpcvlm.ops.why import signatures
from hpcvlm.watch.sentences import FAILURES as REASONS

LOGS = Path(__file__).parents[1] / "data" / "logs"
FAILURES = sorted({path.stem for path in (LOGS / "failures").iterdir()})
HEALTHY = sorted({path.stem for path in (LOGS / "healthy").iterdir()})
# Failures that say why on the engine's own streams, in the way of an engine.
OF_ENGINE = sorted({path.stem for path in (LOGS / "failures").glob("*.stdout")})
KNOWN = signatures()


def load(name: str) -> Any:
    return yaml.safe_load((LOGS / name).read_text(encoding="utf-8"))


QUOTED: list[dict[str, Any]] = load("quoted.yaml")
ANSWERS: list[dict[str, Any]] = load("answers.yaml")
TELLING: dict[str, list[str]] = load("telling.yaml")
# log -> (id, part of the cause, part of the remedy)
EXPECTED: dict[str, tuple[str, str, str]] = load("expected.yaml")

# Pending reasons of squeue(1) that cannot be had on the test cluster.
PENDING = {
    "JobHeldAdmin": "held-by-admin",
    "JobHoldMaxRequeue": "held-by-admin",
    "JobLaunchFailure": "launch-failed-requeued",
    "launch failed requeued held": "launch-failed-requeued",
    "PartitionTimeLimit": "partition-time-limit",
    "PartitionNodeLimit": "partition-config",
    "PartitionInactive": "partition-down",
    "ReqNodeNotAvail(Unavailable:gpu[01-04])": "nodes-away",
    "QOSMaxGRESPerUser": "resource-limit",
    "AssocGrpGRES": "resource-limit",
    "MaxGRESPerAccount": "resource-limit",
    "InvalidAccount": "account-invalid",
    "InvalidQOS": "qos-invalid",
    "BadConstraints": "gpus-unsatisfiable",
    "ReservationDeleted": "reservation-invalid",
    "Dependency": "dependency",
    "NewReasonOfTomorrow": "unknown",
}
REFUSALS = {"Job violates accounting/QOS policy (job submit limit)": "resource-limit"}
# (reason, the engine's exit code) -> id
ENDS = {
    "engine-exited exit=137": "killed",
    "engine-exited exit=139": "crashed",
    "engine-exited exit=134": "crashed",
    "engine-exited exit=143": "terminated",
    "engine-exited exit=127": "command-missing",
    "engine-exited exit=0": "engine-core-died",
    "engine-exited exit=1": "unknown",
    "job-failed": "unknown",
    "job-ended": "unknown",
}
SLURM = {"DEADLINE": "deadline", "BOOT_FAIL": "node-failed", "OUT_OF_MEMORY": "out-of-memory"}


@cache
def streams(kind: str, name: str) -> tuple[str, str]:
    folder = LOGS / kind
    return read(folder / f"{name}.stdout"), read(folder / f"{name}.stderr")


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


@cache
def evidence_of(kind: str, name: str) -> Evidence:
    folder = LOGS / kind
    stdout, stderr = streams(kind, name)
    pending = [line for line in read(folder / f"{name}.squeue").splitlines() if "|" in line]
    reason = read(folder / f"{name}.reason").strip()
    return Evidence(
        reason=reason,
        was_ready=bool(reason),
        logs=(Log("engine.out", stdout), Log("engine.err", stderr)),
        slurm=parse_sacct(0, read(folder / f"{name}.sacct")),
        pending=pending[-1].partition("|")[2] if pending else "",
        refusal=read(folder / f"{name}.sbatch"),
    )


def of_streams(stdout: str, stderr: str) -> Diagnosis:
    return diagnose(Evidence(logs=(Log("engine.out", stdout), Log("engine.err", stderr))), KNOWN)


def of_case(case: dict[str, Any]) -> Evidence:
    out, err = case.get("stdout", ""), case.get("stderr", "")
    return Evidence(logs=(Log("engine.out", out), Log("engine.err", err)))


def test_every_failure_has_an_expectation() -> None:
    assert sorted(EXPECTED) == FAILURES


@pytest.mark.parametrize("name", FAILURES)
def test_failure_is_explained(name: str) -> None:
    found = diagnose(evidence_of("failures", name), KNOWN)
    identifier, cause, remedy = EXPECTED[name]
    assert found.id == identifier
    assert cause in found.cause
    assert remedy in found.remedy
    assert found.remedy or not found.known
    assert len(found.evidence) <= 3
    assert found.evidence or not found.known
    for line in (found.cause, found.remedy, *found.lines):
        assert "\n" not in line
        assert "Traceback" not in line
        assert len(line) <= 430


@pytest.mark.parametrize("name", FAILURES)
def test_evidence_names_the_line(name: str) -> None:
    """What is quoted begins on the line that is named, apart from prefixes and paragraphs."""
    found = diagnose(evidence_of("failures", name), KNOWN)
    texts = dict(zip(("engine.out", "engine.err"), streams("failures", name), strict=True))
    for quote in found.evidence:
        if quote.line:
            line = texts[quote.file].split("\n")[quote.line - 1]
            first = " ".join(quote.text.split()[:2])
            assert first.split(" ")[0].rstrip(":") in line


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_log_matches_no_signature(name: str) -> None:
    assert diagnose(evidence_of("healthy", name), KNOWN).id == "unknown"


@pytest.mark.parametrize("case", QUOTED, ids=lambda case: f"{case['id']} {case['source']}")
def test_quoted_line_is_explained(case: dict[str, Any]) -> None:
    found = diagnose(of_case(case), KNOWN)
    assert found.id == case["id"]
    assert case.get("cause", "") in found.cause
    assert case.get("remedy", "") in found.remedy
    assert found.evidence


@pytest.mark.parametrize("case", QUOTED, ids=lambda case: f"{case['id']} {case['source']}")
def test_quoted_line_wins_over_a_healthy_log(case: dict[str, Any]) -> None:
    out, err = streams("healthy", "serve-final")
    found = of_streams(out + case.get("stdout", ""), err + case.get("stderr", ""))
    assert found.id == case["id"]


@pytest.mark.parametrize("case", ANSWERS, ids=lambda case: f"{case['id']} {case['source']}")
def test_answer_is_explained(case: dict[str, Any]) -> None:
    answer = Log("probe.json", f'{{"image": {case["body"]}}}\n', 0)
    found = diagnose(Evidence(reason="image-not-answered", answers=(answer,)), KNOWN)
    assert found.id == case["id"]
    assert case.get("cause", "") in found.cause
    assert case.get("remedy", "") in found.remedy
    assert found.evidence[0].file == "probe.json"


@pytest.mark.parametrize("reason", PENDING)
def test_pending_reason_is_explained(reason: str) -> None:
    assert diagnose(Evidence(pending=f"some words ({reason})"), KNOWN).id == PENDING[reason]


@pytest.mark.parametrize("words", REFUSALS)
def test_refusal_is_explained(words: str) -> None:
    said = f"sbatch: error: Batch job submission failed: {words}"
    assert diagnose(Evidence(refusal=said), KNOWN).id == REFUSALS[words]


@pytest.mark.parametrize("reason", ENDS)
def test_end_of_the_engine_is_explained(reason: str) -> None:
    assert diagnose(Evidence(reason=reason), KNOWN).id == ENDS[reason]


@pytest.mark.parametrize("state", SLURM)
def test_state_of_the_accounts_is_explained(state: str) -> None:
    line = f"7|{state}|0:0||16000M|00:10:00|01:00:00|gpu01|4|1\n"
    assert diagnose(Evidence(slurm=parse_sacct(0, line)), KNOWN).id == SLURM[state]


@pytest.mark.parametrize("reason", sorted(set(REASONS) - {reason.split()[0] for reason in ENDS}))
def test_every_reason_of_a_verdict_has_words(reason: str) -> None:
    found = diagnose(Evidence(reason=reason, verdict="state.json"), KNOWN)
    assert found.known
    assert found.remedy
    assert found.lines == ("state.json: state.json",)


@pytest.mark.parametrize("name", OF_ENGINE)
def test_telling_lines_are_clean(name: str) -> None:
    lines = telling_lines(*streams("failures", name))
    assert len(lines) <= 6
    assert len(set(lines)) == len(lines)
    for line in lines:
        assert line == line.strip()
        assert len(line) <= 400
        for noise in ('File "', "^^^", "Traceback", "resource_tracker", "pid=", "input_value"):
            assert noise not in line
        assert "Engine core initialization failed" not in line
        assert "WorkerProc initialization failed" not in line


@pytest.mark.parametrize("name", sorted(TELLING))
def test_telling_lines_of(name: str) -> None:
    assert telling_lines(*streams("failures", name)) == TELLING[name]


def test_most_telling_lines() -> None:
    stderr = "".join(f"ValueError: number {n}\n" for n in range(9))
    assert telling_lines("", stderr, most=2) == ["ValueError: number 0", "ValueError: number 1"]


def test_long_line_is_cut() -> None:
    (line,) = telling_lines("", "ValueError: " + "x" * 1000)
    assert len(line) == 400
    assert line.endswith("x…")


def test_consequence_is_told_when_there_is_nothing_else() -> None:
    line = "RuntimeError: Engine core initialization failed. See root cause above."
    assert telling_lines("", line) == [line]


def test_last_lines_when_nothing_looks_like_an_error() -> None:
    stdout = "(APIServer pid=1) INFO 11-21 04:26:10 [model.py:733] Resolved architecture: X\n\n"
    stderr = "Loading safetensors checkpoint shards:   0% Completed | 0/1 [00:00<?, ?it/s]\rhello\n"
    assert telling_lines(stdout, stderr) == ["Resolved architecture: X", "hello"]
    assert telling_lines("", "one\ntwo\nthree\n", most=2) == ["two", "three"]
    assert telling_lines("", "") == []


def test_processes_that_write_at_the_same_time_are_read_apart() -> None:
    stdout = (
        "(APIServer pid=6) ERROR 01-01 00:00:00 [b.py:1] only a record\n"
        "(Worker_TP0 pid=7) ERROR 01-01 00:00:00 [a.py:1] Traceback (most recent call last):\n"
        "(Worker_TP1 pid=8) ERROR 01-01 00:00:00 [a.py:1] Traceback (most recent call last):\n"
        '(Worker_TP0 pid=7) ERROR 01-01 00:00:00 [a.py:1]   File "a.py", line 1, in f\n'
        '(Worker_TP1 pid=8) ERROR 01-01 00:00:00 [a.py:1]   File "a.py", line 1, in f\n'
        "(Worker_TP0 pid=7) ERROR 01-01 00:00:00 [a.py:1] pkg.OddlyNamed: no memory here\n"
        "(Worker_TP1 pid=8) ERROR 01-01 00:00:00 [a.py:1] pkg.OddlyNamed: no memory there\n"
    )
    assert telling_lines(stdout, "") == [
        "pkg.OddlyNamed: no memory here",
        "pkg.OddlyNamed: no memory there",
        "only a record",
    ]


def test_the_outermost_of_chained_exceptions_comes_first() -> None:
    stderr = (
        "Traceback (most recent call last):\n"
        '  File "a.py", line 1, in f\n'
        "KeyError: 'inner'\n"
        "\n"
        "During handling of the above exception, another exception occurred:\n"
        "\n"
        "Traceback (most recent call last):\n"
        '  File "a.py", line 3, in f\n'
        "ValueError: worded for a reader\n"
    )
    assert telling_lines("", stderr) == ["ValueError: worded for a reader", "KeyError: 'inner'"]


def test_control_characters_do_not_reach_the_reader() -> None:
    assert telling_lines("", "\x1b[31mValueError: red\x1b[0m\x07\n") == ["ValueError: red"]


def test_braces_and_newlines_of_a_log_do_no_harm() -> None:
    found = of_streams("", "vllm: error: unrecognized arguments: --a={x} --b {0}\n")
    assert found.cause == "this version of vLLM does not know --a={x} --b {0}"


def test_unknown_cause_gives_the_telling_lines_and_where_they_stand() -> None:
    events = Log("events.log", "one\n2026-11-21T10:00:00Z ended engine-exited\n")
    logs = (
        Log("engine.out", ""),
        Log("engine.err", "a\nTraceback (most recent call last):\nW: x\n"),
    )
    found = diagnose(Evidence(logs=logs, events=events, verdict="the job's word"), KNOWN)
    assert found.id == "unknown"
    assert found.cause == "the cause is unknown; the last telling lines follow"
    assert found.remedy == ""
    assert found.lines == (
        "engine.err:3: W: x",
        "events.log:1: one",
        "events.log:2: 2026-11-21T10:00:00Z ended engine-exited",
        "verdict: the job's word",
    )


def test_lines_are_counted_from_where_the_text_begins() -> None:
    tail = Log("engine.err", "x\nMemoryError\n", first_line=5001)
    uncounted = Log("engine.err", "x\nMemoryError\n", first_line=0)
    assert diagnose(Evidence(logs=(tail,)), KNOWN).lines == ("engine.err:5002: MemoryError",)
    assert diagnose(Evidence(logs=(uncounted,)), KNOWN).lines == ("engine.err: MemoryError",)


def test_the_scheduler_wins_over_what_follows_from_it() -> None:
    found = of_streams(
        "(EngineCore pid=1) ERROR 01-01 00:00:00 [core.py:1] EngineCore failed to start.\n",
        "torch.OutOfMemoryError: CUDA out of memory.\n"
        "slurmstepd: error: Detected 1 oom_kill event in StepId=1.0.\n",
    )
    assert found.id == "out-of-memory"


def test_a_log_wins_over_what_the_job_says_of_its_end() -> None:
    logs = (Log("engine.err", "torch.OutOfMemoryError: CUDA out of memory.\n"),)
    assert diagnose(Evidence(reason="start-timeout", logs=logs), KNOWN).id == "gpu-out-of-memory"


def test_of_an_engine_that_served_only_what_came_last_counts() -> None:
    begin = "MemoryError\nINFO:     Application startup complete.\n"
    old = "OSError: [Errno 28] No space left on device\n" + "INFO: fine\n" * 1500
    last = "torch.OutOfMemoryError: CUDA out of memory.\n"
    log = Log("engine.err", begin + old + last)
    found = diagnose(Evidence(logs=(log,), was_ready=True), KNOWN)
    assert found.id == "gpu-out-of-memory"
    assert found.evidence[0].line == 2 + 1501 + 1
    nothing = Log("engine.err", begin + "INFO: fine\n")
    assert diagnose(Evidence(logs=(nothing,), was_ready=True), KNOWN).id == "unknown"


def test_of_an_engine_that_serves_a_request_s_trouble_is_no_cause() -> None:
    trouble = "FileNotFoundError: [Errno 2] No such file or directory: '/media/a.png'\n"
    served = Log("engine.err", "INFO:     Application startup complete.\n" + trouble)
    found = diagnose(Evidence(logs=(served,), was_ready=True), KNOWN)
    assert found.id == "unknown"
    assert "/media/a.png" in found.lines[0]
    again = (Log("engine.err", trouble), Log("engine.err.1", served.text))
    assert diagnose(Evidence(logs=again, was_ready=True), KNOWN).id == "file-missing"


def test_vllm_warnings_are_no_cause() -> None:
    warning = "WARNING 11-21 04:05:32 [x.py:2] like `OSError: [Errno 98] Address already in use`\n"
    assert of_streams("(APIServer pid=1) " + warning, warning).id == "unknown"


@pytest.mark.parametrize("signature", KNOWN, ids=lambda each: f"{each.id} {each.cause[:40]}")
def test_signature_is_well_formed(signature: Signature) -> None:
    kinds = ("patterns", "answers", "reasons", "slurm", "pending", "refusals")
    patterns = [pattern for kind in kinds for pattern in getattr(signature, kind)]
    groups = {name for pattern in patterns for name in pattern.groupindex}
    assert patterns
    assert signature.source
    for sentence in (signature.cause, signature.remedy):
        fields = {field for _, field, _, _ in string.Formatter().parse(sentence) if field}
        assert fields <= groups | {"image", "snapshot", "cache"}
        assert "\n" not in sentence


@pytest.mark.parametrize("signature", KNOWN, ids=lambda each: f"{each.id} {each.cause[:40]}")
def test_logs_that_a_signature_names_are_there(signature: Signature) -> None:
    for name in re.findall(r"tests/data/logs/failures/([\w-]+)", signature.source):
        assert name in FAILURES


def test_every_signature_is_seen_at_work() -> None:
    cases = [evidence_of("failures", name) for name in FAILURES]
    cases += [of_case(case) for case in QUOTED]
    cases += [Evidence(answers=(Log("probe.json", case["body"], 0),)) for case in ANSWERS]
    cases += [Evidence(reason=reason) for reason in (*ENDS, *REASONS)]
    cases += [Evidence(pending=reason) for reason in PENDING]
    cases += [Evidence(slurm=parse_sacct(0, f"7|{s}|0:0|||||||\n")) for s in SLURM]
    at_work = [found[0] for case in cases if (found := find(case, KNOWN)) is not None]
    assert [each.id for each in KNOWN if each not in at_work] == []


def test_no_log_holds_a_diagnosis_up() -> None:
    """With a careless expression these take minutes, and run into the time limit of a test."""
    words = (
        "CANCELLED ",
        "namespace ",
        "Free memory on device (",
        "could not open image a:",
        "x: ",
    )
    logs = tuple(Log("engine.err", f"FATAL: {word * 8000}\n") for word in words)
    assert diagnose(Evidence(logs=logs), KNOWN).evidence


def test_a_broken_file_of_signatures_names_the_line() -> None:
    entry = "about: x\nfailures:\n  - id: a\n    patterns: ['(']\n    cause: c\n    remedy: r\n"
    with pytest.raises(HpcvlmError, match=r"mine\.yaml:4: failures\[0\]\.patterns\[0\].*Python"):
        read_signatures([("mine.yaml", entry + "    source: s\n")])
    with pytest.raises(HpcvlmError, match="source: is missing"):
        read_signatures([("mine.yaml", entry.replace("(", "x"))])


def test_shard_progress() -> None:
    log = "\rLoading safetensors checkpoint shards:  40% Completed | 2/5 [00:01<00:02,  1.5it/s]\r"
    assert shard_progress(log) == (2, 5)
    assert shard_progress("Starting to load model") is None
    assert shard_progress(streams("healthy", "serve-main")[1]) == (1, 1)
