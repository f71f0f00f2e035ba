"""Durations, as Slurm and as users write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcvlm.errors import HpcvlmError
from hpcvlm.slurm.time import EXPECTED, format_time_limit, parse_duration, parse_time_limit

YEAR = 366 * 24 * 3600


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1-00:00:00", 86400),
        ("7-12:30:15", 7 * 86400 + 12 * 3600 + 30 * 60 + 15),
        ("30:00", 1800),
        ("2:00:00", 7200),
        ("01:00", 60),
        ("10", 600),
        ("1-12", 36 * 3600),
        ("1-12:30", 36 * 3600 + 1800),
        ("UNLIMITED", None),
        ("infinite", None),
        ("NOT_SET", None),
        ("INVALID", None),
        ("Partition_Limit", None),
        ("", None),
    ],
)
def test_a_time_limit_of_slurm(text: str, seconds: int | None) -> None:
    assert parse_time_limit(text) == seconds


def test_what_is_no_time_limit() -> None:
    with pytest.raises(HpcvlmError) as caught:
        parse_time_limit("1 hour")
    assert caught.value.code == "slurm-output"
    assert caught.value.sentence == "Slurm gave a time limit that is none: '1 hour'"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2h", 7200),
        ("90m", 5400),
        ("1h30m", 5400),
        ("1H30M", 5400),
        ("45s", 45),
        ("2d", 172800),
        ("1d12h", 129600),
        ("90", 5400),
        ("2:00:00", 7200),
        ("2:00", 120),
        ("1-12:00:00", 129600),
        (" 30m ", 1800),
    ],
)
def test_a_duration_of_a_user(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", " ", "soon", "2 h", "h", "-5", "1.5h", "30m2h", "1:99:00", "2:60", "1-", "1:2:3:4", "٣h"],
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(HpcvlmError) as caught:
        parse_duration(text, "--time")
    assert caught.value.code == "time-invalid"
    assert caught.value.sentence == f"--time {text!r} is not a duration"
    assert caught.value.remedy == EXPECTED


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("0", "is no time at all"),
        ("0h", "is no time at all"),
        ("00:00:00", "is no time at all"),
        ("367d", "is longer than a year"),
        ("999999h", "is longer than a year"),
    ],
)
def test_durations_out_of_bounds(text: str, problem: str) -> None:
    with pytest.raises(HpcvlmError) as caught:
        parse_duration(text, "time")
    assert caught.value.sentence == f"time {text!r} {problem}"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(7200, "02:00:00"), (1800, "00:30:00"), (86400, "1-00:00:00"), (129661, "1-12:01:01")],
)
def test_seconds_as_slurm_writes_them(seconds: int, text: str) -> None:
    assert format_time_limit(seconds) == text


@given(st.integers(min_value=1, max_value=YEAR))
def test_what_is_written_is_read_back(seconds: int) -> None:
    text = format_time_limit(seconds)
    assert parse_duration(text) == seconds
    assert parse_time_limit(text) == seconds


@given(st.text(max_size=20))
def test_any_text_is_a_duration_or_an_error(text: str) -> None:
    try:
        assert 0 < parse_duration(text) <= YEAR
    except HpcvlmError as error:
        assert error.code == "time-invalid"
