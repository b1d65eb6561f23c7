"""Large indexes: lists name candidates, every candidate's score is the exact one, and the recall is measured."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from embedfit.cli.main import app
from embedfit.commands.indexing import index_documents, load, update_index
from embedfit.errors import InputError
from embedfit.index import approximate, constants
from embedfit.index import retriever as retrievers
from embedfit.index.retriever import DEPTH
from embedfit.index.scoring import Asked, Parts, Rows, Scores, find
from embedfit.index.store import folder as index_folder
from embedfit.index.store.manifest import MANIFEST
from embedfit.progress import Silent
from embedfit.retrieval.bm25 import Bm25
from embedfit.runtime import Runtime
from tests.said import Said

SIZE, WIDTH, TOPICS = 4_000, 32, 60
WORDS = "mute tv lamp hall button zeppelin oven bread chain bike kite wind".split()
RETRIEVERS = {
    name: one.without_tokens().with_deviations({"one": 0.05, "windows": 0.06, "queries": 0.07})
    for name, one in {
        "default": retrievers.DEFAULT,
        "expanded": retrievers.EXPANDED,
        "base": retrievers.BASE,
        "windows": retrievers.WINDOWS,
    }.items()
}


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


@pytest.fixture(autouse=True)
def _small_is_large(monkeypatch):
    monkeypatch.setattr(approximate, "MOST_EXACT", 20)
    monkeypatch.setattr(approximate, "FEW_ALLOWED", 200)


def made_up(noise=0.6, seed=0):
    """Passages about topics, some of them longer than a window, and queries about the same topics."""
    rng = np.random.default_rng(seed)
    topics = unit(rng.normal(size=(TOPICS, WIDTH)))
    own = rng.integers(0, TOPICS, SIZE)

    def rows(counts):
        numbers = np.repeat(own, counts)
        return unit(topics[numbers] + noise / WIDTH**0.5 * rng.normal(size=(len(numbers), WIDTH))).astype(np.float16)

    windows, written = rng.choice([0, 0, 2, 5], SIZE), rng.choice([1, 2], SIZE)
    words = Bm25([" ".join(rng.choice(WORDS, 6)) for _ in range(SIZE)])
    parts = Parts(
        size=SIZE,
        one=rows(np.ones(SIZE, int)),
        windows=Rows(rows(windows), np.append(0, windows.cumsum())),
        queries=Rows(rows(written), np.append(0, written.cumsum())),
        words=words,
        words_and_queries=words,
    )
    texts = [" ".join(rng.choice(WORDS, 3)) for _ in range(40)]
    about = topics[rng.integers(0, TOPICS, 40)]
    vectors = unit(about + noise / WIDTH**0.5 * rng.normal(size=(40, WIDTH)))
    return parts, Asked(texts=texts, vectors=vectors)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Parts, queries, and for each retriever what the manifest keeps and the parts with its lists."""
    parts, asked = made_up()
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(approximate, "MOST_EXACT", 20)
        for name, retriever in RETRIEVERS.items():
            folder = tmp_path_factory.mktemp(name)
            about = approximate.write(folder, parts, retriever, asked, Silent())
            found[name] = (about, replace(parts, near=approximate.opened(folder, about, retriever)))
    return parts, asked, found


def the_first(asked, count=4):
    return Asked(texts=asked.texts[:count], vectors=asked.vectors[:count])


@pytest.mark.parametrize("name", RETRIEVERS)
def test_the_recall_in_the_manifest_is_that_of_the_search(name, large):
    parts, asked, found = large
    about, near = found[name]
    retriever = RETRIEVERS[name]
    assert about.used and about.recall >= approximate.ENOUGH_RECALL and about.queries == 40
    assert about.share < approximate.SHARES[-1]
    exact = Scores(parts, asked).first(retriever)
    recalls = []
    for row, best in zip(exact, find(Scores(near, asked), retriever, DEPTH), strict=True):
        least = np.sort(row)[-DEPTH]
        recalls.append((row[best.passages] >= least - 1e-5).mean())
        np.testing.assert_allclose(best.scores, row[best.passages], rtol=1e-5, atol=1e-5)
    assert np.mean(recalls) == pytest.approx(about.recall, abs=0.002)


def test_candidates_are_few(large):
    _, asked, found = large
    about, near = found["default"]
    retriever = RETRIEVERS["default"]
    passages = near.near.candidates(Scores(near, asked), retriever, 0, 5, None)
    assert len(passages) <= 3 * 5 * approximate.OVERSAMPLING
    assert list(passages) == sorted(set(passages.tolist()))
    assert set(about.parts) == {"one", "windows"}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(sorted(RETRIEVERS)),
    share=st.sampled_from([0.0, 0.0003, 0.04, 0.3, 0.9, 1.0]),
    k=st.sampled_from([1, 10, 80, 3000]),
    seed=st.integers(0, 1000),
    is_clustered=st.booleans(),
)
def test_a_filter_finds_allowed_passages_with_their_exact_scores(name, share, k, seed, is_clustered, large):
    parts, asked, found = large
    asked, retriever, near = the_first(asked), RETRIEVERS[name], found[name][1]
    allowed = np.zeros(SIZE, bool)
    some = np.random.default_rng(seed).permutation(SIZE)[: round(share * SIZE)]
    allowed[: len(some)] |= is_clustered
    allowed[some] |= not is_clustered
    exact = np.where(allowed, Scores(parts, asked).first(retriever), -np.inf)
    hits = []
    for row, best in zip(exact, find(Scores(near, asked), retriever, k, allowed), strict=True):
        assert allowed[best.passages].all()
        assert len(best.passages) == min(k, int(allowed.sum())) == len(set(best.passages.tolist()))
        assert (np.diff(best.scores) <= 0).all()
        np.testing.assert_allclose(best.scores, row[best.passages], rtol=1e-5, atol=1e-5)
        if len(best.passages):
            hits.append((row[best.passages] >= np.sort(row)[-len(best.passages)] - 1e-5).mean())
    if allowed.sum() <= approximate.FEW_ALLOWED:
        assert all(hit == 1 for hit in hits)
    else:
        assert np.mean(hits) >= 0.8


def test_the_lists_of_several_files_are_searched_as_one(tmp_path, monkeypatch):
    parts, asked = made_up()
    monkeypatch.setattr(approximate, "_SHARD_BYTES", 1500 * (WIDTH + 8))
    about = approximate.write(tmp_path, parts, RETRIEVERS["default"], asked, Silent())
    assert [one.rows for one in about.parts["one"]] == [1333, 1333, 1334]
    assert sum(one.rows for one in about.parts["windows"]) == len(parts.windows.vectors)
    assert about.recall >= approximate.ENOUGH_RECALL
    near = approximate.opened(tmp_path, about, RETRIEVERS["default"])
    rows = parts.one.astype(np.float32)
    for query in asked.vectors:
        allowed = np.arange(SIZE) % 3 == 0
        found = approximate.nearest(near.parts["one"], query, 10, 1.0, allowed)
        best = np.argsort(-np.where(allowed, rows @ query, -np.inf))[:10]
        assert len(set(found.tolist()) & set(best.tolist())) >= 8  # one byte a number


def test_another_retriever_and_deep_results_are_scored_everywhere(large):
    _, asked, found = large
    near, scores = found["default"][1], Scores(found["default"][1], asked)
    assert near.near.candidates(scores, retrievers.BASE, 0, 10, None) is None
    assert near.near.candidates(scores, RETRIEVERS["default"], 0, SIZE, None) is None
    one = Asked(texts=asked.texts[:1], vectors=asked.vectors[:1])
    assert len(find(Scores(near, one), RETRIEVERS["default"], SIZE)[0].passages) == SIZE


def test_a_query_that_is_a_passage_does_not_find_itself(large):
    _, asked, found = large
    near, retriever = found["default"][1], RETRIEVERS["default"]
    asked = the_first(asked)
    best = [one.passages[0] for one in find(Scores(near, asked), retriever, 5)]
    for one, own in zip(find(Scores(near, replace(asked, own=np.array(best))), retriever, 5), best, strict=True):
        assert own not in one.passages and len(one.passages) == 5


def test_lists_that_find_too_little_are_not_kept(tmp_path, monkeypatch):
    parts, asked = made_up(noise=50)  # no topic is left, and neighbours lie in any list
    monkeypatch.setattr(approximate, "SHARES", (1 / 64, 1 / 32))
    said = Said()
    about = approximate.write(tmp_path, parts, RETRIEVERS["base"], asked, said)
    assert not about.used and about.recall < approximate.ENOUGH_RECALL
    assert f"{about.recall:.1%}" in about.why and "search stays exact" in said.lines[-1]
    assert list(tmp_path.iterdir()) == []
    assert approximate.opened(tmp_path, about, RETRIEVERS["base"]) is None
    assert about.why in approximate.exact_because(about)


@pytest.mark.parametrize("retriever", [retrievers.BM25, retrievers.RRF])
def test_what_is_no_sum_with_vectors_gets_no_lists(retriever, tmp_path):
    parts, asked = made_up()
    assert approximate.write(tmp_path, parts, retriever, asked, Silent()) is None


def test_constants_are_the_same_whether_all_queries_are_scored_at_once_or_few(monkeypatch):
    parts, _ = made_up()
    texts = [f"Passage {number} is about a {WORDS[number % 12]} and nothing else." for number in range(SIZE)]

    def embed(asked):
        return unit(np.random.default_rng(len(asked)).normal(size=(len(asked), WIDTH)))

    whole = constants.deviations(parts, texts, embed)
    monkeypatch.setattr(constants, "_BLOCK", 3 * SIZE)
    assert constants.deviations(parts, texts, embed) == pytest.approx(whole, rel=1e-6)


# --- folders


def corpus(path, count, things=WORDS):
    rows = [
        {"_id": f"{path.stem}{n}", "title": "", "metadata": {"year": n},
         "text": f"The {things[n % len(things)]} of house {n} is {n * 7} years old. " * 9}
        for n in range(count)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def run(tmp_path, tiny_bert):
    index_documents(corpus(tmp_path / "c.jsonl", 40), folder=tmp_path / "ix", model=str(tiny_bert))
    return tmp_path / "ix"


def manifest(run):
    return json.loads((run / "index" / MANIFEST).read_text())


def test_a_folder_keeps_its_lists(run, tmp_path, tiny_bert):
    about = manifest(run)["approximate"]
    assert about["used"] and about["recall"] >= 0.95 and about["queries"] == 40
    assert {one["file"] for shards in about["parts"].values() for one in shards} <= set(manifest(run)["files"])
    index = load(run)
    assert index.recall == about["recall"] and index.parts.near is not None and index.exact_because == ""
    exact = replace(index.parts, near=None)
    asked = index.asker.ask(["how old is the lamp"])
    for near, whole in zip(
        find(Scores(index.parts, asked), index.retriever, 3),
        find(Scores(exact, asked), index.retriever, 3),
        strict=True,
    ):
        np.testing.assert_allclose(near.scores, whole.scores, rtol=1e-5, atol=1e-5)
    assert [hit.metadata["year"] for hit in index.search("lamp", 2, where="year<2")] in ([0, 1], [1, 0])

    before = about["parts"]["one"][0]["rows"]
    update_index(run, add=[corpus(tmp_path / "more.jsonl", 3, ["sofa"])])
    assert manifest(run)["approximate"]["parts"]["one"][0]["rows"] == before + 3


def test_json_says_the_recall(run):
    result = CliRunner().invoke(app, ["search", "--index", str(run), "lamp", "--json"])
    assert result.exit_code == 0 and json.loads(result.stdout)["recall"] == manifest(run)["approximate"]["recall"]


def test_a_small_index_has_no_lists(tmp_path, tiny_bert, monkeypatch):
    monkeypatch.setattr(approximate, "MOST_EXACT", 10_000)
    index = index_documents(corpus(tmp_path / "c.jsonl", 40), folder=tmp_path / "ix", model=str(tiny_bert))
    assert index.parts.near is None and index.recall is None and index.exact_because == ""
    assert manifest(tmp_path / "ix")["approximate"] is None


def test_without_the_extra_search_is_exact_and_says_so(tmp_path, tiny_bert, monkeypatch):
    there = approximate.library
    monkeypatch.setattr(approximate, "library", lambda: None)
    said = Said()

    def build():
        return index_documents(
            corpus(tmp_path / "c.jsonl", 40), folder=tmp_path / "ix", model=str(tiny_bert), runtime=Runtime(report=said)
        )

    index = build()
    assert len([line for line in said.lines if "pip install 'embedfit[ann]'" in line]) == 1
    assert index.parts.near is None and "not installed" in index.exact_because
    assert len(index.search("lamp", 3)) == 3
    build()
    assert "up to date" in said.lines[-1]
    monkeypatch.setattr(approximate, "library", there)
    assert build().parts.near is not None  # what was missing is there now


def test_an_index_with_lists_opens_without_the_extra(run, monkeypatch):
    monkeypatch.setattr(approximate, "library", lambda: None)
    index = load(run)
    assert index.parts.near is None and index.recall is None
    assert "pip install 'embedfit[ann]'" in index.exact_because
    result = CliRunner().invoke(app, ["search", "--index", str(run), "lamp"])
    assert result.exit_code == 0 and "pip install 'embedfit[ann]'" in result.stderr


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_lists_that_are_damaged_are_an_error_or_change_no_score(data, run, monkeypatch):
    """Wrong bytes that no hash of the whole file finds, because the file is too large to be read for that."""
    monkeypatch.setattr(index_folder, "CHECKED_BYTES", 0)
    about = data.draw(st.sampled_from(manifest(run)["approximate"]["parts"]["one"]))
    path = run / "index" / about["file"]
    whole = path.read_bytes()
    changed = bytearray(whole)
    place = data.draw(st.integers(0, len(whole) - 1))
    length = data.draw(st.sampled_from([1, 8, 200]))
    changed[place : place + length] = bytes(byte ^ 255 for byte in whole[place : place + length])
    path.unlink()  # an index of before keeps the file that it has mapped
    path.write_bytes(changed)
    try:
        if place < about["head"]:
            with pytest.raises(InputError, match=path.name) as error:
                load(run)
            assert "--force" in str(error.value.remedy)
        else:
            index = load(run)
            asked = index.asker.ask(["how old is the lamp"])
            exact = Scores(replace(index.parts, near=None), asked).first(index.retriever)[0]
            for best in find(Scores(index.parts, asked), index.retriever.without_tokens(), 3):
                np.testing.assert_allclose(best.scores, exact[best.passages], rtol=1e-5, atol=1e-5)
    finally:
        path.unlink()
        path.write_bytes(whole)


def test_fields_that_change_alone_leave_the_lists(run, tmp_path, tiny_bert):
    before = manifest(run)["approximate"]
    rows = [json.loads(line) for line in (tmp_path / "c.jsonl").read_text().splitlines()]
    changed = [{**row, "metadata": {"year": 1900}} for row in rows]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in changed))
    said = Said()
    index = index_documents(tmp_path / "c.jsonl", folder=run, model=str(tiny_bert), runtime=Runtime(report=said))
    assert any("only fields of passages have changed" in line for line in said.lines)
    assert manifest(run)["approximate"] == before and index.parts.near is not None
