"""Systems and saved runs, compared pair by pair."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import embedfit
from embedfit.cli.main import app
from embedfit.comparing.compare import Compared, ComparedRecord, compare
from embedfit.comparing.mteb import write_mteb
from embedfit.errors import InputError, UsageError
from embedfit.files.beir import write_beir
from embedfit.files.retrieval import Entry, RetrievalData
from embedfit.path.artefacts import METRIC, Score
from embedfit.path.workspace import encode_record
from embedfit.retrieval.metrics import METRICS, judge, score
from embedfit.retrieval.significance import holm
from tests.json_forms import printed

TOPICS = ("mute the sound", "reset the remote", "pair a speaker", "update the set", "lock a channel", "save energy")


@pytest.fixture
def beir(tmp_path):
    """24 passages of 12 documents, a question of each. The id of the first passage has a space."""
    corpus = {
        f"p {n}" if n == 0 else f"p{n}": Entry(f"To {TOPICS[n % 6]} press button {n}.", f"document {n // 2}")
        for n in range(24)
    }
    folder = tmp_path / "manuals"
    data = RetrievalData(
        corpus=corpus,
        queries={f"q{n}": f"{TOPICS[n % 6]} button {n}\twhich" for n in range(24)},
        qrels={f"q{n}": {key: 1} for n, key in enumerate(corpus)},
    )
    write_beir(folder, data)
    return folder


def trec(path, rows, name="theirs"):
    """A TREC run. rows: (query, passage, score)."""
    path.write_text("".join(f"{query} Q0 {passage} 1 {value} {name}\n" for query, passage, value in rows))
    return str(path)


def passage(n):
    return "p_0" if n == 0 else f"p{n}"


def perfect(but=()):
    """Rows that find each query's passage first, or second for the numbers in `but`."""
    for n in range(24):
        yield (f"q{n}", passage(n), 0.5 if n in but else 2)
        yield (f"q{n}", passage((n + 1) % 24), 1)


def test_a_trec_run_is_scored_as_its_rankings_are(beir, tmp_path):
    run = trec(tmp_path / "a.trec", perfect(but=(3, 5)))
    found = compare([run, "bm25"], beir, draws=200)
    assert isinstance(found, Compared) and isinstance(found, embedfit.Compared)
    second = 1 / np.log2(3)
    assert found.systems[run].metrics[METRIC] == pytest.approx((22 + 2 * second) / 24)
    assert found.measured[run].ranks.tolist() == [2 if n in (3, 5) else 1 for n in range(24)]
    assert (found.record.cluster_by, found.record.queries, found.record.passages) == ("document", 24, 24)
    assert ComparedRecord.model_validate_json(found.as_json()) == found.record


def test_every_pair_is_compared_and_corrected(beir, tmp_path):
    runs = [trec(tmp_path / f"{n}.trec", perfect(but=range(0, 24, step))) for n, step in enumerate((1, 2, 4))]
    found = compare(runs, beir, draws=200)
    pairs = [one for one in found.comparisons if one.metric == METRIC]
    assert [(one.a, one.b) for one in pairs] == [(runs[1], runs[0]), (runs[2], runs[0]), (runs[2], runs[1])]
    assert [one.p_holm for one in pairs] == holm([one.p_value for one in pairs])
    assert all(one.p_holm >= one.p_value and one.minimum_detectable > 0 and one.clusters == 12 for one in pairs)
    assert found.pair(runs[1], runs[0]).better and found.pair(runs[1], runs[0]) == pairs[0]
    with pytest.raises(KeyError):
        found.pair(runs[0], runs[1])
    printed = str(found)
    assert "better" in printed and "24 queries over 24 passages" in printed and "12 whole documents" in printed


def test_equal_runs_differ_by_nothing(beir, tmp_path):
    one, other = (trec(tmp_path / name, perfect(but=(1,))) for name in ("a.trec", "b.trec"))
    pair = compare([one, other], beir, draws=200).pair(other, one)
    assert (pair.delta, pair.p_value, pair.p_holm, pair.verdict) == (0, 1, 1, "unsure")


@given(st.lists(st.floats(1e-6, 1), min_size=1, max_size=8))
def test_holm_follows_its_definition(values):
    corrected = holm(values)
    order = np.argsort(values, kind="stable")
    for place, number in enumerate(order):
        before = [(len(values) - k) * values[order[k]] for k in range(place + 1)]
        assert corrected[number] == pytest.approx(min(1.0, max(before)))
    for level in (0.01, 0.05, 0.2):  # the step-down procedure itself
        rejected = set()
        for place, number in enumerate(order):
            if values[number] * (len(values) - place) > level:
                break
            rejected.add(int(number))
        assert {n for n, p in enumerate(corrected) if p <= level} == rejected


def test_queries_that_a_run_lacks(beir, tmp_path):
    whole = trec(tmp_path / "whole.trec", perfect())
    part = trec(tmp_path / "part.trec", [row for row in perfect() if row[0] not in ("q3", "q4")])
    with pytest.raises(InputError, match=r"part.trec lacks 2 of the 24 judged queries, such as 'q3'") as raised:
        compare([whole, part], beir, draws=200)
    assert "--missing zero" in raised.value.remedy and "--missing skip" in raised.value.remedy
    zero = compare([whole, part], beir, missing="zero", draws=200)
    assert zero.systems[part].metrics[METRIC] == pytest.approx(22 / 24)
    assert zero.systems[part].lacking == 2 and "count as 0" in zero.record.notes[0]
    skipped = compare([whole, part], beir, missing="skip", draws=200)
    assert skipped.record.queries == 22 and skipped.pair(part, whole).queries == 22
    assert skipped.systems[whole].metrics[METRIC] == skipped.systems[part].metrics[METRIC] == 1


def test_what_is_not_used_is_named(beir, tmp_path):
    run = trec(tmp_path / "a.trec", [*perfect(), ("q99", "p1", 1), ("q1", "unknown", 9)])
    found = compare([run, "bm25"], beir, draws=200)
    assert found.systems[run].metrics[METRIC] == 1
    assert any("1 queries have no judgement in the folder, such as 'q99'" in note for note in found.record.notes)
    assert any("1 results are no passages of the corpus" in note for note in found.record.notes)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("q1 Q0 p1 1 2.0 a\nq1 Q0 p1 2 1.0 a\n", "line 2: the query 'q1' has the passage 'p1' twice"),
        ("q1 Q0 p1 1 2.0 a\nq1 Q0 p2 2\n", "line 2: expected six columns"),
        ("q1 Q0 p1 1 2.0 a\nq1 Q0 p2 2 nan a\n", "line 2: expected six columns"),
        ("x Q0 p1 1 2.0 a\n", "none of them is among the 24 judged queries"),
        ("", "holds no scores"),
        ("not a run\n", "line 1"),
        ('{"a": 1}\n', "line 1"),
    ],
)
def test_a_file_that_is_no_run_is_a_clear_error(beir, tmp_path, text, said):
    path = tmp_path / "bad.trec"
    path.write_text(text)
    with pytest.raises(InputError) as raised:
        compare([str(path), "bm25"], beir)
    assert said in raised.value.message and str(path) in raised.value.message


def scores(path, run):
    """scores.jsonl of two systems: what the comparison measured of `run`, and zeros."""
    rows = [
        Score(system=name, query_id=query, metric=metric, value=float(value), rank=int(rank))
        for name, factor in (("chosen", 1.0), ("base", 0.0))
        for query, rank, values in zip(
            run.eval_set.query_ids, run.measured["bm25"].ranks, run.measured["bm25"].values, strict=True
        )
        for metric, value in zip(METRICS, values * factor, strict=True)
    ]
    path.write_text("".join(encode_record(row) + "\n" for row in rows))
    return str(path)


def test_the_scores_of_a_run_folder(beir, tmp_path):
    first = compare(["bm25", trec(tmp_path / "a.trec", perfect())], beir, draws=200)
    path = scores(tmp_path / "scores.jsonl", first)
    found = compare([path, f"{path}#base", "bm25"], beir, draws=200)
    assert found.systems[path].metrics == first.systems["bm25"].metrics
    assert set(found.systems[f"{path}#base"].metrics.values()) == {0}
    with pytest.raises(UsageError, match="has no system 'merged': chosen, base"):
        compare([f"{path}#merged", "bm25"], beir)
    with pytest.raises(UsageError, match="counted as sentence-transformers does"):
        compare([path, "bm25"], beir, convention="trec_eval")
    with pytest.raises(UsageError, match="is a run folder"):
        compare([str(tmp_path), "bm25"], beir)


def test_too_few_systems_and_repeated_ones(beir):
    with pytest.raises(UsageError, match="needs two systems"):
        compare(["bm25"], beir)
    with pytest.raises(UsageError, match="named twice"):
        compare(["bm25", "bm25"], beir)


def test_per_query_table(beir, tmp_path):
    run = trec(tmp_path / "a.trec", perfect(but=(3,)))
    compare([run, "bm25"], beir, draws=200).per_query(tmp_path / "out.tsv")
    with (tmp_path / "out.tsv").open() as file:
        rows = list(csv.DictReader(file, dialect="excel-tab"))
    assert len(rows) == 24 and rows[3]["query_id"] == "q3"
    assert rows[3]["query"] == "update the set button 3 which"
    assert (rows[3][f"{run} rank"], float(rows[3][f"{run} {METRIC}"])) == ("2", pytest.approx(1 / np.log2(3), abs=1e-6))
    assert rows[2]["cluster"] == rows[3]["cluster"] != rows[4]["cluster"]


def test_mteb_results(beir, tmp_path):
    """The form that mteb's TaskResult checks, with trec_eval's numbers."""
    found = compare([trec(tmp_path / "a.trec", perfect(but=(3,))), "bm25"], beir, draws=200)
    found = replace(found, measured={**found.measured, "scores": replace(found.measured["bm25"], found=())})
    files, without = write_mteb(found, beir, tmp_path / "mteb")
    assert without == ["scores"] and [path.parent.parent.name for path in files][1] == "bm25"
    result = json.loads(files[1].read_text())
    assert set(result) == {
        "dataset_revision", "task_name", "mteb_version", "scores", "evaluation_time", "kg_co2_emissions",
    }  # fmt: skip
    (of_test,) = result["scores"]["test"]
    assert (result["task_name"], of_test["hf_subset"], of_test["languages"]) == ("manuals", "default", ["eng-Latn"])
    judged = judge(found.measured["bm25"].found, found.eval_set.relevant)
    for ours, theirs in (("ndcg@10", "ndcg_at_10"), ("map@100", "map_at_100"), ("recall@5", "recall_at_5")):
        assert of_test[theirs] == pytest.approx(score(judged, (ours,), "trec_eval")[ours].mean(), abs=1e-6)
    assert of_test["main_score"] == of_test["ndcg_at_10"]
    meta = json.loads((files[1].parent / "model_meta.json").read_text())
    assert (meta["name"], meta["revision"]) == ("bm25", files[1].parent.name)


def test_the_command(beir, tmp_path):
    run = trec(tmp_path / "a.trec", perfect(but=(3,)))
    out, results = tmp_path / "q.tsv", tmp_path / "mteb"
    arguments = ["compare", run, "bm25", "--beir", str(beir)]
    done = CliRunner().invoke(app, [*arguments, "--per-query", str(out), "--mteb", str(results)])
    assert done.exit_code == 0, done.output
    assert "detectable" in done.output and out.exists() and (results / "bm25").is_dir()
    record = printed("embedfit compare", CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert record["schema"] == 1 and list(record["systems"]) == [run, "bm25"]
    assert record["comparisons"][0]["p_holm"] is not None
