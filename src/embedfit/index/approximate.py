"""Approximate search of an index whose vectors are too many to be read for every query.

The library faiss puts the vectors of a dense part into lists, each around a centre (inverted lists: Jégou, Douze and
Schmid, "Product Quantization for Nearest Neighbor Search", IEEE TPAMI 2011), one byte a number. A query reads the lists
whose centres are nearest. That gives candidates only: they are scored with the vectors of the index by every part, so
that a passage's score is the retriever's own. A passage that is no candidate is not found.

    approximate/one.0.faiss      lists of the first vectors of a part, approximate/one.1.faiss of the next, and so on
"""

from __future__ import annotations

import functools
import hashlib
import math
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from embedfit.errors import InputError
from embedfit.files.atomic import atomic_file
from embedfit.index.retriever import DENSE_PARTS, DEPTH, Retriever
from embedfit.index.rows import Rows
from embedfit.index.scoring import Asked, Parts, Scores, ordered
from embedfit.index.store.manifest import AGAIN, Lists, ListsFile
from embedfit.numerics.arrays import Floats, Halves, Ints
from embedfit.numerics.machine import cores
from embedfit.numerics.ranking import best
from embedfit.progress import Reporter, Task

Mask = npt.NDArray[np.bool_]
#: Lists as faiss holds them; faiss has no type annotations.
Shard: TypeAlias = Any

FOLDER = "approximate"
INSTALL = "pip install 'embedfit[ann]'"
#: An index of more vectors in a dense part gets lists for its dense parts.
MOST_EXACT = 1_000_000
#: The share of the first stage's best DEPTH that must be found.
ENOUGH_RECALL = 0.95
#: Shares of the lists that a query may read: the first that is enough is taken.
SHARES = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4)
#: Candidates for each passage that is asked for: so many best vectors of each part, and so many best passages of BM25.
OVERSAMPLING = 10
#: If a filter leaves at most this many passages, all of them are candidates.
FEW_ALLOWED = 20_000
#: Bytes of the lists that are held in memory at a time while they are made.
_SHARD_BYTES = 1 << 30
#: n vectors get this many times √n lists. Then: training vectors for each centre, and passes over them.
_LISTS = 2
_TRAINING = 64
_PASSES = 8
#: Vectors that are turned into float32 at a time, and first-stage scores held at a time.
_BLOCK_ROWS = 65_536
_BLOCK_SCORES = 16_000_000


@functools.cache
def library() -> ModuleType | None:
    """The library faiss, None if the extra is not installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of its wrapper, from Python 3.12 on
            import faiss
    except ImportError:
        return None
    if sys.platform == "darwin":  # its OpenMP and torch's are two there, and a second thread of it crashes
        faiss.omp_set_num_threads(1)
    module: ModuleType = faiss
    return module


def wanted(parts: Parts, retriever: Retriever) -> bool:
    """Whether an index is so large that it gets lists."""
    return retriever.method == "sum" and any(len(rows) > MOST_EXACT for rows in _vectors(parts, retriever).values())


def could_now(lists: Lists | None) -> bool:
    """Whether an index has no lists only because the extra was missing, which is installed now."""
    return lists is not None and lists.why == _MISSING and library() is not None


_MISSING = "the extra ann is not installed"


def _vectors(parts: Parts, retriever: Retriever) -> dict[str, Halves]:
    """The vectors of each dense part that a retriever reads; a part without vectors is left out."""
    names = {name for name in DENSE_PARTS if retriever.has(name)}
    if "windows" in names:  # a passage that is one window has no row of its own there
        names.add("one")
    found = {name: getattr(parts, name) for name in DENSE_PARTS if name in names}
    arrays = {name: part.vectors if isinstance(part, Rows) else part for name, part in found.items()}
    return {name: array for name, array in arrays.items() if array is not None and len(array)}


# --- searching


@dataclass(frozen=True, slots=True)
class Approximate:
    """The lists of an index. They serve only the first stage that their recall was measured with.

    parts: each dense part's shards, in the order of its vectors. share: the share of the lists that a query reads when
    it asks for DEPTH passages.
    """

    retriever: Retriever
    parts: Mapping[str, Sequence[Shard]]
    share: float

    def candidates(
        self, scores: Scores, retriever: Retriever, query: int, depth: int, allowed: Mask | None
    ) -> Ints | None:
        """Passages (G,), ascending, among which the `depth` best of a query are likely to be.

        allowed: (N,) which passages may be found; None: all. If few are allowed, all of them are candidates. If more
        are, the query reads as many allowed vectors as it would read without a filter, from more lists if necessary;
        if the lists still give too few, all allowed passages are candidates. The result is None if every passage must
        be scored: the retriever is another one, or the query would read so many lists that exact search is as fast.
        """
        if retriever.without_tokens() != self.retriever.without_tokens():
            return None
        share = self.share * max(1.0, depth / DEPTH)
        several = scores.parts.size if allowed is None else int(np.count_nonzero(allowed))
        if allowed is not None and several <= FEW_ALLOWED:
            return np.flatnonzero(allowed)
        share *= scores.parts.size / max(1, several)
        if share > SHARES[-1]:
            return None
        while share <= SHARES[-1]:
            passages = self._likely(scores, retriever, query, OVERSAMPLING * depth, share, allowed)
            if len(passages) >= min(depth, several):
                return passages
            share *= 2
        return np.arange(several) if allowed is None else np.flatnonzero(allowed)

    def _likely(
        self, scores: Scores, retriever: Retriever, query: int, count: int, share: float, allowed: Mask | None
    ) -> Ints:
        """The passages of the best `count` vectors of each dense part and the best `count` passages of BM25."""
        found = [self._passages(name, scores, query, count, share, allowed) for name in self.parts]
        for part in retriever.parts:
            if part.name not in DENSE_PARTS:
                covered = scores.raw(part.name)[query]
                matches = covered > 0 if allowed is None else (covered > 0) & allowed
                found.append(ordered(np.where(matches, covered, np.float32(-np.inf)), count))
        passages: Ints = np.unique(np.concatenate(found))
        return passages

    def _passages(self, name: str, scores: Scores, query: int, count: int, share: float, allowed: Mask | None) -> Ints:
        """The passages of a part's best vectors."""
        part = getattr(scores.parts, name)
        starts: Ints | None = part.starts if isinstance(part, Rows) else None
        rows = allowed if allowed is None or starts is None else np.repeat(allowed, np.diff(starts))
        best = nearest(self.parts[name], scores.asked.vectors[query], count, share, rows)
        result: Ints = best if starts is None else np.searchsorted(starts, best, side="right") - 1
        return result


def nearest(shards: Sequence[Shard], vector: Floats, count: int, share: float, allowed: Mask | None) -> Ints:
    """The numbers of a part's vectors that are nearest to a query (H,), at most `count`, by the lists.

    allowed: (R,) which vectors may be found.
    """
    faiss = library()
    assert faiss is not None
    numbers, values, at = [], [], 0
    for shard in shards:
        selector = None
        if allowed is not None:
            selector = faiss.IDSelectorBitmap(np.packbits(allowed[at : at + shard.ntotal], bitorder="little"))
        probes = max(1, math.ceil(share * shard.nlist))
        parameters = faiss.SearchParametersIVF(nprobe=probes, sel=selector)
        found, ids = shard.search(vector[None], min(count, shard.ntotal), params=parameters)
        # faiss fills a short result up with -1; any other number outside the range comes from a damaged file.
        is_there = (ids[0] >= 0) & (ids[0] < shard.ntotal)
        numbers.append(ids[0][is_there] + at)
        values.append(found[0][is_there])
        at += shard.ntotal
    result: Ints = np.concatenate(numbers)[best(np.concatenate(values), count)]
    return result


def opened(folder: Path, about: Lists | None, retriever: Retriever) -> Approximate | None:
    """The lists of an index folder; None if it has none or the extra is not installed.

    about: `approximate` of the manifest. Raises InputError if the head of a file has changed. The rest of a file is
    not checked: a wrong number there could cost a candidate, but changes no score.
    """
    faiss = library() if about is not None and about.used else None
    if faiss is None or about is None:
        return None
    parts = {name: [_shard(faiss, folder / one.file, one) for one in shards] for name, shards in about.parts.items()}
    return Approximate(retriever, parts, about.share)


def _shard(faiss: ModuleType, path: Path, about: ListsFile) -> Shard:
    with path.open("rb") as file:
        if hashlib.sha256(file.read(about.head)).hexdigest() != about.sha256:
            raise InputError(f"{path} is not the file that the index was made with.", remedy=AGAIN)
    try:
        shard = faiss.read_index(str(path), faiss.IO_FLAG_MMAP)
    except (RuntimeError, MemoryError) as error:
        raise InputError(f"{path} can't be read by faiss.", remedy=AGAIN) from error
    lists = faiss.downcast_InvertedLists(shard.invlists)
    if hasattr(lists, "prefetch_nthread"):  # not where files can't be mapped
        lists.prefetch_nthread = 0  # otherwise each query starts up to 32 threads, which go on reading after its answer
    return shard


def exact_because(about: Lists | None) -> str:
    """A sentence on why a large index is searched exactly; "" for a small index, and for one searched by its lists."""
    if about is None:
        return ""
    if not about.used:
        return f"search is exact: {about.why}"
    return "" if library() is not None else f"search is exact, and slower: {_MISSING}. Install it: {INSTALL}"


# --- making


def write(folder: Path, parts: Parts, retriever: Retriever, asked: Asked | None, report: Reporter) -> Lists | None:
    """Write the lists of an index into its folder. Returns their entry in the manifest, None for a small index.

    asked: queries that measure the recall, which is the share of the exact first stage's best DEPTH that the lists
    find. The smallest of SHARES that reaches ENOUGH_RECALL is used. If none reaches it, no list is kept and search
    stays exact.
    """
    if asked is None or not wanted(parts, retriever):
        return None
    vectors = _vectors(parts, retriever)
    rows = sum(map(len, vectors.values()))
    faiss = library()
    if faiss is None:
        report.log(f"index: {rows:,} vectors are searched exactly, because {_MISSING}. Faster: {INSTALL}")
        return Lists(used=False, why=_MISSING)
    (folder / FOLDER).mkdir()
    with report.task("approximate lists", rows, "vectors") as task:
        about = {name: _write_part(faiss, folder, name, array, task) for name, array in vectors.items()}
    made = Lists(used=True, parts=about, share=SHARES[-1])
    near = opened(folder, made, retriever)
    assert near is not None
    recalls = measured(near, parts, asked, report)
    share, recall = next(
        ((share, recall) for share, recall in recalls.items() if recall >= ENOUGH_RECALL), list(recalls.items())[-1]
    )
    found = (
        f"{recall:.1%} of the exact first stage's best {DEPTH} ({len(asked.texts):,} queries, {share:.1%} of the lists)"
    )
    known = {
        "recall": round(recall, 4),
        "depth": DEPTH,
        "queries": len(asked.texts),
        "library": f"faiss {faiss.__version__}",
    }
    if recall < ENOUGH_RECALL:
        for path in (folder / FOLDER).iterdir():
            path.unlink()
        (folder / FOLDER).rmdir()
        why = f"approximate lists found {found}, and {ENOUGH_RECALL:.0%} are needed"
        report.log(f"index: search stays exact: {why}")
        return made.model_copy(update={**known, "used": False, "why": why, "parts": {}, "share": 0.0})
    report.log(f"index: approximate lists of {rows:,} vectors find {found}; other passages get new lists")
    return made.model_copy(update={**known, "share": share})


def _write_part(faiss: ModuleType, folder: Path, name: str, vectors: Halves, task: Task) -> tuple[ListsFile, ...]:
    most = max(1, _SHARD_BYTES // (vectors.shape[1] + 8))
    count = math.ceil(len(vectors) / most)
    bounds = np.linspace(0, len(vectors), count + 1).astype(int).tolist()
    found = []
    for number, (start, stop) in enumerate(pairwise(bounds)):
        made = _lists(faiss, vectors[start:stop], task)
        file = f"{FOLDER}/{name}.{number}.faiss"
        head, sha256 = _save(faiss, made, folder / file)
        found.append(ListsFile(file=file, rows=stop - start, lists=made.nlist, head=head, sha256=sha256))
    return tuple(found)


def _lists(faiss: ModuleType, vectors: Halves, task: Task) -> Shard:
    """Lists of some vectors, in memory."""
    size, width = vectors.shape
    lists = max(1, min(round(_LISTS * size**0.5), size))
    made = faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlatIP(width), width, lists, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
    )
    made.cp.min_points_per_centroid = 1  # else it warns on standard error
    made.cp.max_points_per_centroid = _TRAINING
    made.cp.niter = _PASSES
    chosen = np.random.default_rng(0).permutation(size)[: _TRAINING * lists]
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1 if sys.platform == "darwin" else cores())
    try:
        made.train(vectors[np.sort(chosen)].astype(np.float32))
        for start in range(0, size, _BLOCK_ROWS):
            block = vectors[start : start + _BLOCK_ROWS].astype(np.float32)
            made.add(block)
            task.advance(len(block))
    finally:
        faiss.omp_set_num_threads(threads)
    return made


def _save(faiss: ModuleType, made: Shard, path: Path) -> tuple[int, str]:
    """Write lists. Returns the size and the hash of the file's head.

    The head holds all sizes and the centres; the codes and numbers of the vectors follow it. Wrong bytes in the head
    could make faiss read outside the file, so opened() checks the head's hash.
    """
    with atomic_file(path, binary=True) as file:
        faiss.write_index(made, faiss.PyCallbackIOWriter(file.write))
    head = path.stat().st_size - made.ntotal * (made.code_size + 8)
    with path.open("rb") as written:
        return head, hashlib.sha256(written.read(head)).hexdigest()


def measured(near: Approximate, parts: Parts, asked: Asked, report: Reporter) -> dict[float, float]:
    """The mean recall of the first stage's best DEPTH over the queries, for each of SHARES.

    A passage that scores as high as the exact DEPTH-th counts as one of the best.
    """
    most = max(parts.size, *map(len, _vectors(parts, near.retriever).values()))
    block = max(1, _BLOCK_SCORES // most)
    found: dict[float, list[float]] = {share: [] for share in SHARES}
    with report.task("recall of the approximate lists", len(asked.texts), "queries") as task:
        for start in range(0, len(asked.texts), block):
            some = slice(start, start + block)
            scores = Scores(parts, Asked(texts=asked.texts[some], vectors=asked.vectors[some]))
            first = scores.first(near.retriever)
            for query, row in enumerate(first):
                depth = min(DEPTH, len(row))
                least = np.partition(row, -depth)[-depth]
                for share, recalls in found.items():
                    passages = Approximate(near.retriever, near.parts, share).candidates(
                        scores, near.retriever, query, DEPTH, None
                    )
                    best = row if passages is None else row[passages]
                    recalls.append(min(depth, int((best >= least).sum())) / depth)
                task.advance(1)
    return {share: float(np.mean(recalls)) for share, recalls in found.items()}
