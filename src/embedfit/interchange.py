"""Retrieval data in the formats that others write: BEIR folders, FlagEmbedding JSONL, LlamaIndex JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from embedfit.errors import InputError, UsageError
from embedfit.records import TrainRow
from embedfit.workspace import atomic_file, atomic_folder

Format = Literal["beir", "flagembedding", "llamaindex"]
Qrels = dict[str, dict[str, int]]

_NAMES: dict[Format, str] = {
    "beir": "a BEIR folder",
    "flagembedding": "FlagEmbedding JSONL",
    "llamaindex": "LlamaIndex EmbeddingQAFinetuneDataset JSON",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """A passage of a corpus. title may be empty."""

    text: str
    title: str = ""

    @property
    def content(self) -> str:
        """Title, a space, text: what is encoded and indexed."""
        return f"{self.title} {self.text}".strip() if self.title else self.text


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrievalData:
    """A corpus, queries, and which passages answer which query.

    corpus, queries: by id, in the order of the file. qrels: query id → passage id → relevance, an
    integer; above 0 is relevant. negatives: query id → passage ids, where the format has them.
    """

    corpus: dict[str, Entry]
    queries: dict[str, str]
    qrels: Qrels
    negatives: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def relevant(self, query_id: str) -> set[str]:
        """Ids of the passages in the corpus that answer a query."""
        judged = self.qrels.get(query_id, {})
        return {passage_id for passage_id, value in judged.items() if value > 0 and passage_id in self.corpus}


# --- BEIR


def read_corpus(path: Path) -> Iterator[tuple[str, Entry]]:
    """(id, entry) of each record of a BEIR corpus.jsonl, streamed. Raises InputError with file and line."""
    seen: set[str] = set()
    for number, record in _json_lines(path):
        identifier = _identifier(record, path, number)
        if identifier in seen:
            raise InputError(f"{path}, line {number}: the _id {identifier!r} occurs twice.")
        seen.add(identifier)
        yield (
            identifier,
            Entry(text=_text(record, "text", path, number), title=_text(record, "title", path, number, "")),
        )


def read_queries(path: Path) -> dict[str, str]:
    """Query id → text of a BEIR queries.jsonl."""
    queries: dict[str, str] = {}
    for number, record in _json_lines(path):
        identifier = _identifier(record, path, number)
        if identifier in queries:
            raise InputError(f"{path}, line {number}: the _id {identifier!r} occurs twice.")
        queries[identifier] = _text(record, "text", path, number)
    return queries


def read_qrels(path: Path) -> Qrels:
    """Judgements of a BEIR qrels file (three columns, with or without a header) or a TREC one (four columns)."""
    qrels: Qrels = {}
    with _opened(path) as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            columns = line.rstrip("\r\n").split("\t") if "\t" in line else line.split()
            if len(columns) == 4:
                columns = [columns[0], *columns[2:]]
            if len(columns) != 3:
                raise InputError(f"{path}, line {number}: expected query-id, corpus-id and score, separated by tabs.")
            query_id, passage_id, value = (column.strip() for column in columns)
            try:
                score = int(float(value))
            except (ValueError, OverflowError) as error:
                if number == 1:
                    continue  # the header
                raise InputError(f"{path}, line {number}: the score {value!r} is not a number.") from error
            qrels.setdefault(query_id, {})[passage_id] = score
    return qrels


def read_beir(folder: Path, split: str = "test") -> RetrievalData:
    """A BEIR folder: corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv. Queries without judgements are left out.

    Raises InputError naming the file and line; also where no judged passage is in the corpus.
    """
    if not folder.is_dir():
        raise InputError(
            f"{folder} is not a BEIR folder.", remedy="It must hold corpus.jsonl, queries.jsonl and qrels/test.tsv."
        )
    qrels = read_qrels(folder / "qrels" / f"{split}.tsv")
    queries = {key: text for key, text in read_queries(folder / "queries.jsonl").items() if key in qrels}
    corpus = dict(read_corpus(folder / "corpus.jsonl"))
    data = RetrievalData(corpus=corpus, queries=queries, qrels={key: qrels[key] for key in queries})
    if not any(data.relevant(query_id) for query_id in queries):
        raise InputError(
            f"{folder}: no query of queries.jsonl has a relevant passage of corpus.jsonl in qrels/{split}.tsv.",
            remedy="Check that the three files are of the same dataset: ids must be equal.",
        )
    return data


def write_beir(folder: Path, data: RetrievalData, split: str = "test") -> None:
    """Write a BEIR folder, whole or not at all."""
    _refuse_tabs(data)
    with atomic_folder(folder) as temporary:
        with (temporary / "corpus.jsonl").open("w", encoding="utf-8") as file:
            for identifier, entry in data.corpus.items():
                _write_line(file, {"_id": identifier, "title": entry.title, "text": entry.text})
        with (temporary / "queries.jsonl").open("w", encoding="utf-8") as file:
            for identifier, text in data.queries.items():
                _write_line(file, {"_id": identifier, "text": text})
        (temporary / "qrels").mkdir()
        with (temporary / "qrels" / f"{split}.tsv").open("w", encoding="utf-8") as file:
            file.write("query-id\tcorpus-id\tscore\n")
            for query_id, judged in data.qrels.items():
                for passage_id, value in judged.items():
                    file.write(f"{query_id}\t{passage_id}\t{value}\n")


def _refuse_tabs(data: RetrievalData) -> None:
    for identifier in (*data.corpus, *data.queries):
        if any(char in identifier for char in "\t\n\r"):
            raise InputError(f"The id {identifier!r} holds a tab or a line break, which a qrels file can't express.")


# --- FlagEmbedding


def read_flagembedding(path: Path) -> list[TrainRow]:
    """Rows of FlagEmbedding's training JSONL: query, pos, neg, and scores and prompt where there are any."""
    return [_row(record, path, number) for number, record in _json_lines(path)]


def _row(record: Mapping[str, Any], path: Path, number: int) -> TrainRow:
    where = f"{path}, line {number}"
    query, positives, negatives = record.get("query"), record.get("pos"), record.get("neg") or []
    if not isinstance(query, str) or not query.strip():
        raise InputError(f"{where}: query must be a text.")
    if not isinstance(positives, list) or not positives:
        raise InputError(f"{where}: pos must be a list of at least one text.")
    if not isinstance(negatives, list):
        raise InputError(f"{where}: neg must be a list of texts.")
    if not all(isinstance(text, str) and text.strip() for text in (*positives, *negatives)):
        raise InputError(f"{where}: pos and neg must hold texts that are not empty.")
    scores = {}
    for name, texts in (("pos_scores", positives), ("neg_scores", negatives)):
        values = record.get(name) or []
        if not isinstance(values, list) or (values and len(values) != len(texts)):
            raise InputError(f"{where}: {name} must hold one number for each text, {len(texts)} in all.")
        if not all(isinstance(value, (int, float)) and abs(value) < float("inf") for value in values):
            raise InputError(f"{where}: {name} must hold numbers.")
        scores[name] = tuple(float(value) for value in values)
    prompt = record.get("prompt")
    if prompt is not None and not isinstance(prompt, str):
        raise InputError(f"{where}: prompt must be a text.")
    return TrainRow(query=query, pos=tuple(positives), neg=tuple(negatives), prompt=prompt, **scores)


def write_flagembedding(path: Path, rows: list[TrainRow]) -> None:
    """Write FlagEmbedding's training JSONL. Scores and prompt are written where there are any."""
    with atomic_file(path) as file:
        for row in rows:
            record = asdict(row)
            optional = ("pos_scores", "neg_scores", "prompt")
            _write_line(file, {key: value for key, value in record.items() if key not in optional or value})


# --- LlamaIndex


def read_llamaindex(path: Path) -> RetrievalData:
    """LlamaIndex's EmbeddingQAFinetuneDataset: queries, corpus and relevant_docs, all by id."""
    with _opened(path) as file:
        try:
            value = json.load(file)
        except ValueError as error:
            raise InputError(f"{path} is not valid JSON: {error}") from error
    parts = []
    for name in ("queries", "corpus", "relevant_docs"):
        part = value.get(name) if isinstance(value, dict) else None
        if not isinstance(part, dict):
            raise InputError(f"{path}: {name} is missing, or is not an object.")
        parts.append(part)
    queries, corpus, relevant = parts
    for name, part in (("queries", queries), ("corpus", corpus)):
        wrong = next((key for key, text in part.items() if not isinstance(text, str)), None)
        if wrong is not None:
            raise InputError(f"{path}: {name}[{wrong!r}] is not a text.")
    qrels: Qrels = {}
    for query_id, passages in relevant.items():
        if not isinstance(passages, list):
            raise InputError(f"{path}: relevant_docs[{query_id!r}] is not a list of ids.")
        qrels[query_id] = {str(passage_id): 1 for passage_id in passages}
    return RetrievalData(corpus={key: Entry(text) for key, text in corpus.items()}, queries=dict(queries), qrels=qrels)


def write_llamaindex(path: Path, data: RetrievalData) -> None:
    """Write LlamaIndex's EmbeddingQAFinetuneDataset. A title becomes the beginning of its passage's text."""
    value = {
        "queries": data.queries,
        "corpus": {key: entry.content for key, entry in data.corpus.items()},
        "relevant_docs": {
            query_id: [passage_id for passage_id, score in judged.items() if score > 0]
            for query_id, judged in data.qrels.items()
        },
        "mode": "text",
    }
    with atomic_file(path) as file:
        json.dump(value, file, ensure_ascii=False, indent=2)
        file.write("\n")


# --- between formats


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """What `convert` did. lost: what the target's format has no place for."""

    source: Format
    target: Format
    queries: int
    passages: int
    lost: tuple[str, ...] = ()

    def __str__(self) -> str:
        text = f"{_NAMES[self.source]} → {_NAMES[self.target]}: {self.queries:,} queries, {self.passages:,} passages"
        return text + (f" (without {', '.join(self.lost)})" if self.lost else "")


def rows_of(data: RetrievalData) -> list[TrainRow]:
    """A training row for each query that a passage of the corpus answers."""
    rows = []
    for query_id, query in data.queries.items():
        relevant = data.relevant(query_id)
        positives = [passage_id for passage_id in data.qrels.get(query_id, {}) if passage_id in relevant]
        if positives:
            rows.append(
                TrainRow(
                    query=query,
                    pos=tuple(data.corpus[passage_id].content for passage_id in positives),
                    neg=tuple(data.corpus[passage_id].content for passage_id in data.negatives.get(query_id, ())),
                )
            )
    return rows


def data_of(rows: list[TrainRow]) -> RetrievalData:
    """Corpus, queries and judgements of training rows. Equal texts are one passage, or one query."""
    passages: dict[str, str] = {}
    queries: dict[str, str] = {}
    qrels: Qrels = {}
    negatives: dict[str, dict[str, None]] = {}
    for row in rows:
        query_id = queries.setdefault(row.query, f"q{len(queries)}")
        judged = qrels.setdefault(query_id, {})
        for text in row.pos:
            judged[passages.setdefault(text, f"p{len(passages)}")] = 1
        for text in row.neg:
            negatives.setdefault(query_id, {})[passages.setdefault(text, f"p{len(passages)}")] = None
    return RetrievalData(
        corpus={identifier: Entry(text) for text, identifier in passages.items()},
        queries={identifier: text for text, identifier in queries.items()},
        qrels=qrels,
        negatives={
            query_id: tuple(passage_id for passage_id in found if passage_id not in qrels[query_id])
            for query_id, found in negatives.items()
        },
    )


def format_of(path: Path) -> Format:
    """The format of an existing file or folder, by its content. Raises InputError where it is none of the three."""
    if not path.exists():
        raise InputError(f"{path} is not there.", remedy="Name an existing file or BEIR folder to convert.")
    if path.is_dir():
        if (path / "corpus.jsonl").exists():
            return "beir"
        raise InputError(f"{path} is a folder without corpus.jsonl, so not BEIR.")
    if path.name in ("corpus.jsonl", "queries.jsonl"):
        raise InputError(f"{path} is one file of a BEIR folder.", remedy=f"Name its folder: {path.parent}")
    with _opened(path) as file:
        head = file.read(1 << 16).lstrip("\ufeff \t\r\n")
    first = head.split("\n", 1)[0]
    try:
        record = json.loads(first)
        if isinstance(record, dict) and {"query", "pos"} <= set(record):
            return "flagembedding"
    except ValueError:
        pass
    if path.suffix.lower() == ".jsonl":
        return "flagembedding"  # reading it says which line is wrong
    if head.startswith("{"):
        return "llamaindex"
    raise InputError(f"{path} is neither FlagEmbedding JSONL nor LlamaIndex JSON.")


def format_for(path: Path) -> Format:
    """The format to write under a name: .jsonl FlagEmbedding, .json LlamaIndex, a folder's name BEIR."""
    suffix = path.suffix.lower()
    if path.is_dir() or not suffix:
        return "beir"
    if suffix == ".jsonl":
        return "flagembedding"
    if suffix == ".json":
        return "llamaindex"
    raise UsageError(
        f"The format of {path} is not known.",
        remedy="Name a .jsonl file (FlagEmbedding), a .json file (LlamaIndex) or a folder (BEIR) to write.",
    )


def convert(source: Path, target: Path) -> Conversion:
    """Read one of the three formats and write another, both found from the paths."""
    origin, goal = format_of(source), format_for(target)
    if source.resolve() == target.resolve():
        raise UsageError(f"{source} would be overwritten by itself.", remedy="Name another target.")
    if goal == "beir" and target.is_dir() and any(target.iterdir()):
        raise InputError(
            f"{target} is a folder with files in it; nothing was overwritten.", remedy="Name a new folder."
        )
    rows: list[TrainRow] = []
    if origin == "flagembedding":
        rows = read_flagembedding(source)
        data = data_of(rows)
    else:
        data = read_llamaindex(source) if origin == "llamaindex" else read_beir(source, _only_split(source))
    if goal == "flagembedding":
        rows = rows or rows_of(data)
        write_flagembedding(target, rows)
    elif goal == "llamaindex":
        write_llamaindex(target, data)
    else:
        write_beir(target, data)
    return Conversion(
        source=origin,
        target=goal,
        queries=len(data.queries),
        passages=len(data.corpus),
        lost=_lost(data, rows, origin, goal),
    )


def _only_split(folder: Path) -> str:
    files = sorted((folder / "qrels").glob("*.tsv"))
    names = [file.stem for file in files]
    return "test" if "test" in names or not names else names[0]


def _lost(data: RetrievalData, rows: list[TrainRow], origin: Format, goal: Format) -> tuple[str, ...]:
    lost = []
    if goal != "flagembedding":
        if data.negatives:
            lost.append("which passages are negatives of which query")
        if any(row.pos_scores or row.neg_scores for row in rows):
            lost.append("scores")
        if any(row.prompt is not None for row in rows):
            lost.append("prompts")
    elif origin != "flagembedding":
        lost.append("ids")
        used = {passage_id for query_id in data.queries for passage_id in data.relevant(query_id)}
        if len(used) < len(data.corpus):
            lost.append(f"{len(data.corpus) - len(used):,} passages that answer no query")
        if len(rows) < len(data.queries):
            lost.append(f"{len(data.queries) - len(rows):,} queries without a relevant passage")
    return tuple(lost)


# --- JSON lines


def _opened(path: Path) -> Any:  # noqa: ANN401 - a text file
    try:
        return path.open(encoding="utf-8-sig", errors="strict")
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing.") from error


def _json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of every line that is not blank. Raises InputError with file and line."""
    with _opened(path) as lines:
        number = 0
        try:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    record = json.loads(line)
                except ValueError as error:
                    raise InputError(f"{path}, line {number}: not JSON ({error}).") from error
                if not isinstance(record, dict):
                    raise InputError(f"{path}, line {number}: expected a JSON object.")
                yield number, record
        except UnicodeDecodeError as error:
            raise InputError(
                f"{path}, after line {number}: not UTF-8 ({error.reason}).",
                remedy=f"Re-encode it, for example: iconv -f latin1 -t utf-8 {path}",
            ) from error


def _identifier(record: Mapping[str, Any], path: Path, number: int) -> str:
    value = record.get("_id")
    if isinstance(value, bool) or not isinstance(value, (str, int)) or not str(value).strip():
        raise InputError(f"{path}, line {number}: _id is missing.")
    return str(value)


def _text(record: Mapping[str, Any], name: str, path: Path, number: int, default: str | None = None) -> str:
    value = record.get(name, default)
    if value is None and default is not None:
        return default
    if not isinstance(value, str):
        raise InputError(f"{path}, line {number}: {name} is missing or not a text.")
    return value


def _write_line(file: Any, record: Mapping[str, Any]) -> None:  # noqa: ANN401 - a text file
    line = json.dumps(record, ensure_ascii=False, allow_nan=False)
    file.write(line.encode("utf-8", "replace").decode("utf-8") + "\n")
