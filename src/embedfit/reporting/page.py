"""The report: one HTML file that needs no other file, made from the evidence of a run."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import tomli_w
from markupsafe import Markup

from embedfit.config import stored_settings
from embedfit.display.pages import policy_hash
from embedfit.path.artefacts import METRIC, Comparison, Slice, Summary
from embedfit.path.systems import BY_NAME, SYSTEMS, label_of
from embedfit.reporting import figures, wording
from embedfit.reporting.advice import findings, next_steps
from embedfit.reporting.evidence import Evidence
from embedfit.reporting.rendering import asset, environment
from embedfit.reporting.usage import snippets

METRICS = (
    "ndcg@10",
    "mrr@10",
    "hit@1",
    "hit@3",
    "hit@5",
    "hit@10",
    "map@100",
    "recall@10",
    "recall@100",
    "precision@10",
)
#: The metrics that have a figure, with the meaning of each.
PANELS = {
    METRIC: "How high the right passages stand among the first ten.",
    "mrr@10": "One over the rank of the first right passage.",
    "hit@5": "Share of questions with a right passage among the first five.",
    "recall@100": "Share of the right passages among the first hundred.",
}
SLICE_NAMES = {
    "style": "Style of the question",
    "length": "Length of the question",
    "overlap": "Words shared with the passage",
    "document": "Document",
}
PART_NAMES = {"one": "one vector", "words_and_queries": "words and written queries", "queries": "written queries"}
#: The most entries of a list; a longer one says how many more there are.
MOST_ROWS = 15
#: The most characters of a passage in the page; a whole corpus would make it too large to open.
MOST_CHARACTERS = 1200


def data_island(value: object) -> Markup:
    """JSON that is safe inside a script element, whatever its strings hold.

    <, > and & are escaped in the JSON itself, so that no string can close the element or open a comment (HTML,
    "Restrictions for contents of script elements"). So are U+2028 and U+2029, which end a line of JavaScript.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    text = text.encode("utf-8", "replace").decode("utf-8")
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def render(evidence: Evidence) -> str:
    """The whole page. All text from documents, queries or models is escaped."""
    style, script = asset("report.css"), asset("report.js")
    summary, led = evidence.summary, _led(evidence.summary)
    others = [one.name for one in SYSTEMS if not one.leads and one.name not in led and one.name in summary.systems]
    further = [name for name in summary.systems if name not in BY_NAME and name not in led]
    deltas = [one.delta for one in (*evidence.evaluation.wins, *evidence.evaluation.losses)]
    won = sum(delta > 0 for delta in deltas)
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            style=style,
            script=script,
            style_hash=policy_hash(style),
            script_hash=policy_hash(script),
            evidence=evidence,
            summary=summary,
            decision=summary.decision,
            tuned=label_of(evidence.evaluation.tuned),
            name=evidence.root.rstrip("/").rsplit("/", 1)[-1] or "run",
            headline=wording.headline(summary),
            tuning=wording.tuning(summary),
            questions=wording.questions(summary),
            led=led,
            note=_note,
            findings=findings(evidence),
            next_steps=next_steps(evidence),
            panels=_panels(summary, led),
            metrics=[m for m in METRICS if any(m in s.metrics for s in summary.systems.values())],
            systems=[*led, *others, *further],
            comparisons=_comparisons(summary, led),
            slices=_slices(evidence),
            outcomes={"won": won, "lost": len(deltas) - won, "tied": 0, **evidence.evaluation.counts},
            shown=len(deltas),
            island=data_island(_explorer(evidence)),
            training=_training_figures(evidence),
            training_facts=_training_facts(evidence),
            sweep=_sweep_figures(evidence),
            cosines=_cosine_figure(evidence),
            # Wall time of each stage, from its manifest or else from summary.json.
            seconds={**summary.timings_s, **{m.stage: m.seconds for m in evidence.manifests}},
            snippets=snippets(evidence),
            settings=_settings(evidence),
            most_rows=MOST_ROWS,
        )
    )


def _led(summary: Summary) -> list[str]:
    """The retrievers that the report begins with. In a run of embedfit 0.1 they are its models and BM25."""
    doubled = ("chosen", "chosen_base") if summary.same_as_default else ()
    names = [one.name for one in SYSTEMS if one.leads and one.name in summary.systems and one.name not in doubled]
    if summary.lead not in names and summary.lead in summary.systems:
        names.append(summary.lead)
    return names


def _comparisons(summary: Summary, led: Sequence[str]) -> tuple[list[Comparison], ...]:
    """Three lists: on nDCG@10 those of the retrievers in `led`, then the others; then all on other metrics."""
    doubled = ("chosen", "chosen_base") if summary.same_as_default else ()
    shown = [one for one in summary.comparisons if one.a not in doubled]
    main = [one for one in shown if one.metric == METRIC]
    lead = [one for one in main if one.a in led and one.b in led]
    return lead, [one for one in main if one not in lead], [one for one in shown if one.metric != METRIC]


def _note(summary: Summary, name: str) -> str:
    """The parts of a retriever, in a few words."""
    row = summary.retrievers.get(name)
    if name == "base":
        return "one vector a passage, untuned"
    if row is None:
        return ""
    parts = " + ".join(PART_NAMES.get(part.name, part.name) for part in row.retriever.parts)
    reranked = ", then late interaction" if row.retriever.rerank else ""
    ranks = "ranks of " if row.retriever.method == "reciprocal_rank" else ""
    model = {"base": "; untuned model", "merged": "; tuned model"}.get(row.model or "", "; no model")
    return f"{ranks}{parts}{reranked}{model}"


def _panels(summary: Summary, led: Sequence[str]) -> list[tuple[str, str, Markup]]:
    """(metric, note, figure) for each metric that has a figure. The figures show the retrievers in `led`."""
    result: list[tuple[str, str, Markup]] = []
    for metric, note in PANELS.items():
        dots = [
            figures.Dot(
                label=_short(label_of(name)),
                value=value,
                interval=summary.systems[name].ci95.get(metric),
                kind="shipped" if name == summary.lead else BY_NAME[name].kind if name in BY_NAME else "other",
                shown=wording.score(value),
            )
            for name in led
            if (value := summary.systems[name].metrics.get(metric)) is not None
        ]
        if dots:
            title = f"{wording.metric_name(metric)} of the retrievers"
            result.append((metric, note, figures.intervals(f"panel-{len(result)}", title, dots)))
    return result


def _short(label: str, longest: int = 18) -> str:
    return label if len(label) <= longest else "…" + label[-longest + 1 :]


def _slices(evidence: Evidence) -> list[tuple[str, list[tuple[Slice, str, Markup]], int]]:
    """(heading, [(slice, label, bar)], number left out) for every way to group the questions."""
    result: list[tuple[str, list[tuple[Slice, str, Markup]], int]] = []
    for name, rows in evidence.evaluation.slices.items():
        if len(rows) < 2 or not any(row.delta for row in rows):
            continue  # one group is all questions
        shown = (sorted(rows, key=lambda row: -row.queries) if name == "document" else rows)[:MOST_ROWS]
        reach = max(abs(end) for row in shown for end in (*(row.ci95 or ()), row.delta)) or 0.01
        drawn = [
            (row, evidence.document_names.get(row.value, row.value), figures.delta_bar(row.delta, row.ci95, reach))
            for row in shown
        ]
        result.append((SLICE_NAMES.get(name, name), drawn, len(rows) - len(shown)))
    return result


def _explorer(evidence: Evidence) -> dict[str, object]:
    """The data of the page's script: entries, and each passage once."""
    evaluation = evidence.evaluation
    outcomes = (*evaluation.wins, *evaluation.losses)
    entries = [
        {
            **one.model_dump(include={"query", "style", "delta", "relevant"}),
            "systems": [
                {"name": label_of(evidence.summary.lead if name == "chosen" else name), **found.model_dump()}
                for name, found in one.systems.items()
            ],
        }
        for one in outcomes
    ]
    used = {key for one in outcomes for key in (*one.relevant, *(k for s in one.systems.values() for k in s.top))}
    passages = {
        key: {
            "title": passage.title,
            "text": _cut(passage.text),
            "document": passage.document or evidence.document_names.get(passage.document_id, passage.document_id),
            "page": passage.page,
        }
        for key, passage in evaluation.passages.items()
        if key in used
    }
    return {"entries": entries, "passages": passages}


def _cut(text: str) -> str:
    return text if len(text) <= MOST_CHARACTERS else text[:MOST_CHARACTERS].rsplit(" ", 1)[0] + " …"


def _training_figures(evidence: Evidence) -> list[tuple[str, Markup]]:
    """(caption, figure) for the loss and for the dev score, over steps."""
    result = []
    if evidence.losses:
        raw = figures.thinned(evidence.losses)
        smooth = figures.thinned(figures.smoothed(evidence.losses))
        steps = wording.plural(len(evidence.losses), "step")
        said = f"Loss over {steps}: from {smooth[0][1]:.3f} to {smooth[-1][1]:.3f}, smoothed."
        lines = [
            figures.Line(label="each step", points=raw, kind="base", faint=True),
            figures.Line(label="smoothed", points=smooth, kind="shipped"),
        ]
        result.append((said, figures.curves("loss", "Training loss", said, lines, x_label="step")))
    if evidence.dev_scores:
        scores, best = dict(evidence.dev_scores), evidence.training.best_step
        kept = best if best in scores else max(scores, key=lambda step: scores[step])
        said = (
            f"nDCG@10 on the dev questions: from {evidence.dev_scores[0][1]:.3f} to {scores[kept]:.3f} "
            f"at step {kept:g}, which was kept."
        )
        line = figures.Line(label="nDCG@10", points=evidence.dev_scores, kind="shipped", marked=True)
        figure = figures.curves("dev", "Dev score", said, [line], x_label="step", mark=(kept, "kept"))
        result.append((said, figure))
    return result


def _training_facts(evidence: Evidence) -> str:
    """A sentence on the training: steps, rows, speed, precision, memory."""
    log = evidence.training
    facts = []
    if log.steps:
        stopped = " (stopped early)" if log.stopped_early else ""
        facts.append(f"{wording.plural(log.steps, 'step')}{stopped} over {wording.plural(log.rows, 'row')}")
    if log.tokens_per_second:
        facts.append(f"{wording.count(log.tokens_per_second)} tokens a second")
    if log.precision and log.device:
        facts.append(f"{log.precision} on {log.device}")
    if log.peak_memory_mb:
        facts.append(f"at most {log.peak_memory_mb / 1024:.1f} GiB of memory")
    return ", ".join(facts)


def _sweep_figures(evidence: Evidence) -> list[tuple[str, Markup]]:
    """(caption, figure) for the dev score and for the retention, over the weights that the merge tried."""
    tried = sorted(evidence.merge.alphas, key=lambda point: point.alpha)
    chosen = evidence.summary.decision.alpha
    mark = None if chosen is None else (chosen, f"chosen: {chosen:g}")
    found = []
    for name, kind, title, caption, points in (
        (
            "sweep-dev",
            "shipped",
            "Dev score",
            f"{wording.metric_name(METRIC)} on the dev questions",
            [(point.alpha, point.dev[METRIC]) for point in tried if METRIC in point.dev],
        ),
        (
            "sweep-retention",
            "base",
            "Retention",
            "Retention: what it keeps of the base elsewhere",
            [(point.alpha, point.retention) for point in tried if point.retention is not None],
        ),
    ):
        if points:
            said = "; ".join(f"weight {alpha:g}: {value:.3f}" for alpha, value in points) + "."
            line = figures.Line(label=title, points=points, kind=kind, marked=True)
            title = f"{title} by weight of the fine-tuned model"
            x_label = "weight α of the fine-tuned model"
            found.append((caption, figures.curves(name, title, said, [line], x_label=x_label, mark=mark)))
    return found


def _cosine_figure(evidence: Evidence) -> Markup | None:
    rows = [(label_of(name), one) for name, one in evidence.check.systems.items() if one.similar or one.different]
    return figures.cosines("cosines", "Cosines of similar and different pairs", rows) if rows else None


def _settings(evidence: Evidence) -> str:
    """The configuration as the run keeps it, without credentials in addresses."""
    text = tomli_w.dumps(stored_settings(evidence.config, Path(evidence.root) / "embedfit.toml")[0])
    return re.sub(r"://[^/@\s\"]+@", "://…@", text)
