"""The systems of a run: its retrievers, opened model by model, and those of evaluate.systems."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

from embedfit.config import WINDOW_TOKENS, Config
from embedfit.embedders.registry import open_embedder
from embedfit.errors import ArtifactMissing
from embedfit.evaluation.evalset import EvalSet, cut, read_eval_set
from embedfit.evaluation.measure import Group, Measured, Opened, measure, of_model, of_vectors, of_words
from embedfit.files.atomic import atomic_folder
from embedfit.files.flagembedding import read_flagembedding
from embedfit.generators import generator
from embedfit.index.build import Source
from embedfit.index.plan import IndexPlan, Wish, plan
from embedfit.index.retriever import BASE, BM25, DEFAULT, RRF, Retriever, default_for
from embedfit.index.written import written_of
from embedfit.models import query_map
from embedfit.models.layout.towers import save_mapped
from embedfit.models.local import LocalModel, base_model
from embedfit.models.query_map import QueryMap
from embedfit.models.store.vectors import Embedder
from embedfit.models.tokenizer import load_tokenizer
from embedfit.numerics.arrays import Vectors
from embedfit.path.artefacts import ChosenRetriever, Document, MeasuredRetriever, MergeSweep, Passage, Query, written
from embedfit.path.systems import BY_NAME, SYSTEMS
from embedfit.path.workspace import Workspace
from embedfit.retrieval.bm25 import Bm25
from embedfit.runtime import Runtime

#: BM25 on the part of each passage that the base's window holds. It is measured only if a passage is longer.
CUT = "bm25_cut"
#: A model's name, and whether its index holds written queries.
Key = tuple[str, bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFiles:
    """The files of the run that evaluate reads, besides the models.

    queries: the written ones. asked: asked questions that may set an index' constants.
    """

    documents: Sequence[Document]
    passages: Sequence[Passage]
    queries: Sequence[Query]
    train_rows: int
    merge: MergeSweep
    chosen: ChosenRetriever
    asked: Sequence[str]
    eval_set: EvalSet

    @classmethod
    def read(cls, workspace: Workspace, config: Config) -> RunFiles:
        """Read the files. Raises ArtifactMissing with the command that makes a missing one."""
        queries, documents, passages = workspace.read(Query), workspace.read(Document), workspace.read(Passage)
        return cls(
            documents=documents,
            passages=passages,
            queries=written(queries),
            train_rows=len(read_flagembedding(workspace.existing("train.jsonl"))),
            merge=workspace.load(MergeSweep),
            chosen=workspace.load(ChosenRetriever),
            asked=[query.text for query in queries if query.split == "log"],
            eval_set=_eval_set(workspace, config, documents, passages, queries),
        )


def _eval_set(
    workspace: Workspace,
    config: Config,
    documents: Sequence[Document],
    passages: Sequence[Passage],
    queries: Sequence[Query],
) -> EvalSet:
    # A BEIR corpus is one file with many documents, so a document is named by its id.
    files = Counter(Path(document.path).name for document in documents)
    names = {
        document.document_id: file if files[file := Path(document.path).name] == 1 else document.document_id
        for document in documents
    }
    if config.eval_beir is None:
        styles = {query.query_id: query.style for query in queries}
        folder = workspace.existing("eval")
        return read_eval_set(folder, "synthetic", passages=passages, document_names=names, styles=styles)
    if not Path(config.eval_beir).is_dir():
        raise ArtifactMissing(f"There is no evaluation folder {config.eval_beir}.", remedy="Give another --eval-beir.")
    return read_eval_set(Path(config.eval_beir), "human", passages=passages, document_names=names)


class RunSystems:
    """The run's retrievers and those of evaluate.systems, in groups, so that only one model is in memory at a time.

    without_queries: whether the retriever that ships has written queries in its index, but is measured without them.
    """

    def __init__(
        self, workspace: Workspace, config: Config, runtime: Runtime, files: RunFiles, opened: dict[str, Embedder]
    ) -> None:
        """opened: the list that the embedders of evaluate.systems are appended to, for their cost."""
        self._workspace, self._config, self._runtime = workspace, config, runtime
        self._files, self._opened, self._eval_set = files, opened, files.eval_set
        self._base = base_model(config)
        tokenizer, contents = load_tokenizer(self._base.folder), self._eval_set.contents
        self._in_window, self.passages_cut = cut(contents, tokenizer, self._base.layout.max_tokens)
        # If every passage is one window, rows of windows would repeat those of one vector.
        windowed = bool(config.evaluate.windows and cut(contents, tokenizer, WINDOW_TOKENS)[1])
        default, chosen = self._shipped()
        self._is_default = alike(chosen, default)
        untuned = replace(default, rerank=DEFAULT.rerank) if default.rerank else default
        self._has_map = workspace.path(query_map.FILE).exists()
        #: The run's own systems, grouped by the index that they search, and the model of each.
        self._rows: dict[Key, dict[str, Retriever]] = {}
        self._model_of: dict[str, str | None] = {}
        ships, merged = files.chosen.model, files.merge
        # All of a tuned model must encode every passage to be measured. It need not if it can't ship anyway, except
        # where the base ships: then its row shows what tuning did.
        tunes_passages = config.training.tuned == "both"
        only_a_part = tunes_passages and merged.decision.alpha != 0 and all(one.alpha < 1 for one in merged.alphas)
        for one in SYSTEMS:
            twice = (one.retriever == "chosen" and self._is_default) or (one.name == "chosen_base" and ships == "base")
            # A model that is tuned by the map alone is the map.
            twice = twice or (one.model == "mapped" and (not self._has_map or config.training.tuned == "map"))
            twice = twice or (one.name == "finetuned" and only_a_part)
            if twice or one.name == CUT or (one.windows and not windowed):
                continue
            model = ships if one.model == "ships" else one.model
            named = {"default": default if one.model == "ships" else untuned, "chosen": chosen}
            retriever = named[one.retriever] if isinstance(one.retriever, str) else one.retriever
            self._model_of[one.name] = model
            self._rows.setdefault((model or "base", retriever.reads_queries), {})[one.name] = retriever

    def _shipped(self) -> tuple[Retriever, Retriever]:
        """(the safe default, the retriever that ships), as an index of the run has them, but fit to be measured.

        An index that a query judges must not hold that query. So written queries are left out of the index if a
        language model wrote the evaluation's questions.
        """
        config, chosen, passages = self._config, self._files.chosen, len(self._eval_set.passage_ids)
        self._written = written_of(self._eval_set.passage_ids, self._files.queries)

        def planned(queries: Wish) -> IndexPlan:
            is_strong = generator(config.generate.generator).strong
            tokens = config.index.tokens
            return plan(
                passages, chosen=chosen, written=self._written, is_strong=is_strong, tokens=tokens, queries=queries
            )

        wish = config.index.queries
        if wish == "yes" and not self._written.enough:
            wish = "auto"  # too few passages have written queries for an index to hold them
        ships, human = planned(wish), self._eval_set.kind == "human"
        self.without_queries = ships.with_queries and not human
        default = replace(chosen.default, name="default")
        if default.reads_queries and not (human and self._written.enough):
            default = default_for(passages)
        if self.without_queries:
            self._runtime.report.log(
                "evaluate: the index of this run holds the written queries; it is measured without them, because the "
                "questions of this evaluation are of the same writer"
            )
        return default, ships.retriever if human else planned("no").retriever

    @cached_property
    def _words(self) -> Bm25:
        return Bm25(self._eval_set.contents, executor=self._runtime.executor)

    def _model(self, name: str) -> LocalModel:
        if name == "mapped":
            return self._mapped
        return self._base if name == "base" else LocalModel(name, self._workspace.existing(name))

    @cached_property
    def _mapped(self) -> LocalModel:
        """The base with the query map before its query vectors, in a folder of the stage's own."""
        folder = self._workspace.scratch("evaluate") / "mapped"
        learned = QueryMap.load(self._workspace.existing(query_map.FILE))
        if not folder.exists():
            with atomic_folder(folder) as whole:
                save_mapped(whole, learned.matrix, base=self._base.folder, layout=self._base.layout)
        return LocalModel("mapped", folder)

    def measured(self) -> dict[str, Measured]:
        """Every system, in the order of the report."""
        groups = [Group(open=partial(self._open, key), rows=self._rows[key]) for key in sorted(self._rows)]
        if self._in_window != self._eval_set.contents:
            groups.append(Group(open=lambda: of_words(Bm25(self._in_window), self._eval_set), rows={CUT: BM25}))
        further = self._config.evaluate.systems
        for dense in dict.fromkeys(name.removeprefix("hybrid:") for name in further):
            rows = {name: RRF if name != dense else BASE for name in further if name.removeprefix("hybrid:") == dense}
            groups.append(Group(open=partial(self._open_further, dense, RRF in rows.values()), rows=rows))
        found = measure(groups, self._eval_set, self._runtime.report, timed=True)
        if self._is_default:
            found["chosen"] = found["default"]
        return {name: found[name] for name in (*BY_NAME, *further) if name in found}

    def _open(self, key: Key) -> Opened:
        name, with_queries = key
        queries = self._written.queries if with_queries else ()
        source = Source(contents=self._eval_set.contents, queries=queries, asked=self._files.asked)
        return of_model(
            self._model(name), source, self._rows[key], self._eval_set, self._runtime, words=lambda: self._words
        )

    def _open_further(self, name: str, with_words: bool) -> Opened:
        # The calls are booked as the stage `generate` books its own, so that --max-cost covers both.
        run, max_cost = str(self._workspace.root.resolve()), self._config.generate.max_cost
        self._opened[name] = open_embedder(name, self._runtime, max_cost=max_cost, run=run)
        words = (lambda: self._words) if with_words else None
        return of_vectors(self._opened[name], self._eval_set, self._runtime, words=words)

    def shipped_vectors(self) -> tuple[Vectors, Vectors]:
        """The merged model's one vector of each passage, (N, H), and of each query, (Q, H), in float32."""
        texts = self._eval_set.contents, self._eval_set.queries
        return self._runtime.vectors.embed_both(self._model("merged"), *texts, report=self._runtime.report)

    def described(self, measured: Mapping[str, Measured]) -> dict[str, MeasuredRetriever]:
        """The run's own systems as retrievers."""
        models = self._model_of | ({"chosen": self._model_of["default"]} if self._is_default else {})
        return {
            name: MeasuredRetriever(
                model=models[name],
                retriever=system.retriever,
                bytes_a_passage=system.bytes_a_passage,
                ms_a_query=system.ms_a_query,
            )
            for name, system in measured.items()
            if name in models and system.retriever is not None
        }


def alike(a: Retriever, b: Retriever) -> bool:
    """Whether two retrievers find the same in the same index. Deviations don't count, because the index sets them."""
    return replace(a.with_deviations({}), name="") == replace(b.with_deviations({}), name="")
