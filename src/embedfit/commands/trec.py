"""Searches for many queries and writes a TREC run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from embedfit.errors import InputError
from embedfit.files.atomic import atomic_file
from embedfit.files.trec import token
from embedfit.index.search import Index
from embedfit.index.store.filters import Where
from embedfit.runtime import Runtime


def write_trec(
    index: Index,
    queries: Sequence[tuple[str, str]],
    target: Path,
    *,
    k: int,
    where: Where | None = None,
    runtime: Runtime,
) -> int:
    """Write a TREC run: `query Q0 passage rank score name` a line. Returns the number of lines.

    where: conditions on the fields of passages, as in filters.filter_of.

    Scores fall strictly from rank to rank, because readers of such files order by score and break ties by id.
    """
    names = _tokens_of([identifier for identifier, _ in queries], runtime)
    lines, changed = 0, False
    with atomic_file(target) as file, runtime.report.task("search", len(queries), "queries") as task:
        for name, hits in zip(names, index.search_all([text for _, text in queries], k, where=where), strict=True):
            last = float("inf")
            for rank, hit in enumerate(hits, 1):
                last = min(hit.score, last - 1e-6)
                file.write(f"{name} Q0 {token(hit.passage_id)} {rank} {last:.6f} embedfit\n")
                lines += 1
                changed |= token(hit.passage_id) != hit.passage_id
            task.advance(1)
    if changed:
        runtime.report.log("Note: spaces in ids of passages are written as _, because a TREC run can't hold them")
    return lines


def _tokens_of(identifiers: Sequence[str], runtime: Runtime) -> list[str]:
    """The queries' ids as they are written to a TREC file. Raises InputError if two become the same."""
    found: dict[str, str] = {}
    for identifier in identifiers:
        other = found.setdefault(token(identifier), identifier)
        if other != identifier:
            raise InputError(
                f"A TREC run holds no spaces in ids, and so {other!r} and {identifier!r} would be one query.",
                remedy="Give them an _id each that differs in more than spaces.",
            )
    changed = [identifier for name, identifier in found.items() if name != identifier]
    if changed:
        runtime.report.log(
            f"Note: {len(changed):,} ids of queries have spaces, which a TREC run can't hold: "
            f"{changed[0]!r} is written as {token(changed[0])!r}"
        )
    return list(map(token, identifiers))
