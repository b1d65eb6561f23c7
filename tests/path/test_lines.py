"""Records that stay in their file."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfit.errors import InputError
from embedfit.path.artefacts import Passage
from embedfit.path.lines import Growing
from embedfit.path.workspace import Workspace, decode_record, line_of

TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=12), max_size=9)


def passages(texts: list[str]) -> list[Passage]:
    return [Passage(passage_id=text, document_id="d", title="", text=text) for text in texts]


@given(TEXTS, st.data())
def test_they_are_those_of_the_whole_file(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], data: st.DataObject
) -> None:
    workspace, every = Workspace(tmp_path_factory.mktemp("run")), passages(texts)
    workspace.write(Passage, every)
    found = workspace.lines(Passage)
    with workspace.unnamed() as file:
        growing = Growing(file, lambda line: decode_record(line, Passage))
        assert list(growing.lines()) == []
        for number, one in enumerate(every):
            growing.add(line_of(one))
            assert len(growing) == number + 1
        assert list(growing.lines()) == list(found) == workspace.read(Passage) == every
    assert not [path for path in workspace.root.iterdir() if path.name != "passages.jsonl"]
    part = data.draw(st.slices(len(every)))
    assert found[part] == every[part] and len(found) == len(every)
    assert [found[place] for place in range(-len(every), len(every))] == [*every, *every]
    assert list(found.map(lambda one: one.text)) == texts
    assert list(found.by(lambda one: one.text)) == sorted(every, key=lambda one: one.text)
    assert list(found.where(lambda one: len(one.text) > 3)) == [one for one in every if len(one.text) > 3]


def test_a_line_that_is_no_record_is_named_and_an_empty_one_is_none(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.write(Passage, passages(["a", "b"]))
    path = workspace.path("passages.jsonl")
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n\n") + b'{"text": 3}\n')
    found = workspace.lines(Passage)
    assert list(found[:2]) == passages(["a", "b"])
    with pytest.raises(InputError, match=r"passages\.jsonl: .*3"):
        list(found)
