"""Passages as lines of JSON."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path

from embedfit.index.sinks.folder import checked, export_folder
from embedfit.index.sinks.sink import Handover, Row, SinkKind
from embedfit.numerics.arrays import Floats

_FORM = "jsonl:DIR"


@dataclass(frozen=True, slots=True)
class JsonLines:
    """DIR/passages.jsonl, an object a passage, with DIR/manifest.json and DIR/questions.npz."""

    folder: Path

    def write(self, handover: Handover) -> None:
        """Write the folder whole."""
        with export_folder(self.folder, "passages.jsonl", handover) as path, path.open("w", encoding="utf-8") as file:
            for batch in handover.batches():
                for row in batch:
                    file.write(json.dumps(_object(row), ensure_ascii=False, allow_nan=False) + "\n")


def _object(row: Row) -> dict[str, object]:
    """words: terms' numbers and weights. tokens: their bytes in base64, row by row."""
    return {
        "id": row.id,
        "document": row.document,
        "title": row.title,
        "text": row.text,
        "page": row.page,
        "vector": _listed(row.vector),
        "windows": _listed(row.windows),
        "queries": _listed(row.queries),
        "words": {
            name: {"numbers": one.numbers.tolist(), "values": one.values.tolist()} for name, one in row.words.items()
        },
        "tokens": None if row.tokens is None else base64.b64encode(row.tokens.tobytes()).decode("ascii"),
        "metadata": dict(row.metadata),
    }


def _listed(vectors: Floats | None) -> object:
    return None if vectors is None else vectors.tolist()


SINK = SinkKind(form=_FORM, open=lambda url: JsonLines(checked(url, _FORM)))
