from dataclasses import replace

import pytest

from embedfit.config import resolve
from embedfit.index.retriever import RRF
from embedfit.path.artefacts import CheckResult
from embedfit.reporting.advice import findings, next_steps
from tests.reporting.conftest import decided, summarised, told, with_retrievers


@pytest.mark.parametrize(
    ("ci95", "said"),
    [
        ((0.01, 0.05), ""),
        ((-0.01, 0.03), "No difference was seen between words alone"),
        ((-0.09, -0.02), "the one to beat"),
    ],
)
def test_bm25_is_named_where_the_default_does_not_surely_find_more(evidence, ci95, said):
    found = " ".join(findings(told(evidence, "default", "bm25", sum(ci95) / 2, ci95)))
    assert said in found and ("BM25, which needs no model" in found) is bool(said)


@pytest.mark.parametrize(
    ("ci95", "said"),
    [((0.01, 0.05), "It finds more here"), ((-0.01, 0.03), "No difference was seen between the safe default and")],
)
def test_rank_fusion_is_told_by_its_interval(evidence, ci95, said):
    assert said in " ".join(findings(told(evidence, "rrf", "default", sum(ci95) / 2, ci95)))


@pytest.mark.parametrize(
    ("ci95", "said"),
    [((0.01, 0.05), "finds more than the safe default"), ((-0.01, 0.03), "show no difference"),
     ((-0.05, -0.01), "the safe default finds more")],
)  # fmt: skip
def test_a_chosen_retriever_is_held_against_the_default(evidence, ci95, said):
    assert said not in " ".join(findings(told(evidence, "chosen", "default", 0.0, ci95)))  # it is the default
    other = with_retrievers(evidence, chosen=RRF)
    assert said in " ".join(findings(told(other, "chosen", "default", sum(ci95) / 2, ci95)))


def test_what_tuning_adds_to_one_vector_alone_is_told_by_its_interval(evidence):
    assert "tuning added more: 0.489 → 0.557" in " ".join(findings(evidence))
    unsure = told(evidence, "merged", "base", 0.01, (-0.01, 0.03))
    assert "no difference by tuning was seen" in " ".join(findings(unsure))
    assert "tuning took away" in " ".join(findings(told(evidence, "merged", "base", -0.02, (-0.03, -0.01))))


def test_the_first_step_is_to_build_the_index(evidence):
    steps = next_steps(evidence)
    assert "embedfit index --run" in steps[0] and "embedfit serve" in steps[0]
    assert any("--judge SPEC" in step for step in steps)
    graded = decided(evidence, kind="graded")
    assert not any("--judge SPEC" in step for step in next_steps(graded))


def test_synthetic_questions_and_few_clusters_are_pointed_out(kept):
    few = summarised(kept, comparisons=[{**one.model_dump(), "clusters": 6} for one in kept.summary.comparisons])
    said = " ".join(findings(few))
    assert "flatters" in said and "only 6 clusters" in said
    assert any("--eval-beir" in step for step in next_steps(few))


def test_a_failed_check_is_pointed_out(evidence):
    check = CheckResult(passed=False, verdict="similar pairs are not above different ones")
    failed = replace(evidence, check=check)
    assert any("not above different ones" in sentence for sentence in findings(failed))


def test_a_kept_base_comes_with_what_would_help(kept):
    local = replace(kept, config=resolve(preset="offline", overrides={"docs": ["manuals/"]}))
    steps = " ".join(next_steps(told(local, "finetuned", "base", -0.004, (-0.02, 0.01))))
    assert "--generator bedrock" in steps and "generate.examples" in steps and "2.1 points" in steps
