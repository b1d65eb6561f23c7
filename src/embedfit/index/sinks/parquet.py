"""Passages as a Parquet file, which databases and data frames read."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from embedfit.errors import MissingDependency
from embedfit.index.sinks.folder import checked, export_folder
from embedfit.index.sinks.sink import Handover, Row, SinkKind
from embedfit.numerics.arrays import Floats

_FORM, _EXTRA = "parquet:DIR", "stores"


@dataclass(frozen=True, slots=True)
class Parquet:
    """DIR/passages.parquet, a row a passage, with DIR/manifest.json, which the file also holds under "embedfit".

    Columns: id, document, title, text, metadata (a JSON object as text, because a field may have values of several
    types), page, vector (fixed_size_list<float>), windows and queries (lists of such vectors), tokens (the bytes of
    the token vectors, row by row), and for each part of words the terms' numbers and their weights, NAME.numbers and
    NAME.values.
    """

    folder: Path

    def write(self, handover: Handover) -> None:
        """Write the folder whole, one row group for each batch."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        about = handover.about
        vector = pa.list_(pa.float32(), about.dimensions) if about.dimensions else pa.null()
        types = [(name, pa.string()) for name in ("id", "document", "title", "text", "metadata")]
        types += [("page", pa.int32()), ("vector", vector)]
        types += [(name, pa.list_(vector)) for name in ("windows", "queries") if name in about.holds]
        types += [("tokens", pa.binary())] if "tokens" in about.holds else []
        for name in about.terms:
            types += [(f"{name}.numbers", pa.list_(pa.int32())), (f"{name}.values", pa.list_(pa.float32()))]
        schema = pa.schema(types, metadata={"embedfit": about.model_dump_json()})

        def lists(rows: Sequence[np.ndarray], values: pa.Array) -> pa.Array:
            return pa.ListArray.from_arrays(np.cumsum([0, *map(len, rows)]), values)

        def vectors(rows: Sequence[Floats]) -> pa.Array:
            return pa.FixedSizeListArray.from_arrays(pa.array(np.concatenate(rows).ravel()), type=vector)

        def columns(batch: Sequence[Row]) -> Iterator[pa.Array]:
            for name in ("id", "document", "title", "text"):
                yield pa.array([getattr(row, name) for row in batch], pa.string())
            yield pa.array([json.dumps(dict(row.metadata), ensure_ascii=False) for row in batch])
            yield pa.array([row.page for row in batch], pa.int32())
            given = [row.vector for row in batch if row.vector is not None]
            yield vectors(given) if given else pa.nulls(len(batch))
            for several in ([row.windows for row in batch], [row.queries for row in batch]):
                there = [one for one in several if one is not None]
                if there:
                    yield lists(there, vectors(there))
            if "tokens" in about.holds:
                yield pa.array([row.tokens.tobytes() if row.tokens is not None else None for row in batch], pa.binary())
            for name in about.terms:
                numbers = [row.words[name].numbers for row in batch]
                yield lists(numbers, pa.array(np.concatenate(numbers).astype(np.int32)))
                yield lists(numbers, pa.array(np.concatenate([row.words[name].values for row in batch])))

        with (
            export_folder(self.folder, "passages.parquet", handover) as path,
            pq.ParquetWriter(path, schema, compression="zstd") as writer,
        ):
            for batch in handover.batches():
                writer.write_batch(pa.record_batch(list(columns(batch)), schema=schema))


def _open(url: str) -> Parquet:
    if importlib.util.find_spec("pyarrow") is None:
        raise MissingDependency("pyarrow", extra=_EXTRA, needed_for="A Parquet file")
    return Parquet(checked(url, _FORM))


SINK = SinkKind(form=_FORM, open=_open, extra=_EXTRA)
