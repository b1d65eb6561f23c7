"""The stage `adapt_report`: a page of what `embedfit adapt` made and measured."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from embedfit.config import Config
from embedfit.display.pages import policy_hash
from embedfit.path.artefacts import METRIC, Adapted, Comparison
from embedfit.path.systems import label_of
from embedfit.path.workspace import Workspace
from embedfit.reporting import figures, wording
from embedfit.reporting.rendering import asset, environment
from embedfit.runtime import Runtime

#: The metrics of the table; the first one decides.
METRICS = (METRIC, "mrr@10", "hit@1", "hit@5", "hit@10", "recall@100")
_EVIDENCE = {
    "labelled": "questions of the file whose answers it names",
    "graded": "questions whose search results were graded",
    "written": "held-out questions that a language model wrote",
    "none": "none",
}


def run(workspace: Workspace, config: Config, runtime: Runtime) -> None:
    """Write adapt/report.html."""
    result = workspace.load(Adapted)
    workspace.write_text("adapt/report.html", render(result, workspace.root.as_posix()))
    runtime.report.log(f"adapt_report: {workspace.path('adapt/report.html')}")


def lead(result: Adapted) -> str:
    """The name of the system to use: moving vectors costs the owner a rewrite, so the map alone leads."""
    return "mapped" if result.map.ship else "frozen"


def headline(result: Adapted) -> tuple[str, str]:
    """(advice, its evidence in a sentence)."""
    advice = "Search with mapped query vectors" if result.map.ship else "Keep the frozen vectors as they are"
    found = _comparison(result, "mapped")
    if found is None:
        return advice, "nothing was measured, for no question with a known answer was there"
    who = "that people asked" if result.data.eval_kind == "human" else "written by a language model and held out"
    questions = f"{wording.plural(result.data.eval_queries, 'question')} {who}"
    before, after = (result.systems[name].metrics[METRIC] for name in ("frozen", "mapped"))
    shown = f"({wording.score(before)} →{wording.NBSP}{wording.score(after)})"
    return advice, f"the map gives {wording.difference(found)} of {wording.metric_name(METRIC)} {shown}, on {questions}"


def lead_lines(result: Adapted, run: str) -> list[str]:
    """The result for the terminal. run: its folder."""
    advice, sentence = headline(result)
    lines = [f"{advice}: {sentence}.", f"Map: {result.map.why}", f"Moved vectors: {result.move.why}", *result.notes]
    if result.map.ship:
        path = f"{run}/adapt/query_map.safetensors"
        lines.append(f"Use it: embedfit.QueryMap.load({path!r})(query_vectors)")
    return lines


def render(result: Adapted, root: str) -> str:
    """The whole page. All text from the run is escaped."""
    style = asset("report.css")
    advice, sentence = headline(result)
    return (
        environment()
        .get_template("adapted.html.j2")
        .render(
            style=style,
            style_hash=policy_hash(style),
            result=result,
            name=root.rstrip("/").rsplit("/", 1)[-1] or "run",
            root=root,
            advice=advice,
            sentence=sentence,
            first=_comparison(result, "mapped"),
            lead=lead(result),
            metrics=METRICS,
            figure=_figure(result),
            comparisons=_main(result.comparisons),
            others=[one for one in result.comparisons if one.metric != METRIC],
            evidence=_EVIDENCE[result.evidence.kind],
        )
    )


def _comparison(result: Adapted, name: str) -> Comparison | None:
    return next((one for one in _main(result.comparisons) if (one.a, one.b) == (name, "frozen")), None)


def _main(comparisons: Sequence[Comparison]) -> list[Comparison]:
    return [one for one in comparisons if one.metric == METRIC]


def _figure(result: Adapted) -> Markup | None:
    """The figure of nDCG@10, or None if nothing was measured."""
    kinds = {"frozen": "base", "bm25": "lexical", lead(result): "shipped"}
    dots = [
        figures.Dot(
            label=label_of(name),
            value=system.metrics[METRIC],
            interval=system.ci95.get(METRIC),
            kind=kinds.get(name, "other"),
            shown=wording.score(system.metrics[METRIC]),
        )
        for name, system in result.systems.items()
    ]
    return figures.intervals("ndcg", wording.metric_name(METRIC), dots) if dots else None
