"""A corpus that has grown: what the run takes over, what it does again, and how it continues from the last model."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import embedfit
from embedfit.errors import CheckFailed, EmbedfitError
from embedfit.models.local import LocalModel
from embedfit.models.store.vectors import VectorStore
from embedfit.path.artefacts import Passage, Query
from embedfit.path.workspace import Workspace
from embedfit.runtime import Runtime
from embedfit.testing.fake_model import FakeModel
from tests.e2e.test_path import documents, write_query
from tests.models.tiny_towers import save_mapped
from tests.said import Said

SETTINGS = {
    "train": {"batch_size": 8, "map_steps": 20},
    "evaluate": {"bootstrap": 100},
    "generate": {"round_trip_k": 0},
}


class Desk:
    """A user with one ledger and one writer, whose calls are counted."""

    def __init__(self, root: Path, model: Path) -> None:
        self.root, self.model, self.said = root, model, Said()
        self.writer = FakeModel(write_query)
        self.runtime = Runtime(
            ledger=root / "ledger.sqlite",
            vectors=VectorStore(root / "vectors"),
            language_model=self.writer,
            report=self.said,
        )

    def run(self, docs: list[Path], run: str, *assignments: str, model: Path | None = None) -> Workspace:
        try:
            embedfit.run(
                [str(one) for one in docs],
                run=self.root / run,
                preset="offline",
                settings={"model": str(model or self.model), **SETTINGS},
                assignments=assignments,
                runtime=self.runtime,
                yes=True,
            )
        except CheckFailed:
            pass  # a random model may fail it; the stages after it run all the same
        return Workspace(self.root / run)


def later(folder: Path) -> Path:
    folder.mkdir()
    for animal, place in (("lynx", "canyon"), ("heron", "estuary")):
        (folder / f"{animal}-{place}.md").write_text(
            f"# The {animal} of the {place}\n\nOnce a year the {animal} comes down to the {place} and stays a week.\n"
        )
    return folder


def written(workspace: Workspace) -> set[tuple[str, str]]:
    return {(query.text, query.passage_id) for query in workspace.read(Query)}


@pytest.mark.slow
def test_a_run_on_a_grown_corpus_pays_for_new_passages_only_and_goes_on_from_the_last_model(
    tiny_bert: Path, tmp_path: Path
) -> None:
    desk = Desk(tmp_path, tiny_bert)
    docs = documents(tmp_path / "docs")
    first = desk.run([docs], "run", "train.tune=map", "merge.always_ship=true")
    before, old, calls = {p.passage_id: p for p in first.read(Passage)}, written(first), len(desk.writer.asked)
    last = LocalModel("last", first.path("merged"))
    assert last.layout.queries is not None

    # In another folder, from the last model: the same passages, whose queries are in the ledger.
    more = later(tmp_path / "more")
    second = desk.run([docs, more], "continued", "train.tune=map", "merge.always_ship=true", model=first.path("merged"))
    now = {p.passage_id: p for p in second.read(Passage)}
    assert all(now[name].content == passage.content for name, passage in before.items())
    assert all(now[name].split == passage.split for name, passage in before.items())  # none that taught measures
    asked = [request.messages[-1].content for request in desk.writer.asked[calls:]]
    assert asked and all("canyon" in text or "estuary" in text for text in asked)
    assert old <= written(second)
    shipped = LocalModel("merged", second.path("merged"))
    assert shipped.tower(is_query=False).key == last.tower(is_query=False).key  # an index needs the new passages only
    assert shipped.tower(is_query=True).key != last.tower(is_query=True).key

    # In the same folder, from the base: no question is paid for twice, and the log says why each stage is done again.
    third = desk.run([docs, more], "run", "train.tune=map", "merge.always_ship=true")
    assert {p.passage_id: p.content for p in third.read(Passage)} == {name: p.content for name, p in now.items()}
    assert len(set(desk.writer.asked)) == len(desk.writer.asked)
    said = "\n".join(desk.said.lines)
    assert re.search(r"ingest: done again, for docs was .*more", said)
    assert re.search(r"generate: done again, for passages\.jsonl has changed", said)
    desk.run([docs, more], "run", "train.tune=map", "merge.always_ship=true")
    assert desk.said.lines[-1] == "report: up to date"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["train.tune=both"], "trains one model for both"),
        (["train.loss=infonce"], "trains one model for both"),
        (["train.loss=corpus-distil", "mine.teacher=judge"], "needs a judge"),
        (["train.tune=query", "train.matryoshka=[64]"], "32 dimensions"),
    ],
)
def test_what_no_document_can_mend_is_refused_before_anything_is_paid_for(
    tiny_bert: Path, tmp_path: Path, settings: list[str], message: str
) -> None:
    desk = Desk(tmp_path, tiny_bert)
    last = save_mapped(tiny_bert, tmp_path / "last")
    with pytest.raises(EmbedfitError, match=message) as error:
        desk.run([documents(tmp_path / "docs")], "run", *settings, model=last)
    assert error.value.remedy and not desk.writer.asked
    assert not (tmp_path / "run" / "embedfit.toml").exists()


def test_a_run_does_not_begin_with_a_model_that_it_would_write_over(tiny_bert: Path, tmp_path: Path) -> None:
    desk = Desk(tmp_path, tiny_bert)
    model = save_mapped(tiny_bert, tmp_path / "run")
    with pytest.raises(EmbedfitError, match="lies in the run folder"):
        desk.run([documents(tmp_path / "docs")], "run", model=model)
    assert not desk.writer.asked


def test_a_loss_that_needs_scores_is_refused_where_rows_have_none(tiny_bert: Path, tmp_path: Path) -> None:
    desk = Desk(tmp_path, tiny_bert)
    with pytest.raises(EmbedfitError, match="a row none"):
        desk.run([documents(tmp_path / "docs")], "run", "train.loss=distil", "mine.negatives=0")
    assert not desk.writer.asked
