"""The model card: what the Hub and a colleague need to know, and no text of any document."""

from __future__ import annotations

import re
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from embedfit.errors import ArtifactMissing
from embedfit.models.sources import EMBEDDERS
from embedfit.reporting import usage, wording
from embedfit.reporting.advice import findings
from embedfit.reporting.evidence import Evidence

METRICS = ("ndcg@10", "mrr@10", "hit@1", "hit@5", "recall@10", "recall@100", "map@100")
TAGS = (
    "sentence-transformers",
    "sentence-similarity",
    "feature-extraction",
    "retrieval",
    "text-embeddings-inference",
    "embedfit",
)
#: Columns of the card's table, and the system of each.
COLUMNS = {"Base": "base", "This model": "merged", "BM25": "bm25", "Retriever over it": "default"}
#: Used where the card is not yet bound for a repository.
UNNAMED = "PATH-OR-HUB-ID"


def render(evidence: Evidence, *, model_id: str = UNNAMED) -> str:
    """README.md of the merged model: metadata as YAML, then Markdown.

    model_id: how readers will load it. No paths, names or texts of documents are in it.
    """
    if evidence.layout is None:
        raise ArtifactMissing(
            f"{evidence.root}/merged is not a whole model folder.",
            remedy=f"Run: embedfit merge --run {evidence.root} --force",
        )
    environment = Environment(
        loader=PackageLoader("embedfit.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(cell=_cell, code=_code)
    code = {
        "searching": usage.searching_documents(model_id),
        "loading": usage.loading(model_id),
        "tei": usage.tei(model_id, folder=False),
        "langchain": usage.langchain_alone(model_id),
    }
    text = environment.get_template("card.md.j2").render(
        title=_title(evidence, model_id),
        verdict=_verdict(evidence),
        retriever=_retriever(evidence),
        layout=evidence.layout,
        alpha=evidence.decision.alpha,
        base=_base(evidence) or "a local model",
        data=_data(evidence),
        questions=wording.questions(evidence),
        rows=_rows(evidence),
        columns=[column for column, system in COLUMNS.items() if system in evidence.systems],
        findings=findings(evidence),
        **{name: _verbatim(value) for name, value in code.items()},
    )
    return f"---\n{metadata(evidence, model_id).to_yaml()}\n---\n\n{_tidy(text)}"


def metadata(evidence: Evidence, model_id: str = UNNAMED) -> ModelCardData:
    """The YAML block in the Hub's terms. What is not known (licence, language) is left out, never guessed."""
    known: dict[str, Any] = {}
    if base := usage.hub_id(evidence.config.model):
        known["base_model"] = base
        known["base_model_relation"] = "finetune"
    if language := _language(evidence):
        known["language"] = language
    if results := _results(evidence):
        known["model_name"] = _title(evidence, model_id)
        known["eval_results"] = results
    return ModelCardData(
        library_name="sentence-transformers",
        pipeline_tag="sentence-similarity",
        tags=list(TAGS),
        metrics=sorted({result.metric_type for result in known.get("eval_results", ())}) or None,
        **known,
    )


def _results(evidence: Evidence) -> list[EvalResult]:
    merged = evidence.systems.get("merged")
    if merged is None:
        return []
    kind = "human questions" if evidence.human else "synthetic questions"
    return [
        EvalResult(
            task_type="information-retrieval",
            task_name="Information Retrieval",
            dataset_type="private",
            dataset_name=f"Held-out {kind}",
            metric_type=f"cosine_{metric.replace('hit', 'accuracy')}",
            metric_name=wording.metric_name(metric),
            metric_value=round(merged.metrics[metric], 4),
        )
        for metric in METRICS
        if metric in merged.metrics
    ]


def _language(evidence: Evidence) -> str | None:
    language = evidence.config.generate.language.strip().lower()
    if re.fullmatch(r"[a-z]{2,3}", language):
        return language
    # The named models are English ones; another language of the queries in words can't be mapped safely.
    return "en" if not language and evidence.config.model in EMBEDDERS else None


def _base(evidence: Evidence) -> str | None:
    return usage.hub_id(evidence.config.model)


def _title(evidence: Evidence, model_id: str) -> str:
    if model_id != UNNAMED:
        return model_id.rsplit("/", 1)[-1]
    base = (_base(evidence) or "embedding model").rsplit("/", 1)[-1]
    return f"{base} tuned with embedfit"


def _verdict(evidence: Evidence) -> str:
    if evidence.decision.ship == "base":
        return (
            "**Use the base model.** Tuning brought no gain that embedfit could be sure of, so it kept the base; "
            "these are the base’s weights."
        )
    sentences = {
        "better": "On the documents it was tuned for, it finds the right passages better than its base",
        "unsure": "Whether it is better than its base the evaluation can’t tell",
        "worse": "In the evaluation it is worse than its base",
    }
    said = sentences[wording.tone_of(evidence.comparison("merged"))]
    return f"{said}: **{_difference(evidence)}**, measured on {wording.questions(evidence)}."


def _retriever(evidence: Evidence) -> str:
    """What embedfit's retriever finds with it, against one vector a passage of the base, and what tuning adds there."""
    comparison = evidence.comparison("default")
    if comparison is None or "default" not in evidence.systems:
        return ""
    over = "this model" if evidence.decision.over == "merged" else "the untuned base"
    value = wording.score(evidence.systems["default"].metrics.get(comparison.metric))
    return (
        f"In embedfit’s retriever (one vector, windows, words and late interaction over {over}) it reaches {value} "
        f"{wording.metric_name(comparison.metric)}: {wording.difference(comparison)}, against one vector a passage of "
        f"the base. {wording.tuning(evidence)}"
    )


def _difference(evidence: Evidence) -> str:
    comparison = evidence.comparison("merged")
    if comparison is None:
        return "not compared"
    interval = f", 95% interval {wording.points_between(comparison.ci95)}" if comparison.ci95 else ""
    p_value = wording.p_value(comparison.p_value)
    p_said = "" if comparison.p_value is None else f", p {p_value if p_value.startswith('<') else '= ' + p_value}"
    return f"{wording.points(comparison.delta)} points of {wording.metric_name(comparison.metric)}{interval}{p_said}"


def _data(evidence: Evidence) -> list[str]:
    """Counts and kinds, in sentences."""
    data, funnel, config = evidence.data, evidence.funnel, evidence.config
    sentences = []
    if data.get("documents") and data.get("passages"):
        sentences.append(
            f"{wording.plural(data['documents'], 'document')}, cut into {wording.plural(data['passages'], 'passage')}."
        )
    if data.get("queries_generated"):
        styles = ", ".join(style for style, _, _ in funnel.styles)
        sentences.append(
            f"{wording.plural(data['queries_generated'], 'question')} written by a language model "
            f"({config.generate.generator}{f'; styles: {styles}' if styles else ''}), "
            f"of which {wording.count(data.get('queries_kept', 0))} passed the filters."
        )
    if data.get("train_rows"):
        sentences.append(
            f"{wording.plural(data['train_rows'], 'training row')} with up to "
            f"{wording.plural(config.mine.negatives, 'mined hard negative')}, loss {config.train.loss}, "
            f"temperature {config.train.temperature:g}, seed {config.seed}."
        )
    return sentences or ["The run recorded no counts."]


def _rows(evidence: Evidence) -> list[tuple[str, list[str]]]:
    if not {"base", "merged"} <= set(evidence.systems):
        return []
    systems = [system for system in COLUMNS.values() if system in evidence.systems]
    return [
        (wording.metric_name(metric), [_value(evidence, system, metric) for system in systems])
        for metric in METRICS
        if metric in evidence.systems["merged"].metrics
    ]


def _value(evidence: Evidence, system: str, metric: str) -> str:
    found = evidence.systems.get(system)
    if found is None or metric not in found.metrics:
        return "–"
    interval = found.ci95.get(metric)
    shown = f" [{wording.score(interval[0])}, {wording.score(interval[1])}]" if interval else ""
    return wording.score(found.metrics[metric]) + shown


def _cell(text: str) -> Markup:
    """Text for a table's cell or a code span inside one: on one line, with no way out of either."""
    plain = " ".join(str(text).split()).replace("`", "'").replace("|", "\\|")
    return escape(plain)


def _code(text: str) -> Markup:
    """A code span for a table's cell, exact to the character: in a code span Markdown escapes HTML by itself."""
    plain = re.sub(r"[\r\n]", " ", text).replace("|", "\\|")
    fence = "`" * (max((len(run) for run in re.findall("`+", plain)), default=0) + 1)
    # Markdown strips one space on each side, and needs one beside a backtick.
    return Markup(f"{fence} {plain} {fence}")


def _verbatim(code: str) -> Markup:
    return Markup(code)


def _tidy(text: str) -> str:
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"
