"""The choice of the waiting rows that make the next batch."""

from __future__ import annotations

from collections.abc import Mapping


def next_batch(waiting: Mapping[int, int], oldest: int, *, budget: int, max_rows: int, overhead: int) -> dict[int, int]:
    """How many rows of each length to take: the oldest row, then its nearest lengths.

    waiting: rows that wait, by length in tokens. oldest: the length of the row that has waited longest; it is always
    taken, even if it alone exceeds the budget. budget: the largest rows × longest. overhead: the fixed cost of a batch,
    in tokens of work. Rows of another length join as long as their padding is cheaper than a batch of their own.

    Returns length → rows, each at least 1 and at most the waiting ones.
    """
    rows = max(1, min(waiting[oldest], max_rows, budget // oldest))
    chosen = {oldest: rows}
    longest = oldest
    for length in sorted(waiting, key=lambda other: (abs(other - oldest), other)):
        if length == oldest:
            continue
        new_longest = max(longest, length)
        count = min(waiting[length], max_rows - rows, budget // new_longest - rows)
        if count <= 0:
            continue
        padding = rows * (new_longest - longest) + count * (new_longest - length)
        if padding > overhead:
            # Fewer of them may still be worth it, because then the padding is theirs alone.
            count = 0 if length > longest else overhead // (new_longest - length)
            if count <= 0:
                continue
        chosen[length] = count
        rows += count
        longest = new_longest
    return chosen
