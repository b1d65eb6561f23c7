"""Reading training rows as people and FlagEmbedding's tools write them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from embedfit.errors import InputError
from embedfit.records import TrainRow

_ROW = 'A row is {"query": "…", "pos": ["…"], "neg": ["…"]}; neg, pos_scores and neg_scores may be left out.'


def read_rows(path: Path) -> list[TrainRow]:
    """Rows of a FlagEmbedding JSONL file.

    Takes what its tools and hands write: no `neg`, `neg: null`, one string for a list, integer
    scores, no scores, further keys (`type`, `pos_id`), empty negatives. Raises InputError with file
    and line for anything else, an empty `pos` among it.
    """
    rows = []
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                rows.append(_row(json.loads(line)))
            except (ValueError, RecursionError) as error:
                raise InputError(f"{path}, line {number}: {error}", remedy=_ROW) from error
    return rows


def _row(value: Any) -> TrainRow:  # noqa: ANN401 - JSON
    if not isinstance(value, dict):
        raise ValueError("the line is not a JSON object")
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


def _texts(value: dict[str, Any], key: str) -> tuple[str, ...]:
    texts = value.get(key)
    if texts is None:
        return ()
    if isinstance(texts, str):
        return (texts,)
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{key}: it is not a list of strings")
    return tuple(texts)


def _scores(value: dict[str, Any], key: str, texts: tuple[str, ...]) -> tuple[float, ...]:
    scores = value.get(key)
    if scores is None or scores == []:
        return ()
    if not isinstance(scores, list):
        scores = [scores]
    if not all(isinstance(score, (int, float)) and not isinstance(score, bool) for score in scores):
        raise ValueError(f"{key}: it is not a list of numbers")
    if not all(math.isfinite(score) for score in scores):
        raise ValueError(f"{key}: NaN and infinity are no scores")
    if len(scores) != len(texts):
        raise ValueError(f"{key}: {len(scores)} scores for {len(texts)} passages")
    return tuple(float(score) for score in scores)


def _without_empty(texts: tuple[str, ...], scores: tuple[float, ...]) -> tuple[tuple[str, ...], tuple[float, ...]]:
    kept = [index for index, text in enumerate(texts) if text.strip()]
    return tuple(texts[index] for index in kept), tuple(scores[index] for index in kept) if scores else ()
