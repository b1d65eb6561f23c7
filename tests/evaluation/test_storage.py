"""Ways to store a vector, against sums done by hand."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from embedfit.evaluation.storage import nearest_signs, to_int8, ways


def unit(seed, rows, width):
    found = np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


@given(st.integers(0, 50), st.integers(1, 20), st.integers(1, 40))
def test_a_byte_is_at_most_half_a_step_off(seed, rows, width):
    vectors = unit(seed, rows, width)
    step = np.abs(vectors).max(0) / 127
    assert (np.abs(to_int8(vectors) - vectors) <= step / 2 + 1e-6).all()


@given(st.integers(0, 50), st.integers(1, 30), st.integers(1, 12))
def test_binary_search_leaves_those_of_the_smallest_hamming_distance(seed, rows, count):
    passages, queries = unit(seed, rows, 16), unit(seed + 1, 5, 16)
    none = np.full(5, -1)
    left = nearest_signs(passages, queries, none, count)(1, 4)
    assert left.shape == (3, rows)
    for row, query in zip(left, queries[1:4], strict=True):
        distances = ((passages > 0) != (query > 0)).sum(1)
        expected = np.argsort(distances, kind="stable")[:count]
        assert set(np.flatnonzero(row)) == set(expected)


def test_a_querys_own_passage_takes_no_place_among_those_that_are_rescored():
    passages = unit(0, 6, 16)
    left = nearest_signs(passages, passages[2:3], np.array([2]), 3)(0, 1)[0]
    assert left.sum() == 3 and not left[2]


def test_every_way_has_its_size_and_says_whether_the_model_was_trained_for_it():
    passages, queries = unit(0, 7, 384), unit(1, 3, 384)
    found = {way.name: way for way in ways(passages, queries, np.full(3, -1), (128, 384))}
    said = {name: (len(way.passages[0]), way.bytes_a_passage, way.on_disk, way.trained) for name, way in found.items()}
    assert said == {
        "float32": (384, 1536, 0, None),
        "int8": (384, 384, 0, None),
        "binary, rescored in float16": (384, 48, 768, None),
        "binary, rescored in int8": (384, 48, 384, None),
        "float16, 256": (256, 512, 0, False),
        "float16, 128": (128, 256, 0, True),
        "float16, 64": (64, 128, 0, False),
    }
    cut = found["float16, 64"]
    np.testing.assert_allclose(np.linalg.norm(cut.passages, axis=1), 1, atol=1e-3)
    np.testing.assert_allclose(cut.queries[0] * np.linalg.norm(queries[0, :64]), queries[0, :64], atol=1e-6)
