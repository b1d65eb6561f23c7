"""The commands `assess` and `diagnose`: parse, call, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from embedfit.cli import shared
from embedfit.cli.results import prints
from embedfit.cli.shared import AsJson, Force, LedgerPath, RunFolder, Set, Yes, runtime_for
from embedfit.display import terminal
from embedfit.display.terminal import say_json, shown


@prints("embedfit.path.artefacts:Assessed")
def assess(
    docs: Annotated[list[Path] | None, typer.Argument(help="Files, folders, or a BEIR corpus.jsonl.")] = None,
    models: Annotated[
        str, typer.Option(help="Models to compare, with commas between; the first is the run's. [minilm]")
    ] = "",
    run_folder: RunFolder = Path("runs/assess"),
    queries: Annotated[
        list[Path] | None, typer.Option("--queries", help="Questions that people asked, one a line or JSONL.")
    ] = None,
    judge: shared.JudgeSpec = None,
    eval_beir: shared.EvalBeir = None,
    questions: Annotated[
        int | None, typer.Option(min=15, help="Questions that are written, if people's are not there. [100]")
    ] = None,
    generator: shared.Generator = None,
    plan: Annotated[bool, typer.Option("--plan", help="Print what would be done and asked, and ask nothing.")] = False,
    preset: shared.Preset = None,
    assignments: Set = None,
    max_cost: shared.MaxCost = None,
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

    generate = {"generator": generator, "max_cost": max_cost}
    given = {
        "run": run_folder,
        "models": [one.strip() for one in models.split(",") if one.strip()],
        "queries": queries or (),
        "eval_beir": eval_beir,
        "preset": preset,
        "settings": {
            "generate": {key: value for key, value in generate.items() if value is not None} or None,
            "choose": {"judge": judge} if judge else None,
            "assess": {"questions": questions} if questions else None,
        },
        "assignments": assignments or (),
        "runtime": runtime_for(ledger=ledger),
    }
    console = terminal.console()
    if plan:
        for line in command.plan(docs or (), **given):  # type: ignore[arg-type]
            console.print(shown(line), highlight=False, soft_wrap=True)
        return
    result = command.assess(docs or (), yes=yes, force=force, **given)  # type: ignore[arg-type]
    if as_json:
        say_json(result.model_dump(mode="json", by_alias=True))
        return
    console.print(table(result))
    console.print()
    for line in lines(result, str(run_folder)):
        console.print(shown(line), highlight=False, soft_wrap=True)
    console.print(f"Report: {shown(str(run_folder / 'assess' / 'report.html'))}", highlight=False, soft_wrap=True)


@prints("embedfit.diagnosing.diagnosis:Diagnosis")
def diagnose(run_folder: RunFolder, as_json: AsJson = False) -> None:
    """Say whether tuning helped in a run and, if not, which part is to blame, with evidence and a command to try."""
    from embedfit.commands.diagnosing import diagnose as run_diagnose  # models

    found = run_diagnose(run_folder)
    if as_json:
        say_json(found.model_dump(mode="json", by_alias=True))
        return
    console = terminal.console()
    for line in str(found).splitlines():
        console.print(shown(line), highlight=False, soft_wrap=True)
