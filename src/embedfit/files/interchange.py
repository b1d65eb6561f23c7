"""Retrieval data in the formats that others write: BEIR folders, FlagEmbedding JSONL, LlamaIndex JSON."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from embedfit.errors import InputError, UsageError
from embedfit.files.textfiles import json_lines, json_of, lines_of, parsed_json
from embedfit.path.artefacts import TrainRow
from embedfit.path.workspace import atomic_file, atomic_folder

Format = Literal["beir", "flagembedding", "llamaindex"]
Qrels = dict[str, dict[str, float]]

_NAMES: dict[Format, str] = {
    "beir": "a BEIR folder",
    "flagembedding": "FlagEmbedding JSONL",
    "llamaindex": "LlamaIndex EmbeddingQAFinetuneDataset JSON",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """A passage of a corpus. title may be empty. fields: what else its record holds, as it stands there."""

    text: str
    title: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def content(self) -> str:
        """Title, a space, text: what is encoded and indexed."""
        return f"{self.title} {self.text}".strip() if self.title else self.text


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrievalData:
    """A corpus, queries, and which passages answer which query.

    corpus, queries: by id, in the order of the file. qrels: query id → passage id → relevance; above 0 is
    relevant, and the number is the gain in trec_eval's nDCG. negatives: query id → passage ids, where there are any.
    notes: what was left out in reading, in sentences for people.
    """

    corpus: dict[str, Entry]
    queries: dict[str, str]
    qrels: Qrels
    negatives: dict[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = field(default=(), compare=False)

    def relevant(self, query_id: str) -> set[str]:
        """Ids of the passages in the corpus that answer a query."""
        judged = self.qrels.get(query_id, {})
        return {passage_id for passage_id, value in judged.items() if value > 0 and passage_id in self.corpus}


# --- BEIR


def read_corpus(path: Path) -> Iterator[tuple[str, Entry]]:
    """(id, entry) of each record of a BEIR corpus.jsonl, streamed. Raises InputError with file and line."""
    seen: set[str] = set()
    for number, record in json_lines(path):
        identifier = _identifier(record, path, number)
        if identifier in seen:
            raise InputError(f"{path}, line {number}: the _id {identifier!r} occurs twice.")
        seen.add(identifier)
        yield (
            identifier,
            Entry(
                text=_text(record, "text", path, number),
                title=_text(record, "title", path, number, ""),
                fields={name: value for name, value in record.items() if name not in ("_id", "title", "text")},
            ),
        )


def read_queries(path: Path) -> dict[str, str]:
    """Query id → text of a BEIR queries.jsonl."""
    queries: dict[str, str] = {}
    for number, record in json_lines(path):
        identifier = _identifier(record, path, number)
        if identifier in queries:
            raise InputError(f"{path}, line {number}: the _id {identifier!r} occurs twice.")
        queries[identifier] = _text(record, "text", path, number)
    return queries


def read_qrels(path: Path) -> Qrels:
    """Judgements of a BEIR qrels file (query, passage, score) or a TREC one (query, iteration, passage, score).

    Columns are separated by tabs, and may then be quoted as `csv` does it, or by spaces. A header, blank lines and
    comments (# …) are left out. A score is any number: graded and fractional ones are kept as they are, and what is
    not above 0 is not relevant. Raises InputError with file and line, also where a pair is judged twice, differently.
    """
    qrels: Qrels = {}
    first = True
    for number, line in lines_of(path):
        where = f"{path}, line {number}"
        columns = _columns(line)
        if not line.strip() or (line.startswith("#") and not _is_judgement(columns)):
            continue
        header, first = first and _is_header(columns), False
        if header:
            _check_order(columns, where)
            continue
        query_id, passage_id, value = _judgement(columns, where)
        score = _score(value, where)
        before = qrels.setdefault(query_id, {}).setdefault(passage_id, score)
        if before != score:
            raise InputError(
                f"{where}: query {query_id!r} and passage {passage_id!r} have {score:g} here and {before:g} before.",
                remedy="Keep one line of each pair.",
            )
    return qrels


def _columns(line: str) -> list[str]:
    if "\t" not in line:
        return re.split(" +", line.strip(" "))
    if '"' in line:
        quoted = next(csv.reader([line], delimiter="\t"), [])
        if len(quoted) in (3, 4):
            return quoted
    return line.split("\t")


def _is_judgement(columns: list[str]) -> bool:
    return len(columns) in (3, 4) and re.fullmatch(r"[-+]?[0-9.]+", columns[-1].strip()) is not None


_HEADER = re.compile(r"(q|query|topic|corpus|doc|docno|document|passage|p)[-_ ]?(id|no)?|[qpd]id", re.IGNORECASE)


def _is_header(columns: list[str]) -> bool:
    return not _is_judgement(columns) and _HEADER.fullmatch(columns[0].strip()) is not None


def _check_order(columns: list[str], where: str) -> None:
    if columns[0].strip().lower().startswith(("c", "d", "p")):
        raise InputError(
            f"{where}: the columns are {', '.join(columns)}.",
            remedy="Their order must be query-id, corpus-id, score.",
        )


def _judgement(columns: list[str], where: str) -> tuple[str, str, str]:
    if len(columns) == 4 and re.fullmatch(r"\s*(Q?[0-9]+|-)\s*", columns[1], re.IGNORECASE):
        columns = [columns[0], *columns[2:]]  # TREC's second column, the iteration, says nothing
    if len(columns) != 3 or not columns[0].strip() or not columns[1].strip():
        raise InputError(
            f"{where}: expected query-id, corpus-id and score, separated by tabs.",
            remedy="For example: q1<tab>d7<tab>1; TREC's four columns (q1 0 d7 1) are read too.",
        )
    query_id, passage_id, value = columns
    return query_id, passage_id, value.strip()


def _score(value: str, where: str) -> float:
    try:
        score = float(value) if value.isascii() and "_" not in value else math.nan
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        raise InputError(
            f"{where}: the score {value!r} is not a number.",
            remedy="A score is a number such as 1, 2 or 0.75; what is not above 0 is not relevant.",
        )
    return int(score) if score.is_integer() else score


def beir_files(folder: Path, split: str = "test") -> dict[str, Path]:
    """The files of a BEIR folder that are read, by their names in it."""
    return {name: folder / name for name in ("corpus.jsonl", "queries.jsonl", f"qrels/{split}.tsv")}


def read_beir(folder: Path, split: str = "test") -> RetrievalData:
    """A BEIR folder: corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv. Queries without judgements are left out.

    Raises InputError naming the file and line; also where no judged passage is in the corpus.
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
    """What the judgements name and the other two files don't have, in sentences."""
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
                _write_line(file, {"_id": identifier, "title": entry.title, "text": entry.text} | dict(entry.fields))
        with (temporary / "queries.jsonl").open("w", encoding="utf-8", newline="\n") as file:
            for identifier, text in data.queries.items():
                _write_line(file, {"_id": identifier, "text": text})
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


# --- FlagEmbedding


_ROW = 'A row is {"query": "…", "pos": ["…"], "neg": ["…"]}; neg, pos_scores and neg_scores may be left out.'


def read_flagembedding(path: Path) -> list[TrainRow]:
    """Rows of FlagEmbedding's training JSONL.

    Takes what its tools and hands write: no `neg`, `neg: null`, one string for a list, integer scores, no scores,
    further keys (`type`, `pos_id`), empty passages beside others. Raises InputError with file and line for anything
    else, a row without a positive among it.
    """
    rows = []
    for number, record in json_lines(path):
        try:
            rows.append(_row(record))
        except ValueError as error:
            raise InputError(f"{path}, line {number}: {error}", remedy=_ROW) from error
    return rows


def _row(value: Mapping[str, Any]) -> TrainRow:
    query = value.get("query")
    if not isinstance(query, str) or not query.strip():
        raise ValueError("query: there is no text")
    pos, neg = _texts(value, "pos"), _texts(value, "neg")
    if not any(text.strip() for text in pos):
        raise ValueError("pos: a row needs at least one positive passage")
    pos_scores, neg_scores = _scores(value, "pos_scores", pos), _scores(value, "neg_scores", neg)
    if neg and bool(pos_scores) != bool(neg_scores):
        raise ValueError("pos_scores and neg_scores: one is there without the other")
    prompt = value.get("prompt")
    if prompt is not None and not isinstance(prompt, str):
        raise ValueError("prompt: it is not a string")
    pos, pos_scores = _without_empty(pos, pos_scores)
    neg, neg_scores = _without_empty(neg, neg_scores)
    return TrainRow(query=query, pos=pos, neg=neg, pos_scores=pos_scores, neg_scores=neg_scores, prompt=prompt)


def _texts(value: Mapping[str, Any], key: str) -> tuple[str, ...]:
    texts = value.get(key)
    if texts is None:
        return ()
    if isinstance(texts, str):
        return (texts,)
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{key}: it is not a list of strings")
    return tuple(texts)


def _scores(value: Mapping[str, Any], key: str, texts: tuple[str, ...]) -> tuple[float, ...]:
    scores = value.get(key)
    if scores is None or scores == []:
        return ()
    if not isinstance(scores, list):
        scores = [scores]
    if not all(isinstance(score, (int, float)) and not isinstance(score, bool) for score in scores):
        raise ValueError(f"{key}: it is not a list of numbers")
    if not all(abs(score) <= 1e300 for score in scores):
        raise ValueError(f"{key}: NaN, infinity and integers of hundreds of digits are no scores")
    if len(scores) != len(texts):
        raise ValueError(f"{key}: {len(scores)} scores for {len(texts)} passages")
    return tuple(float(score) for score in scores)


def _without_empty(texts: tuple[str, ...], scores: tuple[float, ...]) -> tuple[tuple[str, ...], tuple[float, ...]]:
    kept = [index for index, text in enumerate(texts) if text.strip()]
    return tuple(texts[index] for index in kept), tuple(scores[index] for index in kept) if scores else ()


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
    value = json_of(path)
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
        if not all(isinstance(passage_id, (str, int)) for passage_id in passages):
            raise InputError(f"{path}: relevant_docs[{query_id!r}] holds something that is no id.")
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
    """What `convert` did. lost: what the target's format has no place for.

    notes: what was left out in reading.
    """

    source: Format
    target: Format
    queries: int
    passages: int
    lost: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        text = f"{_NAMES[self.source]} → {_NAMES[self.target]}: {self.queries:,} queries, {self.passages:,} passages"
        text += f" (without {', '.join(self.lost)})" if self.lost else ""
        return "\n".join((text, *self.notes))


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
    if path.suffix.lower() == ".jsonl":
        return "flagembedding"  # reading it says which line is wrong
    first = next((line for _, line in lines_of(path) if line.strip()), "")
    if first.lstrip().startswith("{"):
        try:
            record = parsed_json(first, str(path))
        except InputError:
            return "llamaindex"  # an object over several lines; reading it says what is wrong
        return "flagembedding" if {"query", "pos"} <= set(record) else "llamaindex"
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
        notes=data.notes,
    )


def _only_split(folder: Path) -> str:
    files = sorted((folder / "qrels").glob("*.tsv"))
    names = [file.stem for file in files]
    return "test" if "test" in names or not names else names[0]


def _lost(data: RetrievalData, rows: list[TrainRow], origin: Format, goal: Format) -> tuple[str, ...]:
    lost = []
    if goal != "beir" and any(grade not in (0, 1) for judged in data.qrels.values() for grade in judged.values()):
        lost.append("grades of relevance")
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


# --- fields


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
