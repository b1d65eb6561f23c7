"""The systems of a run: its retrievers, opened model by model, and those of evaluate.systems."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

from embedfit.config import WINDOW_TOKENS, Config
from embedfit.embedders.registry import open_embedder
from embedfit.evaluation.evalset import EvalSet, cut
from embedfit.evaluation.measure import Group, Measured, Opened, measure, of_model, of_vectors, of_words
from embedfit.files.flagembedding import read_flagembedding
from embedfit.generators import generator
from embedfit.index.build import Source
from embedfit.index.plan import Plan, Wish, plan
from embedfit.index.retriever import BASE, BM25, RRF, Retriever, default_for
from embedfit.index.written import written_of
from embedfit.models.local import LocalModel, base_model
from embedfit.models.store.vectors import Embedder
from embedfit.models.tokenizer import load_tokenizer
from embedfit.numerics.arrays import Vectors
from embedfit.path.artefacts import ChosenRetriever, Document, MergeSweep, Passage, Query, Row, written
from embedfit.path.systems import BY_NAME, SYSTEMS
from embedfit.path.workspace import Workspace
from embedfit.retrieval.bm25 import Bm25
from embedfit.runtime import Runtime

#: BM25 on what the base's window holds of each passage, where that differs.
CUT = "bm25_cut"
#: A model's name, and whether written queries lie among what is searched.
Key = tuple[str, bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFiles:
    """What evaluate reads of the run besides the models.

    queries: the written ones. asked: questions that people asked and that may set an index' constants.
    """

    documents: Sequence[Document]
    passages: Sequence[Passage]
    queries: Sequence[Query]
    train_rows: int
    merge: MergeSweep
    chosen: ChosenRetriever
    asked: Sequence[str]

    @classmethod
    def read(cls, workspace: Workspace) -> RunFiles:
        """Read them. Raises ArtifactMissing, with the command that makes what is missing."""
        queries = workspace.read(Query)
        return cls(
            documents=workspace.read(Document),
            passages=workspace.read(Passage),
            queries=written(queries),
            train_rows=len(read_flagembedding(workspace.existing("train.jsonl"))),
            merge=workspace.load(MergeSweep),
            chosen=workspace.load(ChosenRetriever),
            asked=[query.text for query in queries if query.split == "log"],
        )


class RunSystems:
    """The run's retrievers and those of evaluate.systems, group by group so that one model is in memory at a time.

    without_queries: whether what ships has written queries in its index, but is measured without them.
    """

    def __init__(
        self,
        workspace: Workspace,
        config: Config,
        runtime: Runtime,
        eval_set: EvalSet,
        run_files: RunFiles,
        opened: dict[str, Embedder],
    ) -> None:
        """opened: takes the embedders of evaluate.systems, for their cost."""
        self._workspace, self._config, self._runtime = workspace, config, runtime
        self._eval_set, self._opened, self._asked = eval_set, opened, run_files.asked
        self._words = cache(lambda: Bm25(eval_set.contents))
        self._base = base_model(config)
        tokenizer, contents = load_tokenizer(self._base.folder), eval_set.contents
        self._in_window, self.passages_cut = cut(contents, tokenizer, self._base.layout.max_tokens)
        # Where every passage is one window, rows of windows would repeat those of one vector.
        windowed = bool(config.evaluate.windows and cut(contents, tokenizer, WINDOW_TOKENS)[1])
        default, chosen = self._shipped(run_files)
        self._is_default = alike(chosen, default)
        ships = "base" if run_files.chosen.model == "base" else "merged"
        #: Its own systems by what they search, and the model of each.
        self._rows: dict[Key, dict[str, Retriever]] = {}
        self._model_of: dict[str, str | None] = {}
        for one in SYSTEMS:
            twice = (one.retriever == "chosen" and self._is_default) or (one.name == "chosen_base" and ships == "base")
            if twice or one.name == CUT or (one.windows and not windowed):
                continue
            model = ships if one.model == "ships" else one.model
            named = {"default": default, "chosen": chosen}
            retriever = named[one.retriever] if isinstance(one.retriever, str) else one.retriever
            self._model_of[one.name] = model
            self._rows.setdefault((model or "base", retriever.reads_queries), {})[one.name] = retriever

    def _shipped(self, run_files: RunFiles) -> tuple[Retriever, Retriever]:
        """The safe default and what ships, as an index of the run gets them, and as they can be measured.

        A query that judges never lies in the index that it judges: where a model wrote the questions, written queries
        are left out.
        """
        eval_set, config = self._eval_set, self._config
        self._written = written_of(eval_set.passage_ids, run_files.queries)

        def planned(queries: Wish) -> Plan:
            return plan(
                len(eval_set.passage_ids),
                chosen=run_files.chosen.model_dump(by_alias=True),
                written=self._written,
                is_strong=generator(config.generate.generator).strong,
                tokens=config.index.tokens,
                queries=queries,
            )

        wish = config.index.queries
        if wish == "yes" and not self._written.enough:
            wish = "auto"  # an index of these passages could not hold them
        ships = planned(wish)
        human = eval_set.kind == "human"
        self.without_queries = ships.with_queries and not human
        chosen = ships.retriever if human else planned("no").retriever
        default = replace(run_files.chosen.default, name="default")
        if default.reads_queries and not (human and self._written.enough):
            default = default_for(len(eval_set.passage_ids))
        if self.without_queries:
            self._runtime.report.log(
                "evaluate: the index of this run holds the written queries; it is measured without them, because the "
                "questions of this evaluation are of the same writer"
            )
        return default, chosen

    def measured(self) -> dict[str, Measured]:
        """Every system, in the order of the report."""
        models = {
            "base": self._base,
            **{name: LocalModel(name, self._workspace.existing(name)) for name in ("finetuned", "merged")},
        }
        groups = [self._group(models[name], (name, queries)) for name, queries in sorted(self._rows)]
        if self._in_window != self._eval_set.contents:
            groups.append(Group(open=lambda: of_words(Bm25(self._in_window), self._eval_set), rows={CUT: BM25}))
        found = measure([*groups, *self._further()], self._eval_set, self._runtime.report, timed=True)
        if self._is_default:
            found["chosen"] = found["default"]
        return {name: found[name] for name in (*BY_NAME, *self._config.evaluate.systems) if name in found}

    def _group(self, model: LocalModel, key: Key) -> Group:
        of_key, eval_set = self._rows[key], self._eval_set

        def open_it() -> Opened:
            queries = self._written.queries if key[1] else ()
            source = Source(contents=eval_set.contents, queries=queries, asked=self._asked)
            return of_model(model, source, of_key, eval_set, self._runtime, words=self._words)

        return Group(open=open_it, rows=of_key)

    def _further(self) -> Iterator[Group]:
        """A group of each embedder of evaluate.systems, opened when its turn comes."""
        names = self._config.evaluate.systems
        for dense in dict.fromkeys(name.removeprefix("hybrid:") for name in names):
            own = {name: RRF if name != dense else BASE for name in names if name.removeprefix("hybrid:") == dense}
            opener = _opener(dense, self._workspace, self._runtime, self._config, self._opened)
            words = self._words if RRF in own.values() else None

            def open_it(opener: Callable[[], Embedder] = opener, words: Callable[[], Bm25] | None = words) -> Opened:
                return of_vectors(opener(), self._eval_set, self._runtime, words=words)

            yield Group(open=open_it, rows=own)

    def shipped_vectors(self) -> tuple[Vectors, Vectors]:
        """The merged model's one vector of each passage (N, H) and query (Q, H), float32."""
        model = LocalModel("merged", self._workspace.existing("merged"))
        eval_set, report = self._eval_set, self._runtime.report
        return self._runtime.vectors.embed_both(model, eval_set.contents, eval_set.queries, report=report)

    def described(self, measured: Mapping[str, Measured]) -> dict[str, Row]:
        """The run's own systems as retrievers."""
        if self._is_default:
            self._model_of["chosen"] = self._model_of["default"]
        return {
            name: Row(
                model=self._model_of[name],
                retriever=system.retriever,
                bytes_a_passage=system.bytes_a_passage,
                ms_a_query=system.ms_a_query,
            )
            for name, system in measured.items()
            if name in self._model_of and system.retriever is not None
        }


def alike(a: Retriever, b: Retriever) -> bool:
    """Whether two retrievers find the same in the same index: deviations are the index'."""
    return replace(a.with_deviations({}), name="") == replace(b.with_deviations({}), name="")


def _opener(
    name: str, workspace: Workspace, runtime: Runtime, config: Config, opened: dict[str, Embedder]
) -> Callable[[], Embedder]:
    run_name = str(workspace.root.resolve())  # as the generate stage books its calls, so that --max-cost covers both

    def open_it() -> Embedder:
        opened[name] = open_embedder(name, runtime, max_cost=config.generate.max_cost, run=run_name)
        return opened[name]

    return open_it
