"""The first stage of an index in a LanceDB folder, by LanceDB's own calls and three sums.

    embedfit index --run runs/mine --to lancedb://runs/mine-lance
    python examples/search_lancedb.py runs/mine-lance runs/mine/merged "how do I mute the tv"

It is for a retriever of one vector, windows and words, which is the default, and compares every passage.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import lancedb
import numpy as np

from embedfit import connect


def best(folder: str, model: str, query: str) -> list[tuple[float, str, str]]:
    """(score, id, text) of the ten best passages."""
    question = connect(f"lancedb://{folder}", model).ask(query)
    current = Path(folder) / "current"
    about = json.loads((current / "index.json").read_text("utf-8"))
    tables = lancedb.connect(current)
    total = np.zeros(about["passages"], np.float32)
    for part in about["retriever"]["parts"]:
        raw = np.zeros(len(total), np.float32)
        if part["name"] == "words":  # a row of the table is a term: the passages that hold it, and its weights there
            asked = question.words["words"]
            shares = dict(zip(asked.numbers.tolist(), asked.values.tolist(), strict=True))
            for row in tables.open_table("words").take_offsets(list(shares)).to_list():
                raw[row["passages"]] += np.float32(shares[row["number"]]) * np.array(row["weights"], np.float32)
            raw = np.minimum(raw, 1)
        else:  # several rows a passage: the best one counts
            table = tables.open_table({"one": "passages"}.get(part["name"], part["name"]))
            rows = table.search(question.vector, vector_column_name="vector").distance_type("dot")
            found = rows.select(["number", "_distance"]).limit(table.count_rows()).to_arrow()
            raw -= 1
            np.maximum.at(raw, found["number"].to_numpy(), 1 - found["_distance"].to_numpy())
        total += raw * np.float32(part["weight"] / part["deviation"])
    order = np.argsort(-total, kind="stable")[:10]
    rows = tables.open_table("passages").take_offsets(order.tolist()).select(["number", "id", "text"]).to_list()
    texts = {row["number"]: (row["id"], row["text"]) for row in rows}
    return [(float(total[number]), *texts[number]) for number in order.tolist()]


if __name__ == "__main__":
    for score, name, text in best(*sys.argv[1:]):
        print(f"{score:.3f} {name}: {text[:100]}")
