"""Passages as lines of JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from embedfit.index.sinks.folder import checked, export_folder
from embedfit.index.sinks.sink import About, Row, SinkKind
from embedfit.numerics.arrays import Floats

_FORM = "jsonl:DIR"


@dataclass(frozen=True, slots=True)
class JsonLines:
    """DIR/passages.jsonl, an object a passage, and DIR/manifest.json."""

    folder: Path

    def write(self, about: About, batches: Iterable[list[Row]]) -> None:
        """Write the folder whole."""
        with export_folder(self.folder, "passages.jsonl", about) as path, path.open("w", encoding="utf-8") as file:
            for batch in batches:
                for row in batch:
                    value = {
                        "id": row.id,
                        "document": row.document,
                        "title": row.title,
                        "text": row.text,
                        "page": row.page,
                        "vector": _listed(row.vector),
                        "windows": _listed(row.windows),
                        "metadata": dict(row.metadata),
                    }
                    file.write(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n")


def _listed(vectors: Floats | None) -> object:
    return None if vectors is None else vectors.tolist()


SINK = SinkKind(form=_FORM, open=lambda rest: JsonLines(checked(rest, _FORM)))
