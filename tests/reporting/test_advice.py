from dataclasses import replace

from embedfit.reporting.advice import findings, next_steps
from embedfit.reporting.evidence import gather
from tests.run_folder import build_run


def test_a_better_bm25_and_the_best_hybrid_are_named(evidence):
    said = " ".join(findings(evidence))
    assert "BM25, which needs no model, scores 0.623" in said
    assert "Merged + BM25, at 0.675: 5.2 points above the best single system (BM25)" in said


def test_a_bm25_that_is_worse_is_not_recommended(evidence):
    systems = dict(evidence.systems)
    systems["bm25"] = replace(systems["bm25"], metrics={"ndcg@10": 0.2})
    assert not any("needs no model" in sentence for sentence in findings(replace(evidence, systems=systems)))


def test_a_bm25_above_the_hybrid_is_not_sold_as_a_hybrid(evidence):
    systems = dict(evidence.systems)
    for name in ("hybrid_base", "hybrid_merged"):
        systems[name] = replace(systems[name], metrics={"ndcg@10": 0.6})
    against = replace(evidence.comparisons[0], a="hybrid_base", b="bm25", delta=-0.02, ci95=(-0.05, 0.01))
    lexical = replace(evidence, systems=systems, comparisons=(*evidence.comparisons, against))
    said = " ".join(findings(lexical))
    assert "the one to beat" in said and "5.0 to" in said and "use both together" not in said
    assert any("BM25 alone" in step for step in next_steps(lexical))


def test_synthetic_questions_and_few_clusters_are_pointed_out(tmp_path):
    evidence = gather(*build_run(tmp_path / "run", human=False))
    few = replace(evidence, comparisons=(replace(evidence.comparisons[0], clusters=6),))
    said = " ".join(findings(few))
    assert "flatters" in said and "only 6 clusters" in said
    assert any("--eval-beir" in step for step in next_steps(few))


def test_a_failed_check_is_pointed_out(evidence):
    failed = replace(evidence, check_passed=False, check_verdict="similar pairs are not above different ones")
    assert any("not above different ones" in sentence for sentence in findings(failed))


def test_a_kept_base_comes_with_what_would_help(tmp_path):
    steps = " ".join(next_steps(gather(*build_run(tmp_path / "run", ship="base"))))
    assert "--generator bedrock" in steps and "generate.examples" in steps and "2.1 points" in steps
    assert "serve" not in steps
