import json

import numpy as np
import pytest

from embedfit.errors import EmbedfitError, InputError
from embedfit.evaluation.check import CheckPair, auc, draw_pairs, pair_cosines, read_pairs, run, separation, verdict_on
from embedfit.path.artefacts import Passage, Query
from embedfit.progress import Silent
from embedfit.runtime import Runtime

from .conftest import build_run, passages_of
from .fakes import WordsEmbedder

SAME = [
    {"query": text, "passage": text, "similar": True} for text in ("mute the tv", "what is the sound of it", "to query")
]
OTHER = [
    {"query": "mute the tv", "passage": "of and 9 9 9 9 9 9", "similar": False},
    {"query": "to query", "passage": "passage ;;; (x) ??", "similar": False},
]


@pytest.fixture
def words_models(monkeypatch):
    """Models that know words, in the place of random ones."""
    monkeypatch.setattr("embedfit.evaluation.check.base_model", lambda config: WordsEmbedder("base"))
    monkeypatch.setattr("embedfit.evaluation.check.LocalModel", lambda name, folder: WordsEmbedder(name, key="m"))


def write_pairs(path, pairs):
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    return path


def test_auc_by_hand():
    assert auc(np.array([0.9, 0.8]), np.array([0.1, 0.2])) == 1.0
    assert auc(np.array([0.1]), np.array([0.5, 0.6])) == 0.0
    assert auc(np.array([0.5, 0.5]), np.array([0.5, 0.5])) == 0.5
    assert auc(np.array([0.9, 0.3]), np.array([0.3, 0.5])) == (2 + 0.5) / 4


def test_cosines_are_of_the_pairs(cache):
    pairs = [CheckPair(query="a b", passage="a b", similar=True), CheckPair(query="a b", passage="b c", similar=False)]
    embedder = WordsEmbedder()
    assert pair_cosines(embedder, pairs, cache, Silent()) == pytest.approx([1.0, 0.5])
    assert embedder.released == 1


def test_the_verdict_needs_similar_pairs_above_different_ones():
    good = separation(np.array([0.9, 0.8]), np.array([0.1, 0.2]))
    bad = separation(np.array([0.1, 0.2]), np.array([0.9, 0.8]))
    same = separation(np.array([0.5]), np.array([0.5]))
    assert verdict_on({"base": bad, "merged": good})[0] is True
    assert verdict_on({"base": good, "merged": bad})[0] is False
    assert verdict_on({"base": good, "merged": same})[0] is False
    assert "not above" in verdict_on({"base": good, "merged": bad})[1]


@pytest.mark.usefixtures("words_models")
def test_the_users_pairs_pass(workspace, tiny_bert, tmp_path):
    pairs = write_pairs(tmp_path / "pairs.jsonl", [*SAME, *OTHER])
    config = build_run(workspace, tiny_bert, check={"pairs": str(pairs)})
    run(workspace, config, Runtime())
    result = workspace.read_json("check.json")
    assert result["passed"] is True
    assert result["source"] == "pairs.jsonl"
    assert set(result["systems"]) == {"base", "merged"}
    for system in result["systems"].values():
        assert (len(system["similar"]), len(system["different"])) == (3, 2)
        assert system["auc"] == 1.0
    assert len(result["pairs"]) == 5
    assert set(result["pairs"][0]) == {"query", "passage", "similar", "base", "merged"}


@pytest.mark.usefixtures("words_models")
def test_a_failed_check_is_written_and_then_raised(workspace, tiny_bert, tmp_path):
    wrong = [{**pair, "similar": not pair["similar"]} for pair in (*SAME, *OTHER)]
    config = build_run(workspace, tiny_bert, check={"pairs": str(write_pairs(tmp_path / "pairs.jsonl", wrong))})
    with pytest.raises(EmbedfitError, match="not above") as caught:
        run(workspace, config, Runtime())
    assert caught.value.exit_code == 1
    assert caught.value.remedy
    result = workspace.read_json("check.json")
    assert result["passed"] is False
    assert "not above" in result["verdict"]


def test_pairs_of_the_run_are_drawn_and_repeatable(workspace, tiny_bert):
    config = build_run(workspace, tiny_bert, check={"count": 2})

    def checked():
        try:
            run(workspace, config, Runtime())
        except EmbedfitError:
            pass  # a random model may well fail
        return workspace.read_json("check.json")

    first = checked()
    assert first["source"] == "dev queries"
    assert len(first["pairs"]) == 4
    assert checked() == first


def test_no_kept_query_is_nothing_to_check(workspace, tiny_bert):
    config = build_run(workspace, tiny_bert)
    workspace.write(Query, [])
    run(workspace, config, Runtime())
    assert workspace.read_json("check.json")["passed"] is None


@pytest.mark.parametrize(
    ("pairs", "complaint"), [([], "no pairs"), (SAME, "no different pairs"), (OTHER, "no similar pairs")]
)
def test_one_sided_pairs_are_refused(tmp_path, pairs, complaint):
    with pytest.raises(InputError, match=complaint):
        read_pairs(write_pairs(tmp_path / "p.jsonl", pairs))


def test_a_wrong_line_is_named(tmp_path):
    path = write_pairs(tmp_path / "p.jsonl", [SAME[0], {"query": "x"}])
    with pytest.raises(InputError, match="line 2"):
        read_pairs(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nothing\.jsonl is missing"):
        read_pairs(tmp_path / "nothing.jsonl")


def query(number, passage_id, split="dev", **fields):
    return Query(
        query_id=f"q{number}", passage_id=passage_id, text=f"query {number}", style="", split=split, kept=True, **fields
    )


def test_drawn_pairs_are_of_dev_queries_and_other_documents():
    passages = passages_of()
    queries = [query(n, f"d{n % 3}-0", split="dev" if n < 6 else "train") for n in range(12)]
    split, pairs = draw_pairs(queries, passages, 50, rng=np.random.default_rng(0))
    assert split == "dev"
    assert len(pairs) == 12
    documents = {passage.content: passage.document_id for passage in passages}
    for similar, different in zip(pairs[::2], pairs[1::2], strict=True):
        assert (similar.similar, different.similar) == (True, False)
        assert similar.query == different.query
        assert documents[similar.passage] != documents[different.passage]


def test_without_dev_queries_train_queries_are_drawn():
    split, pairs = draw_pairs([query(1, "d0-0", "train")], passages_of(), 5, rng=np.random.default_rng(0))
    assert (split, len(pairs)) == ("train", 2)


def test_a_different_passage_is_never_an_answer_or_a_copy():
    passages = [
        Passage(passage_id="a", document_id="d", title="", text="one"),
        Passage(passage_id="b", document_id="d", title="", text="one"),
        Passage(passage_id="c", document_id="d", title="", text="two"),
        Passage(passage_id="e", document_id="d", title="", text="three"),
    ]
    for seed in range(20):
        _, pairs = draw_pairs([query(1, "a", also_relevant=("c",))], passages, 5, rng=np.random.default_rng(seed))
        assert pairs[1].passage == "three"


def test_a_single_passage_gives_no_pair():
    passages = [Passage(passage_id="a", document_id="d", title="", text="one")]
    assert draw_pairs([query(1, "a")], passages, 5, rng=np.random.default_rng(0))[1] == []
