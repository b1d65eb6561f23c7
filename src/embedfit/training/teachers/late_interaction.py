"""Late interaction with a model that was never trained for it: the tokens of a passage that meet a query's tokens.

The one vector of a passage tells its subject. The vectors of its tokens also tell which words it holds, as BM25 knows,
and how near in meaning different words are, which BM25 misses. A passage's score is ColBERT's (Khattab and Zaharia
2020), the sum over a query's tokens of the highest cosine with a token of the passage, and rare tokens weigh more, as
in BERTScore (Zhang et al. 2020). docs/recipe.md has its gain as a teacher.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import accumulate, chain, islice, pairwise

import numpy as np
import torch
from torch import Tensor

from embedfit.models.encoder import Encoder
from embedfit.models.text_model import encoding_batches
from embedfit.models.windows import windows_of_model
from embedfit.numerics.arrays import Floats, Ints
from embedfit.progress import Reporter
from embedfit.retrieval.bm25 import idf
from embedfit.training.store import Text

#: Passages that tell how far a query's scores spread, and queries that are scored against them at a time.
_SAMPLE = 256
_CHUNK = 256
#: Bytes of token vectors that are kept; those of further passages are computed whenever they are asked for.
_KEPT = 1 << 30


class LateInteraction:
    """How well P passages meet Q queries.

    encoder: it reads a passage that is longer than its window window by window. queries: their prompts are read, but
    the scores count no token of them.
    """

    def __init__(self, encoder: Encoder, queries: Sequence[Text], passages: Sequence[str], report: Reporter) -> None:
        self._encoder = encoder
        self._special = set(encoder.tokenizer.encode("").ids)
        self._queries = encoder.token_ids([f"{text.prompt or ''}{text.content}" for text in queries], is_query=None)
        prompts = sorted({text.prompt or "" for text in queries})
        own = [len(self._own(ids)) for ids in encoder.token_ids(prompts, is_query=None)]
        sizes = dict(zip(prompts, own, strict=True))
        self._prompt_sizes = [sizes[text.prompt or ""] for text in queries]
        windows = windows_of_model(passages, encoder.tokenizer, encoder.layout, max_tokens=encoder.layout.max_tokens)
        ids = encoder.token_ids(windows.texts)
        self._passages = [ids[start:stop] for start, stop in pairwise([*windows.starts.tolist(), len(ids)])]
        self._holders = Counter(chain.from_iterable(set(chain.from_iterable(parts)) for parts in self._passages))
        self._kept: dict[int, Tensor] = {}
        self._bytes = 0
        self._mean, self._deviation = self._spread(report)

    def scores(self, queries: Ints, passages: Ints) -> Floats:
        """Scores in deviations from a query's mean, both over a sample of the passages.

        queries: (B,), passages: (G,): their numbers. Returns (B, G).
        """
        apart = self._sums(queries, passages) - self._mean[queries, None]
        result: Floats = (apart / np.maximum(self._deviation[queries, None], 1e-6)).astype(np.float32)
        return result

    def _own(self, ids: Sequence[int]) -> list[int]:
        """Places of the tokens that are not special."""
        return [place for place, token in enumerate(ids) if token not in self._special]

    def _spread(self, report: Reporter) -> tuple[Floats, Floats]:
        """Mean and deviation of each query's scores over a sample of the passages. (Q,) each."""
        sample = np.random.default_rng(0).permutation(len(self._passages))[:_SAMPLE]
        mean, deviation = np.zeros((2, len(self._queries)), np.float32)
        with report.task("late interaction", len(self._queries), "queries") as task:
            for start in range(0, len(self._queries), _CHUNK):
                chunk = np.arange(start, min(start + _CHUNK, len(self._queries)))
                sums = self._sums(chunk, sample)
                mean[chunk], deviation[chunk] = sums.mean(1), sums.std(1)
                task.advance(len(chunk))
        return mean, deviation

    @torch.inference_mode()
    def _sums(self, queries: Ints, passages: Ints) -> Floats:
        """For each query's tokens the highest cosine in the passage × rarity, summed. (B, G)."""
        rows = [self._queries[query] for query in queries]
        own = [self._own(row)[self._prompt_sizes[query] :] for query, row in zip(queries, rows, strict=True)]
        found = token_vectors(self._encoder, rows)
        asked = torch.cat([vectors[places] for vectors, places in zip(found, own, strict=True)]).float()
        best = torch.stack([(asked @ met.to(asked).T).amax(1) for met in self._vectors(passages.tolist())], 1)
        tokens = [row[place] for row, places in zip(rows, own, strict=True) for place in places]
        rarity = idf(len(self._passages), np.array([self._holders[token] for token in tokens], np.int64)).tolist()
        best *= torch.tensor(rarity, device=best.device)[:, None]
        ends = [0, *accumulate(len(places) for places in own)]
        result: Floats = torch.stack([best[start:stop].sum(0) for start, stop in pairwise(ends)]).cpu().numpy()
        return result

    def _vectors(self, passages: Sequence[int]) -> list[Tensor]:
        """Vectors of each passage's tokens, kept for the next call as long as there is room."""
        missing = [passage for passage in passages if passage not in self._kept]
        rows = [ids for passage in missing for ids in self._passages[passage]]
        found = token_vectors(self._encoder, rows)
        parts = iter([vectors[self._own(ids)].cpu() for vectors, ids in zip(found, rows, strict=True)])
        fresh = {}
        for passage in missing:
            fresh[passage] = torch.cat(list(islice(parts, len(self._passages[passage]))))
            if self._bytes + fresh[passage].nbytes <= _KEPT:
                self._bytes += fresh[passage].nbytes
                self._kept[passage] = fresh[passage]
        return [self._kept[passage] if passage in self._kept else fresh[passage] for passage in passages]


@torch.inference_mode()
def token_vectors(encoder: Encoder, rows: Sequence[Sequence[int]]) -> list[Tensor]:
    """TextModel.tokens() as tensors on the device of the model, which multiplies them faster."""
    found = [torch.empty(0)] * len(rows)
    for batch in encoding_batches([len(row) for row in rows], all_layers=True):
        states = encoder.run([rows[index] for index in batch], all_layers=True)
        for index, vectors in zip(batch, states.side_by_side(), strict=True):
            found[index] = vectors[: len(rows[index])]
    return found
