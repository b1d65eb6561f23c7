"""The split of passages into those that train, choose and measure the model. It is made once, for all stages.

Units never share text across the border:

* many documents: a document is a unit;
* few documents: a document is cut into contiguous blocks, at headings if it has any, and one passage on
  each border between parts is set aside ("gap"): searches can find it, but no query is written of it;
* passages that are near-duplicates of one another (Jaccard index of word trigrams of at least 0.8) are moved
  to one side, the training side first.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from embedfit.errors import InputError
from embedfit.numerics.arrays import Bools, Ints
from embedfit.numerics.near_duplicates import places_of_equal
from embedfit.numerics.on_demand import OnDemand
from embedfit.path.artefacts import Split

#: From this number of documents on, whole documents are the units.
MANY_DOCUMENTS = 20
#: Fewer passages than this can't be split into parts that teach and measure anything.
MIN_PASSAGES = 8
MIN_PART = 2
#: The number of blocks that few documents are cut into. A block holds 8 passages or more, and fewer only if there would
#: be less than 10 blocks.
_BLOCKS = 40
_LEAST_BLOCKS = 10
_MIN_BLOCK = 8
#: With no more passages than this, every one is needed, so borders are not set aside.
_GAP_FROM = 60
#: Single-record documents are put into runs of neighbours, so that records cut from one text stay together.
_RUNS = 100


class TooFew(InputError):
    """Passages that can be searched but not split: they are too few, or too much alike."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A passage as the split sees it. cluster: equal for near-duplicates. held_out: from an evaluation document.

    document_id, title: the texts, or numbers that stand for them.
    """

    document_id: str | int
    title: str | int
    cluster: int
    held_out: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Items(OnDemand[Item]):
    """N passages as arrays of (N,), of which each gives an Item when it is asked for."""

    documents: Ints
    titles: Ints
    clusters: Ints
    held_out: Bools

    def __len__(self) -> int:
        return len(self.documents)

    def item(self, place: int) -> Item:
        """The item of a passage."""
        return Item(
            document_id=int(self.documents[place]),
            title=int(self.titles[place]),
            cluster=int(self.clusters[place]),
            held_out=bool(self.held_out[place]),
        )


def assign(items: Sequence[Item], *, dev_share: float, test_share: float, seed: int) -> list[Split]:
    """The part of each passage, in order.

    dev_share, test_share: of the passages that are not held out; test_share 0 makes no test part of
    them. Held-out passages are all "test". Raises TooFew for too few passages.
    """
    trainable = [index for index, item in enumerate(items) if not item.held_out]
    _require(len(trainable))
    if dev_share + test_share >= 1:
        raise InputError(
            f"dev_share {dev_share} and test_share {test_share} leave nothing to train on.",
            remedy="For example: --set generate.dev_share=0.15 --set generate.test_share=0.15",
        )
    parts: list[Split] = ["test"] * len(items)
    shares: dict[Split, float] = {"dev": dev_share, "test": test_share}
    units, contiguous = _units(items, trainable)
    rng = np.random.default_rng(seed)
    for unit, part in zip(units, _deal([len(unit) for unit in units], shares, rng), strict=True):
        for index in unit:
            parts[index] = part
    if contiguous and len(trainable) >= _GAP_FROM:
        _set_borders_aside(parts, items, trainable)
    _unite_clusters(parts, items)
    if not _is_usable(parts, trainable, test_share):
        parts = _by_cluster(items, trainable, shares, rng, parts)
    if not _is_usable(parts, trainable, test_share):
        raise TooFew(
            "The passages are too alike to split: near-duplicates must stay on one side, and nothing is left "
            "for the other.",
            remedy="Add documents with other content, or name separate ones with --eval-docs.",
        )
    return parts


def as_before(items: Sequence[Item], parts: Sequence[Split], known: Sequence[Split | None]) -> list[Split] | None:
    """The parts, except that passages of the last model's run keep theirs, and so do their near-duplicates.

    So a passage that taught the last model doesn't measure the next one. known: the part of each passage in that run;
    None: it was not there. Returns None if train or dev would be too small, or a test part that is asked for.
    """
    has_test = any(part == "test" and not item.held_out for part, item in zip(parts, items, strict=True))
    by_cluster: dict[int, Split] = {}
    for item, part in zip(items, known, strict=True):
        if part is not None:
            by_cluster.setdefault(item.cluster, part)
    found: list[Split] = []
    for item, part, old in zip(items, parts, known, strict=True):
        kept = part if item.held_out else old or by_cluster.get(item.cluster) or part
        found.append("train" if kept == "test" and not has_test and not item.held_out else kept)
    trainable = [index for index, item in enumerate(items) if not item.held_out]
    return found if _is_usable(found, trainable, float(has_test)) else None


def _require(count: int) -> None:
    if count < MIN_PASSAGES:
        raise TooFew(
            f"The documents gave {count} passage{'s' * (count != 1)}; at least {MIN_PASSAGES} are needed to train, "
            "choose and measure a model.",
            remedy="Add documents, or cut shorter passages: --set ingest.max_tokens=64 --set ingest.min_characters=20",
        )


def _is_usable(parts: Sequence[Split], trainable: Sequence[int], test_share: float) -> bool:
    counts = {name: sum(parts[index] == name for index in trainable) for name in ("train", "dev", "test")}
    return min(counts["train"], counts["dev"]) >= MIN_PART and (not test_share or counts["test"] >= MIN_PART)


# --- units


def _units(items: Sequence[Item], trainable: Sequence[int]) -> tuple[list[list[int]], bool]:
    """Groups of passages that stay together, and whether they border on one another within a document."""
    numbers: dict[str | int, int] = {}
    own = np.array([numbers.setdefault(items[index].document_id, len(numbers)) for index in trainable], np.int64)
    ordered, ends = np.array(trainable)[np.argsort(own, kind="stable")], np.cumsum(np.bincount(own))
    if len(ends) > 2 * _RUNS and len(trainable) < 1.5 * len(ends):
        ends = np.append(ends[:-1][-(-len(ends) // _RUNS) - 1 :: -(-len(ends) // _RUNS)], ends[-1])
        return [group.tolist() for group in np.split(ordered, ends[:-1])], False
    groups = [group.tolist() for group in np.split(ordered, ends[:-1])]
    if len(groups) >= MANY_DOCUMENTS:
        return groups, False
    count = len(trainable)
    size = max(count // _BLOCKS, min(_MIN_BLOCK, count // _LEAST_BLOCKS), MIN_PART)
    blocks = [block for group in groups for block in _blocks(group, items, size)]
    return blocks, True


def _blocks(indices: Sequence[int], items: Sequence[Item], size: int) -> list[list[int]]:
    """Contiguous blocks of about `size` passages, cut where the title changes if that is near."""
    blocks: list[list[int]] = []
    start = 0
    while start < len(indices):
        end = min(start + size, len(indices))
        slack = max(1, size // 3)
        ends = [place for place in range(end - slack, end + slack + 1) if start + MIN_PART <= place < len(indices)]
        changes = [place for place in ends if items[indices[place]].title != items[indices[place - 1]].title]
        if changes and end < len(indices):
            end = min(changes, key=lambda place: abs(place - end))
        if len(indices) - end < MIN_PART:
            end = len(indices)
        blocks.append(list(indices[start:end]))
        start = end
    return blocks


# --- dealing


def _deal(sizes: Sequence[int], shares: dict[Split, float], rng: np.random.Generator) -> list[Split]:
    """A part for each unit, in random order, so that dev and test come near their shares of the passages.

    A unit goes to the part that it fits best; each part that is asked for gets at least one unit,
    the largest gets none of them if another unit is left.
    """
    total = sum(sizes)
    order = list(rng.permutation(len(sizes)))
    result: list[Split] = ["train"] * len(sizes)
    for name, share in shares.items():
        if share <= 0:
            continue
        wanted, got = max(share * total, MIN_PART), 0.0
        left = result.count("train")
        for unit in order:
            if result[unit] != "train" or left <= 1:
                continue
            better = abs(got + sizes[unit] - wanted) < abs(got - wanted)
            if better:
                result[unit] = name
                got += sizes[unit]
                left -= 1
        if not got:
            free = [unit for unit in order if result[unit] == "train"]
            if len(free) > 1:
                result[min(free, key=lambda unit: sizes[unit])] = name
    return result


def _set_borders_aside(parts: list[Split], items: Sequence[Item], trainable: Sequence[int]) -> None:
    """Set aside ("gap") the first of two neighbours in a document that are in different parts."""
    before = list(parts)
    for first, second in pairwise(trainable):
        if items[first].document_id == items[second].document_id and before[first] != before[second]:
            loser = first if before[first] == "train" or before[second] != "train" else second
            parts[loser] = "gap"


def _unite_clusters(parts: list[Split], items: Sequence[Item]) -> None:
    """Move near-duplicates to one side. One of a held-out passage is set aside, not trained on."""
    own = np.fromiter((item.cluster for item in items), np.int64, len(items))
    for group in places_of_equal(own):
        if len({parts[index] for index in group}) == 1:
            continue
        free = [index for index in group if not items[index].held_out]
        if len(free) < len(group):
            target: Split = "gap"
        else:
            present = {parts[index] for index in free}
            target = next(name for name in ("train", "dev", "test") if name in present)
        for index in free:
            parts[index] = target


def _by_cluster(
    items: Sequence[Item],
    trainable: Sequence[int],
    shares: dict[Split, float],
    rng: np.random.Generator,
    parts: Sequence[Split],
) -> list[Split]:
    """Clusters of near-duplicates as units, for a corpus so small or so alike that blocks left a part empty."""
    held_out = {item.cluster for item in items if item.held_out}
    groups: dict[int, list[int]] = defaultdict(list)
    for index in trainable:
        if items[index].cluster not in held_out:
            groups[items[index].cluster].append(index)
    units = list(groups.values())
    result = list(parts)
    for unit, part in zip(units, _deal([len(unit) for unit in units], shares, rng), strict=True):
        for index in unit:
            result[index] = part
    return result
