"""Hard negatives by the rule of FlagEmbedding's hn_mine. Run by recipe_vs_peers.py in its environment: SPEC.

The script itself is in no package of FlagEmbedding's, only in its repository. Its rule: encode with FlagEmbedding's
own model class, rank the pool by inner product (exactly), and draw evenly from a range of ranks whatever is no
positive and not the query itself; a query with too few gets others of the pool at random. What it adds here is a seed.
"""

import json
import random
import sys
from pathlib import Path

import numpy as np
from FlagEmbedding import FlagAutoModel


def main(spec_path: str) -> None:
    spec = json.loads(Path(spec_path).read_text("utf-8"))
    rng = random.Random(spec["seed"])
    rows = [json.loads(line) for line in Path(spec["rows"]).read_text("utf-8").splitlines()]
    pool = list(dict.fromkeys(json.loads(Path(spec["pool"]).read_text("utf-8"))))
    model = FlagAutoModel.from_finetuned(
        spec["model"],
        model_class="encoder-only-base",
        normalize_embeddings=True,
        pooling_method=spec["pooling"],
        use_fp16=spec["device"] != "cpu",
        devices=spec["device"],
        batch_size=64,
        query_max_length=spec["max_tokens"],
        passage_max_length=spec["max_tokens"],
    )
    passages = np.asarray(model.encode(pool), np.float32)
    queries = np.asarray(model.encode_queries([row["query"] for row in rows]), np.float32)
    first, last = spec["range"]
    count = spec["negatives"]
    mined = []
    for row, vector in zip(rows, queries, strict=True):
        forbidden = {*row["pos"], row["query"]}
        ranked = np.argsort(-(passages @ vector), kind="stable")[first:last]
        found = [pool[place] for place in ranked if pool[place] not in forbidden]
        if len(found) > count:
            found = rng.sample(found, count)
        missing = min(count - len(found), len(pool) - len(forbidden))
        if missing > 0:
            others = [text for text in rng.sample(pool, missing + len(forbidden)) if text not in forbidden]
            found += others[:missing]
        mined.append({"query": row["query"], "pos": row["pos"], "neg": found})
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in mined)
    Path(spec["mined"]).write_text("".join(lines), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
