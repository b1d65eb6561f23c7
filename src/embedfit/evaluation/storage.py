"""Ways to store a passage's one vector, and the quality that each way loses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from embedfit.evaluation.evalset import EvalSet
from embedfit.evaluation.measure import Allowed, Measured, Opened, judged, ranked
from embedfit.evaluation.summary import Resamples, comparisons, systems_table
from embedfit.index.retriever import BASE
from embedfit.index.scoring import Asked, Parts
from embedfit.numerics.arrays import Floats, Ints
from embedfit.numerics.ranking import best
from embedfit.path.artefacts import METRIC, Storage
from embedfit.progress import Reporter

#: The sizes to which wider vectors are cut.
SIZES = (256, 128, 64)
#: The number of passages that a binary search hands to rescoring, for each of the ten best.
OVERSAMPLED = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One way to store N vectors.

    passages: (N, D) as read back from storage; queries: (Q, D). bytes_a_passage: those in memory. on_disk: bytes a
    passage that only rescoring reads. allowed: gives the passages that a first, coarser search leaves; None: all.
    trained: whether the model was trained for the size, if the vectors are cut.
    """

    name: str
    passages: Floats
    queries: Floats
    bytes_a_passage: float
    on_disk: int = 0
    allowed: Allowed | None = None
    trained: bool | None = None


def to_int8(vectors: Floats) -> Floats:
    """Vectors rounded to one byte a number, as float32: (N, H). Each dimension is scaled to its largest number."""
    scale = np.maximum(np.abs(vectors).max(0, initial=0.0), 1e-9) / 127
    result: Floats = (np.round(vectors / scale) * scale).astype(np.float32)
    return result


def nearest_signs(passages: Floats, queries: Floats, own: Ints, count: int) -> Allowed:
    """The passages whose signs agree most with the query's: one bit a number, compared by Hamming distance.

    (Yamada, Asai and Hajishirzi, ACL 2021.) passages: (N, H); queries: (Q, H); own: (Q,) the passage that is the query
    itself, -1 for none. Returns a function of start and stop that gives a mask (stop - start, N) of the `count` best
    passages of each query.
    """
    signs = np.where(passages > 0, np.float32(1), np.float32(-1))

    def allowed(start: int, stop: int) -> npt.NDArray[np.bool_]:
        agreed = np.where(queries[start:stop] > 0, np.float32(1), np.float32(-1)) @ signs.T
        rows = np.flatnonzero(own[start:stop] >= 0)
        agreed[rows, own[start:stop][rows]] = -np.inf
        if count >= agreed.shape[1]:
            return np.ones(agreed.shape, np.bool_)
        result = np.zeros(agreed.shape, np.bool_)
        np.put_along_axis(result, best(agreed, count), True, axis=1)
        return result

    return allowed


def ways(passages: Floats, queries: Floats, own: Ints, trained: Sequence[int]) -> Iterator[Stored]:
    """Every way except float16, which an index uses anyway. trained: the sizes that the model was trained for."""
    width = passages.shape[1]
    halves = passages.astype(np.float16).astype(np.float32)
    yield Stored(name="float32", passages=passages, queries=queries, bytes_a_passage=4 * width)
    small = to_int8(passages)
    yield Stored(name="int8", passages=small, queries=queries, bytes_a_passage=width)
    signs = nearest_signs(passages, queries, own, OVERSAMPLED * 10)
    rescored = Stored(
        name="binary, rescored in float16", passages=halves, queries=queries, bytes_a_passage=width / 8, allowed=signs
    )
    yield replace(rescored, on_disk=2 * width)
    yield replace(rescored, name="binary, rescored in int8", passages=small, on_disk=width)
    for size in SIZES:
        if size < width:
            cut, asked = (_unit(rows[:, :size]) for rows in (passages, queries))
            cut = cut.astype(np.float16).astype(np.float32)
            yield Stored(
                name=f"float16, {size}", passages=cut, queries=asked, bytes_a_passage=2 * size, trained=size in trained
            )


def _unit(rows: Floats) -> Floats:
    result: Floats = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return result


def storage(
    passages: Floats,
    queries: Floats,
    halves: Measured,
    eval_set: EvalSet,
    resamples: Resamples,
    report: Reporter,
    *,
    trained: Sequence[int],
) -> tuple[Storage, ...]:
    """The quality of every way. passages: (N, H), queries: (Q, H), unit rows. halves: float16's measurement."""
    found: dict[str, Stored] = {}
    measured: dict[str, Measured] = {}
    for way in ways(passages, queries, eval_set.own, trained):
        opened = Opened(
            parts=Parts(size=len(way.passages), one=way.passages),
            asked=lambda start, stop, rows=way.queries: Asked(  # type: ignore[misc]
                texts=eval_set.queries[start:stop], vectors=rows[start:stop]
            ),
        )
        rankings = ranked(opened, {way.name: BASE}, eval_set, report, allowed=way.allowed)
        found[way.name], measured[way.name] = way, judged(rankings[way.name], eval_set)
        if way.name == "float32":
            found["float16"] = replace(way, bytes_a_passage=way.bytes_a_passage / 2)
            measured["float16"] = halves
    table = systems_table(measured, resamples)
    against = comparisons(measured, [(name, "float32") for name in measured], resamples)
    deltas = {one.a: one for one in against if one.metric == METRIC}
    return tuple(
        Storage(
            name=name,
            dimensions=way.passages.shape[1],
            bytes_a_passage=way.bytes_a_passage,
            on_disk=way.on_disk,
            trained=way.trained,
            score=table[name].metrics[METRIC],
            ci95=table[name].ci95[METRIC],
            delta=deltas[name].delta,
            delta_ci95=deltas[name].ci95,
        )
        for name, way in found.items()
    )
