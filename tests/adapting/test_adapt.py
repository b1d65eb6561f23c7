"""`embedfit adapt`: its results from a log, from written queries and from arrays, and what it refuses."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embedfit
from embedfit.adapting.moving import MovedVectors
from embedfit.commands.adapting import plan, prepare
from embedfit.commands.runs import stored_config
from embedfit.errors import EmbedfitError, InputError, UsageError
from embedfit.models.local import local_model
from embedfit.models.store.vectors import PROBES, VectorStore
from embedfit.path.artefacts import Adapted, Passage, Query
from embedfit.path.freshness import all_freshness
from embedfit.path.workspace import Workspace
from embedfit.progress import LogLines
from embedfit.runtime import Runtime
from embedfit.testing.fake_model import FakeModel

Adapt = Callable[..., Adapted]


def states(run: Path) -> dict[str, str]:
    workspace = Workspace(run)
    return {name: one.state for name, one in all_freshness(workspace, stored_config(workspace)).items()}


def test_a_log_gives_a_map_that_finds_more_on_other_questions(world: Path, tmp_path: Path, adapted: Adapt) -> None:
    result = adapted(queries=world / "log.txt", eval_beir=world / "beir")
    assert list(result.systems) == ["frozen", "mapped", "bm25"]
    scores = {name: system.metrics["ndcg@10"] for name, system in result.systems.items()}
    assert scores["mapped"] > scores["frozen"] + 0.05
    assert result.map.ship and result.evidence.kind == "none" and "held out to choose it" in result.map.why
    assert (result.data.asked, result.data.written, result.data.eval_kind) == (45, 0, "human")
    assert {(one.a, one.b) for one in result.comparisons} == {("mapped", "frozen"), ("bm25", "frozen")}

    made = embedfit.QueryMap.load(tmp_path / "run" / "adapt" / "query_map.safetensors")
    assert made.card.embedder == str(world / "frozen") and made.card.made["asked"] == 45
    frozen = local_model("frozen", str(world / "frozen"))
    made.check_embedder(frozen.embed(PROBES, is_query=True))
    with pytest.raises(InputError, match="another embedder"):
        made.check_embedder(local_model("teacher", str(world / "teacher")).embed(PROBES, is_query=True))

    # The file gives the row of the report.
    passages = Workspace(tmp_path / "run").read(Passage)
    asked = [json.loads(line) for line in (world / "beir" / "queries.jsonl").read_text("utf-8").splitlines()]
    own = frozen.embed([one.content for one in passages], is_query=False)
    ranked = (made(frozen.embed([one["text"] for one in asked], is_query=True)) @ own.T).argmax(1)
    first = np.mean([f"q-{passages[n].passage_id}" == one["_id"] for n, one in zip(ranked, asked, strict=True)])
    assert first == pytest.approx(result.systems["mapped"].metrics["hit@1"], abs=0.03)


def test_the_stages_are_fresh_afterwards_and_only_what_changed_is_done_again(
    world: Path, tmp_path: Path, adapted: Adapt
) -> None:
    run = tmp_path / "run"
    adapted(queries=world / "log.txt", eval_beir=world / "beir")
    assert states(run) == {"ingest": "fresh", "adapt": "fresh", "adapt_report": "fresh"}
    before = (run / "adapt" / "adapt.json").stat().st_mtime_ns
    adapted(docs=(), vectors=None)  # the run folder keeps documents, questions and embedder
    assert (run / "adapt" / "adapt.json").stat().st_mtime_ns == before
    adapted(settings={"adapt": {"share": 0.5}})
    assert (run / "adapt" / "adapt.json").stat().st_mtime_ns > before
    log = tmp_path / "log.txt"
    log.write_text((world / "log.txt").read_text("utf-8") + "how do I mute the remote quickly\n", "utf-8")
    adapted(queries=log)
    assert states(run)["adapt"] == "fresh"
    log.write_text(log.read_text("utf-8") + "how do I pair the camera slowly\n", "utf-8")
    assert states(run) == {"ingest": "fresh", "adapt": "stale", "adapt_report": "stale"}
    shutil.rmtree(run / "adapt")
    (run / "adapt.manifest.json").unlink()
    assert states(run)["adapt"] == "missing"


def test_written_queries_train_decide_and_move(world: Path, tmp_path: Path, adapted: Adapt) -> None:
    generate = {
        "generator": f"recorded:{world / 'manuals' / 'written.jsonl'}",
        "queries_per_passage": 2,
        "round_trip_k": 0,
        "dev_share": 0.3,
    }
    result = adapted(
        eval_beir=world / "beir", settings={"generate": generate, "adapt": {"move": True, "written": "yes"}}
    )
    assert list(result.systems) == ["frozen", "mapped", "moved", "mapped_moved", "bm25"]
    assert result.data.asked == 0 and result.data.written > 50
    assert result.evidence.kind == "written" and set(result.evidence.tried) == {"0", "0.25", "0.5", "0.75", "1"}
    assert result.evidence.ci95 is not None and result.map.share in (0, 0.25, 0.5, 0.75, 1)
    assert states(tmp_path / "run") == dict.fromkeys(("ingest", "generate", "adapt", "adapt_report"), "fresh")

    (said,) = result.notes  # who wrote the queries, and what the licence asks: on the page and in both files
    assert "the model that wrote written.jsonl: read what its licence asks" in said
    if result.map.ship:
        card = embedfit.QueryMap.load(tmp_path / "run" / "adapt" / "query_map.safetensors").card
        assert said.endswith(str(card.made["licences"][0]))  # type: ignore[index]

    new = MovedVectors.load(tmp_path / "run" / "adapt" / "moved.safetensors")
    assert said.endswith(new.card["licences"])
    workspace, frozen = Workspace(tmp_path / "run"), local_model("frozen", str(world / "frozen"))
    passages = {one.passage_id: one.content for one in workspace.read(Passage)}
    queries: dict[str, list[str]] = {}
    for query in workspace.read(Query):
        if query.kept:
            queries.setdefault(query.passage_id, []).append(query.text)
    assert set(new.ids) == set(queries) and len(new.ids) == result.data.with_queries
    one = new.ids[3]
    passage = frozen.embed([passages[one]], is_query=False)[0]
    mean = frozen.embed(list(dict.fromkeys(queries[one])), is_query=True).mean(0)
    expected = 0.7 * passage + 0.3 * mean
    np.testing.assert_allclose(new.vectors[3], expected / np.linalg.norm(expected), atol=1e-5)


def test_a_log_and_written_queries_train_together(world: Path, adapted: Adapt) -> None:
    generate = {"generator": f"recorded:{world / 'manuals' / 'written.jsonl'}", "round_trip_k": 0}
    result = adapted(
        queries=world / "log.txt",
        settings={"generate": generate, "adapt": {"written": "yes"}},
    )
    assert result.data.asked == 45 and result.data.written > 50
    assert result.data.eval_kind == "synthetic" and "moved" not in result.systems
    assert any("Moved vectors are not measured" in note for note in result.notes)


def test_known_answers_of_a_log_decide_and_do_not_train(world: Path, tmp_path: Path, adapted: Adapt) -> None:
    asked = [json.loads(line) for line in (world / "manuals" / "queries.jsonl").read_text("utf-8").splitlines()]
    log = tmp_path / "labelled.jsonl"
    rows = [{"query": one["text"], "positives": [one["_id"].removeprefix("q-")]} for one in asked]
    log.write_text("".join(json.dumps(one) + "\n" for one in rows), "utf-8")
    result = adapted(queries=log)
    assert result.evidence.kind == "labelled" and 10 < result.evidence.questions < 40
    assert result.data.asked == 90 - len_of_held_out(result, adapted, log)
    assert not result.systems and result.data.eval_kind == "none"


def len_of_held_out(result: Adapted, adapted: Adapt, log: Path) -> int:
    """With a weight that is named, all held-out questions are measured."""
    return adapted(queries=log, settings={"adapt": {"share": 1.0}}).evidence.questions


def test_no_question_is_in_training_and_evaluation(world: Path, tmp_path: Path, adapted: Adapt) -> None:
    every = tmp_path / "every.txt"
    asked = [json.loads(line)["text"] for line in (world / "manuals" / "queries.jsonl").read_text("utf-8").splitlines()]
    every.write_text("".join(text.upper() + "?\n" for text in asked), "utf-8")
    assert adapted(queries=every, eval_beir=world / "beir").data.asked == 45


# --- vectors in files


@pytest.fixture
def arrays(world: Path, tmp_path: Path) -> Path:
    """P.npy, Q.npy and their ids, of the frozen model."""
    frozen = local_model("frozen", str(world / "frozen"))
    rows = [json.loads(line) for line in (world / "manuals" / "corpus.jsonl").read_text("utf-8").splitlines()]
    texts = [f"{one['title']} {one['text']}".strip() for one in rows]
    asked = (world / "log.txt").read_text("utf-8").splitlines()
    folder = tmp_path / "arrays"
    folder.mkdir()
    np.save(folder / "P.npy", 3 * frozen.embed(texts, is_query=False))
    np.save(folder / "Q.npy", frozen.embed(asked, is_query=True).astype(np.float64))
    (folder / "P.ids.txt").write_text("".join(one["_id"] + "\n" for one in rows), "utf-8")
    (folder / "Q.ids.txt").write_text("".join(f"{number}\n" for number in range(1, len(asked) + 1)), "utf-8")
    return folder


def spec_of(folder: Path) -> str:
    return f"npy:{folder / 'P.npy'},{folder / 'Q.npy'}"


def test_arrays_give_the_map_that_their_embedder_gives(
    world: Path, tmp_path: Path, adapted: Adapt, arrays: Path
) -> None:
    adapted(queries=world / "log.txt")
    by_name = embedfit.QueryMap.load(tmp_path / "run" / "adapt" / "query_map.safetensors")
    adapted(queries=world / "log.txt", run=tmp_path / "run2", vectors=spec_of(arrays))
    made = embedfit.QueryMap.load(tmp_path / "run2" / "adapt" / "query_map.safetensors")
    np.testing.assert_allclose(made.matrix, by_name.matrix, atol=2e-3)
    assert made.probes is None
    assert states(tmp_path / "run2")["adapt"] == "fresh"
    np.save(arrays / "Q.npy", np.load(arrays / "Q.npy")[:, ::-1])
    assert states(tmp_path / "run2")["adapt"] == "stale"


def saved(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], object]:
    """Something that replaces the array of a file."""

    def spoil(folder: Path) -> None:
        np.save(folder / name, change(np.load(folder / name)), allow_pickle=True)

    return spoil


def renamed(name: str, change: Callable[[str], str]) -> Callable[[Path], object]:
    """Something that replaces the ids of a file."""
    return lambda folder: (folder / name).write_text(change((folder / name).read_text("utf-8")), "utf-8")


def archived(folder: Path) -> None:
    np.savez(folder / "P.npz", np.load(folder / "P.npy"))
    (folder / "P.npz").rename(folder / "P.npy")


def with_one(row: int, value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(vectors: np.ndarray) -> np.ndarray:
        changed = vectors.copy()
        changed[row, 3:] = value
        changed[row, :3] = 0
        return changed

    return change


def turned(vectors: np.ndarray) -> np.ndarray:
    """Vectors of another model of the same width."""
    return vectors @ np.linalg.qr(np.random.default_rng(0).normal(size=(32, 32)))[0]


SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "nan": (saved("P.npy", with_one(7, np.nan)), "NaN"),
    "infinity": (saved("Q.npy", with_one(7, np.inf)), "infinity"),
    "zeros": (saved("Q.npy", with_one(5, 0)), "zeros"),
    "widths": (saved("Q.npy", lambda rows: rows[:, :16]), "two models"),
    "two models": (saved("Q.npy", turned), "two models"),
    "pickled": (saved("P.npy", lambda rows: np.array([{"a": 1}] * len(rows), object)), "no array"),
    "numbers": (saved("P.npy", lambda rows: rows.astype(np.int8)), "int8"),
    "one vector": (saved("P.npy", lambda rows: rows[0]), "no rows of vectors"),
    "no vector": (saved("P.npy", lambda rows: rows[:0]), "no rows of vectors"),
    "archive": (archived, "no array"),
    "text": (lambda folder: (folder / "P.npy").write_text("0.1 0.2\n", "utf-8"), "no array"),
    "cut": (lambda folder: (folder / "P.npy").write_bytes((folder / "P.npy").read_bytes()[:200]), "no array"),
    "missing": (lambda folder: (folder / "P.npy").unlink(), "no file of vectors"),
    "other ids": (renamed("P.ids.txt", lambda ids: ids.replace("p", "doc-")), "passages have no vector"),
    "too few ids": (renamed("P.ids.txt", lambda ids: ids.partition("\n")[2]), "120 rows.*119 ids"),
    "an id twice": (renamed("P.ids.txt", lambda ids: ids.replace("p1\n", "p0\n", 1)), "twice"),
    "no ids": (lambda folder: (folder / "Q.ids.txt").unlink(), "no file of ids"),
    "other questions": (
        renamed("Q.ids.txt", lambda ids: "x" + ids.strip().replace("\n", "\nx")),
        "0 training questions",
    ),
}


@pytest.mark.parametrize("how", SPOILT)
def test_files_that_are_no_vectors_of_this_corpus_are_refused(
    world: Path, adapted: Adapt, arrays: Path, how: str
) -> None:
    spoil, word = SPOILT[how]
    spoil(arrays)
    with pytest.raises(InputError, match=word) as caught:
        adapted(queries=world / "log.txt", vectors=spec_of(arrays))
    assert caught.value.remedy


# --- other bad input


def test_one_question_a_thousand_times_trains_nothing(tmp_path: Path, adapted: Adapt) -> None:
    log = tmp_path / "one.txt"
    log.write_text("how do I mute the remote\n" * 1000, "utf-8")
    with pytest.raises(InputError, match=r"1 different questions can't train(\n|.)*--generator local"):
        adapted(queries=log)


def test_a_teacher_that_ranks_everything_alike_teaches_nothing(world: Path, tmp_path: Path, adapted: Adapt) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(
        '{"_id": "p0", "title": "", "text": "' + "The remote has a key to mute the sound of the set. " * 3 + '"}\n'
    )
    with pytest.raises(InputError, match="ranks all passages alike"):
        adapted(docs=corpus, queries=world / "log.txt")


@pytest.mark.parametrize("count", [2, 9])
def test_few_passages_are_enough(world: Path, tmp_path: Path, adapted: Adapt, count: int) -> None:
    rows = (world / "manuals" / "corpus.jsonl").read_text("utf-8").splitlines(keepends=True)[:count]
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(rows), "utf-8")
    result = adapted(docs=corpus, queries=world / "log.txt")
    assert result.data.passages == count and result.map.ship


def test_a_corpus_of_one_document_is_enough(world: Path, tmp_path: Path, adapted: Adapt) -> None:
    rows = [json.loads(line) for line in (world / "manuals" / "corpus.jsonl").read_text("utf-8").splitlines()]
    book = tmp_path / "book.md"
    book.write_text("\n\n".join(f"# {one['title']} {n}\n\n{one['text']}" for n, one in enumerate(rows)), "utf-8")
    result = adapted(docs=book, queries=world / "log.txt")
    assert result.data.passages > 9 and result.map.ship


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"vectors": None}, "No vectors are named"),
        ({"vectors": "npy:P.npy"}, "npy:PASSAGES.npy,QUESTIONS.npy"),
        ({"vectors": "npy:P.npy,Q.npy"}, "questions that have vectors"),
        ({"vectors": "titan-v2:300"}, "1024, 512, 256"),
        ({"vectors": "openai:http://localhost:1/v1"}, "model is missing"),
        ({"vectors": "titan-v2", "preset": "offline"}, "offline makes no paid call"),
        ({"docs": ()}, "no documents"),
        ({"queries": "nowhere.txt"}, "no file of questions"),
    ],
)
def test_wrong_options_are_named(adapted: Adapt, arguments: dict[str, object], word: str) -> None:
    with pytest.raises(EmbedfitError, match=word) as caught:
        adapted(**arguments)
    assert isinstance(caught.value, UsageError | InputError)
    assert caught.value.remedy or "of the form" in caught.value.message


def test_a_named_weight_of_nothing_keeps_the_frozen_vectors(world: Path, tmp_path: Path, adapted: Adapt) -> None:
    result = adapted(queries=world / "log.txt", eval_beir=world / "beir", settings={"adapt": {"share": 0.0}})
    assert not result.map.ship and not (tmp_path / "run" / "adapt" / "query_map.safetensors").exists()
    page = (tmp_path / "run" / "adapt" / "report.html").read_text("utf-8")
    assert "Keep the frozen vectors as they are" in page and "query_map.safetensors" not in page


def test_nothing_of_people_s_questions_is_in_logs_or_files(world: Path, tmp_path: Path, adapted: Adapt) -> None:
    lines = io.StringIO()
    runtime = Runtime(
        report=LogLines(lines), ledger=tmp_path / "ledger.sqlite", vectors=VectorStore(tmp_path / "vectors")
    )
    adapted(queries=world / "log.txt", eval_beir=world / "beir", runtime=runtime)
    asked = (world / "log.txt").read_text("utf-8").splitlines()
    assert "45 different" in lines.getvalue()
    for text in (
        lines.getvalue(),
        *((tmp_path / "run" / "adapt" / name).read_text("utf-8") for name in ("adapt.json", "report.html")),
    ):
        assert not [question for question in asked if question in text]


def test_what_is_forgotten_goes_from_the_moved_vectors_and_stays_out(
    world: Path, tmp_path: Path, adapted: Adapt
) -> None:
    generate = {"generator": f"recorded:{world / 'manuals' / 'written.jsonl'}", "round_trip_k": 0}
    adapted(
        queries=world / "log.txt",
        vectors=f"{world / 'frozen'}|find: ",
        settings={"generate": generate, "adapt": {"written": "yes", "move": True}},
    )
    run, question = tmp_path / "run", (world / "log.txt").read_text("utf-8").splitlines()[0]
    gone = MovedVectors.load(run / "adapt" / "moved.safetensors").ids[0]
    lines = io.StringIO()
    runtime = Runtime(
        report=LogLines(lines), ledger=tmp_path / "ledger.sqlite", vectors=VectorStore(tmp_path / "vectors")
    )
    kept = VectorStore(tmp_path / "vectors").forget(["query find: "], [question], dry=True)
    assert kept == 1
    found = embedfit.forget(run, documents=[gone], queries=[question], yes=True, runtime=runtime)
    assert found.models == ("adapt/query_map.safetensors",) and "Train again: embedfit adapt" in lines.getvalue()
    left = MovedVectors.load(run / "adapt" / "moved.safetensors")
    assert gone not in left.ids and left.card["embedder"].endswith("frozen|find: ")
    assert VectorStore(tmp_path / "vectors").forget(["query find: "], [question], dry=True) == 0
    assert states(run)["adapt"] == "stale"
    result = adapted(docs=(), vectors=None)
    assert result.data.asked == 44 and result.data.passages == 119


PAID = "openai:https://api.openai.com/v1#text-embedding-3-small"


def test_a_plan_names_calls_and_money_and_sends_nothing(world: Path, tmp_path: Path) -> None:
    writer = FakeModel(lambda request: "never asked")
    runtime = Runtime(ledger=tmp_path / "l.sqlite", vectors=VectorStore(tmp_path / "v"), language_model=writer)
    arguments: dict[str, Any] = {"run": tmp_path / "run", "vectors": PAID, "runtime": runtime}
    docs = world / "manuals" / "corpus.jsonl"
    settings: dict[str, object] = {"model": str(world / "teacher")}
    lines = plan(prepare(docs, queries=world / "log.txt", eval_beir=world / "beir", settings=settings, **arguments))
    asked = len((world / "log.txt").read_text("utf-8").splitlines())
    judged = len((world / "beir" / "queries.jsonl").read_text("utf-8").splitlines())
    passages = len(Workspace(tmp_path / "run").read(Passage))
    assert [re.findall(r"([\d,]+) calls;", line) for line in lines] == [[str(passages)], [str(asked + judged)]]
    assert all(re.search(r"[1-9][\d,]* tokens in.* about \$0\.0*[1-9]", line) for line in lines)
    settings["adapt"] = {"written": "yes"}
    written, *more = plan(prepare(docs, queries=world / "log.txt", settings=settings, **arguments))
    assert re.search(r"Queries of bedrock: [\d,]+ calls", written) and len(more) == 2
    settings["adapt"] = {"written": "no"}
    arguments["vectors"] = str(world / "frozen")
    assert plan(prepare(docs, queries=world / "log.txt", settings=settings, **arguments))[-1].endswith(": free")
    assert not writer.asked and not Workspace(tmp_path / "run").has(Query)


def test_an_embedder_that_does_not_answer_is_found_before_queries_are_paid_for(world: Path, tmp_path: Path) -> None:
    writer = FakeModel(lambda request: "what is it")
    runtime = Runtime(ledger=tmp_path / "l.sqlite", vectors=VectorStore(tmp_path / "v"), language_model=writer)
    for vectors in ("openai:http://127.0.0.1:1/v1#minilm", "no-such-model"):
        with pytest.raises(EmbedfitError) as error:
            embedfit.adapt(
                world / "manuals" / "corpus.jsonl",
                run=tmp_path / "run",
                vectors=vectors,
                settings={"model": str(world / "teacher")},
                runtime=runtime,
                yes=True,
            )
        assert error.value.remedy and not writer.asked


def test_passages_that_all_have_one_vector_are_refused(world: Path, arrays: Path, adapted: Adapt) -> None:
    saved("P.npy", lambda vectors: np.repeat(vectors[:1], len(vectors), 0))(arrays)
    with pytest.raises(InputError, match="All passages have the same vector"):
        adapted(vectors=spec_of(arrays), queries=world / "log.txt")
