"""FlagEmbedding's training rows, one JSON object a line, which mining, training and merging read and write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from embedfit.errors import InputError
from embedfit.files.atomic import atomic_file
from embedfit.files.textfiles import json_line, json_lines
from embedfit.path.artefacts import TrainRow

_ROW = 'A row is {"query": "…", "pos": ["…"], "neg": ["…"]}; neg, pos_scores and neg_scores may be left out.'


def read_flagembedding(path: Path) -> list[TrainRow]:
    """Rows of FlagEmbedding's training JSONL.

    Takes the forms that its tools and people write: no `neg`, `neg: null`, one string for a list, integer scores, no
    scores, further keys (`type`, `pos_id`), empty passages beside others. Raises InputError with file and line for
    anything else, a row without a positive among it.
    """
    rows = []
    for number, record in json_lines(path):
        try:
            rows.append(_row(record))
        except ValueError as error:
            raise InputError(f"{path}, line {number}: {error}", remedy=_ROW) from error
    return rows


def _row(value: Mapping[str, object]) -> TrainRow:
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


def _texts(value: Mapping[str, object], key: str) -> tuple[str, ...]:
    texts = value.get(key)
    if texts is None:
        return ()
    if isinstance(texts, str):
        return (texts,)
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{key}: it is not a list of strings")
    return tuple(texts)


def _scores(value: Mapping[str, object], key: str, texts: tuple[str, ...]) -> tuple[float, ...]:
    scores = value.get(key)
    if scores is None or scores == []:
        return ()
    if not isinstance(scores, list):
        scores = [scores]
    numbers = [score for score in scores if isinstance(score, (int, float)) and not isinstance(score, bool)]
    if len(numbers) != len(scores):
        raise ValueError(f"{key}: it is not a list of numbers")
    if not all(abs(number) <= 1e300 for number in numbers):
        raise ValueError(f"{key}: NaN, infinity and integers of hundreds of digits are no scores")
    if len(numbers) != len(texts):
        raise ValueError(f"{key}: {len(numbers)} scores for {len(texts)} passages")
    return tuple(map(float, numbers))


def _without_empty(texts: tuple[str, ...], scores: tuple[float, ...]) -> tuple[tuple[str, ...], tuple[float, ...]]:
    kept = [index for index, text in enumerate(texts) if text.strip()]
    return tuple(texts[index] for index in kept), tuple(scores[index] for index in kept) if scores else ()


def write_flagembedding(path: Path, rows: list[TrainRow]) -> None:
    """Write FlagEmbedding's training JSONL. Scores and prompt are written if a row has them."""
    with atomic_file(path) as file:
        for row in rows:
            record = asdict(row)
            optional = ("pos_scores", "neg_scores", "prompt")
            file.write(json_line({key: value for key, value in record.items() if key not in optional or value}))
