"""The split: no leaks, deterministic, every part there."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfit.corpus.split import MIN_PASSAGES, Item, as_before, assign
from embedfit.errors import InputError


def items(sizes: list[int], clusters: list[int] | None = None, held_out: int = 0) -> list[Item]:
    """Passages of documents of these sizes; the last `held_out` documents are of --eval-docs."""
    result = [
        Item(
            document_id=f"d{number}", title=f"section {place // 5}", cluster=0, held_out=number >= len(sizes) - held_out
        )
        for number, size in enumerate(sizes)
        for place in range(size)
    ]
    clusters = clusters or list(range(len(result)))
    return [
        Item(document_id=one.document_id, title=one.title, cluster=cluster, held_out=one.held_out)
        for one, cluster in zip(result, clusters, strict=True)
    ]


def split(passages: list[Item], dev: float = 0.15, test: float = 0.15, seed: int = 13) -> list[str]:
    return list(assign(passages, dev_share=dev, test_share=test, seed=seed))


def test_many_documents_are_split_whole() -> None:
    passages = items([5] * 40)
    parts = split(passages)
    for number in range(40):
        assert len({part for item, part in zip(passages, parts, strict=True) if item.document_id == f"d{number}"}) == 1
    assert Counter(parts) == {"train": 140, "dev": 30, "test": 30}


def test_few_documents_are_cut_into_sections_with_a_gap() -> None:
    passages = items([300, 200])
    parts = split(passages)
    counts = Counter(parts)
    assert 60 <= counts["dev"] <= 80 and 60 <= counts["test"] <= 80 and counts["gap"] <= 30
    for (first, second), (one, two) in zip(pairwise(parts), pairwise(passages), strict=True):
        if one.document_id == two.document_id and first != second:
            assert "gap" in (first, second), "parts of a document never touch"


def test_sections_are_cut_at_headings() -> None:
    passages = items([500])
    parts = split(passages)
    borders = [place for place, (first, second) in enumerate(pairwise(parts), 1) if first != second and second != "gap"]
    at_heading = [place for place in borders if passages[place].title != passages[place - 1].title]
    assert len(at_heading) >= len(borders) / 2


@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=40),
    links=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 10_000)), max_size=8),
    held_out=st.integers(0, 1),
    test=st.sampled_from([0.0, 0.15, 0.3]),
    seed=st.integers(0, 5),
)
def test_no_leak_and_deterministic(
    sizes: list[int], links: list[tuple[int, int]], held_out: int, test: float, seed: int
) -> None:
    count = sum(sizes)
    clusters = list(range(count))
    for first, second in links:
        a, b = clusters[first % count], clusters[second % count]
        clusters = [a if cluster == b else cluster for cluster in clusters]
    passages = items(sizes, clusters, held_out=held_out if len(sizes) > 1 else 0)
    trainable = [not item.held_out for item in passages]
    try:
        parts = split(passages, test=test, seed=seed)
    except InputError as error:
        assert sum(trainable) < MIN_PASSAGES or "too alike" in error.message
        return
    assert parts == split(passages, test=test, seed=seed)
    sides: dict[int, set[str]] = {}
    for item, part in zip(passages, parts, strict=True):
        sides.setdefault(item.cluster, set()).add(part)
    for parts_of_cluster in sides.values():
        assert len(parts_of_cluster - {"gap"}) <= 1, "near-duplicates are on one side"
    for item, part in zip(passages, parts, strict=True):
        if item.held_out:
            assert part == "test"
    own = Counter(part for part, free in zip(parts, trainable, strict=True) if free)
    assert own["train"] >= 2 and own["dev"] >= 2
    assert (own["test"] >= 2) == (test > 0)


def test_another_seed_gives_another_split() -> None:
    passages = items([5] * 40)
    assert split(passages, seed=1) != split(passages, seed=2)


def test_a_copy_of_an_eval_passage_is_not_trained_on() -> None:
    clusters = [*range(60), *range(60, 80)]
    clusters[5] = clusters[70]  # passage 5 of the training document is also in the eval document
    passages = items([60, 20], clusters, held_out=1)
    parts = split(passages, test=0)
    assert parts[5] == "gap" and parts[70] == "test"


def test_held_out_passages_do_not_count_towards_the_shares() -> None:
    parts = split(items([5] * 30 + [500], held_out=1), test=0)
    assert Counter(parts)["dev"] in range(15, 31) and Counter(parts)["test"] == 500


def test_single_records_are_split_in_runs_of_neighbours() -> None:
    parts = split(items([1] * 1000))
    assert sum(first != second for first, second in pairwise(parts)) < 70, "runs of ten, not single records"
    assert 120 <= Counter(parts)["test"] <= 180


@pytest.mark.parametrize("count", [0, 1, 3, MIN_PASSAGES - 1])
def test_too_few_passages_name_the_minimum(count: int) -> None:
    with pytest.raises(InputError) as caught:
        split(items([1] * count) if count else [])
    assert f"at least {MIN_PASSAGES}" in caught.value.message
    assert "--set" in str(caught.value.remedy)


def test_the_minimum_works() -> None:
    assert set(split(items([MIN_PASSAGES]))) == {"train", "dev", "test"}
    assert set(split(items([1] * MIN_PASSAGES))) == {"train", "dev", "test"}


def test_passages_that_are_all_alike_cannot_be_split() -> None:
    with pytest.raises(InputError, match="too alike"):
        split(items([30], clusters=[0] * 30))


def test_one_large_document_among_small_ones_does_not_take_over_dev() -> None:
    counts = Counter(split(items([400, *[3] * 30])))
    assert counts["dev"] < 120 and counts["train"] > 200


@given(old=st.integers(MIN_PASSAGES, 60), new=st.integers(0, 40), seed=st.integers(0, 5), test=st.booleans())
def test_passages_of_the_last_run_keep_their_part(old: int, new: int, seed: int, test: bool) -> None:
    items = [Item(document_id=f"d{n // 3}", title="", cluster=n) for n in range(old + new)]
    before = assign(items[:old], dev_share=0.15, test_share=0.15, seed=1)
    parts = assign(items, dev_share=0.15, test_share=0.15 if test else 0.0, seed=seed)
    found = as_before(items, parts, [*before, *[None] * new])
    assert found is not None
    assert found[:old] == [part if test or part != "test" else "train" for part in before]
    assert found[old:] == parts[old:]


def test_a_copy_of_a_known_passage_goes_where_that_one_is_and_too_few_new_ones_say_so() -> None:
    items = [Item(document_id=f"d{n}", title="", cluster=n % 30) for n in range(31)]
    parts = assign(items, dev_share=0.2, test_share=0.2, seed=0)
    known = assign(items[:30], dev_share=0.2, test_share=0.2, seed=3)
    found = as_before(items, parts, [*known, None])
    assert found is not None and found[30] == found[0] == known[0]
    assert as_before(items, parts, ["train"] * 30 + [None]) is None
