"""Fields of documents and records: from front matter, pages, files and records, within bounds."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfit.config import Config
from embedfit.corpus import stage
from embedfit.corpus.readers.texts import html
from embedfit.corpus.readers.texts.front_matter import front_matter
from embedfit.corpus.readers.texts.markdown import parse
from embedfit.corpus.sources import metadata
from embedfit.files.beir import read_corpus, write_beir
from embedfit.files.retrieval import RetrievalData
from embedfit.path.artefacts import Metadata, Passage
from embedfit.path.workspace import Workspace
from embedfit.progress import LogLines
from embedfit.runtime import Runtime

from .conftest import story

# --- front matter


def test_yaml_is_read_as_its_author_meant_it():
    front, rest = front_matter(
        "---\nTitle: A\nlang: no\ndate: 2024-01-02\nyear: 2024\nshare: .5\ndraft: true\nnothing: ~\n"
        "tags: [a, 'b c', 3]\nversion: '1.10'\nat: 12:30\nmore:\n  by: me\n  of:\n  - x\n---\nB"
    )
    assert rest == "B" and front.title == "A" and front.problem == ""
    assert front.fields == {
        "lang": "no", "date": "2024-01-02", "year": 2024, "share": 0.5, "draft": True, "nothing": None,
        "tags": ["a", "b c", 3], "version": "1.10", "at": "12:30", "more": {"by": "me", "of": ["x"]},
    }  # fmt: skip


def test_toml_is_read():
    front, _ = front_matter("+++\ntitle = 'A'\ndate = 2024-01-02\nn = 3\n[taxonomy]\ntags = ['a']\n+++\nB")
    values, cut = metadata.bounded(front.fields)
    assert values == {"date": "2024-01-02", "n": 3, "taxonomy.tags": ("a",)} and not cut


@pytest.mark.parametrize(
    ("inside", "why"),
    [
        ("key: [unclosed", "line 1"),
        ("a: b: c", "line 1"),
        ("a: &x [1]\nb: *x", "anchors"),
        ("a: !!python/object/apply:os.system ['true']", "tags"),
        ("a: !Local x", "tags"),
        ("a: " + "[" * 3000, "nested too deeply"),
        ('a: "\\x"', "line 1"),
        ("a: " + "9 " * 60_000, "100,000 characters"),
        ("a: `", "line 1"),
    ],
)
def test_front_matter_that_is_broken_is_text_and_is_said(inside: str, why: str):
    parsed = parse(f"---\n{inside}\n---\nThe end.")
    assert parsed.metadata == {} and "front matter is kept as text" in parsed.note and why in parsed.note
    said = " ".join(block.text for block in parsed.blocks)
    assert said.endswith("The end.") and inside.split()[0] in said
    assert all(block.kind == "text" for block in parsed.blocks)


def test_a_title_of_broken_front_matter_stays_a_heading():
    parsed = parse("---\ntitle: Pumps: an overview\nlang: en\n---\nB")
    assert [(block.kind, block.text) for block in parsed.blocks] == [
        ("heading", "Pumps: an overview"), ("text", "lang: en"), ("text", "B")]  # fmt: skip


@given(st.text(st.sampled_from("ab:-[]{}&*!|>'\"#, \n\t%@`0.e~")))
def test_any_front_matter_is_read_or_text(inside: str):
    parsed = parse(f"---\na: {inside}\n---\nThe end.")
    assert metadata.bounded(parsed.metadata)
    assert "The end." in " ".join(block.text for block in parsed.blocks)


def test_what_a_page_says_of_itself():
    page = html.parse(
        "<html lang=de><head><title>T</title><meta name=author content=' Ada '><meta name=Author content=Bob>"
        "<meta property='article:published_time' content=2024-01-02><meta name=keywords content='a, b'>"
        "<meta name=viewport content=x></head><body><p>Text</p></body></html>"
    )
    assert page.metadata == {"lang": "de", "author": "Ada", "date": "2024-01-02", "keywords": ["a", "b"]}


# --- bounds

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
values = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=5), inner), max_leaves=12
)


@given(st.dictionaries(st.text(max_size=8) | st.sampled_from(["groups", "metadata", "folder"]), values))
def test_whatever_is_said_becomes_fields_of_plain_values(raw: dict[str, Any]):
    fields, _ = metadata.bounded(raw)
    assert json.loads(json.dumps(fields, allow_nan=False)) is not None
    for name, value in fields.items():
        assert name and name not in metadata.OF_FILES
        assert isinstance(value, (str, int, float, bool, tuple)) and value not in ("", ())
        if isinstance(value, tuple):
            assert all(isinstance(one, str) and one for one in value)
        if name == "groups":
            assert isinstance(value, tuple)


def test_bounds_are_kept_and_said():
    raw: dict[str, Any] = {f"f{n}": n for n in range(80)}
    raw |= {"long": "x" * 2000, "list": ["y"] * 5 + [str(n) for n in range(200)]}
    fields, notes = metadata.bounded({"long": raw["long"], "list": raw["list"], **raw, "groups": "hr"})
    assert len(fields) == metadata.MOST_FIELDS and fields["groups"] == ("hr",)
    assert len(str(fields["long"])) == 1000 and len(fields["list"]) == 96  # type: ignore[arg-type]
    assert {"`long` is cut after 1,000 characters", "`list` is cut after 100 items",
            "fields after the first 50 are left out"} == set(notes)  # fmt: skip


@pytest.mark.parametrize(
    ("raw", "kept", "said"),
    [
        ({"a": {"b": {"c": {"d": 1}}}}, {}, "nested too deeply"),
        ({"a": math.inf}, {}, "left out"),
        ({"a": [{"b": 1}, "x"]}, {"a": ("x",)}, "items that are objects"),
        ({"n" * 200: 1}, {}, "longer than 100"),
        ({"": 1}, {}, "empty"),
        ({"a": 2**60}, {"a": str(2**60)}, ""),
        ({"a": [1, True, None, "x"]}, {"a": ("1", "true", "x")}, ""),
        ({"a": " x\n\x00y "}, {"a": "x y"}, ""),
        ({"a": None, "b": "", "c": []}, {}, ""),
        ({"folder": "public", "file": "x"}, {"metadata.folder": "public", "metadata.file": "x"}, ""),
        ({"lang": "de", "metadata": {"lang": "en", "url": "u"}},
         {"lang": "de", "metadata.lang": "en", "url": "u"}, ""),
        ({"metadata": "plain"}, {"metadata": "plain"}, ""),
        ({"metadata": {"groups": "hr"}}, {"groups": ("hr",)}, ""),
        ({"groups": 7}, {"groups": ("7",)}, ""),
        ({"groups": {"a": 1}}, {"groups.a": 1}, ""),
    ],
)  # fmt: skip
def test_what_becomes_of_a_field(raw: dict[str, Any], kept: dict[str, Any], said: str):
    fields, notes = metadata.bounded(raw)
    assert fields == kept
    assert said in " ".join(notes) and bool(said) == bool(notes)


def test_a_corpus_of_too_many_fields_keeps_the_most_frequent_and_who_may_read_it():
    rows = [Metadata(document_id=str(n), values={"common": 1, f"own{n}": n}) for n in range(300)]
    rows.append(Metadata(document_id="x", values={"groups": ("hr",), "folder": ""}))
    kept, notes = metadata.of_corpus(rows)
    names = {name for row in kept for name in row.values}
    assert len(names) == metadata.MOST_OF_CORPUS and {"common", "groups", "folder"} <= names
    assert "103 of 303 fields are left out" in notes[0]


# --- the stage


@pytest.fixture
def ingest(tiny_bert: Path, tmp_path: Path) -> Callable[[Path], Workspace]:
    def run(docs: Path) -> Workspace:
        workspace = Workspace(tmp_path / "run")
        stage.run(workspace, Config(docs=(str(docs),), model=str(tiny_bert)), Runtime(report=LogLines(sys.stderr)))
        return workspace

    return run


def known(workspace: Workspace) -> dict[tuple[str, str], dict[str, Any]]:
    return {(one.document_id, one.passage_id): one.values for one in workspace.read(Metadata)}


def test_documents_have_fields_of_their_file_and_their_own(ingest, tmp_path: Path):
    folder = tmp_path / "docs" / "manuals" / "tv"
    folder.mkdir(parents=True)
    (folder / "a.MD").write_text(f"---\nlang: de\nfolder: mine\ngroups: [hr]\n---\n# A\n\n{story(1)}\n")
    (tmp_path / "docs" / "b.txt").write_text(story(2))
    workspace = ingest(tmp_path / "docs")
    assert known(workspace) == {
        ("manuals/tv/a.MD", ""): {"lang": "de", "metadata.folder": "mine", "groups": ("hr",), "folder": "manuals/tv",
                                  "file": "a.MD", "extension": "md"},
        ("b.txt", ""): {"folder": "", "file": "b.txt", "extension": "txt"},
    }  # fmt: skip


def test_records_have_their_own_fields(ingest, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rows = [{"_id": f"r-{n}", "title": "", "text": story(n), "lang": "de", "metadata": {"url": f"u{n}"},
             "abstract": "z" * 2000} for n in range(4)]  # fmt: skip
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    workspace = ingest(tmp_path / "corpus.jsonl")
    found = known(workspace)
    document = next(one.document_id for one in workspace.read(Passage) if one.passage_id == "r-3")
    assert found[document, ""] == {"folder": "", "file": "corpus.jsonl", "extension": "jsonl"}
    assert found[document, "r-3"] == {"lang": "de", "url": "u3", "abstract": "z" * 1000}
    assert "metadata: `abstract` is cut after 1,000 characters (4 times)" in capsys.readouterr().err


def test_copies_for_other_groups_are_no_copies(ingest, tmp_path: Path):
    folder = tmp_path / "docs"
    folder.mkdir()
    for name, groups in (("a", "hr"), ("b", "all"), ("c", "all")):
        (folder / f"{name}.md").write_text(f"---\ngroups: {groups}\nname: {name}\n---\n# A\n\n{story(1)}\n")
    workspace = ingest(folder)
    assert {one.document_id for one in workspace.read(Passage)} == {"a.md", "b.md"}


def test_a_beir_folder_keeps_what_its_records_say(tmp_path: Path):
    record = {"_id": "1", "title": "t", "text": "x", "lang": "de", "metadata": {"url": ["u"]}}
    (tmp_path / "corpus.jsonl").write_text(json.dumps(record) + "\n")
    corpus = dict(read_corpus(tmp_path / "corpus.jsonl"))
    write_beir(tmp_path / "out", RetrievalData(corpus=corpus, queries={}, qrels={}))
    assert json.loads((tmp_path / "out" / "corpus.jsonl").read_text()) == record


def test_changed_fields_leave_the_passages_as_they_are(ingest, tmp_path: Path):
    folder = tmp_path / "docs"
    folder.mkdir()

    def files(lang: str) -> dict[str, bytes]:
        for number in range(3):
            text = f"---\ntitle: T\nlang: {lang}\n---\n# A\n\n{story(number)}\n"
            (folder / f"{number}.md").write_text(text)
        workspace = ingest(folder)
        return {name: workspace.path(name).read_bytes() for name in ("passages.jsonl", "metadata.jsonl")}

    before, after = files("de"), files("en")
    assert before["passages.jsonl"] == after["passages.jsonl"]
    assert before["metadata.jsonl"] != after["metadata.jsonl"]
