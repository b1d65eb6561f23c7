"""The first stage of an index in Qdrant, as one query of its own: what an application in any language sends.

    embedfit index --run runs/mine --to qdrant://localhost:6333/mine
    python examples/search_qdrant.py qdrant://localhost:6333/mine runs/mine/merged "how do I mute the tv"

It is for a retriever of one vector, windows and words, which is the default. Weights and deviations come from Qdrant.
LIMIT passages of each part are added up; with exact=True and a LIMIT of all passages, the result is exact. Without
exact=True Qdrant uses its approximate index, which is what a large collection needs.
"""

from __future__ import annotations

import json
import sys
from urllib.parse import urlsplit

from qdrant_client import QdrantClient, models

from embedfit import connect

LIMIT = 10_000


def best(url: str, model: str, query: str) -> list[tuple[float, str, str]]:
    """(score, id, text) of the ten best passages."""
    with connect(url, model) as store:
        question = store.ask(query)
    words = question.words["words"]
    queries = {
        "one": question.vector.tolist(),
        "windows": [question.vector.tolist()],  # a multivector: the best of a passage's windows counts
        "words": models.SparseVector(indices=words.numbers.tolist(), values=words.values.tolist()),
    }
    place = urlsplit(url)
    client, name = QdrantClient(host=place.hostname, port=place.port, check_compatibility=False), place.path.strip("/")
    facts = client.retrieve(f"{name}_about", [0])[0].payload
    parts = json.loads(facts["about"])["retriever"]["parts"]
    if not len(words.numbers):  # no passage holds one of the query's words
        parts = [part for part in parts if part["name"] != "words"]
    exact = models.SearchParams(exact=True)
    found = client.query_points(
        name,
        prefetch=[
            models.Prefetch(query=queries[part["name"]], using=part["name"], limit=LIMIT, params=exact)
            for part in parts
        ],
        query=models.FormulaQuery(
            formula=models.SumExpression(
                sum=[
                    models.MultExpression(mult=[part["weight"] / part["deviation"], f"$score[{place}]"])
                    for place, part in enumerate(parts)
                ]
            )
        ),
        limit=10,
        with_payload=["id", "text"],
    )
    client.close()
    return [(point.score, point.payload["id"], point.payload["text"]) for point in found.points]


if __name__ == "__main__":
    for score, name, text in best(*sys.argv[1:]):
        print(f"{score:.3f} {name}: {text[:100]}")
