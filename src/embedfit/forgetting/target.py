"""Finds everything that goes with what a user names: questions, documents, passages, and queries written of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from embedfit.asked.log import cut, key_of
from embedfit.asked.reading import rows_of
from embedfit.errors import InputError, UsageError
from embedfit.forgetting.marks import Marks
from embedfit.path.artefacts import ASKED, Document, Grade, Judgement, Passage, Query
from embedfit.path.forgotten import Forgotten, hashed, hashed_path
from embedfit.path.workspace import FILES, Workspace, read_jsonl

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """The things that a user wants to be forgotten. documents: ids, or paths of files."""

    queries: Sequence[str] = ()
    query_ids: Sequence[str] = ()
    files: Sequence[Path] = ()
    documents: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Everything that is taken out.

    marks: of the texts. keys: of the questions (asked.log.key_of). documents, passages, queries: ids; queries includes
    those that were written of the passages. names: ids and paths of whole documents. questions, contents: texts of the
    questions and of the passages. texts: every text that the cache may hold as a query. calls: keys of the ledger's
    calls that wrote or judged queries or passages. forgotten: the hashes to note in the run.
    """

    marks: Marks
    keys: frozenset[str]
    documents: frozenset[str]
    passages: frozenset[str]
    queries: frozenset[str]
    names: frozenset[str]
    questions: tuple[str, ...]
    contents: tuple[str, ...]
    texts: tuple[str, ...]
    calls: frozenset[str]
    forgotten: Forgotten


def target_of(named: Named, workspace: Workspace, before: Forgotten) -> Target:
    """Find what the user means. Raises UsageError if nothing is named, InputError if the run holds no such thing.

    A thing that was forgotten before may be named again, so that a killed command can go on.
    """
    if not any((named.queries, named.query_ids, named.files, named.documents)):
        raise UsageError(
            "Nothing to forget was named.",
            remedy='For example: embedfit forget --run DIR --query "where is the order of Jane Doe"',
        )
    rows, documents = _records(workspace, Query), _records(workspace, Document)
    passages = _records(workspace, Passage)
    whole, single = _meant(named.documents, documents, passages, workspace, before)
    there = [one for one in documents if one.document_id in whole]
    lost = [one for one in passages if one.document_id in whole or one.passage_id in single]
    if passages and len(lost) == len(passages):
        raise InputError("Nothing would be left of the run.", remedy=f"Delete its folder instead: {workspace.root}")
    questions = [*named.queries, *_texts_of(named.query_ids, rows, before), *_texts_in(named.files)]
    keys = frozenset(key for text in questions if (key := key_of(text)))
    ids = frozenset(one.passage_id for one in lost)
    gone = [one for one in rows if key_of(one.text) in keys or (not one.is_asked and one.passage_id in ids)]
    return Target(
        marks=Marks(
            [*questions, *(one.text for one in gone)],
            [text for one in lost for text in (one.content, one.text)],
            (one.content for one in passages if one.passage_id not in ids),
        ),
        keys=keys,
        documents=frozenset(whole),
        passages=ids,
        queries=frozenset(one.query_id for one in gone),
        names=frozenset(
            name for one in there if not _is_shared(one, documents) for name in (one.document_id, one.path)
        ),
        questions=tuple(questions),
        contents=tuple(one.content for one in lost),
        texts=tuple(dict.fromkeys([*questions, *(one.text for one in gone)])),
        calls=_calls(gone, ids, workspace),
        forgotten=replace(
            before,
            queries=before.queries | keys,
            documents=before.documents
            | {hashed(one.document_id) for one in there}
            | {hashed_path(one.path) for one in there if not _is_shared(one, documents)},
            contents=before.contents | {one.sha256 for one in there if one.sha256 and not _is_shared(one, documents)},
            records=before.records | {hashed(one.passage_id) for one in lost if _is_record(one)},
        ),
    )


def _records(workspace: Workspace, kind: type[T]) -> list[T]:
    path = workspace.path(FILES[kind])
    return list(read_jsonl(path, kind)) if path.exists() else []


def _calls(gone: Sequence[Query], passages: frozenset[str], workspace: Workspace) -> frozenset[str]:
    """Keys of the ledger's calls that wrote, judged or graded queries and passages that go."""
    ids = {one.query_id for one in gone}
    judged: list[Judgement | Grade] = [*_records(workspace, Judgement), *_records(workspace, Grade)]
    about = [one.call_id for one in judged if one.query_id in ids or one.passage_id in passages]
    return frozenset([*about, *(call for one in gone for call in (one.call_id, one.judge_call_id))]) - {""}


def _is_record(passage: Passage) -> bool:
    """Whether a passage is a record of a BEIR corpus, which has an id of its own."""
    return not passage.passage_id.startswith(f"{passage.document_id}#")


def _is_shared(document: Document, documents: Sequence[Document]) -> bool:
    """Whether a document's file also holds other documents, as a BEIR corpus does."""
    return any(one.path == document.path and one.document_id != document.document_id for one in documents)


def _meant(
    names: Sequence[str],
    documents: Sequence[Document],
    passages: Sequence[Passage],
    workspace: Workspace,
    before: Forgotten,
) -> tuple[set[str], set[str]]:
    """Ids of whole documents, and of single records. Copies of a document go with it."""
    whole: set[str] = set()
    single: set[str] = set()
    records = {one.passage_id for one in passages if _is_record(one)}
    for name in names:
        found = {one.document_id for one in documents if name == one.document_id}
        found = found or {one.document_id for one in documents if workspace.stored_path(name) == one.path}
        if not found and name in records:
            single.add(name)
        elif not found and not _is_gone(name, workspace, before):
            raise InputError(
                f"The run holds no document {name!r}.",
                remedy=f"Its documents are listed in {workspace.path('documents.jsonl')}.",
            )
        whole |= found
    contents = {one.sha256 for one in documents if one.document_id in whole and not _is_shared(one, documents)} - {""}
    return whole | {one.document_id for one in documents if one.sha256 in contents}, single


def _is_gone(name: str, workspace: Workspace, before: Forgotten) -> bool:
    """Whether a document or record of that id, or at that path, was forgotten before."""
    return before.has_document(name) or before.has_record(name) or before.has_file(workspace.stored_path(name))


def _texts_of(ids: Sequence[str], rows: Sequence[Query], before: Forgotten) -> list[str]:
    """The texts of queries by id. A query that was already forgotten has no text any more."""
    known = {one.query_id: one.text for one in rows}
    gone = {f"{ASKED}-{key[:16]}" for key in before.queries}
    for one in ids:
        if one not in known and one not in gone:
            raise InputError(f"The run holds no query {one!r}.", remedy="The ids stand in queries.jsonl.")
    return [known[one] for one in ids if one in known]


def _texts_in(files: Sequence[Path]) -> list[str]:
    """The questions of files, as `--queries` reads and cuts them, each once."""
    found: dict[str, str] = {}
    for path in files:
        for row in rows_of(path):
            text = cut(row.text)[0]
            if not row.problem:
                found.setdefault(key_of(text), text)
    return [text for key, text in found.items() if key]
