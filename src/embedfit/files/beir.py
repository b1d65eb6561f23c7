"""BEIR folders: corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

import numpy as np

from embedfit.errors import InputError
from embedfit.files.atomic import atomic_folder
from embedfit.files.hashes import Digests
from embedfit.files.qrels import read_qrels
from embedfit.files.retrieval import Entry, Qrels, RetrievalData
from embedfit.files.textfiles import json_line, json_lines


def read_corpus(path: Path) -> Iterator[tuple[str, Entry]]:
    """(id, entry) of each record of a BEIR corpus.jsonl, streamed. Raises InputError with file and line.

    An id that occurs twice is an error, too; it is raised after the last record.
    """
    seen = Digests()
    for number, record in json_lines(path):
        identifier = _identifier(record, path, number)
        seen.add(identifier)
        yield (
            identifier,
            Entry(
                text=_text(record, "text", path, number),
                title=_text(record, "title", path, number, ""),
                fields={name: value for name, value in record.items() if name not in ("_id", "title", "text")},
            ),
        )
    _refuse_twice(path, seen)


def _refuse_twice(path: Path, seen: Digests) -> None:
    """Raise InputError for the first record whose id an earlier one has. seen: the ids in the order of the records."""
    firsts = seen.firsts()
    again = np.flatnonzero(firsts != np.arange(len(firsts)))
    if len(again):
        number, record = next(islice(json_lines(path), int(again[0]), None))
        raise InputError(f"{path}, line {number}: the _id {_identifier(record, path, number)!r} occurs twice.")


def read_queries(path: Path) -> dict[str, str]:
    """Query id → text of a BEIR queries.jsonl."""
    queries: dict[str, str] = {}
    for number, record in json_lines(path):
        identifier = _identifier(record, path, number)
        if identifier in queries:
            raise InputError(f"{path}, line {number}: the _id {identifier!r} occurs twice.")
        queries[identifier] = _text(record, "text", path, number)
    return queries


def beir_files(folder: Path, split: str = "test") -> dict[str, Path]:
    """The files of a BEIR folder that are read, by their names in it."""
    return {name: folder / name for name in ("corpus.jsonl", "queries.jsonl", f"qrels/{split}.tsv")}


def judged_queries(folder: Path, split: str = "test") -> list[str]:
    """The texts of a BEIR folder's queries that have judgements; none if there is no such folder."""
    _, asked, judged = beir_files(folder, split).values()
    if not asked.is_file() or not judged.is_file():
        return []
    qrels = read_qrels(judged)
    return [text for key, text in read_queries(asked).items() if key in qrels]


def read_beir(folder: Path, split: str = "test") -> RetrievalData:
    """A BEIR folder: corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv. Queries without judgements are left out.

    Raises InputError that names the file and line; also if no judged passage is in the corpus.
    """
    if not folder.is_dir():
        raise InputError(
            f"{folder} is not a BEIR folder.", remedy="It must hold corpus.jsonl, queries.jsonl and qrels/test.tsv."
        )
    records, asked, judged = beir_files(folder, split).values()
    qrels = read_qrels(judged)
    queries = {key: text for key, text in read_queries(asked).items() if key in qrels}
    corpus = dict(read_corpus(records))
    data = RetrievalData(
        corpus=corpus,
        queries=queries,
        qrels={key: qrels[key] for key in queries},
        notes=tuple(_unknown(judged, qrels, queries, corpus)),
    )
    if not any(data.relevant(query_id) for query_id in queries):
        raise InputError(
            f"{folder}: no query of queries.jsonl has a relevant passage of corpus.jsonl in qrels/{split}.tsv.",
            remedy="Check that the three files are of the same dataset: ids must be equal.",
        )
    return data


def _unknown(path: Path, qrels: Qrels, queries: Mapping[str, str], corpus: Mapping[str, Entry]) -> Iterator[str]:
    """Sentences on queries and passages that the judgements name but the other two files lack."""
    strange = [query_id for query_id in qrels if query_id not in queries]
    if strange:
        yield (
            f"{path}: {len(strange):,} of {len(qrels):,} judged queries are not in queries.jsonl, such as "
            f"{strange[0]!r}. They are left out."
        )
    missing = [passage for query in queries for passage in qrels[query] if passage not in corpus]
    if missing:
        yield (
            f"{path}: {len(missing):,} judgements name passages that are not in corpus.jsonl, such as {missing[0]!r}. "
            "Such a passage can't be found, but counts as an answer where it is relevant."
        )
    lost = sum(not any(grade > 0 and passage in corpus for passage, grade in qrels[query].items()) for query in queries)
    if lost:
        yield f"{path}: {lost:,} of {len(queries):,} queries have no relevant passage in the corpus and don't count."


def write_beir(folder: Path, data: RetrievalData, split: str = "test") -> None:
    """Write a BEIR folder, whole or not at all."""
    _refuse_tabs(data)
    with atomic_folder(folder) as temporary:
        with (temporary / "corpus.jsonl").open("w", encoding="utf-8", newline="\n") as file:
            for identifier, entry in data.corpus.items():
                file.write(
                    json_line({"_id": identifier, "title": entry.title, "text": entry.text} | dict(entry.fields))
                )
        with (temporary / "queries.jsonl").open("w", encoding="utf-8", newline="\n") as file:
            for identifier, text in data.queries.items():
                file.write(json_line({"_id": identifier, "text": text}))
        (temporary / "qrels").mkdir()
        with (temporary / "qrels" / f"{split}.tsv").open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file, delimiter="\t", lineterminator="\n")  # BEIR's reader unquotes
            table.writerow(("query-id", "corpus-id", "score"))
            for query_id, judged in data.qrels.items():
                table.writerows((query_id, passage_id, value) for passage_id, value in judged.items())


def _refuse_tabs(data: RetrievalData) -> None:
    for identifier in (*data.corpus, *data.queries):
        if any(char in identifier for char in "\t\n\r"):
            raise InputError(f"The id {identifier!r} holds a tab or a line break, which a qrels file can't express.")


def _identifier(record: Mapping[str, object], path: Path, number: int) -> str:
    value = record.get("_id")
    if isinstance(value, bool) or not isinstance(value, (str, int)) or not str(value).strip():
        raise InputError(f"{path}, line {number}: _id is missing.")
    return str(value)


def _text(record: Mapping[str, object], name: str, path: Path, number: int, default: str | None = None) -> str:
    value = record.get(name, default)
    if value is None and default is not None:
        return default
    if not isinstance(value, str):
        raise InputError(f"{path}, line {number}: {name} is missing or not a text.")
    return value
