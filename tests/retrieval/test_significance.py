import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_allclose
from scipy import stats

from embedfit.retrieval.significance import (
    bootstrap_means,
    clusters_of,
    compare,
    detectable_difference,
    interval,
    number,
    randomisation_p,
    student_quantile,
)


def rng(seed=0):
    return np.random.default_rng(seed)


def simulate(generator, *, clusters, per_cluster, mean=0.0, between=1.0, within=1.0):
    """Differences of queries whose document shifts them all: (Q, 1) and cluster numbers."""
    labels = np.repeat(np.arange(clusters), per_cluster)
    shifts = generator.normal(0, between, clusters)[labels]
    return (mean + shifts + generator.normal(0, within, len(labels)))[:, None], labels


def covers(values, labels, truth, generator):
    means = bootstrap_means(values, labels, draws=600, rng=generator)
    low, high = interval(means, len(np.unique(labels)), bounds=(-10, 10))[0]
    return low <= truth <= high


@pytest.mark.parametrize(("clusters", "per_cluster"), [(3, 20), (6, 20), (10, 15), (40, 5)])
def test_the_interval_covers_the_truth_as_often_as_it_says(clusters, per_cluster):
    generator = rng(1)
    rounds = 600
    hits = sum(
        covers(*simulate(generator, clusters=clusters, per_cluster=per_cluster, mean=0.3), 0.3, generator)
        for _ in range(rounds)
    )
    assert 0.925 <= hits / rounds <= 0.975  # .95 ± 2.8 standard errors of 600 rounds


def test_ignoring_the_clusters_would_cover_far_too_seldom():
    generator = rng(2)
    hits = 0
    for _ in range(200):
        values, _ = simulate(generator, clusters=12, per_cluster=20)
        hits += covers(values, np.arange(len(values)), 0.0, generator)
    assert hits / 200 < 0.75


def test_p_is_below_five_percent_in_five_percent_of_null_experiments():
    generator = rng(3)
    rounds = 600
    found = 0
    for _ in range(rounds):
        values, labels = simulate(generator, clusters=15, per_cluster=8)
        found += randomisation_p(values, labels, draws=999, rng=generator)[0] <= 0.05
    assert 0.025 <= found / rounds <= 0.075


def test_p_agrees_with_the_exact_enumeration():
    values = np.array([0.3, 0.1, -0.2, 0.5, 0.4, 0.2, -0.1, 0.35])[:, None]
    signs = np.array(np.meshgrid(*[[-1, 1]] * 8)).reshape(8, -1)
    exact = (np.abs(values[:, 0] @ signs) >= abs(values.sum()) - 1e-12).mean()
    sampled = randomisation_p(values, np.arange(8), draws=40_000, rng=rng())[0]
    assert sampled == pytest.approx(exact, abs=0.01)


@given(
    values=hnp.arrays(np.float64, st.tuples(st.integers(1, 30), st.just(2)), elements=st.floats(-1, 1, width=16)),
    seed=st.integers(0, 100),
)
def test_p_is_never_zero_never_above_one_and_symmetric(values, seed):
    labels = np.arange(len(values)) // 2
    forward = randomisation_p(values, labels, draws=50, rng=rng(seed))
    backward = randomisation_p(-values, labels, draws=50, rng=rng(seed))
    assert (forward >= 1 / 51).all() and (forward <= 1).all()
    assert_allclose(forward, backward)


def test_p_is_one_where_nothing_differs():
    assert randomisation_p(np.zeros((20, 1)), np.arange(20), draws=100, rng=rng())[0] == 1.0


def test_a_large_difference_reaches_the_least_possible_p():
    assert randomisation_p(np.full((200, 1), 0.5), np.arange(200), draws=500, rng=rng())[0] == 1 / 501


def test_clusters_flip_together():
    values = np.ones((40, 1))
    alone = randomisation_p(values, np.arange(40), draws=2000, rng=rng())[0]
    in_two = randomisation_p(values, np.arange(40) % 2, draws=2000, rng=rng())[0]
    assert alone < 0.001
    assert in_two == pytest.approx(0.5, abs=0.05)


def test_bootstrap_weighs_a_cluster_by_its_queries():
    values = np.array([[1.0], [1.0], [1.0], [0.0]])
    means = bootstrap_means(values, np.array([0, 0, 0, 1]), draws=4000, rng=rng())[:, 0]
    assert set(np.round(means, 6)) == {0.0, 0.75, 1.0}
    assert (means == 0.75).mean() == pytest.approx(0.5, abs=0.04)


def test_bootstrap_columns_share_their_draws():
    values = rng(4).random((50, 1))
    means = bootstrap_means(np.hstack([values, values + 0.25]), np.arange(50), draws=200, rng=rng())
    assert_allclose(means[:, 1] - means[:, 0], 0.25)


def test_bootstrap_in_blocks_has_the_same_distribution(monkeypatch):
    monkeypatch.setattr("embedfit.retrieval.significance._BLOCK", 500)
    means = bootstrap_means(rng(5).random((100, 1)), np.arange(100), draws=1000, rng=rng())
    assert means.shape == (1000, 1)
    assert means.std() == pytest.approx(np.sqrt(1 / 12 / 100), rel=0.15)


def test_cluster_numbers_may_have_gaps():
    values = rng(6).random((30, 1))
    even = bootstrap_means(values, np.repeat(np.arange(10), 3), draws=50, rng=rng())
    gaps = bootstrap_means(values, np.repeat(np.arange(10) * 7, 3), draws=50, rng=rng())
    assert_allclose(even, gaps)


def test_one_cluster_says_nothing():
    result = compare(np.ones((5, 1)), np.zeros((5, 1)), np.zeros(5, dtype=int), rng=rng())[0]
    assert result.delta == 1.0
    assert result.ci95 == (-1.0, 1.0)
    assert result.p_value == 1.0
    assert result.detectable == 1.0


def test_no_queries_say_nothing():
    empty = np.zeros((0, 2))
    results = compare(empty, empty, np.zeros(0, dtype=int), rng=rng())
    assert [(result.ci95, result.p_value, result.queries) for result in results] == [((-1.0, 1.0), 1.0, 0)] * 2


def test_compare_is_antisymmetric():
    generator = rng(7)
    a, b = generator.random((60, 2)), generator.random((60, 2))
    labels = np.arange(60) // 3
    forward, backward = compare(a, b, labels, rng=rng(1)), compare(b, a, labels, rng=rng(1))
    for one, other in zip(forward, backward, strict=True):
        assert one.delta == pytest.approx(-other.delta)
        assert one.p_value == other.p_value
        assert one.ci95 == pytest.approx((-other.ci95[1], -other.ci95[0]))
        assert one.detectable == pytest.approx(other.detectable)
        assert (one.queries, one.clusters) == (60, 20)


def test_compare_refuses_values_that_do_not_fit_the_clusters():
    with pytest.raises(ValueError, match="for 3 queries"):
        compare(np.zeros((4, 1)), np.zeros((4, 1)), np.zeros(3, dtype=int), rng=rng())


def test_the_detectable_difference_is_found_in_four_of_five_repetitions():
    generator = rng(8)
    values, labels = simulate(generator, clusters=60, per_cluster=4, between=0.1, within=0.1)
    means = bootstrap_means(values, labels, draws=2000, rng=generator)
    least = detectable_difference(means, 60)[0]
    found = 0
    for _ in range(300):
        repeated, labels = simulate(generator, clusters=60, per_cluster=4, mean=least, between=0.1, within=0.1)
        found += randomisation_p(repeated, labels, draws=400, rng=generator)[0] <= 0.05
    assert 0.68 <= found / 300 <= 0.92


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 6, 9, 30, 500])
@pytest.mark.parametrize("probability", [0.8, 0.975, 0.995])
def test_student_quantiles(degrees, probability):
    assert student_quantile(probability, degrees) == pytest.approx(stats.t.ppf(probability, degrees), rel=0.01)


def test_clusters_are_documents_where_there_are_ten():
    documents = [f"d{i % 10}" for i in range(40)]
    labels, by = clusters_of(documents, [f"p{i}" for i in range(40)])
    assert by == "document"
    assert labels.tolist() == [i % 10 for i in range(40)]


def test_clusters_are_passages_where_documents_are_few():
    labels, by = clusters_of(["d0"] * 20 + ["d1"] * 20, [f"p{i // 4}" for i in range(40)])
    assert by == "passage"
    assert len(set(labels.tolist())) == 10


def test_clusters_are_passages_where_each_document_is_one():
    names = [f"p{i}" for i in range(40)]
    assert clusters_of(names, names)[1] == "passage"


def test_number_counts_in_order_of_appearance():
    assert number(["b", "a", "b", "c"]).tolist() == [0, 1, 0, 2]
