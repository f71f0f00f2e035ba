"""Jobs that take over from each other: how many, and when each may begin."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcvlm.errors import HpcvlmError
from hpcvlm.plan.chain import delay_minutes, even_time_s, generation_name, job_count, overlap_s

HOUR, DAY = 3600, 86400
times = st.integers(120, 14 * DAY)
starts = st.integers(1, 2 * HOUR)
asked = st.none() | st.integers(1, DAY)


def test_three_days_of_a_day_each_are_four_jobs() -> None:
    overlap = overlap_s(DAY, 1200)
    assert overlap == 30 * 60
    assert delay_minutes(DAY, overlap) == 23 * 60 + 30
    assert job_count(3 * DAY, DAY, overlap) == 4
    assert even_time_s(3 * DAY, DAY, 1200, None) == (18 * 60 + 23) * 60


def test_one_job_is_enough_where_nobody_asks_or_it_is_long_enough() -> None:
    assert job_count(None, HOUR, 0) == 1
    assert job_count(HOUR, HOUR, 600) == 1
    assert job_count(HOUR + 1, HOUR, 600) == 2


def test_a_job_too_short_for_a_successor_is_refused() -> None:
    with pytest.raises(HpcvlmError, match="two minutes or more"):
        job_count(HOUR, 60, overlap_s(60, 600))


def test_names() -> None:
    assert [generation_name("vl", number) for number in (1, 2, 11)] == ["vl", "vl~2", "vl~11"]


@given(times, starts, asked)
def test_a_successor_begins_while_its_predecessor_runs(
    limit: int, start: int, wanted: int | None
) -> None:
    overlap = overlap_s(limit, start, wanted)
    minutes = delay_minutes(limit, overlap)
    assert minutes >= 1
    assert minutes * 60 + overlap == limit
    least = min(limit // 2, start + 600 if wanted is None else wanted)
    # Whole minutes cost less than one of them.
    assert least <= overlap < least + 60


@given(st.integers(60, 60 * DAY), times, starts, asked)
def test_the_jobs_cover_what_was_asked_for_and_one_less_would_not(
    keep: int, limit: int, start: int, wanted: int | None
) -> None:
    overlap = overlap_s(limit, start, wanted)
    count = job_count(keep, limit, overlap)
    assert count * limit - (count - 1) * overlap >= keep
    assert count == 1 or (count - 1) * limit - (count - 2) * overlap < keep


@given(st.integers(120, 60 * DAY), times, starts, asked)
def test_even_times_cover_it_with_no_more_jobs(
    keep: int, longest: int, start: int, wanted: int | None
) -> None:
    each = even_time_s(keep, longest, start, wanted)
    assert each <= longest
    most = job_count(keep, longest, overlap_s(longest, start, wanted))
    overlap = overlap_s(each, start, wanted)
    count = job_count(keep, each, overlap)
    assert count <= most
    assert count * each - (count - 1) * overlap >= keep
