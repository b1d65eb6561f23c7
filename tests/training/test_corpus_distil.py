"""Training by a teacher of the whole corpus: maps, towers of queries and single models, questions without labels."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer

from embedfit.config import Config, resolve
from embedfit.errors import InputError, TrainingError, UsageError
from embedfit.merging import stage as merging
from embedfit.merging.mixtures import Maps, Mixtures, QueryTowers, WholeModels, mixtures_of
from embedfit.models.architecture import Dense
from embedfit.models.layout.modules import unit_rows
from embedfit.models.layout.reading import read_architecture
from embedfit.models.layout.towers import save_mapped
from embedfit.models.local import LocalModel, base_model
from embedfit.models.query_map import QueryMap
from embedfit.models.store.vectors import VectorStore
from embedfit.numerics.arrays import Scores
from embedfit.path.artefacts import MergeSweep, Passage, Query, TrainRow
from embedfit.path.workspace import Workspace
from embedfit.runtime import Runtime
from embedfit.teaching.coverage import COVERED, covered
from embedfit.teaching.own_sentences import FEWEST
from embedfit.training import loop
from embedfit.training.stage import run
from embedfit.training.store import Example
from embedfit.training.teachers.corpus import MOST_TIMES, times_of
from tests.models.tiny_families import save_static
from tests.models.tiny_towers import SHAPES, random_map
from tests.said import Said
from tests.training.conftest import make_run

TEXTS = ["red green", "slow loud warm", "deep"]
PASSAGES = ["red deep", "warm slow"]
Tuned = Callable[[str, Path], Workspace]


def settings(model: Path, tune: str, *extra: str) -> Config:
    train = {"loss": "corpus-distil", "tune": tune, "epochs": 3, "batch_size": 8, "learning_rate": 1e-3}
    train |= {"precision": "fp32", "keep": "last", "map_steps": 30}
    return resolve(overrides={"model": str(model), "train": train}, assignments=extra)


def runtime(folder: Path) -> Runtime:
    return Runtime(vectors=VectorStore(folder / "vectors"))


def trained(workspace: Workspace, config: Config) -> LocalModel:
    run(workspace, config, runtime(workspace.root))
    return LocalModel("finetuned", workspace.path("finetuned"))


@pytest.fixture(scope="module")
def tuned_runs(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    """A function that copies a run whose training tuned a map, the queries' tower or both; each is trained once."""
    root = tmp_path_factory.mktemp("tuned")

    def copied(tune: str, to: Path) -> Workspace:
        if not (root / tune).exists():
            trained(make_run(root / tune), settings(tiny_bert, tune))
        return Workspace(shutil.copytree(root / tune, to, dirs_exist_ok=True))

    return copied


SPLITS: dict[str, Literal["log", "judge"] | None] = {"none": None, "log": "log", "judge": "judge"}


def map_of(
    folder: Path, config: Config, split: Literal["log", "judge"] | None, texts: Sequence[str] = TEXTS
) -> QueryMap:
    """The map of a run whose questions that people asked (texts) are of a split; None for no such questions."""
    workspace = make_run(folder)
    if split:
        asked = [
            Query(query_id=f"asked-{n}", passage_id="", text=text, style="asked", split=split, kept=True)
            for n, text in enumerate(texts)
        ]
        workspace.write(Query, [*workspace.read(Query), *asked])
    trained(workspace, config)
    return QueryMap.load(workspace.path("query_map.safetensors"))


@pytest.mark.parametrize("tune", ["map", "query", "both"])
def test_what_is_tuned_changes_and_the_rest_stays(
    tiny_bert: Path, tmp_path: Path, tuned_runs: Tuned, tune: str
) -> None:
    workspace, config = tuned_runs(tune, tmp_path), settings(tiny_bert, tune)
    tuned, base = LocalModel("finetuned", workspace.path("finetuned")), base_model(config)
    moved = np.abs(tuned.embed(TEXTS, is_query=True) - base.embed(TEXTS, is_query=True)).max()
    assert moved > 1e-3
    same = np.allclose(tuned.embed(TEXTS, is_query=False), base.embed(TEXTS, is_query=False), atol=1e-6)
    assert same == (tune != "both")
    learned = QueryMap.load(tmp_path / "query_map.safetensors")
    assert np.abs(learned.matrix - np.eye(32)).max() > 1e-3
    if tune == "map":
        mapped = learned(base.embed(TEXTS, is_query=True))
        np.testing.assert_allclose(tuned.embed(TEXTS, is_query=True), mapped, atol=1e-5)
    log = json.loads((tmp_path / "finetuned" / "training.json").read_text())
    assert log["rows"] == 24 and log["steps"] == (30 if tune == "map" else 9)
    assert log["config"]["epochs"] == 3


def cosines(mixtures: Mixtures, alpha: float) -> Scores:
    """Of TEXTS and PASSAGES by one mixture: (3, 2)."""
    passages, queries = mixtures.embed(alpha, PASSAGES, TEXTS)
    return queries @ passages.T


@pytest.mark.parametrize(("tune", "kind"), [("map", Maps), ("query", QueryTowers), ("both", WholeModels)])
def test_a_mixture_ranks_as_its_saved_folder(
    tiny_bert: Path, tmp_path: Path, tuned_runs: Tuned, tune: str, kind: type
) -> None:
    workspace, config = tuned_runs(tune, tmp_path), settings(tiny_bert, tune)
    base = base_model(config)
    mixtures = mixtures_of(workspace, config, base, runtime(tmp_path))
    assert isinstance(mixtures, kind)
    start = base.embed(TEXTS, is_query=True) @ base.embed(PASSAGES, is_query=False).T
    np.testing.assert_allclose(cosines(mixtures, 0.0), start, atol=2e-2 if tune != "map" else 1e-5)
    for alpha in (0.5, 1.0):
        mixtures.save(alpha, tmp_path / f"mixed-{alpha}")
        saved = LocalModel("mixed", tmp_path / f"mixed-{alpha}")
        found = saved.embed(TEXTS, is_query=True) @ saved.embed(PASSAGES, is_query=False).T
        np.testing.assert_allclose(cosines(mixtures, alpha), found, atol=2e-2)
    assert not np.allclose(cosines(mixtures, 1.0), start, atol=1e-3)


@pytest.mark.parametrize("tune", ["map", "query"])
def test_the_merge_writes_two_towers_and_a_kept_base_is_one_model(
    tiny_bert: Path, tmp_path: Path, tuned_runs: Tuned, tune: str
) -> None:
    workspace, config = tuned_runs(tune, tmp_path), settings(tiny_bert, tune, "merge.always_ship=true")
    merging.run(workspace, config, runtime(tmp_path))
    assert workspace.load(MergeSweep).decision.alpha > 0
    assert (tmp_path / "merged" / "query" / "modules.json").exists()
    merging.run(workspace, settings(tiny_bert, tune, "merge.alpha=0"), runtime(tmp_path))
    assert workspace.load(MergeSweep).decision.ship == "base"
    assert not (tmp_path / "merged" / "query").exists()
    assert LocalModel("merged", tmp_path / "merged").key == base_model(config).key


def test_questions_without_labels_train_and_questions_that_judge_do_not(tiny_bert: Path, tmp_path: Path) -> None:
    maps = {name: map_of(tmp_path / name, settings(tiny_bert, "map"), split) for name, split in SPLITS.items()}
    assert not np.allclose(maps["log"].matrix, maps["none"].matrix, atol=1e-5)
    np.testing.assert_array_equal(maps["judge"].matrix, maps["none"].matrix)
    contents = [passage.content for passage in Workspace(tmp_path / "log").read(Passage)]
    assert maps["log"].card.made["covered"] == pytest.approx(covered(contents, TEXTS), abs=1e-6)
    assert not any("covered" in maps[name].card.made for name in ("none", "judge"))


def test_questions_in_other_words_than_the_passages_train_only_where_no_label_teaches(
    tiny_bert: Path, tmp_path: Path
) -> None:
    texts = ["red zebra walrus quark", "a slow xylophone wants otters", "deep kazoo lemurs yodel"]
    for share, trains in ((0.3, False), (0.0, True)):
        config = settings(tiny_bert, "map", f"train.label_share={share}", "train.map_prior=0")
        none, log = (map_of(tmp_path / f"{share}-{split}", config, SPLITS[split], texts) for split in ("none", "log"))
        assert np.array_equal(none.matrix, log.matrix) != trains
        assert ("covered" in log.card.made) == trains


@pytest.mark.parametrize(
    ("rows", "share", "lent"),
    [(FEWEST, 0.3, 8), (FEWEST - 1, 0.3, 0), (FEWEST, 0.0, 0)],
    ids=["enough", "few", "apart"],
)
def test_passages_without_a_query_lend_their_own_sentences_where_queries_are_enough(
    tiny_bert: Path, tmp_path: Path, rows: int, share: float, lent: int
) -> None:
    workspace = make_run(tmp_path, rows=rows)  # and 8 passages of dev, which have no row
    trained(workspace, settings(tiny_bert, "map", f"train.label_share={share}"))
    assert json.loads((tmp_path / "finetuned" / "training.json").read_text())["rows"] == rows + lent


def test_the_prior_holds_the_map_unless_questions_that_people_asked_train(tiny_bert: Path, tmp_path: Path) -> None:
    moved = {}
    for prior in (0, 15):
        config = settings(tiny_bert, "map", f"train.map_prior={prior}")
        for split in ("none", "log"):
            found = map_of(tmp_path / f"{prior}-{split}", config, SPLITS[split])
            moved[prior, split] = float(np.linalg.norm(found.matrix - np.eye(found.width)))
    assert moved[15, "none"] < 0.9 * moved[0, "none"]
    assert moved[15, "log"] == moved[0, "log"]


@pytest.mark.parametrize(
    ("written", "asked", "share", "times"),
    [
        (30, 10, COVERED, 3),
        (30, 10, COVERED - 0.01, 1),
        (30, 10, None, 1),
        (10, 30, COVERED, 1),
        (1000, 2, COVERED, MOST_TIMES),
        (30, 0, COVERED, 1),
    ],
    ids=["as-often", "other-words", "no-log", "a-large-log", "few-questions", "none-trains"],
)
def test_questions_that_people_asked_come_as_often_as_written_queries_if_passages_hold_their_words(
    written: int, asked: int, share: float | None, times: int
) -> None:
    known = [(row,) for row in range(written)] + [()] * asked
    examples = [Example(row=row, query=row, positives=positives) for row, positives in enumerate(known)]
    assert times_of(examples, share).tolist() == [1] * written + [times] * asked


def test_a_log_that_does_not_train_leaves_the_map_s_teacher_as_it_is(tiny_bert: Path, tmp_path: Path) -> None:
    config = settings(tiny_bert, "both", "train.loss=in-batch-distil", "train.epochs=1")
    maps = {name: map_of(tmp_path / name, config, split) for name, split in SPLITS.items()}
    np.testing.assert_array_equal(maps["log"].matrix, maps["none"].matrix)
    assert "covered" not in maps["log"].card.made


def test_a_run_that_was_cut_off_ends_with_the_same_bits_and_asks_the_teacher_once(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(tiny_bert, "query")
    trained(make_run(tmp_path / "whole"), config)
    workspace = make_run(tmp_path / "cut")
    step = loop.Trainer.step

    def dying(self: loop.Trainer, batch: object) -> object:
        if self.state.step == 5:
            raise KeyboardInterrupt
        return step(self, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(loop.Trainer, "step", dying)
    with pytest.raises(KeyboardInterrupt):
        trained(workspace, config)
    monkeypatch.setattr(loop.Trainer, "step", step)

    def asked_again(*_: object, **__: object) -> None:
        raise AssertionError("the teacher's scores were stored")

    monkeypatch.setattr("embedfit.training.teachers.corpus.corpus_scores", asked_again)
    trained(workspace, config)
    one, other = (load_file(tmp_path / n / "finetuned" / "query" / "model.safetensors") for n in ("whole", "cut"))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_passages_of_the_evaluation_teach_nothing(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embedfit.training.stage.FEWEST", 1)  # so that passages without a query lend their sentences
    maps = []
    for n, text in enumerate(("red green blue", "slow deep round flat")):
        workspace = make_run(tmp_path / str(n))
        test = Passage(passage_id="t", document_id="e", title="", text=text, split="test")
        workspace.write(Passage, [*workspace.read(Passage), test])
        trained(workspace, settings(tiny_bert, "map"))
        maps.append(QueryMap.load(workspace.path("query_map.safetensors")).matrix)
    np.testing.assert_array_equal(maps[0], maps[1])


@pytest.mark.parametrize("passages", [9, 2])
def test_a_tiny_corpus_trains(tiny_bert: Path, tmp_path: Path, passages: int) -> None:
    workspace = make_run(tmp_path, rows=passages)
    trained(workspace, settings(tiny_bert, "map"))


def test_a_judges_scores_weigh_the_answers(tiny_bert: Path, tmp_path: Path) -> None:
    workspace = make_run(tmp_path)
    rows = workspace.read(TrainRow)
    scored = [TrainRow(query=r.query, pos=r.pos, neg=r.neg, pos_scores=(1.0,), neg_scores=(0.9, 0.0)) for r in rows]
    matrices = []
    for given, teacher in ((rows, "none"), (scored, "none"), (scored, "judge")):
        workspace.write(TrainRow, given)
        trained(workspace, settings(tiny_bert, "map", f"mine.teacher={teacher}", "train.label_share=0.9"))
        matrices.append(QueryMap.load(workspace.path("query_map.safetensors")).matrix)
    np.testing.assert_array_equal(matrices[0], matrices[1])
    assert not np.allclose(matrices[1], matrices[2], atol=1e-5)


def test_a_teacher_that_ranks_everything_alike_is_refused(tiny_bert: Path, tmp_path: Path) -> None:
    workspace = make_run(tmp_path)
    passages = [Passage(passage_id=f"p{n}", document_id="d", title="", text="red red", split="train") for n in range(9)]
    workspace.write(Passage, passages)
    with pytest.raises(InputError, match="ranks all passages alike"):
        trained(workspace, settings(tiny_bert, "map"))


def test_towers_need_a_loss_over_the_corpus() -> None:
    with pytest.raises(UsageError, match=r"train\.loss=corpus-distil"):
        resolve(assignments=["train.tune=map", "train.loss=infonce"])


def test_another_loss_leaves_no_map_of_an_earlier_training(tiny_bert: Path, tmp_path: Path) -> None:
    workspace = make_run(tmp_path)
    trained(workspace, settings(tiny_bert, "map"))
    trained(workspace, settings(tiny_bert, "both", "train.loss=infonce"))
    assert not (tmp_path / "query_map.safetensors").exists()


@pytest.mark.parametrize(
    ("before", "tune"),
    [
        ("map", "map"),
        ("query", "query"),
        *(
            pytest.param(before, tune, marks=pytest.mark.slow)
            for before, tune in (("map", "query"), ("query", "map"), ("both shapes", "map"), ("both shapes", "query"))
        ),
    ],
)
def test_a_model_of_two_towers_is_tuned_further(tiny_bert: Path, tmp_path: Path, before: str, tune: str) -> None:
    last = SHAPES["query" if before == "both shapes" else before](tiny_bert, tmp_path / "last")
    if before == "both shapes":  # a tuned tower with a map behind it
        save_mapped(tmp_path / "both", random_map(32), base=last, layout=read_architecture(last))
        last = tmp_path / "both"
    workspace, config = make_run(tmp_path / "run"), settings(last, tune, "merge.always_ship=true")
    tuned, base = trained(workspace, config), base_model(config)
    merging.run(workspace, config, runtime(tmp_path))
    shipped = LocalModel("merged", workspace.path("merged"))
    for model in (tuned, shipped):
        np.testing.assert_array_equal(model.embed(TEXTS, is_query=False), base.embed(TEXTS, is_query=False))
        assert np.abs(model.embed(TEXTS, is_query=True) - base.embed(TEXTS, is_query=True)).max() > 1e-3
        tower = model.layout.tower(is_query=True)
        maps = sum(isinstance(module, Dense) for module in tower.modules)
        assert maps == (0 if (before, tune) == ("query", "query") else 1)  # a second map is multiplied into the first
    learned = QueryMap.load(workspace.path("query_map.safetensors"))
    if tune == "map":
        mapped = learned(base.embed(TEXTS, is_query=True))
        np.testing.assert_allclose(tuned.embed(TEXTS, is_query=True), mapped, atol=1e-5)
    start = base.embed(TEXTS, is_query=True) @ base.embed(PASSAGES, is_query=False).T
    mixtures = mixtures_of(workspace, config, base, runtime(tmp_path))
    np.testing.assert_allclose(cosines(mixtures, 0.0), start, atol=2e-2 if tune == "query" else 1e-5)
    assert sentence_transformers_agrees(shipped)


def sentence_transformers_agrees(model: LocalModel) -> bool:
    """Whether sentence-transformers gives a folder's own vectors of queries."""
    theirs = SentenceTransformer(str(model.folder), device="cpu").encode_query(TEXTS)
    return bool(np.allclose(unit_rows(theirs), model.embed(TEXTS, is_query=True), atol=2e-2))


def test_a_base_of_two_towers_that_stays_is_copied_whole(tiny_bert: Path, tmp_path: Path) -> None:
    last = SHAPES["map"](tiny_bert, tmp_path / "last")
    workspace, config = make_run(tmp_path / "run"), settings(last, "map", "merge.alpha=0")
    trained(workspace, config)
    merging.run(workspace, config, runtime(tmp_path))
    assert LocalModel("merged", workspace.path("merged")).key == base_model(config).key


def test_one_model_for_queries_and_passages_is_not_made_of_two_towers(tiny_bert: Path, tmp_path: Path) -> None:
    last = SHAPES["map"](tiny_bert, tmp_path / "last")
    workspace = make_run(tmp_path / "run")
    with pytest.raises(TrainingError, match="trains one model for both") as error:
        run(workspace, settings(last, "both"), runtime(tmp_path))
    again = re.findall(r"--set (\S+=\S+?)[,.]?(?= |$)", str(error.value.remedy))
    assert again == ["train.loss=corpus-distil", "train.tune=map"]
    run(workspace, settings(last, "both", *again), runtime(tmp_path))
    plain = str(error.value.remedy).rpartition(" ")[2]
    run(workspace, settings(Path(plain), "both"), runtime(tmp_path))


@pytest.mark.parametrize("tune", ["map", "both"])
def test_rows_that_are_one_row_are_an_error_and_many_copies_a_warning(
    tiny_bert: Path, tmp_path: Path, tune: str
) -> None:
    workspace = make_run(tmp_path)
    rows = workspace.read(TrainRow)
    workspace.write(TrainRow, [rows[0]] * 200)
    with pytest.raises(TrainingError, match="all 200 rows are copies of one row") as error:
        trained(workspace, settings(tiny_bert, tune))
    assert "embedfit generate" in str(error.value.remedy)
    workspace.write(TrainRow, [*[rows[0]] * 30, *rows[1:]])
    said = Said()
    run(workspace, settings(tiny_bert, tune, "train.epochs=1"), replace(runtime(tmp_path), report=said))
    assert "train: Warning: 29 of 53 rows are copies of others" in said.lines


def test_a_map_is_learned_behind_a_table_of_static_embeddings(tmp_path: Path) -> None:
    workspace, config = make_run(tmp_path / "run"), settings(save_static(tmp_path / "static"), "map")
    tuned, base = trained(workspace, config), base_model(config)
    learned = QueryMap.load(workspace.path("query_map.safetensors"))
    mapped = learned(base.embed(TEXTS, is_query=True))
    np.testing.assert_allclose(tuned.embed(TEXTS, is_query=True), mapped, atol=1e-5)


def test_a_tower_of_queries_trains_further_by_an_adapter(tiny_bert: Path, tmp_path: Path) -> None:
    last = SHAPES["query"](tiny_bert, tmp_path / "last")
    workspace = make_run(tmp_path / "run")
    config = settings(last, "query", "merge.always_ship=true", "train.lora.rank=4", "train.learning_rate=0.01")
    tuned, base = trained(workspace, config), base_model(config)
    merging.run(workspace, config, runtime(tmp_path))
    for model in (tuned, LocalModel("merged", workspace.path("merged"))):
        np.testing.assert_array_equal(model.embed(TEXTS, is_query=False), base.embed(TEXTS, is_query=False))
        assert np.abs(model.embed(TEXTS, is_query=True) - base.embed(TEXTS, is_query=True)).max() > 1e-3
