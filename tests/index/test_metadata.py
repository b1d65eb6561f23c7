"""Fields of passages from documents to hits: searches that are restricted, and an index whose fields change."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from embedfit.cli.main import app
from embedfit.commands.indexing import index_documents, load
from embedfit.errors import InputError
from embedfit.index.retriever import RRF
from embedfit.index.search import Index
from embedfit.index.store.filters import filter_of

TOPICS = {
    "tv": "Press the mute button to turn the sound of the tv off. Press it again to hear the tv.",
    "lamp": "The lamp in the hall has a switch at its base. A new bulb must have forty watts at most.",
    "oven": "Heat the oven for ten minutes before the bread goes in. The bread is done when it sounds hollow.",
}


def corpus(path: Path, *, keep: Callable[[dict[str, Any]], bool] = lambda row: True, **more: Any) -> Path:
    rows = [{"_id": f"{name}-{n}", "title": name, "text": f"{text} Note {n}.", "lang": "de" if n % 2 else "en",
             "metadata": {"year": 2020 + n}, "groups": ["all", name] if n else [name], **more}
            for n in range(4) for name, text in TOPICS.items()]  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows if keep(row)))
    return path


@pytest.fixture
def index(tiny_bert: Path, tmp_path: Path) -> Index:
    return index_documents(corpus(tmp_path / "corpus.jsonl"), folder=tmp_path / "ix", model=str(tiny_bert))


def test_hits_carry_the_fields_and_filters_restrict_them(index: Index):
    hits = index.search("mute the tv", k=20, where={"lang": "de", "year": {">": 2021}})
    assert {hit.passage_id for hit in hits} == {"tv-3", "lamp-3", "oven-3"}
    tv = next(hit for hit in hits if hit.passage_id == "tv-3")
    assert tv.metadata == {"lang": "de", "year": 2023, "groups": ("all", "tv"), "folder": "", "file": "corpus.jsonl",
                           "extension": "jsonl"}  # fmt: skip
    assert index.search("mute the tv", where=["lang=de", "year>2021"], k=20) == hits
    assert index.base.search("mute the tv", 20, where={"groups": "lamp"})[0].document.startswith("lamp")
    assert len(index.search("mute the tv", 20, where="groups:lamp")) == 4
    assert index.search("mute the tv", where={"lang": "xx"}) == []
    with pytest.raises(InputError, match="no field 'nothing'"):
        index.search("mute the tv", where={"nothing": 1})


def test_what_is_filtered_out_has_no_part_in_what_is_found(index: Index):
    """Whatever the hidden passages' vectors are, the scores of the others stay."""
    where = {"lang": "de"}
    before = index.search("mute the tv", k=4, where=where)
    allowed = index.stored.catalogue.allowed(filter_of(where))
    assert allowed is not None
    hidden = ~allowed
    parts = index.stored.parts
    one = parts.one.copy()
    one[hidden] = one[~hidden][0]
    changed = replace(index.stored, parts=replace(parts, one=one))
    after = Index(changed, index.asker).search("mute the tv", k=4, where=where)
    assert [(hit.passage_id, hit.score) for hit in after] == [(hit.passage_id, hit.score) for hit in before]


def test_ranks_are_ranks_among_what_may_be_found(index: Index):
    fused = Index(replace(index.stored, retriever=RRF), index.asker)
    allowed = np.zeros(len(index), bool)
    allowed[:3] = True
    some = fused.search("mute the tv", k=20, allowed=allowed)
    assert sorted(round(hit.score, 6) for hit in some) == sorted(
        round(0.5 / (60 + rank), 6) for rank in (1, 2, 3)
    )  # no lamp has a word of the query


def test_changed_fields_alone_compute_no_vector(index: Index, tiny_bert: Path, tmp_path: Path, monkeypatch):
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a vector is computed")

    arrays = {path.name: path.read_bytes() for path in (tmp_path / "ix" / "index").glob("*.npy")}
    corpus(tmp_path / "corpus.jsonl", lang="fr", colour="red")
    monkeypatch.setattr("embedfit.commands.indexing.build", refuse)
    again = index_documents(tmp_path / "corpus.jsonl", folder=tmp_path / "ix")
    assert {path.name: path.read_bytes() for path in (tmp_path / "ix" / "index").glob("*.npy")
            if not path.name.startswith("metadata")} == {
        name: data for name, data in arrays.items() if not name.startswith("metadata")}  # fmt: skip
    assert len(again.search("tv", 20, where={"colour": "red", "lang": "fr"})) == 12
    monkeypatch.undo()
    fresh = index_documents(tmp_path / "corpus.jsonl", folder=tmp_path / "fresh", model=str(tiny_bert))
    assert fresh.stored.manifest.fields == again.stored.manifest.fields
    assert fresh.search("tv", 20) == again.search("tv", 20)
    assert set(again.stored.manifest.files) == set(fresh.stored.manifest.files)


def test_the_command_filters_and_says_what_there_is(index: Index, tmp_path: Path):
    def run(*arguments: object) -> Any:
        return CliRunner().invoke(app, ["search", "--index", str(tmp_path / "ix"), *map(str, arguments)])

    done = run("mute the tv", "--filter", "lang=de", "--filter", "year>2021", "--json", "-k", 20)
    assert done.exit_code == 0, done.output
    printed = json.loads(done.stdout)
    for name in ("hits", "base"):
        assert {hit["metadata"]["year"] for hit in printed[name]} == {2023}
    empty = run("mute the tv", "--filter", "lang=xx")
    assert empty.exit_code == 0 and "No passage meets" in empty.stdout and "lang: de (6), en (6)" in empty.stdout
    wrong = run("mute the tv", "--filter", "lng=de")
    assert wrong.exit_code != 0 and "no field 'lng'" in str(wrong.exception) and "lang (texts)" in str(wrong.exception)
    (tmp_path / "q.txt").write_text("mute the tv\nlamp\n")
    trec = run("--queries", tmp_path / "q.txt", "--trec", tmp_path / "out.trec", "--filter", "groups:oven")
    assert trec.exit_code == 0, trec.output
    lines = (tmp_path / "out.trec").read_text().splitlines()
    assert len(lines) == 8 and all(line.split()[2].startswith("oven") for line in lines)


def test_an_index_from_before_fields_is_built_again(index: Index, tmp_path: Path):
    path = tmp_path / "ix" / "index" / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["fields"]
    path.write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="lacks fields"):
        load(tmp_path / "ix")
    assert len(index_documents(folder=tmp_path / "ix").search("tv", 20, where={"lang": "de"})) == 6
