"""Written queries in an index, and the retriever that a run chose."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from embedfit.cli.main import app
from embedfit.commands.indexing import index_documents, index_run
from embedfit.errors import InputError
from embedfit.index import retriever as retrievers
from embedfit.index.build import Source, build
from embedfit.index.plan import plan
from embedfit.index.store.manifest import read_manifest
from embedfit.index.written import Written, written_of
from embedfit.models.local import local_model
from embedfit.path.artefacts import ChoiceEvidence, ChosenRetriever, Passage, Query
from embedfit.path.workspace import Workspace
from embedfit.progress import Silent
from embedfit.runtime import Runtime

ALL = Written(queries=[("a",)] * 20, calls=frozenset())
NEARLY_ALL = Written(queries=[("a",)] * 19 + [()], calls=frozenset())
HALF = Written(queries=[("a",), ()], calls=frozenset())
NONE = Written(queries=[()], calls=frozenset())


def chosen(retriever, kind="none"):
    evidence = ChoiceEvidence(kind=kind)
    return ChosenRetriever(model="base", retriever=retriever, default=retrievers.DEFAULT, evidence=evidence)


@pytest.mark.parametrize(
    ("chose", "written", "is_strong", "wishes", "expected"),
    [
        (None, None, True, {}, "default"),
        (None, ALL, True, {}, "expanded"),
        (None, NEARLY_ALL, True, {}, "expanded"),
        (None, ALL, False, {}, "default"),
        (None, HALF, True, {}, "default"),
        (None, NONE, True, {}, "default"),
        (None, ALL, True, {"queries": "no"}, "default"),
        (None, ALL, False, {"queries": "yes"}, "expanded"),
        (chosen(retrievers.BM25, "graded"), ALL, True, {}, "bm25"),
        (chosen(retrievers.BM25, "labelled"), ALL, True, {"queries": "yes"}, "expanded"),
        (chosen(retrievers.EXPANDED, "graded"), ALL, False, {}, "expanded"),
        (chosen(retrievers.EXPANDED, "graded"), HALF, True, {}, "default"),
        (chosen(retrievers.EXPANDED, "graded"), None, True, {}, "default"),
        (chosen(retrievers.DEFAULT, "written"), ALL, True, {}, "expanded"),
    ],
)
def test_which_retriever_an_index_gets(chose, written, is_strong, wishes, expected):
    assert plan(20, chosen=chose, written=written, is_strong=is_strong, **wishes).retriever.name == expected


@pytest.mark.parametrize("written", [None, NONE, HALF])
def test_queries_that_are_wanted_and_not_there_are_an_error(written):
    with pytest.raises(InputError) as error:
        plan(20, chosen=None, written=written, is_strong=True, queries="yes")
    assert "--without-queries" in str(error.value.remedy)


@given(st.sampled_from([None, ALL]), st.sampled_from(["yes", "no"]), st.sampled_from([100, 1_000_000]))
def test_tokens_are_there_exactly_where_they_are_wanted(written, tokens, passages):
    found = plan(passages, chosen=None, written=written, is_strong=True, tokens=tokens)
    assert (found.retriever.rerank is not None) == (tokens == "yes")


def test_only_kept_queries_of_a_writer_count_each_once():
    passages = [Passage(passage_id=name, document_id="d", title="", text="t") for name in "ab"]
    rows = [("a", "x", "question", True, "1"), ("a", "x", "claim", True, "2"), ("a", "y", "claim", False, "3"),
            ("b", "z", "asked", True, ""), ("c", "z", "claim", True, "4")]  # fmt: skip
    queries = [Query(query_id=str(n), passage_id=p, text=t, style=s, kept=k, call_id=c,
                     split="log" if s == "asked" else "train")
               for n, (p, t, s, k, c) in enumerate(rows)]  # fmt: skip
    found = written_of([one.passage_id for one in passages], queries)
    assert found.queries == [("x",), ()]
    assert found.covered == 0.5 and found.count == 1 and found.calls == {"1", "2"}


def test_a_passage_without_queries_has_its_own_vector_in_their_place(tiny_bert):
    source = Source(contents=["mute the tv", "the lamp", "an oven"], queries=[("sound off", "quiet"), (), ("bread",)])
    model = local_model("m", str(tiny_bert))
    built = build(source, model, retrievers.EXPANDED.without_tokens(), Runtime().vectors, Silent())
    rows = built.parts.queries
    assert rows.starts.tolist() == [0, 2, 3, 4]
    np.testing.assert_array_equal(rows.vectors[2], built.parts.one[1])
    expected = model.embed(["sound off", "quiet", "bread"], is_query=True)
    np.testing.assert_allclose(rows.vectors[[0, 1, 3]], expected, atol=1e-3)


# --- a run


@pytest.fixture
def run(tmp_path, tiny_bert):
    """A run folder of twenty passages, each with a written query, one of which was dropped."""
    rows = [{"_id": f"p{n}", "title": "", "text": f"Passage {n} tells of thing {n} and of what it is good for. " * 2}
            for n in range(20)]  # fmt: skip
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    index_documents(tmp_path / "corpus.jsonl", folder=tmp_path / "run", model=str(tiny_bert))
    workspace = Workspace(tmp_path / "run")
    workspace.write(
        Query,
        [Query(query_id=str(n), passage_id=one.passage_id, text=f"zebra{n} crossing", style="question", split="train",
               kept=n > 0) for n, one in enumerate(workspace.read(Passage))],
    )  # fmt: skip
    return workspace


def test_a_run_has_its_written_queries_in_the_index_where_they_are_wanted(run):
    assert not index_run(run.root).retriever.has("queries")  # the preset offline has a small writer
    index = index_run(run.root, written=True)
    assert index.retriever.name == "expanded"
    assert index.search("zebra7 crossing", 1)[0].text.startswith("Passage 7 ")
    manifest = read_manifest(index.stored.folder)
    assert manifest.written.queries == 19 and manifest.written.covered == 0.95
    assert not index_run(run.root, written=False).retriever.has("queries")


def test_the_setting_is_kept_and_the_option_stands_above_it(run):
    toml = run.path("embedfit.toml")
    text = toml.read_text()
    assert 'queries = "auto"' in text and 'tokens = "auto"' in text
    toml.write_text(text.replace('queries = "auto"', 'queries = "yes"').replace('tokens = "auto"', 'tokens = "no"'))
    index = index_run(run.root)
    assert index.retriever.has("queries") and index.retriever.rerank is None
    index = index_run(run.root, written=False, tokens=True)
    assert not index.retriever.has("queries") and index.retriever.rerank is not None


def test_too_few_written_queries_are_refused_and_the_share_is_said(run):
    run.write(Query, [one for one in run.read(Query) if int(one.query_id) < 10])
    with pytest.raises(InputError, match=r"9 of 20 passages have written queries \(45%\)"):
        index_run(run.root, written=True)
    assert CliRunner().invoke(app, ["index", "--run", str(run.root), "--without-queries"]).exit_code == 0


def test_the_index_of_a_run_is_of_the_retriever_that_the_run_chose(run):
    run.store(chosen(retrievers.BM25, "graded"))
    index = index_run(run.root)
    assert index.retriever.name == "bm25"
    assert set(index.search("thing", 1)[0].parts) == {"words"}
