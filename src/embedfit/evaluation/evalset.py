"""The evaluation set: passages, queries, and the passages that answer each query."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tokenizers import Tokenizer

from embedfit.files.beir import read_beir
from embedfit.files.retrieval import RetrievalData
from embedfit.numerics.arrays import Ints
from embedfit.path.artefacts import Passage
from embedfit.retrieval.own import own_passages
from embedfit.retrieval.significance import ClusterBy, clusters_of

EvalKind = Literal["synthetic", "human"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalSet:
    """N passages by ascending id, and Q queries that each have at least one of them as an answer.

    contents: the text of each passage that every system gets: title, a space, text.
    documents: key of each passage's document. document_names: key → name for people.
    styles: the style of each query, empty if unknown. skipped: the number of queries left out because they have no
    answer. notes: sentences for people about peculiarities of the data.
    """

    kind: EvalKind
    passage_ids: tuple[str, ...]
    titles: tuple[str, ...]
    texts: tuple[str, ...]
    contents: tuple[str, ...]
    documents: tuple[str, ...]
    pages: tuple[int, ...]
    document_names: Mapping[str, str]
    query_ids: tuple[str, ...]
    queries: tuple[str, ...]
    styles: tuple[str, ...]
    relevant: tuple[Mapping[str, float], ...]
    skipped: int = 0
    notes: tuple[str, ...] = ()
    numbers: Mapping[str, int] = field(default_factory=dict, repr=False)

    @property
    def own(self) -> Ints:
        """(Q,) the number of the passage that has a query's id, -1 for none."""
        return own_passages(self.query_ids, self.passage_ids)

    def answer(self, query: int) -> int:
        """The number of the passage that stands for a query's answers: the relevant one with the lowest id."""
        return self.numbers[min(passage for passage in self.relevant[query] if passage in self.numbers)]

    def clusters(self) -> tuple[Ints, ClusterBy]:
        """The cluster of each query (Q,), and what a cluster is."""
        answers = [self.answer(query) for query in range(len(self.queries))]
        return clusters_of(
            [self.documents[number] for number in answers], [self.passage_ids[number] for number in answers]
        )


def read_eval_set(
    folder: Path,
    kind: EvalKind,
    *,
    passages: Sequence[Passage] = (),
    document_names: Mapping[str, str] | None = None,
    styles: Mapping[str, str] | None = None,
) -> EvalSet:
    """The evaluation set of a BEIR folder: corpus.jsonl, queries.jsonl, qrels/test.tsv.

    passages: those of the run, for documents and pages. styles: query id → style.
    Raises InputError with file and line, or if no query has an answer in the corpus.
    """
    beir = read_beir(folder)
    ids = sorted(beir.corpus)
    known = {passage.passage_id: passage for passage in passages}
    answerable = [query for query in beir.queries if beir.relevant(query)]
    entries = [beir.corpus[passage] for passage in ids]
    titles = tuple(entry.title for entry in entries)
    documents = _documents(ids, titles, known)
    names = {**{key: key for key in documents}, **(document_names or {})}
    return EvalSet(
        kind=kind,
        passage_ids=tuple(ids),
        titles=titles,
        texts=tuple(entry.text for entry in entries),
        contents=tuple(entry.content for entry in entries),
        documents=documents,
        pages=tuple(known[passage].page if passage in known else 0 for passage in ids),
        document_names={key: names[key] for key in set(documents)},
        query_ids=tuple(answerable),
        queries=tuple(beir.queries[query] for query in answerable),
        styles=tuple((styles or {}).get(query, "") for query in answerable),
        relevant=tuple(
            {passage: grade for passage, grade in beir.qrels[query].items() if grade > 0} for query in answerable
        ),
        skipped=len(beir.qrels) - len(answerable),
        notes=(*beir.notes, *_twins(answerable, beir)),
        numbers={passage: number for number, passage in enumerate(ids)},
    )


def _twins(queries: Sequence[str], beir: RetrievalData) -> Iterator[str]:
    """Notes for people about queries that have the id of a passage."""
    twins = [query for query in queries if query in beir.corpus]
    if twins:
        yield (
            f"{len(twins):,} of {len(queries):,} queries have the id of a passage, such as {twins[0]!r}. That passage "
            "is left out of the query's ranking, as BEIR does."
        )
    judged = [query for query in twins if query in beir.relevant(query)]
    if judged:
        yield (
            f"For {len(judged):,} of them the passage of the same id is judged relevant, such as for {judged[0]!r}: it "
            "can't be found. If queries and passages are only numbered alike, rename the queries' ids."
        )


def _documents(ids: Sequence[str], titles: Sequence[str], known: Mapping[str, Passage]) -> tuple[str, ...]:
    """The document of each passage. In the run's corpus it is known.

    In another corpus it is the title if titles group passages, because pieces of an article repeat its title. If nearly
    every passage has a title of its own, titles are headings, and each passage is its own document.
    """
    if all(passage in known for passage in ids):
        return tuple(known[passage].document_id for passage in ids)
    if 2 * len(set(titles)) > len(ids):
        return tuple(ids)
    return tuple(title or passage for passage, title in zip(ids, titles, strict=True))


def cut(contents: Sequence[str], tokenizer: Tokenizer, max_tokens: int) -> tuple[tuple[str, ...], int]:
    """The part of each passage that a model's window holds, and the number of passages that are longer.

    tokenizer: without truncation. max_tokens: special tokens included.
    """
    room = max_tokens - tokenizer.num_special_tokens_to_add(False)
    result = list(contents)
    count = 0
    for start in range(0, len(result), 1000):
        encodings = tokenizer.encode_batch(result[start : start + 1000], add_special_tokens=False)
        for number, encoding in enumerate(encodings, start):
            if len(encoding.ids) > room:
                result[number] = result[number][: encoding.offsets[room - 1][1]]
                count += 1
    return tuple(result), count
