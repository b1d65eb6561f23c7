"""The protocol of a sink, and the export of an index into one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from embedfit import plugins
from embedfit.errors import UsageError
from embedfit.index.search import Index
from embedfit.numerics.arrays import Floats
from embedfit.path.artefacts import Value
from embedfit.progress import Reporter

#: Entry points of this group name a SinkKind as "module:NAME"; the entry point's name comes before the colon of --to.
GROUP = "embedfit.sinks"
#: A batch ends with the row that reaches so many bytes, or so many rows.
BATCH_BYTES, BATCH_ROWS = 8 << 20, 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A passage of an index.

    vector: (H,) of unit length; None in an index of words alone. windows: (W, H), a vector for each window of the
    passage, at least one; None if the index has no windows.
    """

    id: str
    document: str
    title: str
    text: str
    page: int
    vector: Floats | None
    windows: Floats | None
    metadata: Mapping[str, Value]

    @property
    def nbytes(self) -> int:
        """About how much memory it takes."""
        vectors = sum(one.nbytes for one in (self.vector, self.windows) if one is not None)
        return vectors + 4 * (len(self.text) + len(self.title)) + 100 * len(self.metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """Facts that hold for all rows.

    model: the name that the user gave. fingerprint: hash of its weights, tokenizer and layout; vectors with different
    fingerprints can't be compared. instruction: the text put before queries. dimensions: 0 if there are no vectors.
    """

    model: str
    fingerprint: str
    instruction: str
    dimensions: int
    windows: bool
    passages: int


class Sink(Protocol):
    """A place for the passages of an index."""

    def write(self, about: About, batches: Iterable[list[Row]]) -> None:
        """Replace the rows of an earlier export by these. If something fails, the earlier ones stay.

        Batches are made one by one as the sink takes them, because all at once may not fit into memory.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkKind:
    """One kind of sink.

    Its module imports heavy packages only inside `open`.

    form: an example of --to. open: makes a sink from the text after the colon; it raises UsageError for a text of
    another form and MissingDependency that names the extra. extra: the extra of embedfit that installs the packages
    it needs; "" if it needs none.
    """

    form: str
    open: Callable[[str], Sink]
    extra: str = ""


def open_sink(spec: str) -> Sink:
    """The sink that --to names, such as parquet:DIR. Raises UsageError that lists the known sinks."""
    name, colon, rest = spec.partition(":")
    if not colon or name not in plugins.places(GROUP):
        kinds = [one.record for _, one in sorted(plugins.table(GROUP, SinkKind).items())]
        forms = ", ".join(
            f"{kind.form} (needs pip install 'embedfit[{kind.extra}]')" if kind.extra else kind.form for kind in kinds
        )
        raise UsageError(
            f"{spec!r} names no place for an index.",
            remedy=f"Use one of: {forms}; or install the package that brings another.",
        )
    return plugins.find(GROUP, name, SinkKind).open(rest)


def export(index: Index, sink: Sink, report: Reporter, *, batch_rows: int = BATCH_ROWS) -> About:
    """Put the passages of an index into a sink, in batches of at most BATCH_BYTES and so many rows."""
    parts, model = index.parts, index.stored.model
    about = About(
        model=model.name,
        fingerprint=model.key,
        instruction=model.instruction,
        dimensions=0 if parts.one is None else parts.one.shape[1],
        windows=parts.windows is not None,
        passages=len(index),
    )
    with report.task("index: passages are handed over", len(index), "passages") as task:

        def batches() -> Iterator[list[Row]]:
            batch: list[Row] = []
            size = 0
            for number in range(len(index)):
                batch.append(_row(index, number))
                size += batch[-1].nbytes
                if size >= BATCH_BYTES or len(batch) == batch_rows or number == len(index) - 1:
                    yield batch
                    task.advance(len(batch))
                    batch, size = [], 0

        sink.write(about, batches())
    return about


def _row(index: Index, number: int) -> Row:
    passage, parts = index.passage(number), index.parts
    vector = None if parts.one is None else np.asarray(parts.one[number], np.float32)
    windows = None
    if parts.windows is not None:
        starts = parts.windows.starts
        windows = np.asarray(parts.windows.vectors[starts[number] : starts[number + 1]], np.float32)
        if not len(windows) and vector is not None:
            windows = vector[None]  # a passage of one window: the index holds its vector only once
    return Row(
        id=passage.passage_id,
        document=passage.document_id,
        title=passage.title,
        text=passage.text,
        page=passage.page,
        vector=vector,
        windows=windows,
        metadata=index.stored.catalogue.of(number),
    )
