"""Rows of half precision and their products."""

from __future__ import annotations

import numpy as np

from embedfit.index.rows import cosines, to_floats


def test_every_finite_half_becomes_the_same_float() -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    rows = every[np.isfinite(every)].reshape(-1, 4)  # subnormal numbers and both zeros, too
    expected = rows.astype(np.float32)
    assert np.array_equal(to_floats(rows).view(np.uint32), expected.view(np.uint32))
    room = np.empty_like(expected)
    assert to_floats(rows, room) is room and np.array_equal(room, expected)
    assert to_floats(rows[:0]).shape == (0, 4)


def test_cosines_of_halves_are_those_of_their_floats() -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((40_000, 8)).astype(np.float16)  # several blocks
    queries = rng.standard_normal((3, 8)).astype(np.float32)
    found = cosines(queries, rows)
    np.testing.assert_allclose(found, queries @ rows.astype(np.float32).T, atol=1e-5)
    np.testing.assert_allclose(found, cosines(queries, rows.astype(np.float32)), atol=1e-5)
