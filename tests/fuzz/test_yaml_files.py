"""Any text as a file of any kind: read, or refused with the file's name; never a traceback."""

from __future__ import annotations

import random
import time

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcvlm.errors import HpcvlmError
from tests.fuzz import hostile, yaml_kinds
from tests.fuzz.yaml_kinds import MOST_SECONDS, Kind, kinds, problem_of

KINDS = kinds()
BILLION = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 10)}]\n" for n in range(9)
)
FAILURE = (
    "about: x\nfailures: [{id: a, patterns: ['PATTERN'], cause: 'CAUSE', remedy: y, source: z}]"
)
ODD = {
    "10 MB": "x" * 10_000_000,
    "10 MB of lines": "a: b\n" * 2_500_000,
    "long key": "k" * 190_000 + ": 1",
    "long value": "name: " + "v" * 190_000,
    "many keys": "\n".join(f"k{n}: 1" for n in range(20_000)),
    "deep list": "[" * 90_000,
    "deep mapping": "{a: " * 40_000,
    "deep compact": "- " * 50_000,
    "deep indent": "\n".join(" " * n + "a:" for n in range(600)),
    "deep keys": "? " * 40_000,
    "alias bomb": BILLION,
    "alias to itself": "a: &a [*a]",
    "merge key": "a: &a {b: 1}\nc: {<<: *a}\n<<: *a",
    "python tag": "!!python/object/apply:os.system ['touch canary']",
    "python name": "name: !!python/name:os.system",
    "own tag": "!x {a: 1}",
    "binary": "name: !!binary aGVsbG8=",
    "set": "!!set {a, b}",
    "omap": "!!omap [a: 1]",
    "timestamp": "!!timestamp 2001-12-14",
    "directive": "%YAML 9.9\n---\nname: x",
    "tag directive": "%TAG ! tag:yaml.org,2002:python/\n---\n!object:os.system x",
    "two documents": "a: 1\n---\nb: 2",
    "same key twice": "schema: 1\nschema: 1",
    "byte order mark": "\ufeffschema: 1",
    "late byte order mark": "schema: 1\n\ufeffname: x",
    "tab": "a:\n\tb: 1",
    "NUL": "name: a\0b",
    "escape": 'name: "\\0\\x1b\\u202e\\ud800"',
    "bell": "name: a\x07b",
    "lone surrogate": "name: \ud800",
    "line separator": "name: a\u2028b\u0085c",
    "carriage returns": "schema: 1\rname: x\r",
    "huge number": "schema: " + "9" * 5000,
    "huge exponent": "schema: 1e99999999",
    "base 60": "schema: 1:00:00",
    "not a number": "schema: .nan",
    "infinite": "schema: .inf",
    "true as a key": "true: 1\nno: 2\n~: 3",
    "list": "- a\n- b",
    "text": "just words",
    "number": "4096",
    "null": "~",
    "empty": "",
    "unclosed": "a: [1, {b: 'c",
    "pickle": "\x80\x04\x95",
    "long duration": "time: " + "1" * 100_000 + "d",
    "long version": "engine: {versions: '>=" + "1." * 90_000 + "1'}",
    "many versions": "engine: {versions: '" + ">=1," * 45_000 + ">=1'}",
    "pattern that explodes": FAILURE.replace("PATTERN", "(a+)+$"),
    "pattern of the future": FAILURE.replace("PATTERN", "[[a]b]"),
    "pattern too large": FAILURE.replace("PATTERN", "a{99999999999999999999}"),
    "pattern too deep": FAILURE.replace("PATTERN", "(" * 5000 + ")" * 5000),
    "pattern of nothing": FAILURE.replace("PATTERN", "a{2,1}"),
    "long sentence": FAILURE.replace("CAUSE", "x " * 90_000 + "x."),
    "long repository": "snapshot: {repo: " + "a/" * 90_000 + "}",
    "long folder": "scratch_root: " + "/$a" * 60_000 + "!",
    "long bind": "binds: [" + "/:" * 90_000 + "]",
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_the_samples_are_read(kind: str) -> None:
    assert KINDS[kind].samples
    for text in KINDS[kind].samples:
        KINDS[kind].read(text)


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("kind", KINDS)
def test_odd_files(kind: str, odd: str) -> None:
    began = time.process_time()
    assert problem_of(KINDS[kind], ODD[odd]) == ""
    assert time.process_time() - began < MOST_SECONDS


@pytest.mark.parametrize("kind", KINDS)
@given(text=st.text(max_size=300))
@settings(deadline=None, max_examples=60)
def test_any_text(kind: str, text: str) -> None:
    assert problem_of(KINDS[kind], text) == ""


def mutated(kind: Kind, rng: random.Random) -> str:
    """A sample with a few changes that people, editors and broken disks make."""
    text = rng.choice(kind.samples)
    lines = text.splitlines(keepends=True)
    start = rng.randrange(len(lines))
    lines = lines[start : start + rng.randrange(1, 60)] if rng.random() < 0.5 else lines
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(lines)) if lines else 0
        match rng.randrange(8):
            case 0 if lines:
                del lines[at]
            case 1:
                lines.insert(at, rng.choice(lines or ["a: 1\n"]))
            case 2 if lines:
                lines[at] = "  " + lines[at]
            case 3 if lines:
                lines[at] = lines[at].lstrip()
            case 4 if lines:
                cut = rng.randrange(len(lines[at]) + 1)
                lines[at] = lines[at][:cut] + rng.choice(hostile.WORDS) + lines[at][cut:]
            case 5 if lines:
                cut = rng.randrange(len(lines[at]) + 1)
                lines[at] = lines[at][:cut] + rng.choice(hostile.REFUSED) + lines[at][cut:]
            case 6 if lines:
                key, colon, _ = lines[at].partition(":")
                lines[at] = f"{key}{colon} {rng.choice(VALUES)}\n"
            case _ if lines:
                lines[at] = lines[at][: rng.randrange(len(lines[at]) + 1)]
            case _:
                lines = ["x"]
    return "".join(lines)


VALUES = (
    *("[]", "{}", "~", "''", "0", "-1", "1.5", "true", "[[]]", "[{}]", "{a: {b: {c: d}}}"),
    *("99999999999999999999", "1e30", ".nan", "&a [*a]", "*a", "!!int x", "| \n  x", "'x", '"\\q"'),
    *("2h", "-2h", "1d 1d", "60G", "1.2.3", ">=1,<0", "a/b", "../..", "/etc", "x" * 3000),
)


@pytest.mark.parametrize("kind", KINDS)
def test_changed_samples(kind: str) -> None:
    search(kind, 150, 1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_changed_samples(kind: str) -> None:
    search(kind, 5000, random.SystemRandom().randrange(10**9))


def search(kind: str, number: int, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(number):
        text = mutated(KINDS[kind], rng)
        assert problem_of(KINDS[kind], text) == "", f"seed {seed}: {text!r}"


def test_the_search_would_see_a_traceback_a_missing_place_and_a_hang(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(yaml_kinds, "MOST_SECONDS", 0.1)

    def fails(_: str) -> object:
        raise KeyError("x")

    def placeless(_: str) -> object:
        raise HpcvlmError("file-invalid", "something is wrong")

    def hangs(_: str) -> object:
        end = time.process_time() + 0.2
        while time.process_time() < end:
            pass
        return None

    for read, said in ((fails, "KeyError"), (placeless, "no file"), (hangs, "it took")):
        assert said in problem_of(Kind(read, ()), "")


@pytest.mark.parametrize("kind", KINDS)
def test_the_line_is_told(kind: str) -> None:
    text = KINDS[kind].samples[0] + "\nno_such_key_at_all: 1\n"
    with pytest.raises(HpcvlmError) as caught:
        KINDS[kind].read(text)
    said = "\n".join((caught.value.sentence, *caught.value.details))
    assert f"mine.yaml:{len(text.splitlines())}: no_such_key_at_all: unknown key" in said


def test_what_yaml_can_say_is_no_more_than_plain_data() -> None:
    """Nothing in a file makes an object of a program, whatever loader a reader uses by mistake."""
    for text in (ODD["python tag"], ODD["python name"], ODD["own tag"]):
        for kind in KINDS.values():
            with pytest.raises(HpcvlmError, match="is not allowed"):
                kind.read(text)
    with pytest.raises(yaml.YAMLError):
        yaml.safe_load(ODD["python tag"])
