import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydantic import TypeAdapter
from typer.testing import CliRunner

from embedfit.cli.main import app
from embedfit.commands.indexing import index_run
from embedfit.commands.trec import write_trec
from embedfit.errors import ArtifactMissing, InputError, UsageError
from embedfit.evaluation import stage
from embedfit.evaluation.run_systems import alike
from embedfit.files.beir import read_beir, write_beir
from embedfit.files.retrieval import Entry, RetrievalData
from embedfit.index.retriever import DEFAULT, DEFAULT_TUNED, DEPTH, EXPANDED, Part, Retriever
from embedfit.llm.ledger import Ledger
from embedfit.llm.protocol import Message, Reply, Request
from embedfit.models.store.vectors import VectorStore
from embedfit.path.artefacts import Manifest, Passage, Query, Score
from embedfit.path.workspace import Workspace
from embedfit.retrieval.metrics import METRICS, judge, ndcg
from embedfit.runtime import Runtime
from tests.path.keys import keys_of

from .conftest import build_run, passages_of

OWN = ["base", "finetuned", "merged", "bm25", "hybrid_base", "hybrid_merged"]
BM25_AND_ONE = Retriever(name="mine", parts=(Part(name="one", weight=0.2), Part(name="words", weight=9.0)))
RETRIEVERS = ["rrf", "default_base", "default", "chosen"]


@pytest.fixture
def runtime(tmp_path):
    return Runtime(ledger=tmp_path / "ledger.sqlite")


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, tiny_bert, other_bert):
    """An evaluated run, which no test may change."""
    folder = tmp_path_factory.mktemp("evaluated")
    workspace = Workspace(folder / "run")
    config = build_run(workspace, tiny_bert, other_model=other_bert)
    runtime = Runtime(ledger=folder / "ledger.sqlite", vectors=VectorStore(folder / "vectors"))
    stage.run(workspace, config, runtime)
    return workspace


def test_summary_is_as_the_contract_says(evaluated):
    summary = evaluated.read_json("summary.json")
    assert summary["schema"] == 1
    assert list(summary["systems"]) == [*OWN, *RETRIEVERS]
    for system in summary["systems"].values():
        assert list(system["metrics"]) == list(METRICS)
        for metric, (low, high) in system["ci95"].items():
            assert 0 <= low <= high <= 1
            assert low - 1e-9 <= system["metrics"][metric] <= high + 1e-9
    assert {(row["a"], row["b"], row["metric"]) for row in summary["comparisons"]} >= {
        (a, b, metric)
        for a, b in [
            ("merged", "base"),
            ("finetuned", "base"),
            ("merged", "bm25"),
            ("hybrid_merged", "hybrid_base"),
            ("hybrid_merged", "bm25"),
            ("default", "base"),
            ("default", "default_base"),
            ("chosen", "default"),
            ("rrf", "default"),
        ]
        for metric in ("ndcg@10", "hit@5", "mrr@10")
    }
    for row in summary["comparisons"]:
        a, b = (summary["systems"][row[side]]["metrics"][row["metric"]] for side in "ab")
        assert row["delta"] == pytest.approx(a - b)
        assert 0 < row["p_value"] <= 1
    retriever = evaluated.read_json("retriever.json")
    assert summary["decision"] == {"ship": "merged", "alpha": 0.4, "why": "better on dev", "retriever": retriever}
    data = summary["data"]
    assert (data["documents"], data["passages"], data["train_rows"]) == (3, 12, 2)
    assert (data["queries_generated"], data["queries_kept"], data["eval_queries"]) == (12, 9, 9)
    assert data["eval_kind"] == "synthetic"
    assert set(summary["cost"]) == {"calls", "input_tokens", "output_tokens", "usd", "models"}
    golden = set(json.loads((Path(__file__).parents[1] / "golden" / "summary_keys.json").read_text()))
    keys = keys_of(summary)
    assert keys <= golden and all(".evidence." in key for key in golden - keys), (
        "a run of few questions has no evidence"
    )


def test_the_same_weights_have_the_same_scores(workspace, tiny_bert, runtime):
    config = build_run(workspace, tiny_bert)
    stage.run(workspace, config, runtime)
    summary = workspace.read_json("summary.json")
    assert summary["systems"]["merged"] == summary["systems"]["base"]
    (row,) = [r for r in summary["comparisons"] if (r["a"], r["b"], r["metric"]) == ("merged", "base", "ndcg@10")]
    assert (row["delta"], row["ci95"], row["p_value"]) == (0.0, [0.0, 0.0], 1.0)
    evaluation = workspace.read_json("evaluation.json")
    assert evaluation["counts"] == {"won": 0, "lost": 0, "tied": 9}


def test_scores_are_the_means_of_the_summary(evaluated):
    scores = evaluated.read(Score)
    assert len(scores) == len([*OWN, *RETRIEVERS]) * 9 * len(METRICS)
    summary = evaluated.read_json("summary.json")
    for system in OWN:
        for metric in METRICS:
            values = [score.value for score in scores if (score.system, score.metric) == (system, metric)]
            assert np.mean(values) == pytest.approx(summary["systems"][system]["metrics"][metric])
    for score in scores:
        if score.metric == "mrr@10":
            assert score.value == pytest.approx(1 / score.rank if 0 < score.rank <= 10 else 0)


def test_evaluation_json_is_what_the_report_reads(evaluated):
    evaluation = evaluated.read_json("evaluation.json")
    assert {row["value"] for row in evaluation["slices"]["style"]} == {"question", "keywords"}
    assert {row["value"] for row in evaluation["slices"]["document"]} == {"0.md", "1.md", "2.md"}
    for rows in evaluation["slices"].values():
        assert all({"value", "queries", "base", "merged", "delta", "ci95"} == set(row) for row in rows)
    assert evaluation["wins"] or evaluation["losses"]
    for outcome in (*evaluation["wins"], *evaluation["losses"]):
        assert {"query_id", "query", "style", "relevant", "base", "merged", "bm25", "chosen", "delta"} <= set(outcome)
        named = [*outcome["relevant"], *outcome["base"]["top"], *outcome["merged"]["top"]]
        assert all(passage in evaluation["passages"] for passage in named)
    assert all({"title", "text", "document_id", "page"} <= set(p) for p in evaluation["passages"].values())


def test_human_queries_are_evaluated_where_they_are_given(workspace, tiny_bert, runtime, tmp_path):
    passages = passages_of()
    corpus = {passage.passage_id: Entry(passage.text, passage.title) for passage in passages}
    human = {"h1": "which button mutes the sound?", "h2": "speaker pairing"}
    folder = tmp_path / "human"
    write_beir(folder, RetrievalData(corpus=corpus, queries=human, qrels={"h1": {"d0-0": 1}, "h2": {"d0-2": 1}}))
    config = build_run(workspace, tiny_bert, eval_beir=str(folder))
    stage.run(workspace, config, runtime)
    summary = workspace.read_json("summary.json")
    assert (summary["data"]["eval_kind"], summary["data"]["eval_queries"]) == ("human", 2)
    assert {score.query_id for score in workspace.read(Score)} == {"h1", "h2"}
    styles = [row["value"] for row in workspace.read_json("evaluation.json")["slices"]["style"]]
    assert sorted(styles) == ["not a question", "question"]


def test_one_query_gives_intervals_that_say_nothing(workspace, tiny_bert, runtime, tmp_path):
    corpus = {passage.passage_id: Entry(passage.text, passage.title) for passage in passages_of()}
    write_beir(tmp_path / "one", RetrievalData(corpus=corpus, queries={"h": "mute"}, qrels={"h": {"d0-0": 1}}))
    config = build_run(workspace, tiny_bert, eval_beir=str(tmp_path / "one"))
    stage.run(workspace, config, runtime)
    summary = workspace.read_json("summary.json")
    assert summary["systems"]["base"]["ci95"]["ndcg@10"] == [0.0, 1.0]
    assert all(row["ci95"] == [-1.0, 1.0] and row["p_value"] == 1.0 for row in summary["comparisons"])


def test_bm25_reads_long_passages_whole_and_also_as_far_as_the_models_do(workspace, tiny_bert, runtime, tmp_path):
    corpus = {"a": Entry("mute " * 200 + "unicorn"), "b": Entry("reset the remote")}
    write_beir(tmp_path / "long", RetrievalData(corpus=corpus, queries={"h": "unicorn"}, qrels={"h": {"a": 1}}))
    config = build_run(
        workspace, tiny_bert, eval_beir=str(tmp_path / "long"), evaluate={"windows": 0, "bootstrap": 100}
    )
    stage.run(workspace, config, runtime)
    summary = workspace.read_json("summary.json")
    assert summary["data"]["eval_passages_cut"] == 1
    assert summary["systems"]["bm25_cut"]["metrics"]["hit@1"] == 0.0
    assert summary["systems"]["bm25"]["metrics"]["hit@1"] == 1.0
    assert list(summary["systems"]) == [*OWN, "bm25_cut", *RETRIEVERS]


def test_models_read_long_passages_to_the_end_with_a_vector_for_every_window(workspace, tiny_bert, runtime, tmp_path):
    corpus = {"a": Entry("mute " * 200 + "unicorn"), "b": Entry("reset the remote")}
    write_beir(tmp_path / "long", RetrievalData(corpus=corpus, queries={"h": "unicorn"}, qrels={"h": {"a": 1}}))
    config = build_run(workspace, tiny_bert, eval_beir=str(tmp_path / "long"), evaluate={"bootstrap": 100})
    stage.run(workspace, config, runtime)
    summary = workspace.read_json("summary.json")
    extra = ["bm25_cut", "base_windowed", "merged_windowed", "hybrid_merged_windowed"]
    assert list(summary["systems"]) == [*OWN, *extra, *RETRIEVERS]
    assert ("merged_windowed", "merged") in {(row["a"], row["b"]) for row in summary["comparisons"]}


def test_further_systems_are_measured_and_compared(workspace, tiny_bert, other_bert, runtime):
    config = build_run(
        workspace, tiny_bert, evaluate={"systems": [str(other_bert), f"hybrid:{other_bert}"], "bootstrap": 100}
    )
    stage.run(workspace, config, runtime)
    summary = workspace.read_json("summary.json")
    assert list(summary["systems"]) == [*OWN, *RETRIEVERS, str(other_bert), f"hybrid:{other_bert}"]
    assert {row["b"] for row in summary["comparisons"]} >= {str(other_bert), f"hybrid:{other_bert}"}


def test_two_runs_give_the_same_files(workspace, tiny_bert, other_bert, runtime):
    config = build_run(workspace, tiny_bert, other_model=other_bert)
    stage.run(workspace, config, runtime)
    names = ("scores.jsonl", "evaluation.json", "summary.json")
    first = [workspace.path(name).read_text() for name in names]
    stage.run(workspace, config, runtime)
    second = [workspace.path(name).read_text() for name in names]
    assert first[:2] == second[:2]
    before, after = json.loads(first[2]), json.loads(second[2])
    for summary in (before, after):
        summary.pop("timings_s")
        for row in summary["retrievers"].values():
            assert row.pop("ms_a_query") > 0
    assert before == after


def test_cost_and_timings_come_from_ledger_and_manifests(workspace, tiny_bert, runtime):
    config = build_run(workspace, tiny_bert)
    request = Request(messages=(Message(role="user", content="x"),), max_tokens=5)
    with Ledger(runtime.ledger) as ledger:
        for key in ("call1", "call2", "of another run"):
            reply = Reply(text="y", input_tokens=100, output_tokens=7)
            ledger.put(key, "bedrock", "llama", request, reply, usd=0.25)
    queries = workspace.read(Query)
    workspace.write(Query, [*queries, queries[1]])  # one call wrote two queries: counted once
    workspace.write_manifest(Manifest(stage="ingest", schema=1, code="0", seed=1, config="", seconds=12.5, finished=""))
    stage.run(workspace, config, runtime)
    summary = workspace.read_json("summary.json")
    assert summary["cost"] == {
        "calls": 2, "input_tokens": 200, "output_tokens": 14, "usd": 0.5, "models": ["bedrock:llama"],
    }  # fmt: skip
    assert summary["timings_s"]["ingest"] == 12.5
    assert summary["timings_s"]["evaluate"] > 0


def test_without_a_ledger_the_cost_is_zero_and_none_is_made(workspace, tiny_bert, runtime):
    stage.run(workspace, build_run(workspace, tiny_bert), runtime)
    assert workspace.read_json("summary.json")["cost"]["calls"] == 0
    assert not runtime.ledger.exists()


@pytest.mark.parametrize("name", ["merged", "bm25", "default", "titan-v2:7"])
def test_wrong_further_systems_fail_before_any_work(workspace, tiny_bert, runtime, name):
    config = build_run(workspace, tiny_bert, evaluate={"systems": [name]})
    with pytest.raises(UsageError):
        stage.run(workspace, config, runtime)
    assert not workspace.path("summary.json").exists()


def test_missing_artefacts_name_the_command(workspace, tiny_bert, runtime):
    config = build_run(workspace, tiny_bert)
    workspace.path("merge.json").unlink()
    with pytest.raises(ArtifactMissing, match="embedfit merge --run"):
        stage.run(workspace, config, runtime)


def test_a_missing_evaluation_folder_is_named(workspace, tiny_bert, runtime):
    config = build_run(workspace, tiny_bert, eval_beir="nowhere")
    with pytest.raises(InputError, match="nowhere"):
        stage.run(workspace, config, runtime)


def test_numbers_are_finite(workspace, tiny_bert, runtime):
    stage.run(workspace, build_run(workspace, tiny_bert), runtime)
    assert all(math.isfinite(score.value) for score in workspace.read(Score))


def test_where_the_base_ships_the_fine_tuned_model_is_held_against_it(workspace, tiny_bert, other_bert, runtime):
    """At weight 0 the merged model is the base: its queries won and lost would say nothing."""
    config = build_run(workspace, tiny_bert)
    shutil.rmtree(workspace.path("finetuned"))
    shutil.copytree(other_bert, workspace.path("finetuned"))
    merge = workspace.read_json("merge.json")
    decision = {"ship": "base", "alpha": 0.0, "why": "not surely better"}
    workspace.write_json("merge.json", {**merge, "decision": decision})
    stage.run(workspace, config, runtime)
    evaluation = workspace.read_json("evaluation.json")
    assert evaluation["tuned"] == "finetuned"
    assert evaluation["wins"] or evaluation["losses"]
    assert all("finetuned" in one and "merged" not in one for one in (*evaluation["wins"], *evaluation["losses"]))
    row = evaluation["slices"]["style"][0]
    assert set(row) == {"value", "queries", "base", "finetuned", "delta", "ci95"}
    systems = workspace.read_json("summary.json")["systems"]
    rows = evaluation["slices"]["style"]
    mean = sum(row["finetuned"] * row["queries"] for row in rows) / sum(row["queries"] for row in rows)
    assert mean == pytest.approx(systems["finetuned"]["metrics"]["ndcg@10"])


@pytest.mark.parametrize(
    ("tune", "tried", "alpha", "measured"),
    [
        ("both", [0, 0.6], 0.6, False),
        ("both", [0, 0.6], 0.0, True),
        ("both", [0, 0.5, 1], 0.5, True),
        ("query", [0, 0.5], 0.5, True),
        ("map", [0, 0.3], 0.3, True),
    ],
)
def test_the_whole_tuned_model_is_measured_if_it_could_ship_or_encodes_no_passage(
    workspace, tiny_bert, runtime, tune, tried, alpha, measured
):
    config = build_run(workspace, tiny_bert)
    config = config.model_copy(update={"train": config.train.model_copy(update={"tune": tune})})
    decision = {"ship": "merged" if alpha else "base", "alpha": alpha, "why": "dev"}
    points = [{"alpha": one, "dev": {}, "retention": None} for one in tried]
    workspace.write_json("merge.json", {"alphas": points, "decision": decision})
    stage.run(workspace, config, runtime)
    assert ("finetuned" in workspace.read_json("summary.json")["systems"]) == measured


def means(folder, lines):
    """Mean nDCG@10 of a TREC run's lines on a BEIR folder's queries."""
    found = {}
    for line in lines:
        query, _, passage, *_ = line.split()
        found.setdefault(query, []).append(passage)
    beir = read_beir(folder)
    queries = [query for query in beir.queries if beir.relevant(query)]
    return ndcg(judge([found.get(query, []) for query in queries], [beir.relevant(query) for query in queries]), 10)


def test_a_search_of_the_runs_index_gives_the_chosen_row(workspace, tiny_bert, other_bert, runtime, tmp_path):
    config = build_run(workspace, tiny_bert, other_model=other_bert, documents=5, each=9)
    stage.run(workspace, config, runtime)
    trec = tmp_path / "out.trec"
    for arguments in (
        ["index", "--run", str(workspace.root)],
        ["search", "--run", str(workspace.root), "--queries", str(workspace.path("eval/queries.jsonl")), "--trec",
         str(trec)],
    ):  # fmt: skip
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, done.output
    values = means(workspace.path("eval"), trec.read_text("utf-8").splitlines())
    row = workspace.read_json("summary.json")["systems"]["chosen"]["metrics"]["ndcg@10"]
    assert 0 < row < 1 and values.mean() == pytest.approx(row, abs=1e-6)


def test_each_row_is_a_retriever_with_what_it_takes(evaluated):
    summary = evaluated.read_json("summary.json")
    rows = summary["retrievers"]
    assert set(rows) == set(summary["systems"])
    for name, row in rows.items():
        assert TypeAdapter(Retriever).validate_python(row["retriever"]).parts
        assert row["bytes_a_passage"] > 0 and row["ms_a_query"] > 0, name
    assert rows["bm25"]["model"] is None
    assert [rows[name]["model"] for name in ("default_base", "default", "rrf")] == ["base", "merged", "merged"]
    assert alike(
        *(TypeAdapter(Retriever).validate_python(rows[name]["retriever"]) for name in ("default", "default_base"))
    )
    assert rows["chosen"] == rows["default"]
    assert summary["systems"]["chosen"] == summary["systems"]["default"]


def test_another_chosen_retriever_is_told_against_itself_untuned(workspace, tiny_bert, other_bert, runtime):
    config = build_run(workspace, tiny_bert, other_model=other_bert, documents=5, each=9)
    chosen = {**workspace.read_json("retriever.json"), "retriever": BM25_AND_ONE.as_json()}
    workspace.write_json("retriever.json", chosen)
    stage.run(workspace, config, runtime)
    summary = workspace.read_json("summary.json")
    assert list(summary["systems"]) == [*OWN, "rrf", "default_base", "default", "chosen_base", "chosen"]
    rows = summary["retrievers"]
    assert (rows["chosen"]["model"], rows["chosen_base"]["model"]) == ("merged", "base")
    assert {("chosen", "chosen_base"), ("chosen", "default")} <= {(c["a"], c["b"]) for c in summary["comparisons"]}


def test_the_untuned_default_keeps_its_own_share_of_late_interaction(workspace, tiny_bert, other_bert, runtime):
    config = build_run(workspace, tiny_bert, other_model=other_bert)
    chosen = workspace.read_json("retriever.json")
    default = {**chosen["default"], "rerank": {"weight": DEFAULT_TUNED.rerank.weight, "depth": DEPTH}}
    workspace.write_json("retriever.json", {**chosen, "retriever": default, "default": default})
    stage.run(workspace, config, runtime)
    rows = workspace.read_json("summary.json")["retrievers"]
    assert rows["default"]["retriever"]["rerank"]["weight"] == DEFAULT_TUNED.rerank.weight
    assert rows["default_base"]["retriever"]["rerank"]["weight"] == DEFAULT.rerank.weight


def test_where_the_base_ships_the_default_is_over_the_base(workspace, tiny_bert, other_bert, runtime):
    config = build_run(workspace, tiny_bert, other_model=other_bert)
    workspace.write_json("retriever.json", {**workspace.read_json("retriever.json"), "model": "base"})
    stage.run(workspace, config, runtime)
    summary = workspace.read_json("summary.json")
    assert {summary["retrievers"][name]["model"] for name in ("default", "rrf", "chosen")} == {"base"}
    assert summary["systems"]["default"] == summary["systems"]["default_base"]


def test_storage_is_measured_against_float32(evaluated):
    summary = evaluated.read_json("summary.json")
    rows = {row["name"]: row for row in summary["storage"]}
    assert list(rows) == ["float32", "float16", "int8", "binary, rescored in float16", "binary, rescored in int8"]
    assert [row["bytes_a_passage"] for row in rows.values()] == [128, 64, 32, 4, 4]
    assert rows["float32"]["delta"] == 0 and rows["float16"]["ndcg@10"] == pytest.approx(
        summary["systems"]["merged"]["metrics"]["ndcg@10"]
    )


def strong(workspace, config):
    """A run whose strong writer wrote a query of every passage, and whose default reads them."""
    queries = workspace.read(Query)
    more = [
        replace(queries[0], query_id=f"w{n}", passage_id=passage.passage_id, text=f"{passage.text[:20]} {n}", kept=True,
                split="train", reason="")
        for n, passage in enumerate(workspace.read(Passage))
    ]  # fmt: skip
    workspace.write(Query, [*queries, *more])
    value = EXPANDED.as_json()
    workspace.write_json(
        "retriever.json", {**workspace.read_json("retriever.json"), "retriever": value, "default": value}
    )
    return config.model_copy(update={"generate": config.generate.model_copy(update={"generator": "recorded"})})


def test_written_queries_lie_in_the_index_that_people_judge(workspace, tiny_bert, other_bert, runtime, tmp_path):
    corpus = {passage.passage_id: Entry(passage.text, passage.title) for passage in passages_of(5, 9)}
    asked = {f"h{n}": f"which button is it to {topic}?" for n, topic in enumerate(("mute", "pair a speaker", "reset"))}
    qrels = {query: {f"d{n}-{n}": 1} for n, query in enumerate(asked)}
    write_beir(tmp_path / "human", RetrievalData(corpus=corpus, queries=asked, qrels=qrels))
    config = build_run(
        workspace, tiny_bert, other_model=other_bert, documents=5, each=9, eval_beir=str(tmp_path / "human")
    )
    config = strong(workspace, config)
    stage.run(workspace, config, runtime)
    summary = workspace.read_json("summary.json")
    assert summary["data"]["without_written_queries"] is False
    assert summary["retrievers"]["chosen"] == summary["retrievers"]["default"]
    assert {part["name"] for part in summary["retrievers"]["default"]["retriever"]["parts"]} == {
        "one", "windows", "queries", "words_and_queries"
    }  # fmt: skip
    trec = tmp_path / "out.trec"
    index = index_run(workspace.root, written=True, runtime=runtime)
    write_trec(index, list(asked.items()), trec, k=100, runtime=runtime)
    values = means(tmp_path / "human", trec.read_text("utf-8").splitlines())
    assert values.mean() == pytest.approx(summary["systems"]["chosen"]["metrics"]["ndcg@10"], abs=1e-6)


def test_written_questions_are_never_asked_of_an_index_that_holds_them(workspace, tiny_bert, other_bert, runtime):
    config = strong(workspace, build_run(workspace, tiny_bert, other_model=other_bert, documents=5, each=9))
    stage.run(workspace, config, runtime)
    summary = workspace.read_json("summary.json")
    assert summary["data"]["without_written_queries"] is True
    for row in summary["retrievers"].values():
        assert not any("queries" in part["name"] for part in row["retriever"]["parts"])
