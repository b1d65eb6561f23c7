"""The grading page: its routes, who may ask them, and what is on the disk after each grade."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from embedfit.choosing.grades import PERSON_FILE, by_question, person_grades
from embedfit.choosing.page.app import MOST_BYTES, application
from embedfit.choosing.page.session import PageGrade
from embedfit.commands.grading import session_of
from embedfit.config import save
from embedfit.errors import ArtifactMissing, InputError
from embedfit.models.store.vectors import VectorStore
from embedfit.path.artefacts import Passage, Pooled, Query
from embedfit.path.workspace import Workspace
from embedfit.runtime import Runtime
from tests.choosing.test_stage import choose, with_questions
from tests.said import Said

TOKEN = "a-secret"


def asked_run(folder, model):
    workspace = Workspace(folder)
    save(with_questions(workspace, model), workspace.path("embedfit.toml"))
    return workspace


@pytest.fixture
def workspace(tmp_path, tiny_bert):
    return asked_run(tmp_path / "run", tiny_bert)


@pytest.fixture
def session(workspace):
    return session_of(workspace.root, goal=3)


@pytest.fixture
def client(session):
    with TestClient(application(session, TOKEN), base_url="http://127.0.0.1:8000") as found:
        yield found


@pytest.fixture(scope="module")
def refusing(tmp_path_factory, tiny_bert):
    """A client for requests that are refused: whatever they ask, no grade is kept."""
    folder = tmp_path_factory.mktemp("refusing")
    workspace = asked_run(folder / "run", tiny_bert)
    runtime = Runtime(ledger=folder / "ledger.sqlite", vectors=VectorStore(folder / "vectors"))
    application_ = application(session_of(workspace.root, runtime, goal=3), TOKEN)
    with TestClient(application_, base_url="http://127.0.0.1:8000") as found:
        yield found
    assert not workspace.path(PERSON_FILE).exists()


def post(client, **value):
    return client.post(f"/{TOKEN}/grade", json=value)


def test_the_pool_is_made_where_the_stage_has_not_run(workspace, session):
    pools = workspace.read(Pooled)
    assert len(pools) == 20 and session.state()["goal"] == 3
    assert session.state()["questions"][0] == (0, len(pools[0].passages))


def test_a_question_shows_no_id_no_document_and_no_rank(workspace, client):
    answer = client.get(f"/{TOKEN}/question/0").json()
    pool = workspace.read(Pooled)[0]
    assert answer["question"] == pool.query and len(answer["passages"]) == len(pool.passages)
    assert set(answer["passages"][0]) == {"heading", "text", "marked", "grade"}
    own = next(one for one in answer["passages"] if pool.query.split()[-1] in one["text"])
    start, stop = own["marked"][-1]
    assert own["text"][start:stop].lower() in pool.query


def test_each_grade_is_on_the_disk_at_once_and_the_last_one_counts(workspace, client):
    pool = workspace.read(Pooled)[4]
    for grade in (3, 0, None, 2):
        assert post(client, question=4, passage=1, grade=grade).status_code == 200
        last = json.loads(workspace.path(PERSON_FILE).read_text().splitlines()[-1])
        assert (last["query_id"], last["passage_id"], last["grade"]) == (pool.query_id, pool.passages[1], grade)
    assert by_question(person_grades(workspace)) == {pool.query_id: {pool.passages[1]: 2}}
    assert {row.judge for row in person_grades(workspace)} == {"person"}
    again = session_of(workspace.root)
    assert again.state()["questions"][4][0] == 1 and again.question(4)["passages"][1]["grade"] == 2


@pytest.mark.parametrize(
    "value",
    [
        {}, {"question": 0}, {"question": 99, "passage": 0, "grade": 1}, {"question": -1, "passage": 0, "grade": 1},
        {"question": 0, "passage": 99, "grade": 1}, {"question": 0, "passage": 0, "grade": 4},
        {"question": 0, "passage": 0, "grade": -1}, {"question": 0, "passage": 0, "grade": True},
        {"question": 0, "passage": 0, "grade": 1.5}, {"question": "0", "passage": 0, "grade": 1},
        {"question": 0, "passage": True, "grade": 1}, {"question": 0, "passage": 0, "grade": "3"},
    ],
)  # fmt: skip
def test_what_is_no_grade_is_refused_and_not_kept(refusing, value):
    answer = post(refusing, **value)
    assert answer.status_code == 400 and answer.json()["error"]
    assert all(graded == 0 for graded, _ in refusing.get(f"/{TOKEN}/state").json()["questions"])


@pytest.mark.parametrize("body", [b"", b"nonsense", b"[1]", b"[" * 1500, b'"x"', b"\xff\xfe"])
def test_a_body_of_another_form_is_refused(refusing, body):
    answer = refusing.post(f"/{TOKEN}/grade", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400


def test_a_long_body_is_refused(refusing):
    body, kind = b'{"question": 0, "x": "' + b"a" * MOST_BYTES + b'"}', {"content-type": "application/json"}
    assert refusing.post(f"/{TOKEN}/grade", content=body, headers=kind).status_code == 400


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"}, {"host": "127.0.0.1.evil.example:8000"}, {"origin": "http://evil.example"},
        {"origin": "null"}, {"origin": "http://127.0.0.1:9"}, {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)  # fmt: skip
def test_other_sites_can_neither_read_nor_grade(refusing, headers):
    assert refusing.get(f"/{TOKEN}/state", headers=headers).status_code == 404
    answer = refusing.post(f"/{TOKEN}/grade", json={"question": 0, "passage": 0, "grade": 3}, headers=headers)
    assert answer.status_code == 404
    assert all(graded == 0 for graded, _ in refusing.get(f"/{TOKEN}/state").json()["questions"])


def test_a_form_of_another_site_needs_no_leave_and_gets_none(refusing):
    body = '{"question": 0, "passage": 0, "grade": 3}'
    assert refusing.post(f"/{TOKEN}/grade", content=body, headers={"content-type": "text/plain"}).status_code == 415


@pytest.mark.parametrize("path", ["/", "/state", "/x/", "/x/state", "/a-secre/", "/%C3%A9/", f"/{TOKEN}/question/99"])
def test_without_the_secret_there_is_nothing(refusing, path):
    assert refusing.get(path).status_code in (400, 404)


def test_the_page_asks_no_other_address_and_runs_its_own_script_alone(refusing):
    answer = refusing.get(f"/{TOKEN}/")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "connect-src 'self'" in policy
    assert "http://" not in answer.text and "https://" not in answer.text and "innerHTML" not in answer.text
    assert answer.headers["referrer-policy"] == "no-referrer" and answer.headers["cache-control"] == "no-store"
    assert "viewport" in answer.text and "prefers-color-scheme: dark" in answer.text


# --- what a crash leaves


@pytest.mark.parametrize("rest", ["", "{", '{"query_id": "asked-1", "gra', "\x00\x00"])
def test_a_line_that_was_cut_spoils_no_grade(workspace, session, rest):
    session.grade(PageGrade(question=0, passage=0, grade=3))
    path = workspace.path(PERSON_FILE)
    with path.open("a") as file:
        file.write(rest)
    assert len(person_grades(workspace)) == 1
    session_of(workspace.root).grade(PageGrade(question=1, passage=0, grade=2))
    assert [row.grade for row in person_grades(workspace)] == [3, 2]


def test_a_whole_line_without_its_break_is_kept(workspace, session):
    session.grade(PageGrade(question=0, passage=0, grade=3))
    path = workspace.path(PERSON_FILE)
    path.write_text(path.read_text().rstrip("\n"))
    session.grade(PageGrade(question=1, passage=0, grade=2))
    assert [row.grade for row in person_grades(workspace)] == [3, 2]


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        "[]",
        '{"grade": 3}',
        '{"query_id": "a", "query": "b", "passage_id": "c"}',
        '{"query_id": "a", "query": "b", "passage_id": "c", "grade": 7}',
    ],
)
def test_a_line_that_somebody_spoiled_is_named(workspace, line):
    workspace.path(PERSON_FILE).write_text(f"{line}\n")
    with pytest.raises(InputError, match="line 1: this is no grade"):
        person_grades(workspace)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1), st.none() | st.integers(0, 3)), max_size=12))
def test_by_question_keeps_the_last_grade_of_each_pair(rows):
    from embedfit.path.artefacts import Grade

    found = by_question(Grade(query_id=f"q{q}", query="", passage_id=f"p{p}", grade=g) for q, p, g in rows)
    last = {(f"q{q}", f"p{p}"): g for q, p, g in rows}
    assert {(q, p): g for q, of in found.items() for p, g in of.items()} == {
        pair: g for pair, g in last.items() if g is not None
    }


def test_a_pool_of_other_passages_is_made_again_and_says_so(workspace, session):
    pool, said = workspace.read(Pooled)[0], Said()
    session.grade(PageGrade(question=0, passage=0, grade=2))
    before = workspace.path("pool.jsonl").stat().st_mtime_ns
    session_of(workspace.root, Runtime(report=said))
    assert not said.lines and workspace.path("pool.jsonl").stat().st_mtime_ns == before
    gone = pool.passages[0]
    workspace.write(Passage, [one for one in workspace.read(Passage) if one.passage_id != gone])
    again = session_of(workspace.root, Runtime(report=said))
    assert "the results are searched again, for passages.jsonl has changed" in said.lines[0]
    assert all(gone not in one.passages for one in workspace.read(Pooled))
    assert by_question(person_grades(workspace)) == {pool.query_id: {gone: 2}}
    assert again.state()["questions"][0][0] == 0


# --- the gate reads them


def test_a_person_s_grades_choose(workspace, tiny_bert):
    from embedfit.config import load

    session = session_of(workspace.root)
    pools = workspace.read(Pooled)
    for number, pool in enumerate(pools):
        own = f"p{int(pool.query_id.removeprefix('asked-')):02}"
        for place, passage in enumerate(pool.passages):
            if number < 18:
                session.grade(PageGrade(question=number, passage=place, grade=3 if passage == own else 0))
    session.grade(PageGrade(question=19, passage=0, grade=1))
    found = choose(workspace, load(workspace.path("embedfit.toml")))
    assert (found["evidence"]["kind"], found["verdict"]) == ("graded", "better")
    assert (found["evidence"]["graded_by_person"], found["evidence"]["begun_by_person"]) == (18, 1)
    assert [one.passages for one in workspace.read(Pooled)] == [one.passages for one in pools], "the pool is the same"


# --- the command


def test_without_questions_the_command_says_how_to_get_some(workspace):
    workspace.write(Query, [])
    with pytest.raises(InputError, match="no question that people asked") as caught:
        session_of(workspace.root)
    assert "--queries" in str(caught.value)


def test_a_run_without_a_model_says_what_to_run(workspace):
    workspace.path("merge.json").unlink()
    with pytest.raises(ArtifactMissing, match="no model to search with"):
        session_of(workspace.root)
    with pytest.raises(ArtifactMissing, match="not a run folder"):
        session_of(workspace.root / "nothing")


@pytest.mark.slow
def test_the_command_prints_an_address_and_ends_with_what_is_graded(workspace, session):
    environment = {**os.environ, "EMBEDFIT_CACHE": str(workspace.root.parent / "cache")}
    process = subprocess.Popen(
        [sys.executable, "-m", "embedfit", "grade", "--run", str(workspace.root)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().split()[1]
        assert address.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(address, timeout=30) as answer:
            assert b"Grade search results" in answer.read()
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert f"Next: embedfit choose --run {workspace.root}" in rest
