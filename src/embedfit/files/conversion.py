"""Retrieval data from one format to another: BEIR folders, FlagEmbedding JSONL, LlamaIndex JSON."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from embedfit.errors import InputError, UsageError
from embedfit.files.beir import read_beir, write_beir
from embedfit.files.flagembedding import read_flagembedding, write_flagembedding
from embedfit.files.llamaindex import read_llamaindex, write_llamaindex
from embedfit.files.retrieval import Entry, Qrels, RetrievalData
from embedfit.files.textfiles import lines_of, parsed_json
from embedfit.path.artefacts import TrainRow

Format = Literal["beir", "flagembedding", "llamaindex"]

_NAMES: dict[Format, str] = {
    "beir": "a BEIR folder",
    "flagembedding": "FlagEmbedding JSONL",
    "llamaindex": "LlamaIndex EmbeddingQAFinetuneDataset JSON",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """The outcome of `convert`.

    lost: the data that the target's format has no place for. notes: the data that reading left out.
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
    """The format of an existing file or folder, by its content. Raises InputError for any other format."""
    if not path.exists():
        raise InputError(f"{path} is not there.", remedy="Name an existing file or BEIR folder to convert.")
    if path.is_dir():
        if (path / "corpus.jsonl").exists():
            return "beir"
        raise InputError(f"{path} is a folder without corpus.jsonl, so not BEIR.")
    if path.name in ("corpus.jsonl", "queries.jsonl"):
        raise InputError(f"{path} is one file of a BEIR folder.", remedy=f"Name its folder: {path.parent}")
    if path.suffix.lower() == ".jsonl":
        return "flagembedding"  # the reader's error will name the wrong line
    first = next((line for _, line in lines_of(path) if line.strip()), "")
    if first.lstrip().startswith("{"):
        try:
            record = parsed_json(first, str(path))
        except InputError:
            return "llamaindex"  # an object over several lines; the reader's error will name the fault
        return "flagembedding" if isinstance(record, dict) and {"query", "pos"} <= set(record) else "llamaindex"
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


def convert(source: str | Path, target: str | Path) -> Conversion:
    """Read one of the three formats and write another; the paths decide the formats."""
    source, target = Path(source), Path(target)
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
