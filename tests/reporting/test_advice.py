from dataclasses import replace

from embedfit.reporting.advice import findings, next_steps
from embedfit.reporting.evidence import gather
from embedfit.reporting.usage import snippets
from embedfit.reporting.wording import indexed
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


def _windowed(evidence, delta, ci95):
    systems = {**evidence.systems, "merged_windowed": replace(evidence.systems["merged"], metrics={"ndcg@10": 0.7})}
    rows = [
        replace(evidence.comparisons[0], a="merged_windowed", b=other, delta=delta, ci95=ci95)
        for other in ("merged", "base", "base_windowed")
    ]
    return replace(evidence, systems=systems, comparisons=(*evidence.comparisons, *rows))


def test_several_vectors_a_passage_are_advised_only_where_they_help(evidence):
    better = _windowed(evidence, 0.08, (0.05, 0.11))
    assert "Index a vector for every window" in " ".join(findings(better))
    assert "+8.0" in indexed(better) and "training’s" in indexed(better) and "0.700" in indexed(better)
    unsure = _windowed(evidence, 0.001, (-0.02, 0.02))
    assert "one a passage will do" in " ".join(findings(unsure)) and not indexed(unsure)
    worse = _windowed(evidence, -0.04, (-0.06, -0.02))
    assert "Keep one vector a passage" in " ".join(findings(worse)) and not indexed(worse)
    assert not any("window" in sentence for sentence in findings(evidence)) and not indexed(evidence)


def test_the_command_for_several_vectors_is_given_where_they_were_measured(evidence):
    assert not any("--windows" in snippet.code for snippet in snippets(evidence))
    found = [snippet for snippet in snippets(_windowed(evidence, 0.08, (0.05, 0.11))) if "--windows" in snippet.code]
    assert [snippet.title for snippet in found] == ["Index several vectors a passage"]


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
