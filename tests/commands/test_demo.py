"""The demo: its data, its display, its way with a tiny model; slowly, as a user runs it."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedfit.cli.main import main
from embedfit.cli.results import program, show_demo
from embedfit.commands.demo import DemoResult, demo
from embedfit.commands.demo.pace import Details, Headings
from embedfit.commands.demo.result import FIRST, SHOWN, side_by_side
from embedfit.commands.demo.telling import next_steps, story
from embedfit.commands.demo.tour import PARTS, RETRIEVER, Machine, unpack
from embedfit.evaluation.evalset import EvalSet, read_eval_set
from embedfit.evaluation.measure import judged
from embedfit.files.beir import read_beir, write_beir
from embedfit.files.retrieval import Entry, RetrievalData
from embedfit.llm.providers.recorded import read_rows
from embedfit.models.store.vectors import VectorStore
from embedfit.path.artefacts import Query
from embedfit.path.workspace import Workspace
from embedfit.progress import LogLines
from embedfit.runtime import Runtime
from tests.json_forms import printed

PACKED = Path(unpack.__code__.co_filename).with_name("annual_reports.zip")
ROOMY = Machine(cores=2, memory=16 << 30, pace=1.0)
ANIMALS = ("otter", "heron", "badger", "lynx", "viper", "moth", "trout", "crane", "mole", "finch")
PARTS_OF_LIFE = ("food", "young", "winter", "enemies")


def data_of(passages: int) -> RetrievalData:
    """Passages p0, p1, … and a question of each, q0 about p0."""
    corpus, queries = {}, {}
    for number in range(passages):
        animal, part = ANIMALS[number % len(ANIMALS)], PARTS_OF_LIFE[number // len(ANIMALS) % len(PARTS_OF_LIFE)]
        text = f"The {part} of the {animal} are what section {number} is about, and it tells all that is known of it."
        corpus[f"p{number}"] = Entry(text=text, title=f"{animal} > {part}")
        queries[f"q{number}"] = f"what about the {animal} and its {part}"
    return RetrievalData(corpus=corpus, queries=queries, qrels={f"q{n}": {f"p{n}": 1.0} for n in range(passages)})


def packed(folder: Path, data: RetrievalData) -> Path:
    """A zip file of a BEIR folder, with three queries that were written of each passage."""
    write_beir(folder / "beir", data)
    rows = []
    for identifier, entry in data.corpus.items():
        animal, _, part = entry.title.partition(" > ")
        styles = {"question": f"how does the {animal} cope with {part}", "keywords": f"{animal} {part} section"}
        rows.append({"id": identifier, **styles, "conversational": f"I wonder how the {animal} spends {part}"})
    (folder / "beir" / "written.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with zipfile.ZipFile(folder / "data.zip", "w") as archive:
        for path in (folder / "beir").rglob("*"):
            if path.is_file():
                archive.write(path, path.relative_to(folder / "beir").as_posix())
    return folder / "data.zip"


# --- the data


def test_the_package_carries_people_s_questions_with_their_notice(tmp_path: Path) -> None:
    data = read_beir(unpack(PACKED, tmp_path / "data"))
    assert (len(data.corpus), len(data.queries)) == (1200, 1216)
    assert all(data.relevant(query) for query in data.queries)
    written = read_rows(tmp_path / "data" / "written.jsonl")
    assert sum(bool(row.queries) for rows in written.values() for row in rows) == 220 and len(written) == 278
    assert written.keys() <= data.corpus.keys()
    notice = (tmp_path / "data" / "NOTICE.txt").read_text()
    assert "TAT-QA" in notice and "creativecommons.org/licenses/by/4.0" in notice and "Changes:" in notice


def test_the_data_is_a_part_of_the_corpus(data_dir: Path, tmp_path: Path) -> None:
    ours, whole = unpack(PACKED, tmp_path / "data"), data_dir / "annual_reports"
    for name in ("corpus.jsonl", "queries.jsonl", "qrels/test.tsv"):
        lines = (ours / name).read_text("utf-8").splitlines()
        assert set(lines) <= set((whole / name).read_text("utf-8").splitlines())
    written = (ours / "written.jsonl").read_text("utf-8").splitlines()
    assert set(written) <= set((whole / "strong_queries.jsonl").read_text("utf-8").splitlines())


def test_half_of_the_data_keeps_the_questions_that_it_answers(tmp_path: Path) -> None:
    whole = data_of(20)
    qrels = {**whole.qrels, "q3": {"p3": 1.0, "p15": 1.0}}  # a question that needs both halves
    zipped = packed(tmp_path, replace(whole, qrels=qrels))
    half = read_beir(unpack(zipped, tmp_path / "half", whole=False))
    assert list(half.corpus) == [f"p{number}" for number in range(10)]
    assert set(half.queries) == {f"q{number}" for number in range(10)} - {"q3"}


# --- the display


def test_time_left_is_said_before_anything_is_done_and_corrected_by_the_first_part() -> None:
    now, stream = [0.0], io.StringIO()
    headings = Headings(report=LogLines(stream), parts={"one": 60.0, "two": 120.0}, pace=2.0, clock=lambda: now[0])
    headings.begin("one")
    now[0] = 30.0  # half the reference's time, where twice was expected
    headings.begin("two")
    now[0] = 80.0
    headings.end()
    lines = [line for line in stream.getvalue().splitlines() if line]
    assert lines == ["1/2  one: about 6 min 00 s left in all", "2/2  two: about 1 min 00 s left in all"]
    assert headings.took == {"one": 30.0, "two": 50.0}


def test_details_go_to_a_file_and_bars_to_the_display(tmp_path: Path) -> None:
    stream = io.StringIO()
    details = Details(LogLines(stream, every=0.0), tmp_path / "run" / "demo.log")
    details.log("a stage's line \udcff")
    with details.task("encode", 2, "texts") as task:
        task.advance(2)
    assert (tmp_path / "run" / "demo.log").read_text() == "a stage's line ?\n"
    assert "a stage's line" not in stream.getvalue() and "encode: 2/2 texts" in stream.getvalue()


def test_a_small_machine_says_what_it_leaves_out(tiny_bert: Path, tmp_path: Path) -> None:
    one = Machine(cores=1, memory=16 << 30, pace=1.0)
    small = Machine(cores=2, memory=2 << 30, pace=1.0)
    assert ROOMY.leaves_out == "" and one.leaves_out == "this machine has one core"
    assert small.leaves_out == "2.0 GiB of memory are free, less than 3"
    stream = io.StringIO()
    runtime = Runtime(report=LogLines(stream), ledger=tmp_path / "ledger", vectors=VectorStore(tmp_path / "vectors"))
    result = demo(
        tmp_path / "run",
        untrained=True,
        assignments=(f"model={tiny_bert}",),
        packed=packed(tmp_path, data_of(24)),
        machine=one,
        runtime=runtime,
    )
    assert "Documents: 12 passages" in stream.getvalue() and result.questions == 12
    assert "Half of the documents are left out, because this machine has one core." in stream.getvalue()
    printed("embedfit demo", json.dumps(result.as_dict(), default=str))
    assert result.run is None and list(result.seconds) == [RETRIEVER] and not (result.folder / "train.jsonl").exists()
    assert [name for name, _ in story(result).facts] == ["Cost", "Details"]


# --- the questions that are shown


@pytest.fixture(scope="module")
def thirty(tmp_path_factory: pytest.TempPathFactory) -> EvalSet:
    folder = tmp_path_factory.mktemp("thirty")
    write_beir(folder, data_of(30))
    return read_eval_set(folder, "human")


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), others=st.lists(st.integers(0, 100), min_size=30, max_size=30))
def test_only_questions_that_the_base_misses_and_the_winner_answers_are_shown(
    thirty: EvalSet, seed: int, others: list[int]
) -> None:
    rng = np.random.default_rng(seed)
    base = judged([list(rng.permutation(thirty.passage_ids)[:25]) for _ in thirty.queries], thirty)
    winner = np.array(others, np.int64)
    compared = side_by_side(thirty, base, winner)
    missed = {text for text, rank in zip(thirty.queries, base.ranks, strict=True) if rank == 0 or rank > FIRST}
    first = {text for text, rank in zip(thirty.queries, winner, strict=True) if rank == 1}
    assert compared.gained == len(missed & first)
    assert len(compared.shown) == min(SHOWN, compared.gained)
    assert {one.question for one in compared.shown} <= missed & first
    ranks = [one.rank or 1_000 for one in compared.shown]
    assert ranks == sorted(ranks, reverse=True)
    lost = sum((mine == 0 or mine > FIRST) and theirs == 1 for mine, theirs in zip(winner, base.ranks, strict=True))
    assert compared.lost == lost


# --- the whole way


@pytest.fixture(scope="module")
def shown(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[DemoResult, str]:
    root, stream = tmp_path_factory.mktemp("demo"), io.StringIO()
    runtime = Runtime(report=LogLines(stream), ledger=root / "ledger.sqlite", vectors=VectorStore(root / "vectors"))
    data = data_of(28)
    texts = [entry.text for entry in data.corpus.values()]
    pairs = [{"query": text, "passage": text, "similar": True} for text in texts[:4]]
    pairs += [
        {"query": text, "passage": other, "similar": False} for text, other in zip(texts[:4], texts[4:8], strict=True)
    ]
    (root / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    small = (
        f"model={tiny_bert}",
        f"check.pairs={root / 'pairs.jsonl'}",  # a random model knows no text but by its letters
        "generate.round_trip_k=0",
        "index.queries=no",  # here every passage has some; of the package's documents too few have
        "merge.max_alpha=0.1",
        "train.map_steps=20",
        "evaluate.bootstrap=100",
    )
    result = demo(root / "run", assignments=small, packed=packed(root, data), machine=ROOMY, runtime=runtime)
    return result, stream.getvalue()


def test_value_comes_in_order_and_time_left_first(shown: tuple[DemoResult, str]) -> None:
    lines = [line for line in shown[1].splitlines() if line]
    order = ["Documents: 28 passages", "1/3", "Without training", "2/3", "A strong language model wrote", "3/3"]
    places = [next(n for n, line in enumerate(lines) if line.startswith(start)) for start in order]
    assert places == sorted(places) and "left in all" in lines[places[1]]
    assert lines[-1].startswith(("Tuning", "Nothing of the tuning ships", "To plain vector search"))


def test_nothing_learns_from_people_s_questions(shown: tuple[DemoResult, str]) -> None:
    result, _ = shown
    asked = set(data_of(28).queries.values())
    assert not asked & {query.text for query in Workspace(result.folder).read(Query)}
    assert asked.isdisjoint((result.folder / "train.jsonl").read_text().split('"'))


def test_the_first_part_s_numbers_are_those_of_the_run(shown: tuple[DemoResult, str]) -> None:
    result, _ = shown
    assert result.run is not None
    for name, system in result.systems.items():
        assert system.metrics == pytest.approx(result.run.results.systems[name].metrics)


def test_the_end_says_verdict_cost_report_and_the_next_two_commands(
    shown: tuple[DemoResult, str], capsys: pytest.CaptureFixture[str]
) -> None:
    result, _ = shown
    assert result.run is not None
    told = story(result)
    assert told.verdict[0].startswith("Search with") and "95% interval" in told.verdict[0]
    assert "tuning" in told.verdict[1].lower()
    facts = dict(told.facts)
    assert facts["Cost"].startswith("$0; ") and Path(facts["Report"]).is_file()
    commands = [command for command, _ in next_steps("embedfit")]
    assert len(commands) == 2 and commands[0].startswith("embedfit index DOCS") and "run DOCS" in commands[1]
    assert json.loads(json.dumps(result.as_dict()))["summary"]["decision"]

    show_demo(result, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    at = [
        next(n for n, line in enumerate(lines) if start in line) for start in ("28 questions", "Search with", "Report ")
    ]
    assert at == sorted(at) < [lines.index("Your documents:")]


def test_the_next_command_is_one_that_the_shell_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "bin" / "embedfit"
    script.parent.mkdir()
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    monkeypatch.setattr("sys.argv", [str(script)])
    monkeypatch.setenv("PATH", str(tmp_path))
    assert program() == str(script)
    monkeypatch.setenv("PATH", str(script.parent))
    assert program() == "embedfit"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_demo_as_a_user_runs_it(minilm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["demo", "--run", str(tmp_path / "run")])
    assert ended.value.code == 0
    said = capsys.readouterr()
    assert [f"{number}/{len(PARTS)}  " in said.err for number in range(1, len(PARTS) + 1)] == [True] * len(PARTS)
    assert "Without training, embedfit's retriever finds more than one vector" in said.err
    assert "Search with" in said.out and "+" in said.out and str(tmp_path / "run" / "report.html") in said.out
    assert said.out.count("embedfit ") >= 2
