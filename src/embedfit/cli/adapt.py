"""The command `adapt`: parse, call, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from embedfit.cli import shared
from embedfit.cli.results import print_systems, prints
from embedfit.cli.shared import AsJson, Force, LedgerPath, RunFolder, Set, Yes, runtime_for
from embedfit.display import terminal
from embedfit.display.terminal import say_json, shown


@prints("embedfit.path.artefacts:Adapted")
def adapt(
    docs: Annotated[
        list[Path] | None,
        typer.Argument(help="The passages of the index: a BEIR corpus.jsonl with their ids, or files."),
    ] = None,
    vectors: Annotated[
        str | None,
        typer.Option(help="titan-v2, openai:URL#MODEL, tei:URL, sagemaker:NAME@REGION, a model, or npy:P.npy,Q.npy."),
    ] = None,
    run_folder: RunFolder = Path("runs/adapt"),
    queries: Annotated[
        list[Path] | None, typer.Option("--queries", help="Questions that people asked, one a line or JSONL.")
    ] = None,
    eval_beir: shared.EvalBeir = None,
    model: Annotated[str | None, typer.Option(help="The model on this machine that teaches. [minilm]")] = None,
    generator: shared.Generator = None,
    move: Annotated[
        bool | None, typer.Option("--move", help="Write the passages' vectors, moved by their written queries.")
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Print the calls and what they cost, and send none of them.")
    ] = False,
    preset: shared.Preset = None,
    assignments: Set = None,
    max_cost: shared.MaxCost = None,
    ledger: LedgerPath = None,
    yes: Yes = False,
    as_json: AsJson = False,
    force: Force = False,
) -> None:
    """Tune the search of an index whose vectors can't be changed (Titan, OpenAI, any server, or arrays).

    The result is a map for query vectors, a file of about a megabyte. Without --queries a language model writes the
    questions; with --queries it writes some too if --generator names it.
    """
    from embedfit.commands import adapting as command  # loads torch
    from embedfit.reporting.adapted import lead_lines

    generate = {"generator": generator, "max_cost": max_cost}
    adapting = {"written": "yes" if generator else None, "move": move}
    given = {
        "run": run_folder,
        "vectors": vectors,
        "queries": queries or (),
        "eval_beir": eval_beir,
        "preset": preset,
        "settings": {
            "model": model,
            "generate": {key: value for key, value in generate.items() if value is not None} or None,
            "adapt": {key: value for key, value in adapting.items() if value is not None} or None,
        },
        "assignments": assignments or (),
        "runtime": runtime_for(ledger=ledger),
    }
    if plan:
        for line in command.plan(docs or (), **given):  # type: ignore[arg-type]
            terminal.console().print(shown(line), highlight=False, soft_wrap=True)
        return
    result = command.adapt(docs or (), yes=yes, force=force, **given)  # type: ignore[arg-type]
    if as_json:
        say_json(result.model_dump(mode="json", by_alias=True))
        return
    console = terminal.console()
    if result.systems:
        print_systems(result.systems, console)
        console.print()
    for line in lead_lines(result, str(run_folder)):
        console.print(shown(line), highlight=False, soft_wrap=True)
    console.print(f"Report: {shown(str(command.report_path(run_folder)))}", highlight=False, soft_wrap=True)
