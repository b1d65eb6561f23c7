"""An index as files that a person reads and loads into OpenSearch with any client.

DIR/index.json            the body of PUT /NAME
DIR/pipeline.json         the body of PUT /_search/pipeline/NAME
DIR/bulk-00000.ndjson …   the bodies of POST /NAME/_bulk
DIR/manifest.json         the facts; DIR/questions.npz: what turns a query into vectors
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from embedfit.index.sinks.conditions import keys_of
from embedfit.index.sinks.folder import checked, export_folder
from embedfit.index.sinks.opensearch.bodies import document, hybrid_body, index_body, pipeline_body, search_body
from embedfit.index.sinks.sink import About, Handover, Question, Row
from embedfit.index.store.filters import Filter

FILES_FORM = "opensearch-files:DIR"
#: A file of documents ends with the one that reaches so many bytes.
_FILE_BYTES = 9 << 20


class OpenSearchFiles:
    """DIR."""

    def __init__(self, url: str) -> None:
        """Raises UsageError if the folder holds anything but an earlier export."""
        self.folder: Path = checked(url, FILES_FORM)

    def write(self, handover: Handover) -> None:
        """Write the folder whole."""
        keys = keys_of(handover.about)
        with export_folder(self.folder, "bulk-00000.ndjson", handover) as first:
            folder = first.parent
            for name, body in (("index", index_body(handover.about)), ("pipeline", pipeline_body(handover.about))):
                (folder / f"{name}.json").write_text(json.dumps(body, indent=1) + "\n", "utf-8")
            number, file = 0, first.open("w", encoding="utf-8")
            try:
                for batch in handover.batches():
                    for row in batch:
                        if not row.number:
                            _write_queries(folder, handover.about, row)
                        if file.tell() >= _FILE_BYTES:
                            file.close()
                            number += 1
                            file = (folder / f"bulk-{number:05}.ndjson").open("w", encoding="utf-8")
                        file.write(json.dumps({"index": {"_id": str(row.number)}}) + "\n")
                        file.write(json.dumps(document(row, keys), ensure_ascii=False, allow_nan=False) + "\n")
            finally:
                file.close()


def _write_queries(folder: Path, about: About, row: Row) -> None:
    vector = np.zeros(about.dimensions, np.float32) if row.vector is None else row.vector
    question = Question(fingerprint=about.fingerprint, vector=vector, words=row.words)
    for name, body in (
        ("query", search_body(about, question, 10, Filter())),
        ("hybrid", hybrid_body(about, question, 10)),
    ):
        (folder / f"{name}.json").write_text(json.dumps(body, indent=1) + "\n", "utf-8")
