"""--log-queries: the queries that people send become what the next run learns from."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from embedfit.asked.log import key_of, read_log
from embedfit.asked.reading import rows_of
from embedfit.cli.main import app as command_line
from embedfit.errors import UsageError
from embedfit.progress import Silent
from embedfit.serving.search.query_log import QueryLog
from embedfit.serving.search.searcher import Searcher
from tests.serving.conftest import searching_app
from tests.serving.test_app import Client


def log_of(path: Path, most_bytes: int = 1_000_000, said: list[str] | None = None) -> QueryLog:
    return QueryLog(path, most_bytes=most_bytes, log=(said if said is not None else []).append)


def written(path: Path, queries: list[str]) -> Path:
    log = log_of(path)
    log.add(queries)
    log.close()
    return path


def test_the_reader_of_queries_reads_what_is_served(index, tiny_bert, tmp_path):
    path = tmp_path / "queries.jsonl"
    log = log_of(path)
    searcher = Searcher(index, query_log=log)
    app = searching_app(searcher, tiny_bert, api_key="secret-key", log_queries=str(path))
    app.answers.metrics.watch(log)
    client = Client(app, authorization="Bearer secret-key")
    client.post("/search", {"query": ["mute the tv", "forty watts\nin the lamp"], "documents": ["filter-secret"]})
    assert client.get("/search?query=mute+the+tv").status_code == 200
    client.post("/search", {"query": ""})
    client.post("/search", {"query": "refused", "k": 0})
    assert Client(app).post("/search", {"query": "without a key"}).status_code == 401
    searcher.close()
    log.close()
    found = read_log([path], Silent(), seed=0)
    asked = {question.text: question.times for question in found.questions.values()}
    assert asked == {"mute the tv": 2, "forty watts in the lamp": 1} and not found.skipped
    assert "secret" not in path.read_text() and set(json.loads(path.read_text().splitlines()[0])) == {"query", "time"}
    assert "embedfit_queries_logged 3.0" in client.get("/metrics").text
    assert b'id="logged" hidden' not in client.get("/").content and b'id="logged"' in client.get("/").content


def test_without_the_option_the_page_says_nothing(searcher, tiny_bert):
    assert b'id="logged" hidden' in Client(searching_app(searcher, tiny_bert)).get("/").content


@given(queries=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), max_size=6))
def test_any_query_is_one_line_with_the_same_words(queries, tmp_path_factory):
    rows = list(rows_of(written(tmp_path_factory.mktemp("log") / "q.jsonl", queries)))
    assert [key_of(row.text) for row in rows] == [key_of(text) for text in queries]


def test_its_owner_alone_reads_it(tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text('{"query": "old"}\n')
    path.chmod(0o644)
    written(path, ["new"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [row.text for row in rows_of(path)] == ["old", "new"]


def test_a_line_that_a_killed_process_left_is_ended(tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text('{"query": "whole"}\n{"query": "ha')
    written(path, ["new"])
    assert [row.text for row in rows_of(path) if not row.problem] == ["whole", "new"]


def test_it_takes_at_most_twice_its_size(tmp_path):
    path = tmp_path / "q.jsonl"
    log = log_of(path, most_bytes=2_000)
    log.add([f"question {number}" for number in range(400)])
    log.close()
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["q.jsonl", "q.jsonl.1"]
    assert all(file.stat().st_size <= 2_000 and stat.S_IMODE(file.stat().st_mode) == 0o600 for file in files)
    last = [row.text for file in reversed(files) for row in rows_of(file)]
    assert last == [f"question {number}" for number in range(400)][-len(last) :] and log.written == 400


def test_a_file_that_was_moved_away_is_begun_again(tmp_path):
    path = tmp_path / "q.jsonl"
    log = log_of(path, most_bytes=100)
    log.add(["a question of some length, so that few fit into it"] * 2)
    while log.written < 2:
        os.sched_yield()
    path.unlink()
    log.add(["the last"])
    log.close()
    assert [row.text for row in rows_of(path)] == ["the last"] and not log.dropped


def test_a_disk_that_fails_costs_queries_and_no_request(tmp_path):
    said: list[str] = []
    log = log_of(tmp_path / "q.jsonl", said=said)
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, log._file)
    log.add(["one", "two"])
    log.close()
    os.close(full)
    assert log.dropped == 2 and len(said) == 1 and "No space left" in said[0]


def test_a_long_query_is_cut_as_its_reader_would(tmp_path):
    path = written(tmp_path / "q.jsonl", ["word " * 100_000])
    assert path.stat().st_size < 3_000


@pytest.mark.parametrize("kind", ["folder", "missing", "link", "device"])
def test_a_place_that_can_not_be_written_is_refused_at_once(tmp_path, kind, folder):
    target = tmp_path / "elsewhere"
    target.write_text("")
    (tmp_path / "link").symlink_to(target)
    path = {"folder": tmp_path, "missing": tmp_path / "no" / "q.jsonl", "link": tmp_path / "link",
            "device": Path("/dev/null")}[kind]  # fmt: skip
    with pytest.raises(UsageError, match="--log-queries"):
        log_of(path)
    done = CliRunner().invoke(command_line, ["serve", str(folder), "--port", "0", "--log-queries", str(path)])
    assert done.exit_code and "--log-queries" in str(done.exception)


def test_a_model_alone_has_no_queries_to_log(tiny_bert, tmp_path):
    arguments = ["serve", str(tiny_bert), "--port", "0", "--log-queries", str(tmp_path / "q.jsonl")]
    done = CliRunner().invoke(command_line, arguments)
    assert done.exit_code and "needs an index" in str(done.exception)
