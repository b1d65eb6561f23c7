"""The commands `index` and `search`."""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from embedfit.cli import options
from embedfit.cli.options import AsJson
from embedfit.cli.results import IndexBuilt, prints, say_result
from embedfit.display import terminal
from embedfit.display.terminal import say, say_json
from embedfit.errors import UsageError
from embedfit.progress import reporter_for
from embedfit.runtime import Runtime

if TYPE_CHECKING:
    from embedfit.index.search import Hit, Index
    from embedfit.index.sinks.sink import About
    from embedfit.index.store.filters import Filter

_SHOWN = 300
Sink = Annotated[
    str | None,
    typer.Option("--to", help="Hand it over: lancedb://DIR, postgresql://…, qdrant://…, opensearch://…, parquet:DIR …"),
]


@prints("embedfit.cli.results:IndexBuilt")
def index(
    docs: options.Documents = None,
    run_folder: Annotated[Path | None, typer.Option("--run", help="A run folder: index its documents.")] = None,
    to_folder: Annotated[Path | None, typer.Option("--to-folder", help="Where the index of DOCS goes.")] = None,
    model: options.Model = None,
    add: Annotated[list[Path] | None, typer.Option("--add", help="Further documents of the index.")] = None,
    remove: Annotated[list[str] | None, typer.Option("--remove", help="The id of a document to take out.")] = None,
    queries: Annotated[
        list[Path] | None,
        typer.Option("--queries", help="Questions that people asked, one a line or JSONL: they set the constants."),
    ] = None,
    tokens: Annotated[
        bool | None,
        typer.Option("--tokens/--no-tokens", help="Token vectors for the second stage; default: to 50,000 passages."),
    ] = None,
    written: Annotated[
        bool | None,
        typer.Option(
            "--with-queries/--without-queries",
            help="A run's written queries in the index; default: those of a strong writer.",
        ),
    ] = None,
    to: Sink = None,
    workers: options.Workers = options.INLINE,
    ray: options.RayCluster = None,
    force: Annotated[bool, typer.Option("--force", help="Build it although it is up to date.")] = False,
    as_json: AsJson = False,
) -> None:
    """Build the index of documents or of a run, a folder that `search` reads.

    Without a run, nothing is trained and no language model is asked: the retriever adds one vector, windows, words and
    late interaction with fixed weights. It takes seconds to minutes.
    """
    from embedfit.commands.indexing import index_documents, index_run, update_index  # torch
    from embedfit.index.sinks.handover import export
    from embedfit.index.sinks.sink import kind_of, shown

    runtime = options.runtime_for(workers=workers, ray=ray)
    of_documents = bool(docs or add or model or queries)
    _check_index(run_folder, to_folder, of_documents=of_documents, written=written, both=bool(docs and (add or remove)))
    sink = kind_of(to).open(to) if to else None
    if run_folder is not None:
        make = partial(index_run, run_folder, remove=remove or (), written=written)
    elif to_folder is not None and (add or remove):
        changed = partial(update_index, to_folder, add=add or (), remove=remove or ())
        make = partial(changed, model=model, queries=queries or ())
    else:
        make = partial(index_documents, docs or (), folder=to_folder or Path(), model=model, queries=queries or ())
    built = make(tokens=tokens, force=force, runtime=runtime)
    about = export(built, sink, runtime.report) if sink is not None else None
    if as_json:
        place = shown(to) if to else ""
        say_result(IndexBuilt(folder=str(built.stored.folder), passages=len(built), to=place), as_json=True)
        return
    if to and about is not None:
        _say_handed(to, about, built)
    where = f"--run {run_folder}" if run_folder is not None else f"--index {to_folder}"
    say(f'{built.stored.folder}\nNext: embedfit search {where} "what you look for"')


def _say_handed(url: str, about: About, built: Index) -> None:
    """Say what lies where, and how to search it."""
    from embedfit.index.sinks.sink import kind_of, shown

    place = shown(url)
    parts = ", ".join(about.holds)
    say(f"{about.passages:,} passages are in {place}: {parts} (model {about.fingerprint[:12]})")
    if kind_of(url).read is not None:
        model = built.asker.folder.resolve()
        say(
            "To search them from Python:\n  import embedfit\n"
            f'  store = embedfit.connect("{place}", model="{model}")\n'
            '  for hit in store.search("what you look for", k=5): print(hit.score, hit.document, hit.text)'
        )
        if place != url:
            say("Write the password or key in the place of ***.")


def _check_index(
    run_folder: Path | None, to_folder: Path | None, *, of_documents: bool, written: bool | None, both: bool
) -> None:
    """Raise UsageError if the options of `index` don't fit together."""
    if (run_folder is None) == (to_folder is None):
        raise UsageError(
            "Name either a run or documents and a folder.",
            remedy="Run: embedfit index --run DIR, or: embedfit index DOCS... --model minilm --to-folder DIR",
        )
    if run_folder is not None and of_documents:
        raise UsageError(
            "Documents, model and questions of a run are its own.", remedy=f"Run: embedfit index --run {run_folder}"
        )
    if to_folder is not None and written:
        raise UsageError(
            "Documents have no written queries.", remedy="Index a run that wrote some: embedfit index --run DIR"
        )
    if both:
        raise UsageError(
            "Documents to index and --add or --remove exclude each other.",
            remedy="To add documents: embedfit index --to-folder DIR --add DOCS",
        )


@prints("embedfit.commands.indexing:SearchResult")
def search(
    query: Annotated[str | None, typer.Argument(help="What you look for.")] = None,
    run_folder: Annotated[Path | None, typer.Option("--run", help="A run folder.")] = None,
    index_folder: Annotated[Path | None, typer.Option("--index", help="A folder of `embedfit index`.")] = None,
    queries: Annotated[Path | None, typer.Option(help="Many queries: plain lines, or JSONL with _id and text.")] = None,
    trec: Annotated[Path | None, typer.Option(help="With --queries: write a TREC run here.")] = None,
    k: Annotated[int | None, typer.Option("-k", help="Passages a query; default 5, with --trec 100.")] = None,
    filters: Annotated[
        list[str] | None,
        typer.Option("--filter", help="lang=de, lang=de|fr, date>=2024-01-01, groups:hr, url=*; several: all of them."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find the best passages for a query, with each one's place, its scores by part, and its rank under the base."""
    from embedfit.asked.reading import read_queries
    from embedfit.commands.indexing import load, load_or_build  # torch
    from embedfit.commands.trec import write_trec
    from embedfit.index.store.filters import filter_of

    runtime = Runtime(report=reporter_for(sys.stderr))
    if (run_folder is None) == (index_folder is None) or (query is None) == (queries is None):
        raise UsageError(
            "Name a run or an index, and a query or a file of queries.",
            remedy='For example: embedfit search --run DIR "how do I …"',
        )
    _check_many(queries, trec, as_json=as_json)
    if k is not None and k < 1:
        raise UsageError(f"-k is {k}; at least one passage must be asked for.", remedy="For example: -k 10")
    where = filter_of(filters)
    asked = read_queries(queries) if queries is not None else []
    opened = load_or_build(run_folder, runtime) if run_folder else load(index_folder or Path())
    if opened.exact_because:
        runtime.report.log(f"Note: {opened.exact_because}")
    if queries is not None:
        assert trec is not None
        lines = write_trec(opened, asked, trec, k=100 if k is None else k, where=where, runtime=runtime)
        say(f"{trec}: {lines:,} lines")
        return
    assert query is not None
    k = 5 if k is None else k
    hits = opened.search(query, k, where=where)
    base = opened.base.search(query, k, where=where)
    if as_json:
        found = {"hits": [asdict(hit) for hit in hits], "base": [asdict(hit) for hit in base]}
        say_json({"query": query, **found, **({} if opened.recall is None else {"recall": opened.recall})})
        return
    _print(opened, query, hits, base)
    if where.conditions and not hits:
        _say_empty(opened, where)


def _check_many(queries: Path | None, trec: Path | None, *, as_json: bool) -> None:
    """Raise UsageError if the options of a search for many queries don't fit together."""
    if queries is None:
        if trec is not None:
            raise UsageError("--trec is for a file of queries.", remedy="Add: --queries FILE, in place of the query")
        return
    if trec is None:
        raise UsageError("--queries writes a TREC run.", remedy=f"Add: --trec {queries.with_suffix('.trec')}")
    if as_json:
        raise UsageError("--queries writes a TREC run and prints no JSON.", remedy="Leave out --json")
    with suppress(OSError):  # a file may be missing, or its path impossible
        if not trec.samefile(queries):
            return
        raise UsageError(f"--trec would overwrite the queries {queries}.", remedy="Name another file for the run.")


def _print(opened: Index, query: str, hits: list[Hit], base: list[Hit]) -> None:
    from embedfit.index.highlight import snippet

    console = terminal.console(unbroken=not sys.stdout.isatty())
    ranks = {hit.passage_id: rank for rank, hit in enumerate(base, 1)}
    for rank, hit in enumerate(hits, 1):
        page = f", page {hit.page}" if hit.page else ""
        heading = f" · {hit.heading}" if hit.heading else ""
        console.print(Text(f"{rank}. {hit.document}{page}{heading}", style="bold"))
        shown, marked = snippet(hit.text, opened.marked(query, hit.text), _SHOWN)
        text = Text(shown)
        for start, stop in marked:
            text.stylize("bold yellow", start, stop)
        console.print(text)
        console.print(Text(f"   {_why(hit)}; {_beside(ranks.get(hit.passage_id), len(base))}\n", style="dim"))


def _say_empty(opened: Index, where: Filter) -> None:
    """Say that no passage was found, and which values the named fields have."""
    catalogue = opened.stored.catalogue
    allowed = catalogue.allowed(where)
    if allowed is not None and allowed.any():
        say(f"No passage was found among the {int(allowed.sum()):,} that meet {where}.")
        return
    say(f"No passage meets {where}.")
    for name in dict.fromkeys(condition.field for condition in where.conditions):
        values = ", ".join(f"{value} ({count:,})" for value, count in catalogue.values(name, most=10))
        say(f"{name}: {values}")


def _why(hit: Hit) -> str:
    given = ", ".join(f"{name} {value:+.2f}" for name, value in hit.parts.items())
    return f"{hit.passage_id}, score {hit.score:.2f} ({given})"


def _beside(rank: int | None, shown: int) -> str:
    return f"the base has it at {rank}" if rank else f"not among the base's first {shown}"
