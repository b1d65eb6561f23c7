"""The written queries of an index. An index takes them only if nearly all of its passages have some."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from embedfit.errors import InputError
from embedfit.path.artefacts import Query, written

#: The share of passages that must have written queries. A passage without any is at a disadvantage: with a third of the
#: passages covered, an index found 1 to 3 points less (docs/recipe.md). The few passages without queries have their own
#: one vector in place of a query's.
COVERED = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """The written queries of N passages.

    queries: those of each passage, () for a passage without any. calls: the ledger's keys of the calls that wrote them.
    """

    queries: Sequence[Sequence[str]]
    calls: frozenset[str]

    @property
    def count(self) -> int:
        """The number of queries."""
        return sum(map(len, self.queries))

    @property
    def covered(self) -> float:
        """The share of passages that have at least one."""
        return sum(map(bool, self.queries)) / max(1, len(self.queries))

    @property
    def enough(self) -> bool:
        """Whether enough passages have queries for an index to take them."""
        return self.covered >= COVERED

    def check(self) -> None:
        """Raise InputError if too few passages have a query."""
        if not self.enough:
            have = sum(map(bool, self.queries))
            raise InputError(
                f"{have:,} of {len(self.queries):,} passages have written queries ({self.covered:.0%}); an index needs "
                f"{COVERED:.0%}: a passage without queries is hard to find beside those that have some.",
                remedy="Leave them out: embedfit index --run DIR --without-queries. To have more written: "
                "embedfit generate --run DIR --set generate.max_passages=NUMBER",
            )


def written_of(passage_ids: Sequence[str], queries: Iterable[Query]) -> Written:
    """The kept written queries of each passage, in the order in which they were written, without repetitions."""
    found: dict[str, dict[str, None]] = {one: {} for one in passage_ids}
    calls = set()
    for query in written(queries):
        if query.kept and query.passage_id in found:
            found[query.passage_id][query.text] = None
            calls.add(query.call_id)
    return Written(queries=[tuple(found[one]) for one in passage_ids], calls=frozenset(calls - {""}))
