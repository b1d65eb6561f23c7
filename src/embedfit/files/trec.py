"""TREC runs: `query Q0 passage rank score name` a line."""

from __future__ import annotations

import math
from pathlib import Path

from embedfit.errors import InputError
from embedfit.files.textfiles import lines_of

_COLUMNS = 6


def token(identifier: str) -> str:
    """An id without white space, because readers of TREC files split lines there."""
    return "_".join(identifier.split()) or "_"


def is_trec_run(path: Path) -> bool:
    """Whether a file's first line that is not blank has the six columns of a TREC run."""
    for _, line in lines_of(path):
        if line.strip():
            return _is_row(line.split())
    return False


def read_trec_run(path: Path) -> dict[str, dict[str, float]]:
    """Query id → passage id → score, in the file's order.

    The rank's column is not read: as trec_eval does, users order by score. Raises InputError with file and line for a
    line of another form, a score that is no number, and a passage that a query has twice.
    """
    found: dict[str, dict[str, float]] = {}
    for number, line in lines_of(path):
        if not line.strip():
            continue
        columns = line.split()
        if not _is_row(columns):
            raise InputError(
                f"{path}, line {number}: expected six columns: query, Q0, passage, rank, score, name.",
                remedy="For example: q1 Q0 d7 1 12.5 mymodel",
            )
        query, passage = columns[0], columns[2]
        of_query = found.setdefault(query, {})
        if passage in of_query:
            raise InputError(
                f"{path}, line {number}: the query {query!r} has the passage {passage!r} twice.",
                remedy="Keep one line of each passage.",
            )
        of_query[passage] = float(columns[4])
    return found


def _is_row(columns: list[str]) -> bool:
    if len(columns) != _COLUMNS:
        return False
    try:
        return math.isfinite(float(columns[4]))
    except ValueError:
        return False
