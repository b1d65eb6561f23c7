"""Sentences that stand in for the queries of passages of which nobody wrote any.

A map that learns from queries with known passages moves queries toward these passages, and away from all others. A
passage of the dev split, or one whose queries the filters dropped, would be found less often than before. Its own
sentences hold it (docs/recipe.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from embedfit.index.constants import sentences_of

#: Sentences of a passage at most.
EACH = 2
#: Sentences at most, in multiples of the number of queries.
MOST = 1.0
#: Below this number of queries no passage should lend: they teach too little beside as many sentences, and where people
#: paraphrase the retriever lost a point (docs/training.md, the quick run beside the peers).
FEWEST = 256


def own_sentences(contents: Sequence[str], taught: Sequence[str], *, queries: int, seed: int) -> list[tuple[str, str]]:
    """(sentence, passage) of passages that no query teaches, drawn by seed.

    contents: all passages. taught: those that queries teach. queries: their number. Each passage lends up to EACH
    sentences, the first one before any lends a second, until there are MOST times as many as queries.
    """
    known, most = set(taught), int(MOST * queries)
    rng = np.random.default_rng([seed, len(contents)])
    untaught = [content for content in dict.fromkeys(contents) if content.strip() and content not in known]
    lent = []
    for place in rng.permutation(len(untaught))[:most]:
        sentences = sentences_of(untaught[place])
        lent.append([(sentences[one], untaught[place]) for one in rng.permutation(len(sentences))[:EACH]])
    return [one[turn] for turn in range(EACH) for one in lent if len(one) > turn][:most]
