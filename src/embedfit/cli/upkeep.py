"""The commands that look after things: `doctor`, `drift`, `ledger`, `cache` and `forget`."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from embedfit.cli.options import AsJson, LedgerPath, RunFolder, runtime_for
from embedfit.cli.results import CacheCleaned, CallsExported, Printed, prints, say_result
from embedfit.commands import cache, runs
from embedfit.display import terminal
from embedfit.display.terminal import say, say_json, shown
from embedfit.errors import UsageError


@prints(
    Printed("embedfit.commands.doctor:Diagnosis", many=True),
    Printed("embedfit.models.layout.proof:ExaminationResult", when="with a MODEL"),
)
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
    """Check hardware, packages, models and credentials, and say how to fix what does not work."""
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
    from embedfit.models.sources import resolve_model

    resolve_model(model)  # a model that can't be had is told before torch is loaded
    from embedfit.models.layout.proof import SENTENCE_TRANSFORMERS, examine  # torch

    if against not in (None, SENTENCE_TRANSFORMERS):
        raise UsageError(f"--against {against} is not known.", remedy=f"Use --against {SENTENCE_TRANSFORMERS}")
    found = examine(model, compare=against is not None)
    if as_json:
        say_json(found.as_dict())
    else:
        say("\n".join(found.lines()))
    if not found.same:
        raise typer.Exit(1)


@prints("embedfit.commands.drift:DriftResult")
def drift(
    run: RunFolder,
    queries: Annotated[list[Path], typer.Option("--queries", help="New questions: one a line, or JSONL.")],
    documents: Annotated[
        list[Path] | None, typer.Option("--documents", help="New documents, to compare their passages too.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say whether new questions or documents still look like those of a run. Exit code 3 if they do not."""
    from embedfit.commands.drift import drift as compare  # torch

    found = compare(run, queries=queries, documents=documents or (), runtime=runtime_for())
    if as_json:
        say_json(found.as_json())
    else:
        say("\n".join(found.sentences()))
    if found.has_drifted:
        raise typer.Exit(3)


ledger_app = typer.Typer(help="The ledger of language-model calls.", no_args_is_help=True)


@ledger_app.command("list")
@prints(Printed("embedfit.llm.ledger.rows:ModelTotals", many=True))
def ledger_list(ledger: LedgerPath = None, as_json: AsJson = False) -> None:
    """Calls, tokens and cost by provider and model."""
    rows = runs.ledger_totals(ledger)
    if as_json:
        say_json([asdict(row) for row in rows])
        return
    table = Table("provider", "model", "calls", "tokens in", "tokens out", "USD", box=None, pad_edge=False)
    for row in rows:
        numbers = (f"{row.calls:,}", f"{row.input_tokens:,}", f"{row.output_tokens:,}", f"{row.usd:.2f}")
        table.add_row(shown(row.provider), shown(row.model), *numbers)
    terminal.console().print(table)


@ledger_app.command("export")
@prints("embedfit.cli.results:CallsExported")
def ledger_export(
    target: Annotated[Path, typer.Argument(help="A JSONL file.")], ledger: LedgerPath = None, as_json: AsJson = False
) -> None:
    """Every call with its request and reply, as JSONL."""
    calls = runs.ledger_export(target, ledger)
    say_result(CallsExported(file=str(target), calls=calls), f"{target}: {calls} calls", as_json=as_json)


cache_app = typer.Typer(help="What can be fetched or computed again: vectors, converted models.", no_args_is_help=True)


@cache_app.command("list")
@prints(Printed("embedfit.commands.cache:Entry", many=True))
def cache_list(as_json: AsJson = False) -> None:
    """Everything in the cache, the longest unused first."""
    entries = cache.entries()
    if as_json:
        say_json([asdict(entry) for entry in entries])
        return
    table = Table("kind", "name", "key", "vectors", "MiB", "last used", box=None, pad_edge=False)
    for one in entries:
        used = datetime.fromtimestamp(one.used).strftime("%Y-%m-%d %H:%M") if one.used else ""
        numbers = ("" if one.values is None else f"{one.values:,}", f"{one.bytes / (1 << 20):,.1f}", used)
        table.add_row(one.kind, shown(one.name), one.key[:12], *numbers)
    terminal.console().print(table)


@cache_app.command("size")
@prints("embedfit.commands.cache:Sizes")
def cache_size(as_json: AsJson = False) -> None:
    """The bytes of each kind, where they lie, and how many bytes vectors may have."""
    found = cache.sizes()
    if as_json:
        say_json(asdict(found))
        return
    table = Table("kind", "MiB", "folder", box=None, pad_edge=False)
    for kind, number in found.bytes.items():
        table.add_row(kind, f"{number / (1 << 20):,.1f}", shown(found.folders[kind]))
    terminal.console().print(table)
    say(f"vectors may have {found.limit / (1 << 30):,.1f} GiB (EMBEDFIT_VECTORS_GB)")


@cache_app.command("clean")
@prints("embedfit.cli.results:CacheCleaned")
def cache_clean(
    to_gb: Annotated[float, typer.Option("--to-gb", min=0, help="Keep so many GiB of the last used vectors.")] = 0.0,
    everything: Annotated[bool, typer.Option("--all", help="Converted models and measured settings too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete stored vectors. Vectors that were paid for stay: they lie in the ledger."""
    deleted = cache.clean(most=int(to_gb * (1 << 30)), everything=everything)
    say_result(CacheCleaned(deleted_bytes=deleted), f"{deleted / (1 << 20):,.1f} MiB deleted", as_json=as_json)


@prints("embedfit.forgetting.verb:Forgetting")
def forget(
    run_folder: Annotated[Path, typer.Option("--run", help="The run folder, or the folder of an index.")],
    query: Annotated[list[str] | None, typer.Option("--query", help="The text of a question.")] = None,
    query_id: Annotated[list[str] | None, typer.Option("--query-id", help="The id of one in queries.jsonl.")] = None,
    document: Annotated[list[str] | None, typer.Option("--document", help="The id or the path of a document.")] = None,
    queries: Annotated[
        list[Path] | None, typer.Option("--queries", help="A file of questions: one a line, or JSONL.")
    ] = None,
    ledger: LedgerPath = None,
    yes: Annotated[bool, typer.Option("--yes", help="Delete without asking.")] = False,
    as_json: AsJson = False,
) -> None:
    """Take a question or a document out of a run, its index, the ledger and the cache; say which models saw it."""
    from embedfit.forgetting.verb import forget as run_forget  # torch

    found = run_forget(
        run_folder,
        queries=query or (),
        query_ids=query_id or (),
        files=queries or (),
        documents=document or (),
        yes=yes,
        runtime=runtime_for(ledger=ledger),
    )
    if as_json:
        say_json(asdict(found))
