from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfit.serving.scheduling.packing import next_batch
from embedfit.serving.scheduling.queue import LengthQueue

lengths = st.lists(st.integers(1, 512), min_size=1, max_size=80)
limits = st.fixed_dictionaries(
    {"budget": st.integers(1, 4096), "max_rows": st.integers(1, 64), "overhead": st.integers(0, 2000)}
)


@given(lengths=lengths, limits=limits)
def test_a_batch_keeps_the_budget_unless_its_oldest_row_alone_exceeds_it(lengths, limits):
    chosen = next_batch(Counter(lengths), lengths[0], **limits)
    rows = sum(chosen.values())
    assert rows * max(chosen) <= limits["budget"] or chosen == {lengths[0]: 1}
    assert rows <= limits["max_rows"]


@given(lengths=lengths, limits=limits)
def test_a_batch_takes_the_oldest_row_and_nothing_that_does_not_wait(lengths, limits):
    waiting = Counter(lengths)
    chosen = next_batch(waiting, lengths[0], **limits)
    assert chosen[lengths[0]] >= 1
    assert all(1 <= count <= waiting[length] for length, count in chosen.items())


@given(lengths=lengths, limits=limits)
def test_every_row_leaves_the_queue_exactly_once(lengths, limits):
    queue: LengthQueue[int] = LengthQueue()
    for row, length in enumerate(lengths):
        queue.push(row, length)
    seen: list[int] = []
    while queue.rows:
        batch = queue.pop_batch(**limits)
        assert batch, "a queue with rows gave no batch"
        seen += batch
    assert sorted(seen) == list(range(len(lengths)))
    assert queue.tokens == 0


@given(lengths=lengths, limits=limits)
def test_the_row_that_waited_longest_is_in_the_next_batch(lengths, limits):
    queue: LengthQueue[int] = LengthQueue()
    for row, length in enumerate(lengths):
        queue.push(row, length)
    waiting = set(range(len(lengths)))
    while waiting:
        batch = queue.pop_batch(**limits)
        assert min(waiting) in batch
        waiting -= set(batch)


@given(lengths=lengths, limits=limits)
def test_rows_of_one_length_leave_in_the_order_they_came(lengths, limits):
    queue: LengthQueue[int] = LengthQueue()
    for row, length in enumerate(lengths):
        queue.push(row, length)
    order: list[int] = []
    while queue.rows:
        order += queue.pop_batch(**limits)
    for length in set(lengths):
        rows = [row for row in order if lengths[row] == length]
        assert rows == sorted(rows)


@given(lengths=lengths, limits=limits)
def test_padding_of_one_joining_length_never_costs_more_than_a_batch(lengths, limits):
    chosen = next_batch(Counter(lengths), lengths[0], **limits)
    padding = sum(count * (max(chosen) - length) for length, count in chosen.items())
    assert padding <= limits["overhead"] * max(0, len(chosen) - 1)


def test_without_overhead_only_equal_lengths_share_a_batch():
    assert next_batch({8: 3, 9: 5}, 8, budget=1000, max_rows=100, overhead=0) == {8: 3}


def test_nearest_lengths_join_first():
    chosen = next_batch({10: 1, 11: 1, 60: 1}, 10, budget=24, max_rows=100, overhead=1000)
    assert chosen == {10: 1, 11: 1}


def test_one_long_row_does_not_pad_many_short_ones():
    chosen = next_batch({8: 20, 256: 1}, 8, budget=16_384, max_rows=100, overhead=100)
    assert chosen == {8: 20}


def test_where_a_batch_costs_much_they_do_share():
    chosen = next_batch({8: 20, 256: 1}, 8, budget=16_384, max_rows=100, overhead=10_000)
    assert chosen == {8: 20, 256: 1}


@given(lengths=lengths, unwanted=st.sets(st.integers(0, 79)), limits=limits)
def test_dropped_rows_never_reach_a_batch(lengths, unwanted, limits):
    queue: LengthQueue[int] = LengthQueue()
    for row, length in enumerate(lengths):
        queue.push(row, length)
    gone = unwanted & set(range(len(lengths)))
    assert queue.drop(unwanted) == len(gone)
    assert queue.rows == len(lengths) - len(gone)
    assert queue.tokens == sum(length for row, length in enumerate(lengths) if row not in gone)
    left: list[int] = []
    while queue.rows:
        left += queue.pop_batch(**limits)
    assert sorted(left) == sorted(set(range(len(lengths))) - gone)


def test_an_empty_queue_gives_an_empty_batch():
    assert LengthQueue[int]().pop_batch(budget=1, max_rows=1, overhead=0) == []


@pytest.mark.parametrize("length", [1, 511, 512])
def test_a_row_over_the_budget_goes_alone(length):
    assert next_batch({length: 5}, length, budget=1, max_rows=9, overhead=0) == {length: 1}
