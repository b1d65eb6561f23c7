"""The page and the terminal's lines of an assessment."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from embedfit.display.pages import policy_hash
from embedfit.display.terminal import shown
from embedfit.path.artefacts import Assessed, AssessedRow
from embedfit.reporting import figures, wording
from embedfit.reporting.rendering import asset, environment

_EVIDENCE = {
    "labelled": "questions that people asked, with known answers",
    "graded": "questions that people asked, whose results were graded",
    "written": "questions that a language model wrote",
}
#: Short names of retrievers, for tables.
_LABELS = {
    "base": "one vector",
    "one_words": "one vector, words",
    "windows_words": "windows, words",
    "bm25": "BM25",
    "rrf": "rank fusion",
    "sum": "first stage",
    "expanded": "written queries",
}
_OUTLOOK = {
    "likely": "Tuning is likely to help",
    "not likely": "Tuning is not likely to help",
    "can't tell": "Whether tuning helps can't be told yet",
}


def ordered(result: Assessed) -> list[AssessedRow]:
    """The rows, the best first."""
    return sorted(result.rows, key=lambda row: -row.score)


def label(row: AssessedRow) -> str:
    """A row's retriever in a few words."""
    return _LABELS.get(row.retriever.name, row.retriever.name)


def table(result: Assessed) -> Table:
    """The rows for a terminal of 80 columns; the recommended one is marked."""
    made = Table(box=None, pad_edge=False)
    made.add_column("model", overflow="fold")
    made.add_column("retriever", overflow="fold")
    for heading in (wording.metric_name(result.metric), "95% CI", "points", "95% CI", "kB", "ms"):
        made.add_column(heading, no_wrap=True, justify="right")
    for row in ordered(result):
        low, high = row.delta_ci95
        mark = " ←" if row == result.recommended else ""
        made.add_row(
            shown(row.model or "–"),
            f"{label(row)}{mark}",
            f"{row.score:.3f}",
            f"{row.ci95[0]:.3f}–{row.ci95[1]:.3f}",
            f"{100 * row.delta:+.1f}",
            f"[{100 * low:+.1f}, {100 * high:+.1f}]",
            "" if row.bytes_a_passage is None else f"{row.bytes_a_passage / 1e3:.1f}",
            "" if row.ms_a_query is None else f"{row.ms_a_query:.0f}",
        )
    return made


def lines(result: Assessed, run: str) -> list[str]:
    """The result in sentences. run: its folder."""
    found = [
        f"On {wording.plural(result.questions, 'question')} ({_EVIDENCE[result.kind]}) over "
        f"{wording.plural(result.passages, 'passage')}. Points are against one vector of {result.models[0]}; kB a "
        "passage in the index, ms a query.",
        f"Take {result.model}: {result.model_why}.",
        f"Search with {result.choice.why}.",
        f"{outlook_sentence(result)}",
        *result.notes,
        f"Build it: {result.command}",
    ]
    if result.kind == "written":
        found.append(
            "Written questions share words with their passages, and flatter whatever finds words. Fifty questions of "
            f"people tell more: embedfit assess --run {run} --queries FILE --judge SPEC"
        )
    if result.outlook.verdict != "not likely":
        more = "" if result.model == result.models[0] else f" --model {result.model}"
        found.append(f"Tune, with what was paid for reused: embedfit run --run {run}{more}")
    return found


def outlook_sentence(result: Assessed) -> str:
    """The sentence that says whether tuning is likely to help, and why."""
    return f"{_OUTLOOK[result.outlook.verdict]}, because {result.outlook.why}."


def render(result: Assessed, root: str) -> str:
    """The whole page. All text from the run is escaped."""
    style = asset("report.css")
    return (
        environment()
        .get_template("assessed.html.j2")
        .render(
            style=style,
            style_hash=policy_hash(style),
            result=result,
            name=root.rstrip("/").rsplit("/", 1)[-1] or "run",
            rows=[(row, label(row), row == result.recommended) for row in ordered(result)],
            outlook=outlook_sentence(result),
            evidence=_EVIDENCE[result.kind],
            figure=_figure(ordered(result), result),
            root=root,
        )
    )


def _figure(rows: Sequence[AssessedRow], result: Assessed) -> str:
    dots = [
        figures.Dot(
            label=f"{label(row)}, {row.model}" if row.model else label(row),
            value=row.score,
            interval=row.ci95,
            kind="shipped" if row == result.recommended else "lexical" if not row.model else "other",
            shown=wording.score(row.score),
        )
        for row in rows
    ]
    return figures.intervals("ndcg", wording.metric_name(result.metric), dots)
