"""The commands beside the path: `assess` before a run, `adapt` where no model can be tuned, `diagnose` after a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from pydantic import BaseModel

from embedfit.cli import options
from embedfit.cli.options import AsJson, Force, LedgerPath, RunFolder, Set, Yes, runtime_for, stated
from embedfit.cli.results import print_systems, prints
from embedfit.commands.runs import RunOptions
from embedfit.display import terminal
from embedfit.display.terminal import say, say_json


@prints("embedfit.path.artefacts:Assessed")
def assess(
    docs: options.Documents = None,
    models: Annotated[
        str, typer.Option(help="Models to compare, with commas between; the first is the run's. [minilm]")
    ] = "",
    run_folder: RunFolder = Path("runs/assess"),
    queries: options.People = None,
    judge: options.JudgeSpec = None,
    eval_beir: options.EvalBeir = None,
    questions: Annotated[
        int | None, typer.Option(min=15, help="Questions that are written, if people's are not there. [100]")
    ] = None,
    generator: options.Generator = None,
    plan: Annotated[bool, typer.Option("--plan", help="Print what would be done and asked, and ask nothing.")] = False,
    preset: options.Preset = None,
    assignments: Set = None,
    max_cost: options.MaxCost = None,
    ledger: LedgerPath = None,
    yes: Yes = False,
    as_json: AsJson = False,
    force: Force = False,
) -> None:
    """Compare models, words, windows, fusions and late interaction on documents, without training anything.

    People's questions assess, with the answers that the file names, or with grades (--judge, `embedfit grade`). Without
    any, a language model writes some. It ends with the command that builds the best untrained retriever, and says
    whether tuning is likely to help. `embedfit run --run DIR` goes on in the same folder.
    """
    from embedfit.assessing.page import lines, table  # torch
    from embedfit.commands import assessing as command

    prepared = command.prepare(
        docs or (),
        run=run_folder,
        models=[one.strip() for one in models.split(",") if one.strip()],
        settings=stated(
            generate={"generator": generator, "max_cost": max_cost},
            choose={"judge": judge or None},
            assess={"questions": questions or None},
        ),
        preset=preset,
        runtime=runtime_for(ledger=ledger, yes=yes),
        **_asked(queries, eval_beir, assignments),
    )
    if plan:
        say("\n".join(command.plan(prepared)))
        return
    result = command.carry_out(prepared, force=force)
    if as_json:
        _say_record(result)
        return
    terminal.console().print(table(result), end="\n\n")
    say("\n".join([*lines(result, str(run_folder)), f"Report: {run_folder / 'assess' / 'report.html'}"]))


def _say_record(record: BaseModel) -> None:
    say_json(record.model_dump(mode="json", by_alias=True))


def _asked(queries: list[Path] | None, eval_beir: Path | None, assignments: list[str] | None) -> RunOptions:
    return {"queries": queries or (), "eval_beir": eval_beir, "assignments": assignments or ()}


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
    queries: options.People = None,
    eval_beir: options.EvalBeir = None,
    model: Annotated[str | None, typer.Option(help="The model on this machine that teaches. [minilm]")] = None,
    generator: options.Generator = None,
    move: Annotated[
        bool | None, typer.Option("--move", help="Write the passages' vectors, moved by their written queries.")
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Print the calls and what they cost, and send none of them.")
    ] = False,
    preset: options.Preset = None,
    assignments: Set = None,
    max_cost: options.MaxCost = None,
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

    prepared = command.prepare(
        docs or (),
        run=run_folder,
        vectors=vectors,
        settings=stated(
            model=model,
            generate={"generator": generator, "max_cost": max_cost},
            adapt={"written": "yes" if generator else None, "move": move},
        ),
        preset=preset,
        runtime=runtime_for(ledger=ledger, yes=yes),
        **_asked(queries, eval_beir, assignments),
    )
    if plan:
        say("\n".join(command.plan(prepared)))
        return
    result = command.carry_out(prepared, force=force)
    if as_json:
        _say_record(result)
        return
    if result.systems:
        print_systems(result.systems)
        say("")
    say("\n".join([*lead_lines(result, str(run_folder)), f"Report: {command.report_path(run_folder)}"]))


@prints("embedfit.diagnosing.diagnosis:Diagnosis")
def diagnose(run_folder: RunFolder, as_json: AsJson = False) -> None:
    """Say whether tuning helped in a run and, if not, which part is to blame, with evidence and a command to try."""
    from embedfit.commands.diagnosing import diagnose as run_diagnose  # models

    found = run_diagnose(run_folder)
    if as_json:
        _say_record(found)
        return
    say(str(found))
