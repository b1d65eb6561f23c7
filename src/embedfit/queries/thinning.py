"""The choice among training queries that passed every filter: vague ones may go, and no way to begin may prevail.

A weak writer costs nothing, so it can write more than is needed. How clearly a query means its own passage is measured
by its margin: the teacher's score of that passage above that of the best other one, in deviations over the corpus. No
margin is asked for by default: a teacher of the whole corpus makes use of a vague query too (docs/generators.md).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from embedfit.config import Config
from embedfit.errors import InputError
from embedfit.models.local import local_model
from embedfit.numerics.arrays import Floats
from embedfit.path.artefacts import Passage, Query
from embedfit.retrieval.words import words
from embedfit.runtime import Runtime
from embedfit.teaching.scores import TeacherScores, TeacherWeights, corpus_scores

#: The share of the training queries that may begin alike, and that may be of one style.
MOST_ALIKE, MOST_OF_STYLE = 0.25, 0.6
#: So many queries are left at least, and this share of those that there were.
LEFT, LEFT_SHARE = 1_000, 2 / 3
VAGUE = "vague: other passages answer it better"
ALIKE, OF_A_STYLE = "too many queries begin like it", "too many queries are of its style"
#: The words by which a beginning is known.
_OPENING = 2


def margins(scores: TeacherScores, sources: Sequence[int], twins: Mapping[int, Sequence[int]]) -> Floats:
    """(Q,), each query's margin. sources: the number of the passage that each was written of, of Q.

    twins: for a passage, those that say the same, which do not count as other ones. A passage that is not among the
    scored ones of a large corpus counts as the worst of them.
    """
    result = np.empty(len(sources), np.float32)
    for row, source in enumerate(sources):
        columns, values = scores.columns[row], scores.scores[row]
        own = values[columns == source]
        others = values[~np.isin(columns, [source, *twins.get(source, ())])]
        best = float(others.max()) if len(others) else float("-inf")
        result[row] = (float(own[0]) if len(own) else float(values.min())) - best
    return result


def margins_of(
    passages: Sequence[Passage],
    queries: Sequence[Query],
    twins: Mapping[int, Sequence[int]],
    config: Config,
    runtime: Runtime,
) -> Floats:
    """(Q,), the margins of queries by the base model's windows and BM25 over all passages. twins: as in margins()."""
    number = {passage.passage_id: row for row, passage in enumerate(passages)}
    base = local_model("base", config.model, query_instruction=config.query_instruction)
    texts = [query.text for query in queries]
    contents = [passage.content for passage in passages]
    scores = corpus_scores(base, contents, texts, TeacherWeights(), runtime, seed=config.seed)
    return margins(scores, [number[query.passage_id] for query in queries], twins)


def fewest(count: int) -> int:
    """The number of queries, of so many, that the rules here leave at least."""
    return max(min(count, LEFT), round(LEFT_SHARE * count))


def vague(found: Floats, passages: Sequence[str], *, lowest: float, left: int) -> npt.NDArray[np.bool_]:
    """(Q,), true for queries with a margin below `lowest`, the vaguest first. The best query of each passage is kept.

    found: (Q,) margins; passages: the id of the passage of each. left: so many queries stay at least.
    """
    best: dict[str, int] = {}
    for row, passage in enumerate(passages):
        if passage not in best or found[row] > found[best[passage]]:
            best[passage] = row
    free = np.ones(len(found), np.bool_)
    free[list(best.values())] = False
    order = [row for row in np.argsort(found, kind="stable").tolist() if free[row] and found[row] < lowest]
    result = np.zeros(len(found), np.bool_)
    result[order[: max(0, len(found) - left)]] = True
    return result


def opening(text: str) -> str:
    """The way in which a query begins: its first words, folded."""
    return " ".join(words(text)[:_OPENING])


def over_quota(kinds: Sequence[str], found: Floats, *, share: float, left: int) -> npt.NDArray[np.bool_]:
    """(Q,), true for queries to drop so that no kind has more than its share of what is left; the vaguest go first.

    found: (Q,) margins, or zeros. left: so many queries stay at least, even if a kind then has more. Nothing is dropped
    if there are too few kinds for the quota.
    """
    counts = Counter(kinds)
    if len(counts) * share < 1:
        return np.zeros(len(kinds), np.bool_)
    sizes = np.array(list(counts.values()), np.int64)
    most = int(sizes.max(initial=0))
    while most > share * (total := int(np.minimum(sizes, most).sum())) and total > left:
        most -= 1
    if int(np.minimum(sizes, most).sum()) < min(left, len(kinds)):
        most += 1
    spare = {kind: count - most for kind, count in counts.items() if count > most}
    result = np.zeros(len(kinds), np.bool_)
    for row in np.argsort(found, kind="stable").tolist():
        if spare.get(kinds[row], 0) > 0:
            spare[kinds[row]] -= 1
            result[row] = True
    return result


def thinned(
    passages: Sequence[Passage],
    queries: Sequence[Query],
    twins: Mapping[int, Sequence[int]],
    config: Config,
    runtime: Runtime,
) -> dict[int, str]:
    """The reason to drop each training query that goes, by its number. queries: with what the filters said of them.

    twins: as in margins().
    """
    rows = [number for number, query in enumerate(queries) if query.kept and query.split == "train"]
    left = fewest(len(rows))
    lowest = config.generate.margin
    reasons: dict[int, str] = {}
    found = np.zeros(len(rows), np.float32)
    if lowest is not None and len(rows) > left:
        try:
            found = margins_of(passages, [queries[number] for number in rows], twins, config, runtime)
        except InputError:  # the teacher ranks all passages alike, so no query is vaguer than another
            lowest = float("-inf")
        gone = vague(found, [queries[number].passage_id for number in rows], lowest=lowest, left=left)
        reasons |= dict.fromkeys((rows[place] for place in np.flatnonzero(gone).tolist()), VAGUE)
    for kind_of, share, reason in ((_opening_of, MOST_ALIKE, ALIKE), (_style_of, MOST_OF_STYLE, OF_A_STYLE)):
        there = [place for place, number in enumerate(rows) if number not in reasons]
        gone = over_quota([kind_of(queries[rows[place]]) for place in there], found[there], share=share, left=left)
        reasons |= dict.fromkeys((rows[there[place]] for place in np.flatnonzero(gone).tolist()), reason)
    return reasons


def _opening_of(query: Query) -> str:
    return opening(query.text)


def _style_of(query: Query) -> str:
    return query.style
