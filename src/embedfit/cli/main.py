"""The command line: parse, call, print."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from embedfit import __version__
from embedfit.cli.deploy import app as deploy_app
from embedfit.cli.forget import forget as forget_command
from embedfit.cli.grade import grade as grade_command
from embedfit.cli.index import index as index_command
from embedfit.cli.index import search as search_command
from embedfit.cli.serve import export as export_command
from embedfit.cli.serve import serve as serve_command
from embedfit.commands import runs
from embedfit.config import WINDOW_TOKENS
from embedfit.display import terminal
from embedfit.display.terminal import say, say_json, shown
from embedfit.errors import EmbedfitError, UsageError
from embedfit.path.freshness import all_freshness
from embedfit.path.workspace import Workspace, atomic_file
from embedfit.progress import Silent, duration, reporter_for
from embedfit.runtime import Runtime

NOT_BETTER = 3
INTERRUPTED = 130

app = typer.Typer(
    name="embedfit",
    help="Documents in, a retrieval model that is provably better on them out, with nobody labelling anything.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(deploy_app, name="deploy")
app.command("serve")(serve_command)
app.command("export")(export_command)
app.command("index")(index_command)
app.command("grade")(grade_command)
app.command("search")(search_command)
app.command("forget")(forget_command)

RunFolder = Annotated[Path, typer.Option("--run", help="The run folder.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting, such as train.epochs=2.")]
LedgerPath = Annotated[
    Path | None, typer.Option("--ledger", help="Another file for the ledger of language-model calls.")
]
WindowTokens = Annotated[int, typer.Option(min=16, help="Tokens of a window, with --windows.")]
Yes = Annotated[bool, typer.Option("--yes", help="Go on with paid calls without asking.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON; progress stays on stderr.")]
Preset = Annotated[str | None, typer.Option(help="default, offline or aws-blog; a run keeps its own.")]
Generator = Annotated[
    str | None,
    typer.Option(help="bedrock, bedrock-batch, openai, local, recorded:FILE or a plug-in's; NAME:MODEL."),
]
FollowLinks = Annotated[
    bool | None, typer.Option("--follow-links", help="Read what links in the documents' folders lead to elsewhere.")
]
MaxCost = Annotated[float | None, typer.Option("--max-cost", help="USD, never exceeded.")]
JudgeSpec = Annotated[
    str | None,
    typer.Option(
        "--judge",
        help="Who grades what the candidate retrievers find: bedrock:MODEL, openai:URL#MODEL or recorded:FILE.",
    ),
]
Processes = Annotated[int, typer.Option("--nproc", help="Processes that train.")]
Force = Annotated[bool, typer.Option("--force", help="Do it again although it is up to date.")]


def _runtime(*, ledger: Path | None = None, processes: int = 1, quiet: bool = False) -> Runtime:
    report = Silent() if quiet else reporter_for(sys.stderr)
    confirm: Callable[[str], bool] | None = typer.confirm if sys.stdin.isatty() else None
    return runs.make_runtime(report, ledger=ledger, confirm=confirm, processes=processes)


# --- the whole path


@app.command()
def run(
    docs: Annotated[list[Path] | None, typer.Argument(help="Files, folders, or a BEIR corpus.jsonl.")] = None,
    run_folder: RunFolder = Path("runs/embedfit"),
    eval_docs: Annotated[list[Path] | None, typer.Option("--eval-docs", help="Evaluate on these documents.")] = None,
    eval_beir: Annotated[
        Path | None, typer.Option("--eval-beir", help="Evaluate on human queries in BEIR layout.")
    ] = None,
    queries: Annotated[
        list[Path] | None, typer.Option("--queries", help="Questions that people asked, one a line or JSONL.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="bge-small, bge-base, bge-large, minilm, a hub id or a folder.")
    ] = None,
    generator: Generator = None,
    preset: Preset = None,
    config: Annotated[Path | None, typer.Option(help="A TOML file of settings.")] = None,
    follow_links: FollowLinks = None,
    assignments: Set = None,
    seed: Annotated[int | None, typer.Option(help="For everything that is drawn by chance.")] = None,
    max_cost: MaxCost = None,
    judge: JudgeSpec = None,
    examples: Annotated[Path | None, typer.Option(help="The users' own queries, one a line, for the prompt.")] = None,
    ledger: LedgerPath = None,
    nproc: Processes = 1,
    yes: Yes = False,
    as_json: AsJson = False,
    force: Force = False,
    fail_if_not_better: Annotated[
        bool, typer.Option(help="Exit with 3 if the result is not better than the base.")
    ] = False,
) -> None:
    """The whole path: documents to a measured, merged model and its report.

    What is up to date is not done again; what was interrupted goes on.
    """
    generate = {"generator": generator, "max_cost": max_cost, "examples": str(examples) if examples else None}
    result = runs.run(
        docs or (),
        run=run_folder,
        eval_docs=eval_docs or (),
        eval_beir=eval_beir,
        queries=queries or (),
        preset=preset,
        settings={
            "model": model,
            "seed": seed,
            "ingest": {"follow_links": True} if follow_links else None,
            "generate": {key: value for key, value in generate.items() if value is not None} or None,
            "choose": {"judge": judge} if judge else None,
        },
        config=config,
        assignments=assignments or (),
        yes=yes,
        force=force,
        runtime=_runtime(ledger=ledger, processes=nproc),
    )
    _show(result, as_json=as_json)
    if fail_if_not_better and not is_better(result.summary):
        raise typer.Exit(NOT_BETTER)


@app.command()
def ingest(
    docs: Annotated[list[Path], typer.Argument(help="Files, folders, or a BEIR corpus.jsonl.")],
    run_folder: RunFolder = Path("runs/embedfit"),
    eval_docs: Annotated[list[Path] | None, typer.Option("--eval-docs", help="Evaluate on these documents.")] = None,
    eval_beir: Annotated[
        Path | None, typer.Option("--eval-beir", help="Evaluate on human queries in BEIR layout.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Whose window the passages must fit.")] = None,
    preset: Preset = None,
    config: Annotated[Path | None, typer.Option(help="A TOML file of settings.")] = None,
    follow_links: FollowLinks = None,
    assignments: Set = None,
    force: Force = False,
) -> None:
    """Documents → passages: the first stage alone."""
    runs.run(
        docs,
        run=run_folder,
        eval_docs=eval_docs or (),
        eval_beir=eval_beir,
        preset=preset,
        settings={"model": model, "ingest": {"follow_links": True} if follow_links else None},
        config=config,
        assignments=assignments or (),
        until="ingest",
        force=force,
        runtime=_runtime(),
    )


@app.command()
def generate(
    run_folder: RunFolder,
    generator: Generator = None,
    assignments: Set = None,
    force: Force = False,
    ledger: LedgerPath = None,
    nproc: Processes = 1,
    yes: Yes = False,
) -> None:
    """Passages → queries, by a language model; filtered, with a reason for each dropped one."""
    runs.run_stage(
        "generate",
        run=run_folder,
        settings={"generate": {"generator": generator}} if generator else None,
        assignments=assignments or (),
        force=force,
        yes=yes,
        runtime=_runtime(ledger=ledger, processes=nproc),
    )


def _stage_command(name: str, help_text: str) -> None:
    def command(
        run_folder: RunFolder,
        assignments: Set = None,
        force: Force = False,
        ledger: LedgerPath = None,
        nproc: Processes = 1,
        yes: Yes = False,
    ) -> None:
        runtime = _runtime(ledger=ledger, processes=nproc)
        runs.run_stage(name, run=run_folder, assignments=assignments or (), force=force, yes=yes, runtime=runtime)
        if name == "report":
            say(f"{Workspace(run_folder).path('report.html')}")

    app.command(name, help=help_text)(command)


for _name, _help in (
    ("mine", "Queries → training rows with hard negatives."),
    ("train", "Training rows → fine-tuned model."),
    ("merge", "Fine-tuned model + base → merged model, and the decision what ships."),
    ("check", "Similar and different pairs: are the cosines of the former higher?"),
    ("evaluate", "Every system's scores, against the base and BM25."),
    ("report", "report.html and the model card."),
):
    _stage_command(_name, _help)


@app.command()
def choose(
    run_folder: RunFolder,
    judge: JudgeSpec = None,
    max_cost: MaxCost = None,
    assignments: Set = None,
    force: Force = False,
    ledger: LedgerPath = None,
    yes: Yes = False,
) -> None:
    """Which retriever ships, and on what evidence."""
    named: dict[str, dict[str, Any]] = {"choose": {"judge": judge}, "generate": {"max_cost": max_cost}}
    runs.run_stage(
        "choose",
        run=run_folder,
        settings={group: values for group, values in named.items() if None not in values.values()},
        assignments=assignments or (),
        force=force,
        yes=yes,
        runtime=_runtime(ledger=ledger),
    )


@app.command()
def status(run_folder: RunFolder, ledger: LedgerPath = None, as_json: AsJson = False) -> None:
    """Which stages are fresh, stale, partial or missing, and why; and what was spent."""
    workspace = Workspace(run_folder)
    config = runs.stored_config(workspace)
    found = all_freshness(workspace, config)
    manifests = {name: workspace.read_manifest(name) for name in found}
    cost = runs.cost_so_far(workspace, ledger)
    if as_json:
        seconds = {name: manifest.seconds for name, manifest in manifests.items() if manifest}
        states = {name: one.state for name, one in found.items()}
        why = {name: one.why for name, one in found.items() if one.why}
        say_json({"stages": states, "why": why, "seconds": seconds, "cost": cost})
        return
    table = Table("stage", "state", "time", "finished", "why", box=None, pad_edge=False)
    for name, one in found.items():
        manifest = manifests[name]
        took = duration(manifest.seconds) if manifest else ""
        table.add_row(name, _coloured(one.state), took, manifest.finished if manifest else "", shown(one.why))
    console = terminal.console()
    console.print(table)
    console.print(
        f"cost so far: {cost['calls']:,} calls, {cost['input_tokens']:,} tokens in, "
        f"{cost['output_tokens']:,} out, ${cost['usd']:.2f}",
        highlight=False,
    )


def _coloured(state: str) -> str:
    colour = {"fresh": "green", "stale": "yellow", "partial": "yellow", "missing": "dim"}[state]
    return f"[{colour}]{state}[/]"


@app.command()
def demo(
    run_folder: RunFolder = Path("runs/demo"),
    assignments: Set = None,
    ledger: LedgerPath = None,
    as_json: AsJson = False,
) -> None:
    """The whole path on text that every CPython ships, offline, in minutes."""
    from embedfit.commands.demo import demo as run_demo  # loads the models' stack

    result = run_demo(run_folder, assignments=assignments or (), runtime=_runtime(ledger=ledger))
    _show(result, as_json=as_json)


@app.command()
def sample(
    name: Annotated[str, typer.Argument(help="10k: the filings of Lyft and Uber for 2021.")],
    source: Annotated[Path | None, typer.Option("--from", help="A folder that has the files already.")] = None,
    target: Annotated[Path, typer.Option("--to", help="Where to put them.")] = Path("data"),
) -> None:
    """Fetch and verify sample documents."""
    from embedfit.corpus.sources.sample import fetch  # readers are slow to import

    for path in fetch(name, to=target, source=source, report=reporter_for(sys.stderr)):
        say(f"{path}")


# --- models


@app.command()
def benchmark(
    models: Annotated[list[str], typer.Argument(help="Models, bm25, titan-v2, tei:URL, openai:URL#MODEL, …")],
    beir: Annotated[Path, typer.Option(help="A folder with corpus.jsonl, queries.jsonl and qrels/test.tsv.")],
    windows: Annotated[
        bool, typer.Option("--windows", help="Each model also with a vector for every window of a passage.")
    ] = False,
    window_tokens: WindowTokens = WINDOW_TOKENS,
    convention: Annotated[
        Literal["sentence-transformers", "trec_eval"],
        typer.Option(help="How ties, grades and MAP are counted; BEIR's numbers are trec_eval's."),
    ] = "sentence-transformers",
    out: Annotated[Path | None, typer.Option("--json", help="Write the result here as JSON.")] = None,
    ledger: LedgerPath = None,
    yes: Yes = False,
) -> None:
    """Any models, and BM25, side by side on any BEIR folder."""
    from embedfit.evaluation.benchmark import benchmark as run_benchmark  # torch

    runtime = _runtime(ledger=ledger)
    result = run_benchmark(
        models,
        beir,
        runtime=runs.with_consent(runtime, yes),
        windows=windows,
        window_tokens=window_tokens,
        convention=convention,
    )
    if out is not None:
        with atomic_file(out) as file:
            file.write(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    print_systems(result["systems"])


@app.command()
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
) -> None:
    """Texts → vectors."""
    from embedfit.models.store.files import encode_file, encode_windows  # torch

    if windows and query:
        raise UsageError("--query and --windows exclude each other.", remedy="Queries are short: leave --windows out.")
    report = reporter_for(sys.stderr)
    if windows:
        count, size = encode_windows(model, source, output, max_tokens=window_tokens, report=report)
    else:
        count, size = encode_file(model, source, output, is_query=query, report=report)
    say(f"{output}: {count} vectors of {size} dimensions")
    if windows:
        say(f"{output.with_suffix('.windows.jsonl')}: the passage and the text of each")


@app.command()
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
) -> None:
    """Mix two or more models in LM-Cocktail's manner, by given weights or by example data."""
    from embedfit.merging.cocktail import mix  # torch

    given = [float(part) for part in weights.split(",")] if weights else None
    used = mix(
        models, output, weights=given, examples=examples, temperature=temperature, report=reporter_for(sys.stderr)
    )
    shares = ", ".join(f"{path.name} {share:.3f}" for path, share in zip(models, used, strict=True))
    say(f"{output}: {shares}")


@app.command()
def push(
    run_folder: RunFolder,
    repo: Annotated[str, typer.Argument(help="owner/name on the Hugging Face hub.")],
    private: Annotated[bool, typer.Option(help="Make the repository private.")] = True,
) -> None:
    """Upload the merged model and its card to the Hugging Face hub."""
    from embedfit.reporting.push import push as run_push  # huggingface_hub

    say(run_push(Workspace(run_folder), repo, private=private, report=reporter_for(sys.stderr)))


# --- data, money, machine


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(metavar="FROM", help="A file or folder in one of the three formats.")],
    target: Annotated[
        Path, typer.Argument(metavar="TO", help=".jsonl FlagEmbedding, .json LlamaIndex, a folder BEIR.")
    ],
) -> None:
    """Between FlagEmbedding JSONL, LlamaIndex EmbeddingQAFinetuneDataset JSON and BEIR."""
    from embedfit.files.interchange import convert as run_convert

    say(f"{run_convert(source, target)}")


@app.command()
def doctor(
    model: Annotated[
        str | None, typer.Argument(help="A model: show its modules and what is put before texts, instead.")
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="sentence-transformers: compare the model's vectors with its; 1 if they differ.")
    ] = None,
    aws: Annotated[
        bool, typer.Option("--aws", help="Also identity, role, model access, bucket, image, quota.")
    ] = False,
    region: Annotated[str | None, typer.Option(help="AWS region.")] = None,
    as_json: AsJson = False,
) -> None:
    """Hardware, packages, models, credentials: what works, what does not, and the fix."""
    if model is not None:
        _doctor_model(model, against, as_json=as_json)
        return
    if against is not None:
        raise UsageError("--against compares a model, and none is named.", remedy="embedfit doctor MODEL --against …")
    from embedfit.commands.doctor import diagnose  # torch

    findings = diagnose(aws=aws, region=region)
    if as_json:
        say_json([finding.as_dict() for finding in findings])
    else:
        table = Table("", "what", "found", "fix", box=None, pad_edge=False)
        marks = {"ok": "[green]ok[/]", "warning": "[yellow]![/]", "missing": "[red]no[/]"}
        for finding in findings:
            table.add_row(marks[finding.state], finding.what, shown(finding.found), shown(finding.fix))
        terminal.console().print(table)
    if any(finding.state == "missing" and finding.required for finding in findings):
        raise typer.Exit(1)


def _doctor_model(model: str, against: str | None, *, as_json: bool) -> None:
    from embedfit.models.layout.proof import SENTENCE_TRANSFORMERS, examine  # torch

    if against not in (None, SENTENCE_TRANSFORMERS):
        raise UsageError(f"--against {against} is not known.", remedy=f"Use --against {SENTENCE_TRANSFORMERS}")
    found = examine(model, compare=against is not None)
    if as_json:
        say_json(found.as_dict())
    else:
        say("\n".join(found.lines()))
    if found.comparison is not None and not found.comparison.same:
        raise typer.Exit(1)


ledger_app = typer.Typer(help="The ledger of language-model calls.", no_args_is_help=True)
app.add_typer(ledger_app, name="ledger")


@ledger_app.command("list")
def ledger_list(ledger: LedgerPath = None, as_json: AsJson = False) -> None:
    """Calls, tokens and cost by provider and model."""
    rows = runs.ledger_totals(ledger)
    if as_json:
        say_json(rows)
        return
    table = Table("provider", "model", "calls", "tokens in", "tokens out", "USD", box=None, pad_edge=False)
    for row in rows:
        numbers = (f"{row['calls']:,}", f"{row['input_tokens']:,}", f"{row['output_tokens']:,}", f"{row['usd']:.2f}")
        table.add_row(shown(row["provider"]), shown(row["model"]), *numbers)
    terminal.console().print(table)


@ledger_app.command("export")
def ledger_export(target: Annotated[Path, typer.Argument(help="A JSONL file.")], ledger: LedgerPath = None) -> None:
    """Every call with its request and reply, as JSONL."""
    say(f"{target}: {runs.ledger_export(target, ledger)} calls")


# --- printing


def is_better(summary: dict[str, Any]) -> bool:
    """Whether something other than the base ships and the evaluation does not contradict it."""
    if summary["decision"]["ship"] == "base":
        return False
    deltas = [
        row["delta"]
        for row in summary["comparisons"]
        if row["a"] == "merged" and row["b"] == "base" and row["metric"] == "ndcg@10"
    ]
    return all(delta > 0 for delta in deltas)


def print_systems(systems: dict[str, Any], console: Console | None = None) -> None:
    """The table of systems with nDCG@10 and its interval first. It fits a terminal of 80 columns."""
    metrics = ("hit@1", "hit@5", "mrr@10", "recall@100")
    table = Table(box=None, pad_edge=False)
    table.add_column("system", overflow="fold")
    for heading in ("nDCG@10", "95% CI", "hit@1", "hit@5", "MRR@10", "R@100"):
        table.add_column(heading, no_wrap=True, justify="right")
    for name, system in systems.items():
        low, high = system["ci95"]["ndcg@10"]
        values = [f"{system['metrics'][metric]:.3f}" for metric in metrics]
        table.add_row(shown(name), f"{system['metrics']['ndcg@10']:.3f}", f"{low:.3f}–{high:.3f}", *values)
    (console or terminal.console()).print(table)


def _show(result: runs.RunResult, *, as_json: bool) -> None:
    summary = result.summary
    if as_json:
        say_json(summary)
        return
    from embedfit.reporting.lead import lead_lines

    console = terminal.console()
    print_systems(summary["systems"], console)
    console.print()
    for line in lead_lines(summary, str(result.folder)):
        console.print(shown(line), highlight=False)
    console.print(f"Report: {shown(str(result.report))}", highlight=False, soft_wrap=True)
    console.print(f"Model:  {shown(str(result.model))}", highlight=False, soft_wrap=True)


@app.callback(invoke_without_command=True)
def version(show: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Documents in, a retrieval model that is provably better on them out."""
    if show:
        say(f"embedfit {__version__}")
        raise typer.Exit


class _Signals:
    """Ctrl-C and a polite kill: both stop the work as KeyboardInterrupt, so that what is there is kept."""

    def __init__(self) -> None:
        self.received = False

    def __enter__(self) -> _Signals:
        self._previous = {number: signal.signal(number, self._receive) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: object) -> None:
        self.received = True
        raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line. Errors become one message with its remedy, and an exit code."""
    terminal.prepare()
    with _Signals() as signals:
        try:
            try:
                app(args=arguments, standalone_mode=True)
            finally:
                terminal.flush()
        except EmbedfitError as error:
            terminal.console(stderr=True).print(f"[red]Error:[/] {shown(str(error))}", highlight=False, soft_wrap=True)
            sys.exit(error.exit_code)
        except BrokenPipeError:
            # The reader of our output is gone (| head); nothing is left to say.
            terminal.drop_output()
            sys.exit(1)
        except SystemExit:
            if not signals.received:
                raise
            terminal.write_line(sys.stderr, "Interrupted. The same command goes on where it was.")
            sys.exit(INTERRUPTED)
