import pytest

from embedfit.index.retriever import EXPANDED, RRF
from embedfit.path.systems import label_of
from embedfit.reporting import wording
from tests.reporting.conftest import decided, summarised, told, with_retrievers


@pytest.mark.parametrize(
    ("delta", "said"),
    [(0.0684, "+6.8"), (-0.004, "\N{MINUS SIGN}0.4"), (0.0002, "0.0"), (-0.0002, "0.0"), (0, "0.0"), (None, "–")],
)
def test_points_are_hundredths_with_a_sign(delta, said):
    assert wording.points(delta) == said


@pytest.mark.parametrize(("value", "said"), [(0.0005, "< 0.001"), (0.0312, "0.031"), (1.0, "1.000"), (None, "–")])
def test_p_values_are_never_zero(value, said):
    assert wording.p_value(value) == said


def test_small_words():
    assert wording.score(0.55663) == "0.557"
    assert wording.metric_name("ndcg@10") == "nDCG@10" and wording.metric_name("own") == "own"
    assert label_of("hybrid_merged") == "Merged + BM25"
    assert label_of("org/model") == "org/model"
    assert wording.plural(1, "query") == "1 query" and wording.plural(1200, "query") == "1,200 queries"
    assert wording.money(0) == "$0" and wording.money(0.004) == "under $0.01" and wording.money(1234.5) == "$1,234.50"
    assert plain(wording.size(768)) == "768 B" and plain(wording.size(13_100.0)) == "13.1 kB"
    assert plain(wording.milliseconds(0.21)) == "0.2 ms" and plain(wording.milliseconds(120.4)) == "120 ms"
    assert wording.size(None) == wording.milliseconds(None) == "–"


def plain(text):
    return text.replace("\N{NO-BREAK SPACE}", " ").replace("\N{MINUS SIGN}", "-")


def test_the_verdict_is_of_the_retriever_that_ships(evidence):
    said = wording.headline(evidence.summary)
    assert (said.tone, said.action) == ("better", "Search with the safe default retriever over the tuned model")
    assert plain(said.sentence) == (
        "it finds more on your documents than one vector a passage of the untuned base, by +23.0 points of nDCG@10 "
        "(0.489 → 0.719; 95% interval +21.5 to +24.5), on 240 questions that people asked"
    )


def test_the_verdict_where_the_base_ships(kept):
    said = wording.headline(kept.summary)
    assert said.action == "Search with the safe default retriever over the untuned base"
    assert "written by a language model" in said.sentence
    assert (
        wording.tuning(kept.summary)
        == "Nothing of the tuning ships: no tuned model was found to be surely better than the base."
    )


@pytest.mark.parametrize(
    ("ci95", "tone", "part"),
    [
        ((-0.01, 0.03), "unsure", "can’t tell"),
        ((-0.05, -0.01), "worse", "finds less than"),
        (None, "unsure", "can’t tell"),
    ],
)
def test_what_ships_without_proof_is_not_said_to_find_more(evidence, ci95, tone, part):
    said = wording.headline(told(evidence, "default", "base", 0.01, ci95).summary)
    assert said.tone == tone and part in said.sentence
    assert not said.sentence.startswith("it finds more")


@pytest.mark.parametrize(
    ("ci95", "part"),
    [
        ((0.002, 0.03), "Tuning added +1.7 points, 95% interval +0.2 to +3.0, to the same retriever"),
        ((-0.01, 0.03), "no difference seen against the same retriever over the untuned base"),
        ((-0.05, -0.01), "Tuning took away"),
    ],
)
def test_tuning_is_told_against_the_same_retriever_untuned(evidence, ci95, part):
    assert part in plain(wording.tuning(told(evidence, "default", "default_base", 0.017, ci95).summary))


def test_a_chosen_retriever_is_told_against_itself_untuned(evidence):
    systems = {name: one.model_dump() for name, one in evidence.summary.systems.items()}
    other = summarised(evidence, systems={**systems, "chosen_base": systems["base"]})
    other = told(with_retrievers(other, chosen=RRF), "chosen", "chosen_base", 0.05, (0.04, 0.06))
    assert other.summary.lead == "chosen" and "+5.0" in wording.tuning(other.summary)
    action = wording.headline(decided(other, kind="written").summary).action
    assert action == "Search with the retriever of this run’s index, over the tuned model"
    action = wording.headline(decided(other, kind="graded").summary).action
    assert action == "Search with the retriever that people’s questions chose, over the tuned model"


def test_written_queries_in_the_index_are_named(evidence):
    action = wording.headline(with_retrievers(evidence, default=EXPANDED, chosen=EXPANDED).summary).action
    assert action == "Search with the safe default retriever over the tuned model and the written queries"


def test_a_run_of_the_first_version_has_its_model_as_the_lead(evidence):
    systems = {name: evidence.summary.systems[name].model_dump() for name in ("base", "merged", "bm25")}
    old = summarised(evidence, retrievers={}, systems=systems).summary
    assert wording.headline(old).action == "Search with the merged model"
    assert "+6.8" in wording.headline(old).sentence


def test_without_comparisons_the_verdict_says_so(evidence):
    bare = summarised(evidence, comparisons=[]).summary
    assert "no comparison" in wording.headline(bare).sentence and wording.tuning(bare) == ""


def test_the_terminal_shows_retriever_tuning_and_the_next_commands(evidence):
    lines = wording.lead_lines(evidence.summary, "my runs/a")
    assert lines[0].startswith("Search with the safe default retriever over the tuned model: it finds more")
    assert lines[1].startswith("Tuning added +1.7")
    assert "embedfit index --run 'my runs/a'; embedfit search" in lines[2]
