"""YAML text to plain data."""

from __future__ import annotations

import json

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcvlm.errors import HpcvlmError
from hpcvlm.yamlfile.text import line_of, parse, parse_value

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 15)
)


def test_scalars_are_what_they_look_like() -> None:
    text = """\
whole: 30
minus: -1
fraction: 0.5
power: 1e3
yes: yes
off: off
nothing: ~
empty:
quoted: '30'
"""
    assert parse(text, "f.yaml") == {
        "whole": 30,
        "minus": -1,
        "fraction": 0.5,
        "power": 1000.0,
        "yes": True,
        "off": False,
        "nothing": None,
        "empty": None,
        "quoted": "30",
    }


@pytest.mark.parametrize(
    "text",
    ["30:00", "2:00:00", "2024-01-01", "0x1f", "010", "1_000", ".inf", "1e999", "0.10.2", "y", "="],
)
def test_the_surprises_of_yaml_are_text(text: str) -> None:
    assert parse(f"key: {text}", "f.yaml") == {"key": text}


def test_a_commit_of_digits_only_is_text() -> None:
    commit = "1234567890123456789012345678901234567890"
    assert parse(f"revision: {commit}", "f.yaml") == {"revision": commit}


def test_a_key_is_text_however_it_looks() -> None:
    assert parse("{4090: 1, no: 2, 1.5: 3, ~: 4}", "f.yaml") == {
        "4090": 1, "no": 2, "1.5": 3, "~": 4,
    }  # fmt: skip


def test_an_alias_is_what_it_names() -> None:
    assert parse("a: &x {c: 1}\nb: *x\n", "f.yaml") == {"a": {"c": 1}, "b": {"c": 1}}


@pytest.mark.parametrize("text", ["", "\n", "# only a comment\n", "---\n", "~"])
def test_an_empty_text_is_nothing(text: str) -> None:
    assert parse(text, "f.yaml") is None


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: 1\nb: 2\na: 3\n", "f.yaml:3: the key 'a' stands here a second time"),
        ("a:\n  - {b: 1, b: 2}\n", "f.yaml:2: the key 'b' stands here a second time"),
        ("? [a]\n: 1\n", "f.yaml:1: a key must be text, not a list"),
        ("? {a: b}\n: 1\n", "f.yaml:1: a key must be text, not a mapping"),
        ("a: !!int x\n", "f.yaml:1: 'x' is not a whole number"),
        ("a: !!float x\n", "f.yaml:1: 'x' is not a number"),
        ("a: !!bool x\n", "f.yaml:1: 'x' is neither true nor false"),
        ("a: !!null x\n", "f.yaml:1: 'x' is not null"),
        ("a: !!str [x]\n", "f.yaml:1: expected text, found a list"),
        ("a: !!map x\n", "f.yaml:1: expected keys, found a single value"),
        ("a: !!seq x\n", "f.yaml:1: expected a list, found a single value"),
        (
            "a: 1\nb: !!python/object:os.system x\n",
            "f.yaml:2: the tag 'tag:yaml.org,2002:python/object:os.system' is not allowed;"
            " write plain values",
        ),
        ("a: \x00", "f.yaml:1: control characters are not allowed"),
        ("a: \ud800", "f.yaml: the file is not UTF-8 text"),
        ("[" * 1500, "f.yaml:1: did not find expected node content (while parsing a flow node)"),
        ("[" * 1500 + "]" * 1500, "f.yaml: the file is nested too deeply, or too large"),
        ("[" * 100_000, "f.yaml: the file is nested too deeply, or too large"),
        ("- " * 50_000 + "x", "f.yaml: the file is nested too deeply, or too large"),
        (BOMB, "f.yaml: the file is nested too deeply, or too large"),
        ("x" * 200_001, "f.yaml: the file has more than 200000 characters"),
    ],
)
def test_what_cannot_be_read(text: str, sentence: str) -> None:
    with pytest.raises(HpcvlmError) as caught:
        parse(text, "f.yaml")
    assert caught.value.code == "file-invalid"
    assert caught.value.sentence == sentence


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\nb: [1\n", 2),
        ("a:\n\t- b\n", 2),
        ("a: &x [*x]", 1),
        ("--- a\n--- b", 2),
        ("a: 1\nb: *nowhere\n", 2),
        ("a: 'x", 1),
        ("a: b: c", 1),
    ],
)
def test_a_mistake_in_the_yaml_has_its_line(text: str, line: int) -> None:
    with pytest.raises(HpcvlmError) as caught:
        parse(text, "models/f.yaml")
    assert caught.value.sentence.startswith(f"models/f.yaml:{line}: ")


@pytest.mark.parametrize(
    ("key", "line"),
    [
        (("a",), 1),
        (("b",), 2),
        (("b", "c"), 3),
        (("b", "c", 0), 3),
        (("b", "c", 1), 4),
        (("b", "c", 7), 3),
        (("b", "missing"), 2),
        (("d", 0, "e-f"), 6),
        (("missing",), None),
        ((), None),
    ],
)
def test_the_line_of_a_key(key: tuple[str | int, ...], line: int | None) -> None:
    text = "a: 1\nb:\n  c: [x,\n      y]\nd:\n  - e_f: 1\n"
    assert line_of(text, key) == line


@pytest.mark.parametrize("text", ["", "- a", "a: [", "plain"])
def test_a_text_without_keys_has_no_lines(text: str) -> None:
    assert line_of(text, ("a",)) is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4096", 4096),
        ("true", True),
        ("", None),
        ("null", None),
        ("[a, 1]", ["a", 1]),
        ("{image: 2}", {"image": 2}),
        ('{"image": 2}', {"image": 2}),
        ("llama3_json", "llama3_json"),
        ("{", "{"),
        ("a: b: c", "a: b: c"),
        ("'4096'", "4096"),
    ],
)
def test_a_value_as_it_is_typed(text: str, value: object) -> None:
    assert parse_value(text) == value


@given(st.text(max_size=200))
@settings(deadline=None)
def test_any_text_is_data_or_an_error(text: str) -> None:
    try:
        json.dumps(parse(text, "f.yaml"), allow_nan=False)
    except HpcvlmError as error:
        assert error.code == "file-invalid"


@given(st.text(alphabet="ab:-[]{}&*!|>'\"#%@, \n\t0159.", max_size=60))
@settings(deadline=None, max_examples=300)
def test_any_text_of_yaml_signs_is_data_or_an_error(text: str) -> None:
    try:
        json.dumps(parse(text, "f.yaml"), allow_nan=False)
    except HpcvlmError as error:
        assert error.code == "file-invalid"


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(PLAIN)
@settings(deadline=None)
def test_what_yaml_writes_is_read_back(data: object) -> None:
    text = yaml.safe_dump(data, default_style='"')
    # In double quotes every scalar but null, bool and int is text to YAML; their tags are written.
    assert parse(text, "f.yaml") == data


def test_the_slow_reader_reads_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where PyYAML has no C part, its Python part gives the same data and the same lines."""
    from hpcvlm.yamlfile import text as module

    monkeypatch.delattr(yaml, "CBaseLoader", raising=False)
    module._loader.cache_clear()
    try:
        assert parse("a: 30:00\nb: [1, 2.5, yes, ~]\n4090: x\n", "f.yaml") == {
            "a": "30:00", "b": [1, 2.5, True, None], "4090": "x",
        }  # fmt: skip
        assert line_of("a: 1\nb:\n  c: 2\n", ("b", "c")) == 3
        with pytest.raises(HpcvlmError) as caught:
            parse("a: 1\na: 2\n", "f.yaml")
        assert caught.value.sentence == "f.yaml:2: the key 'a' stands here a second time"
    finally:
        module._loader.cache_clear()
