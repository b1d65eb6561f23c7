"""The ingest stage on the documents that people have, good and bad."""

from __future__ import annotations

import io
import json
import shutil
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from embedfit.config import Config, resolve
from embedfit.corpus import stage
from embedfit.errors import InputError
from embedfit.models.tokenizer import load_tokenizer
from embedfit.path.artefacts import Document, DroppedPassage, Passage
from embedfit.path.workspace import Workspace
from embedfit.progress import LogLines
from embedfit.queries import stage as queries_stage
from embedfit.runtime import Runtime
from embedfit.scale.executor import Executor
from embedfit.scale.inline import Inline
from embedfit.scale.processes import Processes

from .conftest import Pdf, make_png, story, write_pdf


@dataclass
class Ingested:
    documents: dict[str, Document]
    passages: list[Passage]
    dropped: list[DroppedPassage]

    @property
    def parts(self) -> Counter[str]:
        return Counter(passage.split for passage in self.passages)

    def reasons(self) -> dict[str, tuple[str, str]]:
        return {key: (document.status, document.reason) for key, document in self.documents.items()}


@pytest.fixture
def ingest(tmp_path: Path, tiny_bert: Path):
    """Run ingest over documents with settings; what it wrote."""

    def run(*docs: Path | str, runtime: Runtime | None = None, **overrides: object) -> Ingested:
        settings: dict[str, object] = {"docs": [str(doc) for doc in docs], "model": str(tiny_bert), **overrides}
        config: Config = resolve(overrides=settings)
        workspace = Workspace(tmp_path / "run")
        stage.run(workspace, config, runtime or Runtime())
        return Ingested(
            {document.document_id: document for document in workspace.read(Document)},
            workspace.read(Passage),
            workspace.read(DroppedPassage),
        )

    return run


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    """A folder with one readable document."""
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "good.txt").write_text("\n\n".join(story(number) for number in range(8)))
    return folder


def test_passages_fit_the_window_with_title_and_special_tokens(ingest, tmp_path: Path, tiny_bert: Path) -> None:
    (tmp_path / "guide.md").write_text(
        "# Guide to the island\n\n" + "\n\n".join(f"## Part {n}\n\n{story(n)}" for n in range(12))
    )
    result = ingest(tmp_path / "guide.md")
    tokenizer = load_tokenizer(tiny_bert)
    lengths = [len(tokenizer.encode(passage.content).ids) for passage in result.passages]
    assert max(lengths) <= 128 and len(lengths) > 20
    assert all(passage.title.startswith(("Guide to the island", "Part")) for passage in result.passages)
    assert result.passages[0].passage_id == "guide.md#0001"
    assert set(result.parts) >= {"train", "dev", "test"}


def test_setting_of_passage_length(ingest, docs: Path, tiny_bert: Path) -> None:
    result = ingest(docs, ingest={"max_tokens": 64, "min_characters": 5})
    tokenizer = load_tokenizer(tiny_bert)
    assert max(len(tokenizer.encode(passage.content).ids) for passage in result.passages) <= 64
    with pytest.raises(InputError, match="at least 16") as caught:
        ingest(docs, ingest={"max_tokens": 10})
    assert "--set ingest.max_tokens=18" in str(caught.value.remedy)


def test_running_again_gives_the_same_files(ingest, docs: Path, tmp_path: Path) -> None:
    ingest(docs)
    names = ("documents.jsonl", "passages.jsonl", "dropped_passages.jsonl")
    first = [(tmp_path / "run" / name).read_bytes() for name in names]
    ingest(docs)
    assert first == [(tmp_path / "run" / name).read_bytes() for name in names]


class LastFirst:
    """An executor whose results come in the worst order."""

    def map(self, function, shards, **how):
        yield from reversed(list(Inline().map(function, shards, **how)))


@pytest.mark.parametrize("executor", [Processes(2), LastFirst()], ids=["processes", "last first"])
def test_who_reads_makes_no_difference(ingest, docs: Path, tmp_path: Path, executor: Executor) -> None:
    shutil.copy(next(docs.iterdir()), docs / "a copy of it.md")
    for number in range(6):
        (docs / f"more{number}.md").write_text(f"# Part {number}\n\n{story(number)}")
    (docs / "broken.pdf").write_bytes(b"%PDF-1.4 nothing")
    (docs / "program.exe").write_bytes(b"MZ")
    (docs / "corpus.jsonl").write_text('{"_id": "r1", "text": "a record about lamps and how they are mended"}\n')
    names = ("documents.jsonl", "passages.jsonl", "dropped_passages.jsonl", "metadata.jsonl")
    ingest(docs)
    before = {name: (tmp_path / "run" / name).read_bytes() for name in names}
    ingest(docs, runtime=Runtime(executor=executor))
    assert before == {name: (tmp_path / "run" / name).read_bytes() for name in names}


def test_bad_documents_are_listed_and_the_run_goes_on(ingest, docs: Path, tmp_path: Path) -> None:
    whole = write_pdf(tmp_path / "whole.pdf", paragraphs=3).read_bytes()
    (docs / "zero.pdf").write_bytes(b"")
    (docs / "broken.pdf").write_bytes(whole[:700])
    protected = Pdf()
    protected.set_encryption("owner", "secret")
    protected.add_page()
    protected.paragraph(story(1))
    protected.output(str(docs / "protected.pdf"))
    (tmp_path / "scan.png").write_bytes(make_png())
    scan = Pdf()
    scan.add_page()
    scan.image(str(tmp_path / "scan.png"))
    scan.output(str(docs / "scan.pdf"))
    (docs / "noise.txt").write_bytes(bytes(range(256)) * 50)
    (docs / "data.yaml").write_text("a: b\n")
    (docs / "copy of good.txt").write_bytes((docs / "good.txt").read_bytes())
    (docs / "same_text.md").write_text((docs / "good.txt").read_text() + "\n\n\n")
    (docs / "holes.txt").write_bytes(
        story(50).encode().replace(b"silver", b"sil\x00ver")
        + " café, entrée \udcff end.".encode("utf-8", "surrogateescape")
    )
    (docs / "blank.txt").write_text("  \n\n ")
    result = ingest(docs)
    assert result.reasons() == {
        "blank.txt": ("skipped", "no text in it"),
        "broken.pdf": ("skipped", "not a readable PDF: the file is cut short"),
        "copy_of_good.txt": ("ok", ""),
        "data.yaml": ("skipped", "the format .yaml is not supported"),
        "good.txt": ("duplicate", "a copy of copy_of_good.txt"),
        "holes.txt": ("partial", "1 NUL character removed; 1 character could not be decoded"),
        "noise.txt": ("skipped", "binary data, not text"),
        "protected.pdf": ("skipped", "protected by a password"),
        "same_text.md": ("duplicate", "a copy of copy_of_good.txt"),
        "scan.pdf": (
            "skipped",
            "no text layer (scanned): no text in its 1 page, only images: run OCR on it first (for example ocrmypdf)",
        ),
        "zero.pdf": ("skipped", "the file is empty (zero bytes)"),
    }
    assert {passage.document_id for passage in result.passages} == {"copy_of_good.txt", "holes.txt"}
    assert not any("\x00" in passage.text for passage in result.passages)


def test_problems_are_said(ingest, docs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import sys

    (docs / "zero.pdf").write_bytes(b"")
    ingest(docs, runtime=Runtime(report=LogLines(sys.stderr)))
    said = capsys.readouterr().err
    assert f"skipped: {docs / 'zero.pdf'}: the file is empty (zero bytes)" in said
    assert "1 documents read, 1 skipped;" in said


def test_an_empty_folder(ingest, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="There is no file in"):
        ingest(tmp_path / "empty")


def test_nothing_readable_names_the_reasons(ingest, tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(b"")
    with pytest.raises(InputError, match=r"None of the 1 files gave a passage: the file is empty .* \(1\)") as caught:
        ingest(tmp_path / "a.pdf")
    assert ".md" in str(caught.value.remedy)
    assert not (tmp_path / "run" / "passages.jsonl").exists()


def test_three_passages_can_be_searched_but_not_tuned_on(ingest, tmp_path: Path) -> None:
    (tmp_path / "corpus.jsonl").write_text(
        "".join(json.dumps({"_id": str(n), "text": story(n)}) + "\n" for n in range(3))
    )
    said = io.StringIO()
    result = ingest(tmp_path / "corpus.jsonl", runtime=Runtime(report=LogLines(said)))
    assert [passage.split for passage in result.passages] == ["train"] * 3
    assert "3 passages; at least 8" in said.getvalue() and "embedfit index" in said.getvalue()
    with pytest.raises(InputError, match="3 passages are too few") as caught:
        queries_stage.run(Workspace(tmp_path / "run"), resolve(preset="offline"), Runtime())
    assert "embedfit index" in str(caught.value.remedy)


def test_a_file_over_the_limit_is_not_read(ingest, docs: Path) -> None:
    with (docs / "huge.txt").open("wb") as file:
        file.truncate(200 << 20)  # sparse: takes no disk
    result = ingest(docs)
    assert result.reasons()["huge.txt"] == ("skipped", "200 MiB is larger than ingest.max_file_mb=100")


def test_short_and_garbage_passages_are_recorded(ingest, docs: Path) -> None:
    (docs / "bad.md").write_text("# A\n\nShort.\n\n# B\n\n" + "1 2 3 4 5 6 7 8 9 " * 12)
    result = ingest(docs)
    reasons = {(one.document_id, one.reason) for one in result.dropped}
    assert ("bad.md", "no letters") in reasons
    assert "bad.md" not in {passage.document_id for passage in result.passages}


def test_equal_passages_are_kept_once(ingest, docs: Path) -> None:
    (docs / "more.txt").write_text(f"{story(3)}\n\n{story(70)}\n\n{story(71)}")
    (docs / "third.txt").write_text(f"{story(3)}\n\n{story(80)}\n\n{story(81)}")
    result = ingest(docs)
    texts = [passage.text for passage in result.passages]
    assert len(texts) == len(set(texts))
    assert any(one.reason.startswith("a copy of good.txt#") and one.document_id == "more.txt" for one in result.dropped)


def write_corpus(folder: Path, records: list[dict[str, object]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "corpus.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder / "corpus.jsonl"


def test_beir_records_are_passages_as_they_are(ingest, tmp_path: Path) -> None:
    long = " ".join(story(number) for number in range(5))
    records: list[dict[str, object]] = [
        {"_id": f"{group}-{number}", "title": "", "text": story(5 * group + number)}
        for group in range(4)
        for number in range(4)
    ]
    records += [
        {"_id": "9-0", "text": long},
        {"_id": "9-1", "text": "Ok\x00 then."},
        {"_id": "9-2", "title": "", "text": " "},
    ]
    result = ingest(write_corpus(tmp_path / "beir", records))
    assert [passage.passage_id for passage in result.passages] == [str(record["_id"]) for record in records[:-1]]
    assert result.passages[16].text == long and result.passages[17].text == "Ok then."
    assert [(one.document_id, one.reason) for one in result.dropped] == [("9", "the record is empty")]
    assert list(result.documents) == ["0", "1", "2", "3", "9"]
    assert {passage.document_id for passage in result.passages} <= set(result.documents)


def test_human_queries_in_a_beir_folder_are_never_read(ingest, tmp_path: Path) -> None:
    folder = tmp_path / "beir"
    write_corpus(folder, [{"_id": f"d{number}", "text": story(number)} for number in range(12)])
    (folder / "queries.jsonl").write_text(json.dumps({"_id": "q", "text": "a human question " * 9}) + "\n")
    (folder / "qrels").mkdir()
    (folder / "qrels" / "test.tsv").write_text("q\td1\t1\n")
    result = ingest(folder)
    assert len(result.passages) == 12
    assert "for evaluation only" in result.documents["queries.jsonl"].reason


def test_a_line_that_is_not_json_is_named(ingest, tmp_path: Path) -> None:
    path = write_corpus(tmp_path / "beir", [{"_id": f"d{number}", "text": story(number)} for number in range(3)])
    path.write_text(path.read_text() + "{broken\n")
    with pytest.raises(InputError, match=r"corpus\.jsonl, line 4: not JSON"):
        ingest(path)


def test_ids_that_two_corpora_share_are_refused(ingest, tmp_path: Path) -> None:
    first = write_corpus(tmp_path / "a", [{"_id": "d1", "text": story(1)}])
    second = write_corpus(tmp_path / "b", [{"_id": "d1", "text": story(2)}])
    with pytest.raises(InputError, match="'d1' is also in another"):
        ingest(first, second)


def test_eval_documents_are_the_test_part(ingest, docs: Path, tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text("\n\n".join(story(number) for number in (*range(100, 106), 2)))
    result = ingest(docs, eval_docs=[str(tmp_path / "other.txt")])
    assert result.documents["other.txt"].role == "eval"
    for passage in result.passages:
        assert (passage.split == "test") == (passage.document_id == "other.txt")
    shared = [passage for passage in result.passages if passage.document_id == "good.txt" and passage.split == "gap"]
    assert shared and all("plan 2" in story(2) and passage.text in story(2) for passage in shared)


def test_human_evaluation_leaves_no_test_part(ingest, docs: Path, tmp_path: Path) -> None:
    result = ingest(docs, eval_beir=str(tmp_path / "elsewhere"))
    assert result.parts["test"] == 0 and result.parts["dev"] >= 2


@pytest.mark.parametrize("as_copy", [False, True])
def test_the_same_file_in_both_is_refused(ingest, docs: Path, tmp_path: Path, as_copy: bool) -> None:
    other = docs / "good.txt"
    if as_copy:
        other = tmp_path / "copy.txt"
        other.write_bytes((docs / "good.txt").read_bytes())
    with pytest.raises(InputError, match="both among the documents to train on and among --eval-docs"):
        ingest(docs, eval_docs=[str(other)])


def test_missing_documents(ingest, docs: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not there"):
        ingest(tmp_path / "nothing.pdf")
    with pytest.raises(InputError, match="No documents were named"):
        ingest()
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="There is no file in"):
        ingest(docs, eval_docs=[str(tmp_path / "empty")])


def test_a_window_smaller_than_asked_for_is_said(ingest, docs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import sys

    ingest(docs, ingest={"max_tokens": 400}, runtime=Runtime(report=LogLines(sys.stderr)))
    assert "reads only the first 128 of a passage" in capsys.readouterr().err


def test_the_filings(data_dir: Path, minilm: Path, tmp_path: Path) -> None:
    config = resolve(
        overrides={
            "docs": [str(data_dir / "pdf_samples" / "NETFLIX_2015_10K.pdf")],
            "eval_docs": [str(data_dir / "pdf_samples" / "AMCOR_2023Q2_10Q.pdf")],
            "model": "minilm",
        }
    )
    workspace = Workspace(tmp_path / "run")
    stage.run(workspace, config, Runtime())
    passages = workspace.read(Passage)
    tokenizer = load_tokenizer(minilm)
    lengths = [len(one.ids) for one in tokenizer.encode_batch([passage.content for passage in passages])]
    assert max(lengths) <= 256 and sum(lengths) / len(lengths) > 150
    assert sum(passage.title != "" for passage in passages) > 0.95 * len(passages)
    assert all(passage.text[0] != " " and passage.page > 0 for passage in passages)
    ends = sum(passage.text.rstrip('”"’)')[-1] in ".:;,!?" for passage in passages)
    assert ends > 0.65 * len(passages), "passages end where sentences and clauses do"


def test_a_file_that_a_worker_does_not_see_is_an_error_and_not_a_skipped_document(ingest, docs: Path) -> None:
    class Elsewhere:
        """A machine that lacks the folder of the documents."""

        def map(self, function, shards, **how):
            moved = [replace(one, path=Path("/nowhere") / one.path.name) for one in shards]
            yield from Inline().map(function, moved, **how)

    with pytest.raises(InputError, match=r"/nowhere/.*: the file was listed, but \S+ does not have it") as caught:
        ingest(docs, runtime=Runtime(executor=Elsewhere()))
    assert "under the same path" in (caught.value.remedy or "")
