"""Functions on an index for Python: build it from documents or a run, change it, open it."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from typing_extensions import NotRequired, TypedDict

from embedfit.asked.log import read_log
from embedfit.asked.rows import other_language
from embedfit.commands import runs
from embedfit.config import Config
from embedfit.errors import ArtifactMissing, EmbedfitError, InputError, UsageError
from embedfit.files.atomic import atomic_file
from embedfit.generators import generator
from embedfit.index import approximate
from embedfit.index.build import Built, Source, build
from embedfit.index.constants import ENOUGH_ASKED, SAMPLE
from embedfit.index.plan import Wish, plan
from embedfit.index.retriever import Retriever
from embedfit.index.search import Hit, Index
from embedfit.index.sinks.handover import export
from embedfit.index.sinks.sink import About, kind_of
from embedfit.index.store.columns import joined
from embedfit.index.store.folder import Base, Origin, rewrite_metadata, write
from embedfit.index.store.golden import golden_of
from embedfit.index.store.manifest import (
    IN_RUN,
    MANIFEST,
    RUN_SETTINGS,
    Identity,
    MadeOf,
    WrittenCost,
    is_run,
    read_manifest,
)
from embedfit.index.store.sizes import part_bytes
from embedfit.index.written import Written, written_of
from embedfit.llm.ledger.rows import Usage
from embedfit.llm.ledger.store import Ledger
from embedfit.models.local import LocalModel, base_model
from embedfit.path.artefacts import Assessed, ChosenRetriever, Metadata, Passage, Query, Value
from embedfit.path.forgotten import read_forgotten
from embedfit.path.lines import Lines
from embedfit.path.workspace import FILES, Workspace, sha256_json, sha256_json_list
from embedfit.runtime import Runtime

PathLike = str | Path


class SearchResult(TypedDict):
    """What `embedfit search --json` prints. base: the passages that the base's one vector finds.

    recall: the share of the best passages that an approximate search found in a sample; missing if it is exact.
    """

    query: str
    hits: list[Hit]
    base: list[Hit]
    recall: NotRequired[float]


def index_documents(
    docs: PathLike | Sequence[PathLike] = (),
    *,
    folder: PathLike,
    model: str | None = None,
    queries: PathLike | Sequence[PathLike] = (),
    tokens: bool | None = None,
    force: bool = False,
    runtime: Runtime | None = None,
) -> Index:
    """Build the best untrained retriever of documents in a folder, without a language model.

    docs: default: those of the index in the folder. tokens: whether passages keep token vectors for the second stage;
    None: if there are at most MOST_WITH_TOKENS passages. queries: files of questions that people asked; they set the
    constants. Raises EmbedfitError.
    """
    named = [docs] if isinstance(docs, (str, Path)) else list(docs)
    workspace = _index_folder(folder, is_new=bool(named))
    with _settings_kept(workspace):
        runs.run(
            named,
            run=folder,
            queries=queries,
            preset=None if is_run(workspace.root) else "offline",
            settings={"model": model},
            until="ingest",
            runtime=runtime,
        )
        return index_run(folder, tokens=tokens, force=force, runtime=runtime)


def update_index(
    folder: PathLike,
    *,
    add: Sequence[PathLike] = (),
    remove: Sequence[str] = (),
    model: str | None = None,
    queries: PathLike | Sequence[PathLike] = (),
    tokens: bool | None = None,
    force: bool = False,
    runtime: Runtime | None = None,
) -> Index:
    """Add documents to an index of documents, or remove some. The result equals a fresh build of the same documents.

    add: further documents. remove: ids of the documents to remove. Other arguments are as in index_documents. Raises
    EmbedfitError.
    """
    workspace = _index_folder(folder, is_new=False)
    with _settings_kept(workspace):
        if add or model or queries:  # otherwise nothing is read, because the old documents may be gone by now
            known = runs.stored_config(workspace).docs if add else ()
            named = list(dict.fromkeys(os.path.abspath(one) for one in (*known, *add)))
            settings = {"model": model}
            runs.run(named, run=folder, queries=queries, settings=settings, until="ingest", runtime=runtime)
        return index_run(folder, remove=remove, tokens=tokens, force=force, runtime=runtime)


def _index_folder(folder: PathLike, *, is_new: bool) -> Workspace:
    """The folder of an index of documents. is_new: whether it may be empty. Raises UsageError for another folder."""
    workspace = Workspace(folder)
    if is_run(workspace.root):
        return workspace
    if (workspace.root / MANIFEST).exists():
        raise UsageError(
            f"{workspace.root} is the index itself, not the folder that it was built in.",
            remedy=f"Name the folder above it: --to-folder {workspace.root.parent}",
        )
    if not is_new:
        raise UsageError(
            f"{workspace.root} holds no index yet.",
            remedy=f"Run: embedfit index DOCS... --model minilm --to-folder {workspace.root}",
        )
    return workspace


@contextmanager
def _settings_kept(workspace: Workspace) -> Iterator[None]:
    """Restore the settings of a folder if the work fails: a misspelled --add must not stay among its documents."""
    path = workspace.path(RUN_SETTINGS)
    before = path.read_bytes() if path.exists() else None
    try:
        yield
    except EmbedfitError:
        if before is not None and path.read_bytes() != before:
            with atomic_file(path, binary=True) as file:
                file.write(before)
        raise


def index_run(
    folder: PathLike,
    *,
    remove: Sequence[str] = (),
    tokens: bool | None = None,
    written: bool | None = None,
    force: bool = False,
    runtime: Runtime | None = None,
) -> Index:
    """Build the index of a run folder, with its merged model or, if nothing was trained, its base.

    The retriever is the one that the run chose (retriever.json), else the safe default. written: whether the index
    shall hold the run's written queries; None: the setting index.queries decides. An index that is up to date is not
    built again. Other arguments are as in index_documents.
    """
    runtime = runtime or Runtime()
    workspace = Workspace(folder)
    config = runs.stored_config(workspace)
    target = workspace.path(IN_RUN)
    with workspace.lock():
        wishes = {"tokens": _wish(tokens, config.index.tokens), "queries": _wish(written, config.index.queries)}
        contents = _contents(workspace, config, remove, wishes, runtime)
        made_of = contents.made_of()
        before = None if force else _made_of(target)
        if before and approximate.could_now(read_manifest(target).approximate):
            before = None
        if before == made_of:
            runtime.report.log("index: up to date (--force builds it again)")
        elif before and before.model_copy(update={"metadata": made_of.metadata}) == made_of:
            runtime.report.log("index: only fields of passages have changed; vectors and words stay")
            with workspace.writing_folder(IN_RUN) as temporary:
                rewrite_metadata(target, temporary, contents.passages, contents.metadata, made_of)
        else:
            _build(contents, workspace, runtime)
    return Index.open(target)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Contents:
    """The ingredients of a run's index.

    name: the model's name for the manifest. base, base_name: the untuned model, if another one ships. removed: ids of
    documents that stay out. asked: questions that people asked; they set the constants.
    """

    passages: Lines[Passage]
    metadata: Sequence[Mapping[str, Value]]
    model: LocalModel
    name: str
    base: LocalModel | None
    base_name: str
    retriever: Retriever
    written: Written | None
    asked: Sequence[str]
    removed: frozenset[str]

    def made_of(self) -> MadeOf:
        """Hashes of the ingredients. An index with other hashes is not up to date."""
        return MadeOf(
            passages=_hash_of(self.passages),
            model=self.model.key,
            instruction=self.model.instruction,
            retriever=self.retriever,
            removed=tuple(sorted(self.removed)),
            metadata=sha256_json_list(self.metadata),
            asked=sha256_json(self.asked) if self.asked else None,
            written=sha256_json(self.written.queries) if self.written else None,
        )


def _contents(
    workspace: Workspace, config: Config, remove: Sequence[str], wishes: Mapping[str, Wish], runtime: Runtime
) -> _Contents:
    chosen = workspace.load(ChosenRetriever) if workspace.has(ChosenRetriever) else None
    assessed = workspace.load(Assessed) if chosen is None and workspace.has(Assessed) else None
    if assessed is not None:  # nothing was trained: the model and the retriever that the assessment recommends
        chosen = assessed.choice
        if assessed.model != config.model:
            config = config.model_copy(update={"model": assessed.model, "query_instruction": None})
    base = base_model(config)
    trained = workspace.path("merged").exists() and not (chosen and chosen.model == "base")
    model = LocalModel("merged", workspace.existing("merged")) if trained else base
    removed = _removed(workspace.path(IN_RUN), remove, workspace, runtime)
    every = workspace.lines(Passage)
    passages = (every.where(lambda one: one.document_id not in removed) if removed else every).by(_id_of)
    if not passages:
        raise InputError(f"{workspace.root} holds no passages.", remedy="Name documents that hold text.")
    if removed:
        runtime.report.log(f"index: {len(removed):,} documents that were removed with --remove stay out")
    retriever, written = _planned(workspace, config, passages, chosen, wishes, runtime)
    return _Contents(
        passages=passages,
        metadata=joined(passages, workspace.read(Metadata) if workspace.path(FILES[Metadata]).exists() else ()),
        model=model,
        name="../merged" if trained else config.model,
        base=base if trained and base.key != model.key else None,
        base_name=config.model,
        retriever=retriever,
        written=written,
        # Questions that assessed must not shape what they assessed.
        asked=[] if assessed is not None else _asked(workspace, config, runtime),
        removed=frozenset(removed),
    )


def _id_of(passage: Passage) -> str:
    return passage.passage_id


def _build(contents: _Contents, workspace: Workspace, runtime: Runtime) -> None:
    """Encode the passages and write the index in place of an earlier one."""
    texts, written = contents.passages.map(lambda one: one.content), contents.written
    beside = _base(contents.base, texts, contents.base_name, runtime) if contents.base is not None else None
    source = Source(contents=texts, queries=written.queries if written else (), asked=contents.asked)
    model = contents.model
    built = build(source, model, contents.retriever, runtime.vectors, runtime.report)
    embed = functools.partial(runtime.vectors.embed, model, is_query=True)
    golden = golden_of(built.parts, built.retriever, texts, embed)
    model.release()
    with workspace.writing_folder(IN_RUN) as temporary:
        origin = Origin(
            model=Identity(name=contents.name, key=model.key, instruction=model.instruction),
            base=beside,
            made_of=contents.made_of(),
            written=_cost(written, built, runtime) if written else None,
            golden=golden,
        )
        write(temporary, built, contents.passages, origin, metadata=contents.metadata, report=runtime.report)
    total = sum(path.stat().st_size for path in workspace.path(IN_RUN).rglob("*") if path.is_file())
    windows = built.parts.windows
    several = 0 if windows is None else np.count_nonzero(np.diff(windows.starts) > 1)
    cut = f"{several:,} of them in several windows, " if several else ""
    size = f"{total / 1e6:,.1f} MB ({total / len(texts) / 1e3:,.1f} kB a passage)"
    runtime.report.log(f"index: {len(texts):,} passages, {cut}{size}")


def _base(base: LocalModel, texts: Sequence[str], name: str, runtime: Runtime) -> Base:
    """The untuned model's one vector of each text. Search shows its ranks beside the retriever's own."""
    vectors = runtime.vectors.embed(base, texts, is_query=False, report=runtime.report)
    base.release()
    identity = Identity(name=name, key=base.key, instruction=base.instruction)
    return Base(identity=identity, vectors=vectors.astype(np.float16))


def _asked(workspace: Workspace, config: Config, runtime: Runtime) -> list[str]:
    """The asked questions that set the index' constants; none if there are too few.

    If a run's log was split, the judging questions are left out, because they must not shape what they judge.
    """
    if not config.queries:
        return []
    there = workspace.read(Query) if workspace.path(FILES[Query]).exists() else []
    if any(query.is_asked for query in there):
        found = [query.text for query in there if query.split == "log"]
    else:
        log = read_log(config.queries, runtime.report, seed=config.seed, leave_out=read_forgotten(workspace).queries)
        for sentence in log.sentences():
            runtime.report.log(sentence)
        found = [one.text for one in log.questions.values()]
        if note := other_language(found, workspace.read(Passage)):
            runtime.report.log(note)
    if not found:
        runtime.report.log("index: all questions that people asked judge retrievers, so none sets a constant")
        return []
    if len(found) < ENOUGH_ASKED:
        runtime.report.log(
            f"index: {len(found):,} questions are too few for its constants, at least {ENOUGH_ASKED} are needed: they "
            "come from the passages"
        )
        return []
    runtime.report.log(f"index: its constants come from {min(len(found), SAMPLE):,} questions that people asked")
    return found[:SAMPLE]


def _wish(named: bool | None, setting: Wish) -> Wish:
    """The option if it is given, else the setting."""
    return setting if named is None else ("yes" if named else "no")


def _planned(
    workspace: Workspace,
    config: Config,
    passages: Sequence[Passage],
    chosen: ChosenRetriever | None,
    wishes: Mapping[str, Wish],
    runtime: Runtime,
) -> tuple[Retriever, Written | None]:
    """The retriever of the index, and the written queries that it holds. wishes: for `tokens` and `queries`."""
    there = workspace.path(FILES[Query]).exists()
    queries = written_of([one.passage_id for one in passages], workspace.read(Query)) if there else None
    is_strong = generator(config.generate.generator).strong
    planned = plan(len(passages), chosen=chosen, written=queries, is_strong=is_strong, **wishes)
    if queries is not None:
        runtime.report.log(f"index: written queries {'in' if planned.with_queries else 'left out'}: {planned.why}")
    return planned.retriever, queries if planned.with_queries else None


def _cost(written: Written, built: Built, runtime: Runtime) -> WrittenCost:
    """The cost of the written queries in an index, for its manifest and for the log."""
    used = Usage()
    if written.calls and runtime.ledger.exists():
        with Ledger(runtime.ledger) as ledger:
            used = ledger.usage_of(written.calls)
    passages, size = built.parts.size, part_bytes(built.parts).get("queries", 0)
    runtime.report.log(
        f"index: {written.count:,} written queries of {written.covered:.0%} of the passages; a passage's took "
        f"{used.calls / passages:.2f} calls, {(used.input_tokens + used.output_tokens) / passages:,.0f} tokens and "
        f"${used.usd / passages:.6f}, and take {size / passages / 1e3:,.1f} kB"
    )
    return WrittenCost(queries=written.count, covered=written.covered, size=size, **asdict(used))


def _made_of(target: Path) -> MadeOf | None:
    """The hashes of an index' ingredients. None if it is missing, damaged or of another version: it is built anew."""
    try:
        return read_manifest(target).made_of
    except (ArtifactMissing, InputError):
        return None


def _removed(target: Path, remove: Sequence[str], workspace: Workspace, runtime: Runtime) -> set[str]:
    """Ids of the documents that the index leaves out: those of earlier --remove options and of `remove`."""
    forgotten = read_forgotten(workspace)
    made_of = _made_of(target)
    if made_of is None and (target / MANIFEST).exists():
        runtime.report.log(
            "Note: the manifest of the index can't be read, so documents that you removed earlier are in the index "
            "again. Remove them again with --remove"
        )
    listed = made_of.removed if made_of else ()
    before = {one for one in listed if not forgotten.has_document(one)}
    if remove:
        known = {one.document_id for one in workspace.read(Passage)}
        unknown = sorted(set(remove) - known)
        if unknown:
            raise InputError(
                f"The index holds no document {unknown[0]!r}.",
                remedy=f"Its documents are listed in {workspace.path('documents.jsonl')}.",
            )
    return before | set(remove)


def hand_over(index: Index, url: str, *, runtime: Runtime | None = None) -> About:
    """Put an opened index into a database or files, in place of what was handed over there. Returns its facts.

    url: as in `embedfit index --to`. Raises EmbedfitError.
    """
    return export(index, kind_of(url).open(url), (runtime or Runtime()).report)


def load_or_build(folder: PathLike, runtime: Runtime | None = None) -> Index:
    """Open the index of a run folder or an index folder. If a run folder has none, it is built first."""
    runtime = runtime or Runtime()
    try:
        index = load(folder)
        _warn_of_change(Path(folder), index, runtime)
        return index
    except ArtifactMissing:
        if not is_run(Path(folder)):
            raise
        runtime.report.log(f"{folder} has no index yet, so one is built now")
        return index_run(folder, runtime=runtime)


def _warn_of_change(folder: Path, index: Index, runtime: Runtime) -> None:
    """Log a note if the run's passages have changed since its index was built."""
    file, built = folder / FILES[Passage], index.stored.folder / MANIFEST
    if not is_run(folder) or not file.exists() or file.stat().st_mtime <= built.stat().st_mtime:
        return
    made_of = index.stored.manifest.made_of
    removed = set(made_of.removed)
    passages = Workspace(folder).lines(Passage).where(lambda one: one.document_id not in removed)
    if _hash_of(passages.by(_id_of)) != made_of.passages:
        runtime.report.log(
            f"Note: the passages of {folder} have changed since its index was built. The old ones are searched. To "
            f"search the new ones, run: embedfit index --run {folder}"
        )


def _hash_of(passages: Iterable[Passage]) -> str:
    return sha256_json_list([one.passage_id, one.title, one.text, one.document_id] for one in passages)


def load(folder: PathLike) -> Index:
    """Open the index of a run folder or an index folder. Raises ArtifactMissing if there is none."""
    return Index.open(folder)
