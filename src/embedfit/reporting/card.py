"""The model card for the Hub and for colleagues. It holds no text of any document."""

from __future__ import annotations

import re
from functools import partial

from huggingface_hub import EvalResult, ModelCardData
from markupsafe import Markup, escape

from embedfit.errors import ArtifactMissing
from embedfit.llm.licences import writers
from embedfit.models.sources import EMBEDDERS
from embedfit.path.artefacts import Summary
from embedfit.reporting import usage, wording
from embedfit.reporting.advice import findings
from embedfit.reporting.evidence import Evidence
from embedfit.reporting.rendering import environment

METRICS = ("ndcg@10", "mrr@10", "hit@1", "hit@5", "recall@10", "recall@100", "map@100")
TAGS = (
    "sentence-transformers",
    "sentence-similarity",
    "feature-extraction",
    "retrieval",
    "text-embeddings-inference",
    "embedfit",
)
#: The columns of the card's table, and the system in each.
COLUMNS = {"Base": "base", "This model": "merged", "BM25": "bm25", "Retriever over it": "default"}
#: Stands for the repository's id while there is none.
UNNAMED = "PATH-OR-HUB-ID"


def render(evidence: Evidence, *, model_id: str = UNNAMED) -> str:
    """README.md of the merged model: metadata as YAML, then Markdown.

    model_id: the name under which readers load the model. The card holds no paths, names or texts of documents.
    """
    if evidence.layout is None:
        raise ArtifactMissing(
            f"{evidence.root}/merged is not a whole model folder.",
            remedy=f"Run: embedfit merge --run {evidence.root} --force",
        )
    summary, made = evidence.summary, environment()
    made.filters.update(cell=_cell, code=_code)
    columns = {column: system for column, system in COLUMNS.items() if system in summary.systems}
    text = made.get_template("card.md.j2").render(
        title=_title(evidence, model_id),
        verdict=_verdict(summary),
        retriever=_retriever(summary),
        layout=evidence.layout,
        alpha=summary.decision.alpha,
        base=usage.hub_id(evidence.config.model) or "a local model",
        data=_data(evidence),
        writers=writers(language_models(evidence)),
        questions=wording.questions(summary),
        columns=columns,
        rows=_rows(summary, list(columns.values())),
        findings=findings(evidence),
        snippet=partial(_snippet, model_id, evidence.layout.queries is not None),
        map_alone=evidence.layout.has_map,
    )
    text = re.sub(r"\n{3,}", "\n\n", text).strip()
    return f"---\n{metadata(evidence, model_id).to_yaml()}\n---\n\n{text}\n"


def language_models(evidence: Evidence) -> list[str]:
    """The models whose replies or scores went into the run, as PROVIDER:MODEL or by name.

    summary.json names them; a run of an older version, or one without its ledger, has its settings alone.
    """
    generate, found = evidence.config.generate, list(evidence.summary.cost.models)
    if not found and evidence.summary.data.queries_generated:
        found.append(f"{generate.generator}:{generate.llm or ''}")
    if generate.judge not in (None, "llm"):
        found.append(str(generate.judge))
    return found


def _snippet(model_id: str, towers: bool, name: str) -> Markup:
    return Markup(usage.code(name, model=model_id, towers=towers))


def metadata(evidence: Evidence, model_id: str = UNNAMED) -> ModelCardData:
    """The YAML block in the Hub's terms. Unknown facts (licence, language) are left out, never guessed."""
    base, results = usage.hub_id(evidence.config.model), _results(evidence.summary)
    return ModelCardData(
        base_model=base,
        base_model_relation="finetune" if base else None,
        language=_language(evidence),
        library_name="sentence-transformers",
        pipeline_tag="sentence-similarity",
        tags=list(TAGS),
        model_name=_title(evidence, model_id) if results else None,
        eval_results=results or None,
        metrics=sorted({result.metric_type for result in results}) or None,
    )


def _results(summary: Summary) -> list[EvalResult]:
    kind = "human questions" if summary.human else "synthetic questions"
    measured = summary.systems["merged"].metrics if "merged" in summary.systems else {}
    return [
        EvalResult(
            task_type="information-retrieval",
            task_name="Information Retrieval",
            dataset_type="private",
            dataset_name=f"Held-out {kind}",
            metric_type=f"cosine_{metric.replace('hit', 'accuracy')}",
            metric_name=wording.metric_name(metric),
            metric_value=round(measured[metric], 4),
        )
        for metric in METRICS
        if metric in measured
    ]


def _language(evidence: Evidence) -> str | None:
    language = evidence.config.generate.language.strip().lower()
    if re.fullmatch(r"[a-z]{2,3}", language):
        return language
    # Models with an alias are English; a language that the settings describe in words can't be mapped safely.
    return "en" if not language and evidence.config.model in EMBEDDERS else None


def _title(evidence: Evidence, model_id: str) -> str:
    if model_id != UNNAMED:
        return model_id.rsplit("/", 1)[-1]
    base = (usage.hub_id(evidence.config.model) or "embedding model").rsplit("/", 1)[-1]
    return f"{base} tuned with embedfit"


def _verdict(summary: Summary) -> str:
    if summary.decision.ship == "base":
        return (
            "**Use the base model.** Tuning brought no gain that embedfit could be sure of, so it kept the base; "
            "these are the base’s weights."
        )
    comparison = summary.comparison("merged")
    said = {
        "better": "On the documents it was tuned for, it finds the right passages better than its base",
        "unsure": "Whether it is better than its base the evaluation can’t tell",
        "worse": "In the evaluation it is worse than its base",
    }[wording.tone_of(comparison)]
    shown = "not compared"
    if comparison is not None:
        shown = f"{wording.points(comparison.delta)} points of {wording.metric_name(comparison.metric)}"
        if comparison.ci95 is not None:
            shown += f", 95% interval {wording.points_between(comparison.ci95)}"
        if comparison.p_value is not None:
            p_value = wording.p_value(comparison.p_value)
            shown += f", p {p_value if p_value.startswith('<') else '= ' + p_value}"
    return f"{said}: **{shown}**, measured on {wording.questions(summary)}."


def _retriever(summary: Summary) -> str:
    """The sentence on embedfit's retriever over the model, against one vector a passage of the base, and on tuning."""
    comparison = summary.comparison("default")
    if comparison is None or "default" not in summary.systems:
        return ""
    over = "this model" if summary.decision.over == "merged" else "the untuned base"
    value = wording.score(summary.systems["default"].metrics.get(comparison.metric))
    return (
        f"In embedfit’s retriever (one vector, windows, words and late interaction over {over}) it reaches {value} "
        f"{wording.metric_name(comparison.metric)}: {wording.difference(comparison)}, against one vector a passage of "
        f"the base. {wording.tuning(summary)}"
    )


def _data(evidence: Evidence) -> list[str]:
    """Sentences on the training data: numbers of documents, passages, questions and rows."""
    data, config = evidence.summary.data, evidence.config
    sentences = []
    if data.documents and data.passages:
        sentences.append(
            f"{wording.plural(data.documents, 'document')}, cut into {wording.plural(data.passages, 'passage')}."
        )
    if data.queries_generated:
        styles = ", ".join(style for style, _, _ in evidence.funnel.styles)
        sentences.append(
            f"{wording.plural(data.queries_generated, 'question')} written by a language model "
            f"({config.generate.generator}{f'; styles: {styles}' if styles else ''}), "
            f"of which {wording.count(data.queries_kept)} passed the filters."
        )
    if data.train_rows:
        sentences.append(
            f"{wording.plural(data.train_rows, 'training row')} with up to "
            f"{wording.plural(config.mine.negatives, 'mined hard negative')}, loss {config.training.loss}, "
            f"temperature {config.train.temperature:g}, seed {config.seed}."
        )
    return sentences or ["The run recorded no counts."]


def _rows(summary: Summary, systems: list[str]) -> list[tuple[str, list[str]]]:
    """(metric, values of the systems with their intervals)."""
    if not {"base", "merged"} <= set(systems):
        return []
    return [
        (wording.metric_name(metric), [_value(summary, system, metric) for system in systems])
        for metric in METRICS
        if metric in summary.systems["merged"].metrics
    ]


def _value(summary: Summary, system: str, metric: str) -> str:
    found = summary.systems[system]
    interval = found.ci95.get(metric)
    shown = f" [{wording.score(interval[0])}, {wording.score(interval[1])}]" if interval else ""
    return wording.score(found.metrics.get(metric)) + shown


def _cell(text: str) -> Markup:
    """Text for a table's cell, or for a code span inside one. It is on one line and can't end either."""
    plain = " ".join(str(text).split()).replace("`", "'").replace("|", "\\|")
    return escape(plain)


def _code(text: str) -> Markup:
    """A code span for a table's cell, exact to the character, because Markdown itself escapes HTML in a code span."""
    plain = re.sub(r"[\r\n]", " ", text).replace("|", "\\|")
    fence = "`" * (max((len(run) for run in re.findall("`+", plain)), default=0) + 1)
    # A code span needs a space beside a backtick, and Markdown strips one space on each side.
    return Markup(f"{fence} {plain} {fence}")
