"""Judgements of which passages answer which query, as BEIR and TREC write them."""

from __future__ import annotations

import csv
import math
import re
from pathlib import Path

from embedfit.errors import InputError
from embedfit.files.retrieval import Qrels
from embedfit.files.textfiles import lines_of


def read_qrels(path: Path) -> Qrels:
    """Judgements of a BEIR qrels file (query, passage, score) or a TREC one (query, iteration, passage, score).

    Columns are separated by tabs, and may then be quoted as `csv` does it, or by spaces. A header, blank lines and
    comments (# …) are left out. A score is any number: graded and fractional ones are kept as they are, and a score of
    0 or less means not relevant. Raises InputError with file and line, also if a pair has two different scores.
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
        columns = [columns[0], *columns[2:]]  # TREC's second column, the iteration, has no meaning
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
