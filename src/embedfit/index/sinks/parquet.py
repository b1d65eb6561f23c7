"""Passages as a Parquet file, which databases and data frames read."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from embedfit.errors import MissingDependency
from embedfit.index.sinks.folder import checked, export_folder
from embedfit.index.sinks.sink import About, Row, SinkKind
from embedfit.numerics.arrays import Floats

_FORM, _EXTRA = "parquet:DIR", "stores"


@dataclass(frozen=True, slots=True)
class Parquet:
    """DIR/passages.parquet, a row a passage, and DIR/manifest.json, which the file also holds under "embedfit".

    Columns: id, document, title, text, metadata (a JSON object as text, because a field may have values of several
    types), page, vector (fixed_size_list<float>), windows (a list of such vectors).
    """

    folder: Path

    def write(self, about: About, batches: Iterable[list[Row]]) -> None:
        """Write the folder whole, one row group for each batch."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        vector = pa.list_(pa.float32(), about.dimensions) if about.dimensions else pa.null()
        texts = [(name, pa.string()) for name in ("id", "document", "title", "text", "metadata")]
        windows = pa.list_(vector) if about.windows else pa.null()
        schema = pa.schema(
            [*texts, ("page", pa.int32()), ("vector", vector), ("windows", windows)],
            metadata={"embedfit": json.dumps(asdict(about))},
        )

        def vectors(rows: list[Floats]) -> pa.Array:
            return pa.FixedSizeListArray.from_arrays(pa.array(np.concatenate(rows).ravel()), type=vector)

        def columns(batch: list[Row]) -> Iterator[pa.Array]:
            yield pa.array([row.id for row in batch])
            yield pa.array([row.document for row in batch])
            yield pa.array([row.title for row in batch])
            yield pa.array([row.text for row in batch])
            yield pa.array([json.dumps(dict(row.metadata), ensure_ascii=False) for row in batch])
            yield pa.array([row.page for row in batch], pa.int32())
            given = [row.vector for row in batch if row.vector is not None]
            yield vectors(given) if given else pa.nulls(len(batch))
            several = [row.windows for row in batch if row.windows is not None]
            starts = np.cumsum([0, *(len(one) for one in several)])
            yield pa.ListArray.from_arrays(starts, vectors(several)) if several else pa.nulls(len(batch))

        with (
            export_folder(self.folder, "passages.parquet", about) as path,
            pq.ParquetWriter(path, schema, compression="zstd") as writer,
        ):
            for batch in batches:
                writer.write_batch(pa.record_batch(list(columns(batch)), schema=schema))


def _open(rest: str) -> Parquet:
    if importlib.util.find_spec("pyarrow") is None:
        raise MissingDependency("pyarrow", extra=_EXTRA, needed_for="A Parquet file")
    return Parquet(checked(rest, _FORM))


SINK = SinkKind(form=_FORM, open=_open, extra=_EXTRA)
