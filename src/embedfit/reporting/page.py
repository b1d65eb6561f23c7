"""The report: one HTML file that needs nothing else, from the evidence of a run."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import tomli_w
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from embedfit.config import stored_settings
from embedfit.path.systems import BY_NAME, SYSTEMS, label_of
from embedfit.progress import duration
from embedfit.reporting import figures, wording
from embedfit.reporting.advice import findings, next_steps
from embedfit.reporting.evidence import Comparison, Evidence, Row, Slice
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
PANELS = ("ndcg@10", "mrr@10", "hit@5", "recall@100")
PANEL_NOTES = {
    "ndcg@10": "How high the right passages stand among the first ten.",
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
#: Longer lists say how many more there are.
MOST_ROWS = 15
#: Characters of a passage that the page carries; a whole corpus would make it too heavy to open.
MOST_CHARACTERS = 1200


def data_island(value: object) -> Markup:
    """JSON that can stand inside a script element whatever its strings hold.

    Escaping <, > and & in the JSON itself means that no string can close the element or open a comment
    (HTML, "Restrictions for contents of script elements"); U+2028 and U+2029 would end a line of JavaScript.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    text = text.encode("utf-8", "replace").decode("utf-8")
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("embedfit.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        score=wording.score,
        points=wording.points,
        between=wording.points_between,
        p_value=wording.p_value,
        count=wording.count,
        metric=wording.metric_name,
        system=label_of,
        duration=_time,
        money=wording.money,
        size=wording.size,
        ms=wording.milliseconds,
    )
    return environment


def _time(seconds: float) -> str:
    return duration(seconds) if seconds >= 1 else "under 1 s"


def _asset(name: str) -> str:
    return resources.files("embedfit.reporting").joinpath("templates", name).read_text("utf-8")


def _csp_hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def render(evidence: Evidence) -> str:
    """The whole page. Everything that came from documents, queries or models is escaped."""
    style, script = _asset("report.css"), _asset("report.js")
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            style=Markup(style),
            script=Markup(script),
            style_hash=_csp_hash(style),
            script_hash=_csp_hash(script),
            evidence=evidence,
            name=evidence.root.rstrip("/").rsplit("/", 1)[-1] or "run",
            verdict=wording.verdict(evidence),
            tuning=wording.tuning(evidence),
            lead=_lead(evidence),
            storage=evidence.storage,
            questions=wording.questions(evidence),
            key_figures=_key_figures(evidence),
            findings=findings(evidence),
            next_steps=next_steps(evidence),
            panels=_panels(evidence),
            metrics=[m for m in METRICS if any(m in s.metrics for s in evidence.systems.values())],
            systems=_ordered_systems(evidence),
            slices=_slices(evidence),
            outcomes=_outcomes(evidence),
            island=data_island(_explorer(evidence)),
            funnel_bars=_funnel_bars(evidence),
            training=_training_figures(evidence),
            training_facts=_training_facts(evidence),
            sweep=_sweep_figure(evidence),
            cosines=_cosine_figure(evidence),
            stages=_stages(evidence),
            snippets=snippets(evidence),
            settings=_settings(evidence),
            check_verdict=evidence.check_verdict[:1].upper() + evidence.check_verdict[1:],
            comparisons=_comparisons(evidence),
            most_rows=MOST_ROWS,
        )
    )


def _key_figures(evidence: Evidence) -> list[tuple[str, str, str]]:
    """(label, value, note) of the few numbers under the verdict."""
    comparison = wording.verdict(evidence).comparison
    found: list[tuple[str, str, str]] = []
    if comparison:
        found.append(
            (
                f"{wording.metric_name(comparison.metric)} against base",
                wording.points(comparison.delta),
                f"points, 95% interval {wording.points_between(comparison.ci95)}",
            )
        )
        found.append(("p-value", wording.p_value(comparison.p_value), "paired randomisation test"))
    clusters = f"in {wording.plural(comparison.clusters, 'cluster')}" if comparison and comparison.clusters else ""
    asked = "asked by people" if evidence.human else "written by a model"
    found.append(("Questions", wording.count(evidence.data.get("eval_queries")), f"{asked} {clusters}".strip()))
    seconds = sum(_seconds(evidence).values())
    found.append(("Time", duration(seconds), "all stages"))
    usd = evidence.cost.get("usd", 0.0)
    found.append(
        ("Cost", wording.money(usd), f"{wording.plural(evidence.cost.get('calls', 0), 'language-model call')}")
    )
    return found


def _led(evidence: Evidence) -> list[str]:
    """The retrievers that the report leads with; of a run of embedfit 0.1 its models and BM25."""
    doubled = ("chosen", "chosen_base") if evidence.same_as_default else ()
    names = [
        name for name in (one.name for one in SYSTEMS if one.leads) if name in evidence.systems and name not in doubled
    ]
    if evidence.lead not in names and evidence.lead in evidence.systems:
        names.append(evidence.lead)
    return names


def _lead(evidence: Evidence) -> list[dict[str, Any]]:
    """The rows of the first table."""
    found = []
    for name in _led(evidence):
        row, system = evidence.rows.get(name), evidence.systems[name]
        found.append(
            {
                "name": name,
                "note": _note(name, row),
                "ships": name == evidence.lead,
                "score": system.metrics.get(PANELS[0]),
                "ci95": system.ci95.get(PANELS[0]),
                "against": evidence.comparison(name),
                "bytes": row.bytes_a_passage if row else None,
                "ms": row.ms_a_query if row else None,
            }
        )
    return found


def _comparisons(evidence: Evidence) -> tuple[list[Comparison], list[Comparison], list[Comparison]]:
    """On nDCG@10: of the retrievers that the report leads with, then the others; and all on other metrics."""
    led = _led(evidence)
    doubled = ("chosen", "chosen_base") if evidence.same_as_default else ()
    shown = [c for c in evidence.comparisons if c.a not in doubled]
    main = [c for c in shown if c.metric == PANELS[0]]
    lead = [c for c in main if c.a in led and c.b in led]
    return lead, [c for c in main if c not in lead], [c for c in shown if c.metric != PANELS[0]]


def _note(name: str, row: Row | None) -> str:
    """What a retriever is made of, in a few words."""
    if name == "base":
        return "one vector a passage, untuned"
    if row is None:
        return ""
    parts = " + ".join(_PART_NAMES.get(part["name"], part["name"]) for part in row.retriever["parts"])
    reranked = ", then late interaction" if row.retriever.get("rerank") else ""
    ranks = "ranks of " if row.retriever.get("method") == "reciprocal_rank" else ""
    model = {"base": "; untuned model", "merged": "; tuned model"}.get(row.model or "", "; no model")
    return f"{ranks}{parts}{reranked}{model}"


_PART_NAMES = {"one": "one vector", "words_and_queries": "words and written queries", "queries": "written queries"}


def _ordered_systems(evidence: Evidence) -> list[str]:
    known = [
        name for name in (*_led(evidence), *(one.name for one in SYSTEMS if not one.leads)) if name in evidence.systems
    ]
    doubled = ("chosen", "chosen_base") if evidence.same_as_default else ()
    return known + [name for name in evidence.systems if name not in (*known, *doubled)]


def _kind(system: str, shipped: str) -> str:
    if system == shipped:
        return "shipped"
    if system in BY_NAME:
        return BY_NAME[system].kind
    return "hybrid" if system.startswith("hybrid:") else "other"


def _panels(evidence: Evidence) -> list[tuple[str, str, Markup]]:
    """(metric, note, figure) of the metrics worth a picture, of the retrievers that the report leads with."""
    result: list[tuple[str, str, Markup]] = []
    for metric in PANELS:
        rows = [
            figures.Row(
                label=_short(label_of(name)),
                value=evidence.systems[name].metrics[metric],
                interval=evidence.systems[name].ci95.get(metric),
                kind=_kind(name, evidence.lead),
                shown=wording.score(evidence.systems[name].metrics[metric]),
            )
            for name in _led(evidence)
            if metric in evidence.systems[name].metrics
        ]
        if rows:
            title = f"{wording.metric_name(metric)} of the retrievers"
            result.append((metric, PANEL_NOTES[metric], figures.intervals(f"panel-{len(result)}", title, rows)))
    return result


def _short(label: str, longest: int = 18) -> str:
    return label if len(label) <= longest else "…" + label[-longest + 1 :]


def _slices(evidence: Evidence) -> list[tuple[str, list[tuple[Slice, str, Markup]], int]]:
    """(heading, [(slice, label, bar)], number left out) of every way to group the questions."""
    result: list[tuple[str, list[tuple[Slice, str, Markup]], int]] = []
    for name, rows in evidence.slices.items():
        if len(rows) < 2 or not any(row.delta for row in rows):
            continue  # one group is all questions
        shown = sorted(rows, key=lambda row: -row.queries)[:MOST_ROWS] if name == "document" else list(rows)[:MOST_ROWS]
        ends = [abs(end) for row in shown for end in (*(row.ci95 or ()), row.delta)]
        reach = max(ends, default=0.0) or 0.01
        drawn = [
            (row, evidence.document_names.get(row.value, row.value), figures.delta_bar(row.delta, row.ci95, reach))
            for row in shown
        ]
        if drawn:
            result.append((SLICE_NAMES.get(name, name), drawn, len(rows) - len(shown)))
    return result


def _outcomes(evidence: Evidence) -> dict[str, int]:
    """How many questions were won, lost and tied, and how many of them the page shows."""
    deltas = [entry.get("delta", 0) for entry in evidence.outcomes]
    counted = {"won": sum(d > 0 for d in deltas), "lost": sum(d < 0 for d in deltas), "tied": 0}
    return {**counted, **evidence.outcome_counts, "shown": len(deltas)}


def _explorer(evidence: Evidence) -> dict[str, Any]:
    """What the page's script shows: entries, and each passage once."""
    entries: list[dict[str, Any]] = []
    used: set[str] = set()
    for outcome in evidence.outcomes:
        found: list[dict[str, Any]] = [
            {
                "name": label_of(evidence.lead if name == "chosen" else name),
                "rank": value.get("rank") or 0,
                "top": list(value.get("top", ())),
            }
            for name, value in outcome.items()
            if isinstance(value, Mapping) and "top" in value
        ]
        relevant = list(outcome.get("relevant", ()))
        used.update(relevant, *(system["top"] for system in found))
        entries.append(
            {
                "query": outcome.get("query", ""),
                "style": outcome.get("style") or "",
                "delta": outcome.get("delta", 0.0),
                "relevant": relevant,
                "systems": found,
            }
        )
    passages = {
        passage_id: {
            "title": passage.get("title") or "",
            "text": _cut(passage.get("text") or ""),
            "document": passage.get("document") or _document_name(evidence, passage.get("document_id", "")),
            "page": passage.get("page") or 0,
        }
        for passage_id, passage in evidence.passages.items()
        if passage_id in used
    }
    return {"entries": entries, "passages": passages}


def _document_name(evidence: Evidence, document_id: str) -> str:
    return evidence.document_names.get(document_id, document_id)


def _cut(text: str) -> str:
    return text if len(text) <= MOST_CHARACTERS else text[:MOST_CHARACTERS].rsplit(" ", 1)[0] + " …"


def _funnel_bars(evidence: Evidence) -> dict[str, Markup]:
    funnel = evidence.funnel
    cut = funnel.passages_kept + funnel.passages_dropped
    return {
        "documents": _kept_bar(funnel.documents_read, funnel.documents_given),
        "passages": _kept_bar(funnel.passages_kept, cut),
        "queries": _kept_bar(funnel.queries_kept, funnel.queries_written),
    }


def _kept_bar(kept: int, whole: int) -> Markup:
    return figures.share_bar([(kept, "kept"), (whole - kept, "dropped")], whole)


def _training_figures(evidence: Evidence) -> list[tuple[str, Markup]]:
    """(caption, figure) of loss and dev score over steps."""
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
        start, scores = evidence.dev_scores[0], dict(evidence.dev_scores)
        best = evidence.training.get("best_step")
        kept = best if best in scores else max(scores, key=lambda step: scores[step])
        said = (
            f"nDCG@10 on the dev questions: from {start[1]:.3f} to {scores[kept]:.3f} at step {kept:g}, which was kept."
        )
        line = figures.Line(label="nDCG@10", points=evidence.dev_scores, kind="shipped", marked=True)
        result.append(
            (said, figures.curves("dev", "Dev score", said, [line], x_label="step", mark=kept, mark_label="kept"))
        )
    return result


def _training_facts(evidence: Evidence) -> str:
    """How training went, in a sentence."""
    told = evidence.training
    facts = []
    if told.get("steps"):
        stopped = " (stopped early)" if told.get("stopped_early") else ""
        facts.append(
            f"{wording.plural(told['steps'], 'step')}{stopped} over {wording.plural(told.get('rows', 0), 'row')}"
        )
    if told.get("tokens_per_second"):
        facts.append(f"{wording.count(told['tokens_per_second'])} tokens a second")
    if told.get("precision") and told.get("device"):
        facts.append(f"{told['precision']} on {told['device']}")
    if told.get("peak_memory_mb"):
        facts.append(f"at most {told['peak_memory_mb'] / 1024:.1f} GiB of memory")
    return ", ".join(facts)


def _sweep_figure(evidence: Evidence, metric: str = "ndcg@10") -> dict[str, Any] | None:
    """Figures and caption of the weights that the merge tried."""
    tried = sorted((point for point in evidence.sweep if metric in point.dev), key=lambda point: point.alpha)
    if not tried:
        return None
    chosen = evidence.decision.alpha
    dev = [(point.alpha, point.dev[metric]) for point in tried]
    retained = [(point.alpha, point.retention) for point in tried if point.retention is not None]
    said = "; ".join(f"weight {alpha:g}: {value:.3f}" for alpha, value in dev)
    label = "" if chosen is None else f"chosen: {chosen:g}"
    found = [
        (
            f"{wording.metric_name(metric)} on the dev questions",
            figures.curves(
                "sweep-dev",
                "Dev score by weight of the fine-tuned model",
                said + ".",
                [figures.Line(label="dev", points=dev, kind="shipped", marked=True)],
                x_label="weight α of the fine-tuned model",
                mark=chosen,
                mark_label=label,
            ),
        )
    ]
    if retained:
        said = "; ".join(f"weight {alpha:g}: {value:.3f}" for alpha, value in retained)
        found.append(
            (
                "Retention: what it keeps of the base elsewhere",
                figures.curves(
                    "sweep-retention",
                    "Retention by weight of the fine-tuned model",
                    said + ".",
                    [figures.Line(label="retention", points=retained, kind="base", marked=True)],
                    x_label="weight α of the fine-tuned model",
                    mark=chosen,
                    mark_label=label,
                ),
            )
        )
    return {"figures": found, "tried": tried, "chosen": chosen, "metric": metric}


def _cosine_figure(evidence: Evidence) -> Markup | None:
    rows = [(label_of(c.system), c) for c in evidence.cosines if c.similar or c.different]
    return figures.cosines("cosines", "Cosines of similar and different pairs", rows) if rows else None


def _seconds(evidence: Evidence) -> dict[str, float]:
    """Wall time of each stage: its manifest's, else summary.json's."""
    return {**evidence.timings_s, **{m.stage: m.seconds for m in evidence.manifests}}


def _stages(evidence: Evidence) -> list[tuple[str, float, Markup]]:
    seconds = _seconds(evidence)
    longest = max(seconds.values(), default=0.0)
    return [(name, value, figures.share_bar([(value, "time")], longest, width=160)) for name, value in seconds.items()]


def _settings(evidence: Evidence) -> str:
    """The configuration as the run keeps it, without credentials that somebody put into an address."""
    text = tomli_w.dumps(stored_settings(evidence.config, Path(evidence.root) / "embedfit.toml")[0])
    return re.sub(r"://[^/@\s\"]+@", "://…@", text)


__all__: Sequence[str] = ("data_island", "render")
