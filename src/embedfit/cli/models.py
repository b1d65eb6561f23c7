"""The commands for models: `benchmark`, `compare`, `encode`, `merge-models` and `push`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from embedfit.cli.options import AsJson, LedgerPath, RunFolder, Yes, runtime_for
from embedfit.cli.results import ModelPushed, ModelsMixed, VectorsWritten, print_systems, prints, say_result
from embedfit.config import WINDOW_TOKENS
from embedfit.display import terminal
from embedfit.display.terminal import say
from embedfit.errors import UsageError
from embedfit.files.atomic import atomic_file
from embedfit.path.workspace import Workspace, encode_whole
from embedfit.progress import reporter_for

WindowTokens = Annotated[int, typer.Option(min=16, help="Tokens of a window, with --windows.")]

Convention = Annotated[
    Literal["sentence-transformers", "trec_eval"],
    typer.Option(help="How ties, grades and MAP are counted; BEIR's numbers are trec_eval's."),
]


@prints("embedfit.evaluation.benchmark:BenchmarkResult")
def benchmark(
    models: Annotated[list[str], typer.Argument(help="Models, bm25, titan-v2, tei:URL, openai:URL#MODEL, …")],
    beir: Annotated[Path, typer.Option(help="A folder with corpus.jsonl, queries.jsonl and qrels/test.tsv.")],
    windows: Annotated[
        bool, typer.Option("--windows", help="Each model also with a vector for every window of a passage.")
    ] = False,
    window_tokens: WindowTokens = WINDOW_TOKENS,
    convention: Convention = "sentence-transformers",
    out: Annotated[Path | None, typer.Option("--json", help="Write the result here as JSON.")] = None,
    ledger: LedgerPath = None,
    yes: Yes = False,
) -> None:
    """Compare any models, and BM25, on a BEIR folder."""
    from embedfit.evaluation.benchmark import benchmark as run_benchmark  # torch

    result = run_benchmark(
        models,
        beir,
        runtime=runtime_for(ledger=ledger, yes=yes),
        windows=windows,
        window_tokens=window_tokens,
        convention=convention,
    )
    if out is not None:
        with atomic_file(out) as file:
            file.write(encode_whole(result))
    print_systems(result.systems)


@prints("embedfit.comparing.compare:ComparedRecord")
def compare(
    systems: Annotated[
        list[str], typer.Argument(help="Models, bm25, hybrid:MODEL, …; TREC runs; scores.jsonl#SYSTEM of a run.")
    ],
    beir: Annotated[Path, typer.Option(help="A folder with corpus.jsonl, queries.jsonl and qrels/test.tsv.")],
    per_query: Annotated[Path | None, typer.Option("--per-query", help="Write a line a query here, as TSV.")] = None,
    mteb: Annotated[Path | None, typer.Option("--mteb", help="Write results in MTEB's format to this folder.")] = None,
    missing: Annotated[
        Literal["error", "zero", "skip"],
        typer.Option(help="Queries that a saved run lacks: an error, 0 for that run, or left out for all."),
    ] = "error",
    convention: Convention = "sentence-transformers",
    ledger: LedgerPath = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Compare models and saved runs pair by pair: differences, intervals, and p-values corrected for all pairs."""
    from embedfit.comparing.compare import compare as run_compare  # torch
    from embedfit.comparing.mteb import write_mteb

    runtime = runtime_for(ledger=ledger, yes=yes)
    found = run_compare(systems, beir, runtime=runtime, convention=convention, missing=missing)
    if per_query is not None:
        found.per_query(per_query)
    files, without = write_mteb(found, beir, mteb) if mteb is not None else ([], [])
    for name in without:
        runtime.report.log(f"Note: {name} holds metrics and no rankings, so it has no result in MTEB's format")
    if as_json:
        say(found.as_json().rstrip())
        return
    found.print_to(terminal.console())
    for path in (*([per_query] if per_query else []), *files):
        say(f"{path}")


@prints("embedfit.cli.results:VectorsWritten")
def encode(
    model: Annotated[str, typer.Argument(help="A model's name, hub id or folder.")],
    source: Annotated[Path, typer.Option("--input", help="Texts, one a line, or JSONL with a field text.")],
    output: Annotated[Path, typer.Option(help="The vectors: .npy, float32, one row a text.")],
    query: Annotated[
        bool, typer.Option("--query", help="The texts are queries: put the instruction before them.")
    ] = False,
    windows: Annotated[
        bool, typer.Option("--windows", help="A vector for every window of a passage, the best of which counts.")
    ] = False,
    window_tokens: WindowTokens = WINDOW_TOKENS,
    as_json: AsJson = False,
) -> None:
    """Encode texts: write their vectors to a file."""
    from embedfit.models.store.files import encode_file, encode_windows  # torch

    if windows and query:
        raise UsageError("--query and --windows exclude each other.", remedy="Queries are short: leave --windows out.")
    report = reporter_for(sys.stderr)
    if windows:
        count, size = encode_windows(model, source, output, max_tokens=window_tokens, report=report)
    else:
        count, size = encode_file(model, source, output, is_query=query, report=report)
    beside = str(output.with_suffix(".windows.jsonl")) if windows else ""
    lines = [f"{output}: {count} vectors of {size} dimensions", f"{beside}: the passage and the text of each"]
    written = VectorsWritten(file=str(output), vectors=count, dimensions=size, windows=beside)
    say_result(written, *lines[: 2 if windows else 1], as_json=as_json)


@prints("embedfit.cli.results:ModelsMixed")
def merge_models(
    models: Annotated[
        list[Path], typer.Argument(help="Model folders of one architecture; the first gives the tokenizer.")
    ],
    output: Annotated[Path, typer.Option(help="The folder of the result.")],
    weights: Annotated[str | None, typer.Option(help="One a model, such as 0.3,0.7; they sum to 1.")] = None,
    examples: Annotated[
        Path | None, typer.Option(help="FlagEmbedding JSONL: weights from each model's loss on it.")
    ] = None,
    temperature: Annotated[float, typer.Option(help="Of the softmax over losses; LM-Cocktail's own is 5.")] = 5.0,
    as_json: AsJson = False,
) -> None:
    """Mix two or more models in LM-Cocktail's manner, by given weights or by example data."""
    from embedfit.merging.cocktail import mix  # torch

    given = [float(part) for part in weights.split(",")] if weights else None
    used = mix(
        models, output, weights=given, examples=examples, temperature=temperature, report=reporter_for(sys.stderr)
    )
    weight = {str(path): share for path, share in zip(models, used, strict=True)}
    shares = ", ".join(f"{Path(path).name} {share:.3f}" for path, share in weight.items())
    say_result(ModelsMixed(folder=str(output), weights=weight), f"{output}: {shares}", as_json=as_json)


@prints("embedfit.cli.results:ModelPushed")
def push(
    run_folder: RunFolder,
    repo: Annotated[str, typer.Argument(help="owner/name on the Hugging Face hub.")],
    private: Annotated[bool, typer.Option(help="Make the repository private.")] = True,
    as_json: AsJson = False,
) -> None:
    """Upload the merged model and its card to the Hugging Face hub."""
    from embedfit.reporting.push import push as run_push  # huggingface_hub

    url = run_push(Workspace(run_folder), repo, private=private, report=reporter_for(sys.stderr))
    say_result(ModelPushed(url=url), url, as_json=as_json)
