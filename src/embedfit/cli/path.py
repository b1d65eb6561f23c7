"""The commands of the path: `run`, one for each stage, `grade`, `status` and `demo`."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from embedfit.cli import options
from embedfit.cli.cloud import Elsewhere, elsewhere, run_there
from embedfit.cli.options import AsJson, Force, LedgerPath, RunFolder, Set, Yes, runtime_for, stated, with_options
from embedfit.cli.results import Printed, RunStatus, StageDone, prints, say_result, show_result
from embedfit.commands import runs
from embedfit.deploy.jobs.options import JobOptions
from embedfit.display import terminal
from embedfit.display.terminal import say, say_json, shown
from embedfit.path.artefacts import Manifest
from embedfit.path.freshness import Freshness, all_freshness
from embedfit.path.workspace import Workspace
from embedfit.progress import duration

NOT_BETTER = 3
FailIfNotBetter = Annotated[bool, typer.Option(help="Exit with 3 if the result is not better than the base.")]


@prints(
    "embedfit.path.artefacts:Summary",
    Printed("embedfit.deploy.jobs.plan:JobPlan", when="with --on and --plan"),
)
@with_options(Elsewhere, JobOptions)
def run(
    docs: options.Documents = None,
    run_folder: RunFolder = Path("runs/embedfit"),
    eval_docs: options.EvalDocs = None,
    eval_beir: options.EvalBeir = None,
    queries: options.People = None,
    model: options.Model = None,
    generator: options.Generator = None,
    preset: options.Preset = None,
    config: options.SettingsFile = None,
    follow_links: options.FollowLinks = None,
    assignments: Set = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything that is drawn by chance.")] = None,
    max_cost: options.MaxCost = None,
    judge: options.JudgeSpec = None,
    examples: Annotated[Path | None, typer.Option(help="The users' own queries, one a line, for the prompt.")] = None,
    ledger: LedgerPath = None,
    nproc: options.Processes = 1,
    nodes: options.Nodes = "",
    workers: options.Workers = options.INLINE,
    ray: options.RayCluster = None,
    track: options.Track = None,
    yes: Yes = False,
    as_json: AsJson = False,
    force: Force = False,
    fail_if_not_better: FailIfNotBetter = False,
    *,
    given: Mapping[str, object],
) -> None:
    """Run the whole path, from documents to a measured, merged model and its report.

    Stages that are up to date are not run again, and an interrupted stage resumes. With --on another computer does it.
    """
    there = elsewhere(given, apart=bool(ray or track or nodes))
    settings = stated(
        model=model,
        seed=seed,
        ingest={"follow_links": follow_links or None},
        generate={"generator": generator, "max_cost": max_cost, "examples": examples and str(examples)},
        choose={"judge": judge or None},
    )
    asked: runs.RunOptions = {
        "eval_docs": eval_docs or (),
        "eval_beir": eval_beir,
        "queries": queries or (),
        "assignments": assignments or (),
    }
    runtime = runtime_for(ledger=ledger, processes=nproc, nodes=nodes, workers=workers, ray=ray, track=track, yes=yes)
    workspace = Workspace(run_folder)
    named = runs.resolved(workspace, docs or (), runtime, preset=preset, settings=settings, config=config, **asked)
    if there:
        result = run_there(given, workspace, named, runtime, workers=workers, force=force, as_json=as_json)
    else:
        result = runs.run_config(workspace, named, runtime, force=force)
    if result is None:
        return
    show_result(result, as_json=as_json)
    if fail_if_not_better and not result.better:
        raise typer.Exit(NOT_BETTER)


@prints("embedfit.cli.results:StageDone")
def ingest(
    docs: Annotated[list[Path], typer.Argument(help="Files, folders, or a BEIR corpus.jsonl.")],
    run_folder: RunFolder = Path("runs/embedfit"),
    eval_docs: options.EvalDocs = None,
    eval_beir: options.EvalBeir = None,
    model: Annotated[str | None, typer.Option(help="The model whose window the passages must fit.")] = None,
    preset: options.Preset = None,
    config: options.SettingsFile = None,
    follow_links: options.FollowLinks = None,
    assignments: Set = None,
    workers: options.Workers = options.INLINE,
    ray: options.RayCluster = None,
    as_json: AsJson = False,
    force: Force = False,
) -> None:
    """Documents → passages: the first stage alone."""
    runs.run(
        docs,
        run=run_folder,
        eval_docs=eval_docs or (),
        eval_beir=eval_beir,
        preset=preset,
        settings=stated(model=model, ingest={"follow_links": follow_links or None}),
        config=config,
        assignments=assignments or (),
        until="ingest",
        force=force,
        runtime=runtime_for(workers=workers, ray=ray),
    )
    _show_stage("ingest", run_folder, as_json=as_json)


@prints("embedfit.cli.results:StageDone")
def generate(
    run_folder: RunFolder,
    generator: options.Generator = None,
    assignments: Set = None,
    force: Force = False,
    ledger: LedgerPath = None,
    nproc: options.Processes = 1,
    workers: options.Workers = options.INLINE,
    ray: options.RayCluster = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Passages → queries, by a language model; filtered, with a reason for each dropped one."""
    runs.run_stage(
        "generate",
        run=run_folder,
        settings=stated(generate={"generator": generator or None}),
        assignments=assignments or (),
        force=force,
        runtime=runtime_for(ledger=ledger, processes=nproc, workers=workers, ray=ray, yes=yes),
    )
    _show_stage("generate", run_folder, as_json=as_json)


@prints("embedfit.cli.results:StageDone")
def choose(
    run_folder: RunFolder,
    judge: options.JudgeSpec = None,
    max_cost: options.MaxCost = None,
    assignments: Set = None,
    force: Force = False,
    ledger: LedgerPath = None,
    workers: options.Workers = options.INLINE,
    ray: options.RayCluster = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Choose the retriever that ships, and record the evidence."""
    runs.run_stage(
        "choose",
        run=run_folder,
        settings=stated(choose={"judge": judge or None}, generate={"max_cost": max_cost}),
        assignments=assignments or (),
        force=force,
        runtime=runtime_for(ledger=ledger, workers=workers, ray=ray, yes=yes),
    )
    _show_stage("choose", run_folder, as_json=as_json)


def _show_stage(name: str, run_folder: Path, *, as_json: bool) -> None:
    """Print when a stage was done. For people the display has said it."""
    manifest = Workspace(run_folder).read_manifest(name)
    if as_json and manifest is not None:
        done = StageDone(run=str(run_folder), stage=name, seconds=manifest.seconds, finished=manifest.finished)
        say_result(done, as_json=True)


def _stage(name: str, help_text: str) -> Callable[..., None]:
    """The command of a stage without options of its own."""

    @prints("embedfit.cli.results:StageDone")
    def command(
        run_folder: RunFolder,
        assignments: Set = None,
        force: Force = False,
        ledger: LedgerPath = None,
        nproc: options.Processes = 1,
        nodes: options.Nodes = "",
        workers: options.Workers = options.INLINE,
        ray: options.RayCluster = None,
        track: options.Track = None,
        yes: Yes = False,
        as_json: AsJson = False,
    ) -> None:
        runtime = runtime_for(
            ledger=ledger, processes=nproc, nodes=nodes, workers=workers, ray=ray, track=track, yes=yes
        )
        runs.run_stage(name, run=run_folder, assignments=assignments or (), force=force, runtime=runtime)
        _show_stage(name, run_folder, as_json=as_json)
        if name == "report" and not as_json:
            say(f"{Workspace(run_folder).path('report.html')}")

    command.__name__, command.__doc__ = name, help_text
    return command


#: The commands of the stages without options of their own.
STAGES = tuple(
    _stage(name, text)
    for name, text in (
        ("mine", "Queries → training rows with hard negatives."),
        ("train", "Training rows → fine-tuned model."),
        ("merge", "Fine-tuned model + base → merged model, and the decision what ships."),
        ("check", "Similar and different pairs: are the cosines of the former higher?"),
        ("evaluate", "Every system's scores, against the base and BM25."),
        ("report", "report.html and the model card."),
    )
)


def grade(
    run_folder: RunFolder,
    questions: Annotated[int, typer.Option(min=1, help="Questions that are enough; you may go on.")] = 30,
    port: Annotated[int, typer.Option("--port", "-p", min=0, max=65535, help="Port; 0 takes a free one.")] = 0,
    show: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Grade, in a page on this machine, the passages that the candidate retrievers find for people's questions.

    Keys 0 to 3 give a grade, `u` takes the last one back, and every grade is saved at once. The gate then chooses the
    retriever by your grades, or corrects a judge with them.
    """
    from embedfit.commands.grading import grade as run_grade  # torch, starlette

    def opened(address: str) -> None:
        say(f"Open {address}\nEnd with Ctrl-C: every grade is saved as it is given.")
        if show:
            import webbrowser  # only where it is asked for

            webbrowser.open(address)

    runtime = runtime_for()
    session = run_grade(run_folder, runtime, goal=questions, port=port, opened=opened)
    say(f"{session.whole:,} questions are graded whole. Next: embedfit choose --run {run_folder}")


@prints("embedfit.cli.results:RunStatus")
def status(run_folder: RunFolder, ledger: LedgerPath = None, as_json: AsJson = False) -> None:
    """List which stages are fresh, stale, partial or missing, and why, the next step, and the cost so far."""
    workspace = Workspace(run_folder)
    config = runs.stored_config(workspace)
    found = all_freshness(workspace, config)
    manifests = {name: workspace.read_manifest(name) for name in found}
    cost = runs.cost_so_far(workspace, ledger)
    next_step = _next_step(run_folder, found, manifests)
    if as_json:
        seconds = {name: manifest.seconds for name, manifest in manifests.items() if manifest}
        states = {name: one.state for name, one in found.items()}
        why = {name: one.why for name, one in found.items() if one.why}
        told = RunStatus(stages=states, why=why, next=next_step, seconds=seconds, cost=cost)
        say_json({**asdict(told), "cost": cost.model_dump()})
        return
    table = Table("stage", "state", "time", "finished", "why", box=None, pad_edge=False)
    for name, one in found.items():
        manifest = manifests[name]
        took = duration(manifest.seconds) if manifest else ""
        table.add_row(name, _coloured(one.state), took, manifest.finished if manifest else "", shown(one.why))
    console = terminal.console()
    console.print(table)
    console.print(shown(next_step), highlight=False)
    console.print(
        f"cost so far: {cost.calls:,} calls, {cost.input_tokens:,} tokens in, "
        f"{cost.output_tokens:,} out, ${cost.usd:.2f}",
        highlight=False,
    )


def _next_step(run_folder: Path, found: Mapping[str, Freshness], manifests: Mapping[str, Manifest | None]) -> str:
    """The command that makes every stage fresh, in a sentence."""
    behind = [name for name, one in found.items() if one.state != "fresh"]
    if not behind:
        return "Everything is up to date."
    command = f"embedfit run --run {shlex.quote(str(run_folder))}"
    older = sorted({one.code for one in manifests.values() if one and one.settings is None})
    if not older:
        return f"Next: {command}   (does {', '.join(behind)})"
    return (
        f"This run was made by embedfit {', '.join(older)}. It can be used as it is: report, index, search, serve and "
        f"deploy read it. To bring it up to date, run: {command}. It does each stage again; a reply that the ledger "
        "holds for the same prompt is not paid for again."
    )


def _coloured(state: str) -> str:
    colour = {"fresh": "green", "stale": "yellow", "partial": "yellow", "missing": "dim"}[state]
    return f"[{colour}]{state}[/]"


@prints("embedfit.commands.demo.result:DemoRecord")
def demo(
    run_folder: RunFolder = Path("runs/demo"),
    untrained: Annotated[
        bool, typer.Option("--untrained", help="End after the retriever without training, in about a minute.")
    ] = False,
    assignments: Set = None,
    ledger: LedgerPath = None,
    as_json: AsJson = False,
) -> None:
    """The whole path on documents that the package carries, offline, in minutes, measured on people's questions."""
    from embedfit.cli.results import show_demo
    from embedfit.commands.demo import demo as run_demo  # loads the models' stack

    runtime = runtime_for(ledger=ledger)
    result = run_demo(run_folder, untrained=untrained, assignments=assignments or (), runtime=runtime)
    show_demo(result, as_json=as_json)
