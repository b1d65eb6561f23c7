"""The verbs of an index for Python: build it of documents or of a run, open it, search it for many queries."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

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
from embedfit.index.search import Index
from embedfit.index.store.columns import joined
from embedfit.index.store.filters import Where
from embedfit.index.store.folder import Base, Identity, rewrite_metadata, write
from embedfit.index.store.manifest import IN_RUN, MANIFEST, RUN_SETTINGS, is_run, read_manifest
from embedfit.index.store.sizes import part_bytes
from embedfit.index.written import Written, written_of
from embedfit.llm.ledger.rows import Usage
from embedfit.llm.ledger.store import Ledger
from embedfit.models.local import LocalModel, base_model
from embedfit.path.artefacts import ChosenRetriever, Metadata, Passage, Query
from embedfit.path.forgotten import read_forgotten
from embedfit.path.workspace import FILES, Workspace, sha256_json
from embedfit.runtime import Runtime

PathLike = str | Path
#: What the stage `choose` writes.
CHOSEN = "retriever.json"


def index_documents(
    docs: PathLike | Sequence[PathLike] = (),
    *,
    folder: PathLike,
    model: str | None = None,
    add: Sequence[PathLike] = (),
    remove: Sequence[str] = (),
    queries: PathLike | Sequence[PathLike] = (),
    tokens: bool | None = None,
    force: bool = False,
    runtime: Runtime | None = None,
) -> Index:
    """The best untrained retriever on documents, in a folder; no language model is asked.

    add: further documents. remove: ids of documents that the index no longer holds. Both keep what is there; the
    result is the same as a fresh build of what is then in it. tokens: whether passages keep token vectors for the
    second stage; None: up to MOST_WITH_TOKENS passages. queries: files of questions that people asked, which set the
    constants. Raises EmbedfitError.
    """
    runtime = runtime or Runtime()
    named = [docs] if isinstance(docs, (str, Path)) else list(docs)
    workspace = Workspace(folder)
    fresh = not is_run(workspace.root)
    if fresh and (workspace.root / MANIFEST).exists():
        raise UsageError(
            f"{workspace.root} is what an index consists of, not the folder that it was built in.",
            remedy=f"Name the folder above it: --to-folder {workspace.root.parent}",
        )
    if fresh and not named:
        raise UsageError(
            f"{workspace.root} holds no index yet.",
            remedy=f"Run: embedfit index DOCS... --model minilm --to-folder {workspace.root}",
        )
    if add or remove:
        if named:
            raise UsageError(
                "Documents to index and --add or --remove exclude each other.",
                remedy="To add documents: embedfit index --to-folder DIR --add DOCS",
            )
        known = runs.stored_config(workspace).docs if add else ()
        named = list(dict.fromkeys(os.path.abspath(one) for one in (*known, *add)))
    with _settings_kept(workspace):
        # Without new documents nothing is read: those of before may be gone by now.
        if named or model or queries or not remove:
            runs.run(
                named,
                run=folder,
                queries=queries,
                preset="offline" if fresh else None,
                settings={"model": model},
                until="ingest",
                runtime=runtime,
            )
        return index_run(folder, remove=remove, tokens=tokens, force=force, runtime=runtime)


@contextmanager
def _settings_kept(workspace: Workspace) -> Iterator[None]:
    """Put the settings of a folder back where the work fails: a misspelled --add must not stay among its documents."""
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
    """Build the index of a run folder, of its merged model or, where nothing is trained, of its base.

    The retriever is the one that the run chose (retriever.json), else the safe default. written: whether the run's
    written queries lie in the index; None: what the setting index.queries says. What is up to date is not built again.
    Further arguments as in index_documents.
    """
    runtime = runtime or Runtime()
    workspace = Workspace(folder)
    config = runs.stored_config(workspace)
    with workspace.lock():
        base = base_model(config)
        trained = workspace.path("merged").exists()
        chosen = workspace.load(ChosenRetriever) if workspace.has(ChosenRetriever) else None
        trained = trained and not (chosen and chosen.model == "base")
        model = LocalModel("merged", workspace.existing("merged")) if trained else base
        target = workspace.path(IN_RUN)
        removed = _removed(target, remove, workspace, runtime)
        passages = sorted(
            (one for one in workspace.read(Passage) if one.document_id not in removed), key=lambda one: one.passage_id
        )
        if not passages:
            raise InputError(f"{workspace.root} holds no passages.", remedy="Name documents that hold text.")
        if removed:
            runtime.report.log(f"index: {len(removed):,} documents that were removed with --remove stay out")
        wishes = {"tokens": _wish(tokens, config.index.tokens), "queries": _wish(written, config.index.queries)}
        retriever, inside = _planned(workspace, config, passages, chosen, wishes, runtime)
        asked = _asked(workspace, config, runtime)
        metadata = joined(passages, workspace.read(Metadata) if workspace.path(FILES[Metadata]).exists() else ())
        made_of = {
            "passages": _hash_of(passages),
            "model": model.key,
            "instruction": model.instruction,
            "retriever": json.loads(json.dumps(retriever.as_json())),
            "removed": sorted(removed),
            "metadata": sha256_json(metadata),
            **({"asked": sha256_json(asked)} if asked else {}),
            **({"written": sha256_json(inside.queries)} if inside else {}),
        }
        before = _made_of(target) if not force and (target / MANIFEST).exists() else {}
        if before and approximate.could_now(read_manifest(target)):
            before = {}
        if before == made_of:
            runtime.report.log("index: up to date (--force builds it again)")
        elif before and {**before, "metadata": made_of["metadata"]} == made_of:
            runtime.report.log("index: only fields of passages have changed; vectors and words stay")
            with workspace.writing_folder(IN_RUN) as temporary:
                rewrite_metadata(target, temporary, passages, metadata, made_of)
        else:
            beside = _base(base, passages, config.model, runtime) if trained and base.key != model.key else None
            identity = Identity(
                name="../merged" if trained else config.model, key=model.key, instruction=model.instruction
            )
            built = build(
                Source(
                    contents=[one.content for one in passages], queries=inside.queries if inside else (), asked=asked
                ),
                model,
                retriever,
                runtime.vectors,
                runtime.report,
            )
            with workspace.writing_folder(IN_RUN) as temporary:
                cost = _cost(inside, built, runtime) if inside else None
                write(
                    temporary,
                    built,
                    passages,
                    identity,
                    metadata=metadata,
                    base=beside,
                    made_of=made_of,
                    written=cost,
                    report=runtime.report,
                )
            _say_size(target, len(passages), runtime)
    return Index.open(target)


def _asked(workspace: Workspace, config: Config, runtime: Runtime) -> list[str]:
    """Questions that people asked, for the index' constants: () where there are none, or too few.

    Of a run whose log was split, those that judge are left out: what they judge must not be made of them.
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
        runtime.report.log("index: every question that people asked judges retrievers, and none sets a constant")
        return []
    if len(found) < ENOUGH_ASKED:
        runtime.report.log(
            f"index: {len(found):,} questions are too few for its constants, at least {ENOUGH_ASKED} are needed: they "
            "come from the passages"
        )
        return []
    runtime.report.log(f"index: its constants come from {min(len(found), SAMPLE):,} questions that people asked")
    return found[:SAMPLE]


def _base(base: LocalModel, passages: Sequence[Passage], name: str, runtime: Runtime) -> Base:
    contents = [one.content for one in passages]
    vectors = runtime.vectors.embed(base, contents, is_query=False, report=runtime.report)
    base.release()
    identity = Identity(name=name, key=base.key, instruction=base.instruction)
    return Base(identity=identity, vectors=vectors.astype(np.float16))


def _say_size(target: Path, passages: int, runtime: Runtime) -> None:
    total = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    runtime.report.log(
        f"index: {passages:,} passages, {total / 1e6:,.1f} MB ({total / passages / 1e3:,.1f} kB a passage)"
    )


def _wish(named: bool | None, setting: Wish) -> Wish:
    """What an option says, else the setting."""
    return setting if named is None else ("yes" if named else "no")


def _planned(
    workspace: Workspace,
    config: Config,
    passages: Sequence[Passage],
    chosen: ChosenRetriever | None,
    wishes: Mapping[str, Wish],
    runtime: Runtime,
) -> tuple[Retriever, Written | None]:
    """The retriever of the index, and the written queries that lie in it. wishes: for `tokens` and `queries`."""
    there = workspace.path(FILES[Query]).exists()
    queries = written_of([one.passage_id for one in passages], workspace.read(Query)) if there else None
    is_strong = generator(config.generate.generator).strong
    planned = plan(len(passages), chosen=chosen, written=queries, is_strong=is_strong, **wishes)
    if queries is not None:
        runtime.report.log(f"index: written queries {'in' if planned.with_queries else 'left out'}: {planned.why}")
    return planned.retriever, queries if planned.with_queries else None


def _cost(written: Written, built: Built, runtime: Runtime) -> dict[str, Any]:
    """What the written queries in an index have cost, for its manifest. It is said too."""
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
    return {"queries": written.count, "covered": written.covered, "bytes": size, **asdict(used)}


def _made_of(target: Path) -> Mapping[str, Any]:
    try:
        value: Mapping[str, Any] = read_manifest(target).get("made_of", {})
        return value
    except InputError:
        return {}  # damaged, or of another version: it is built again


def _removed(target: Path, remove: Sequence[str], workspace: Workspace, runtime: Runtime) -> set[str]:
    """Documents that the index leaves out: those of before, and `remove`."""
    forgotten = read_forgotten(workspace)
    made_of = _made_of(target) if (target / MANIFEST).exists() else {"removed": ()}
    if not made_of:
        runtime.report.log(
            "Note: the manifest of the index can't be read, and so it isn't known which documents were taken out with "
            "--remove: they are in the index again. Take them out with --remove"
        )
    listed = made_of.get("removed", ())
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


def load_or_build(folder: PathLike, runtime: Runtime | None = None) -> Index:
    """Open the index of a run folder or an index folder. A run folder that has none gets it first."""
    runtime = runtime or Runtime()
    try:
        index = load(folder)
        _warn_of_change(Path(folder), index, runtime)
        return index
    except ArtifactMissing:
        if not is_run(Path(folder)):
            raise
        runtime.report.log(f"{folder} has no index yet: it is built once")
        return index_run(folder, runtime=runtime)


def _warn_of_change(folder: Path, index: Index, runtime: Runtime) -> None:
    """Say it where the run's passages are others than those of its index."""
    file, built = folder / FILES[Passage], index.stored.folder / MANIFEST
    if not is_run(folder) or not file.exists() or file.stat().st_mtime <= built.stat().st_mtime:
        return
    made_of = index.stored.manifest["made_of"]
    removed = set(made_of.get("removed", ()))
    passages = [one for one in Workspace(folder).read(Passage) if one.document_id not in removed]
    if _hash_of(sorted(passages, key=lambda one: one.passage_id)) != made_of.get("passages"):
        runtime.report.log(
            f"Note: the passages of {folder} have changed since its index was built, and the old ones are searched. "
            f"For the new ones: embedfit index --run {folder}"
        )


def _hash_of(passages: Sequence[Passage]) -> str:
    return sha256_json([[one.passage_id, one.title, one.text, one.document_id] for one in passages])


def load(folder: PathLike) -> Index:
    """Open the index of a run folder or an index folder. Raises ArtifactMissing where there is none."""
    path = Path(folder)
    inner = path / IN_RUN
    if (inner / MANIFEST).exists() or not (path / MANIFEST).exists():
        if is_run(path) and not (inner / MANIFEST).exists():
            raise ArtifactMissing(f"{path} has no index yet.", remedy=f"Run: embedfit index --run {path}")
        path = inner if inner.exists() else path
    return Index.open(path)


# --- many queries


def write_trec(
    index: Index,
    queries: Sequence[tuple[str, str]],
    target: Path,
    *,
    k: int,
    where: Where | None = None,
    runtime: Runtime,
) -> int:
    """Write a TREC run: `query Q0 passage rank score name` a line. Returns the number of lines.

    where: conditions on the fields of passages, as in filters.filter_of.

    Scores fall strictly from rank to rank, because readers of such files order by score and break ties by id.
    """
    names = _tokens_of([identifier for identifier, _ in queries], runtime)
    lines, changed = 0, False
    with atomic_file(target) as file, runtime.report.task("search", len(queries), "queries") as task:
        for name, hits in zip(names, index.search_all([text for _, text in queries], k, where=where), strict=True):
            last = float("inf")
            for rank, hit in enumerate(hits, 1):
                last = min(hit.score, last - 1e-6)
                file.write(f"{name} Q0 {_token(hit.passage_id)} {rank} {last:.6f} embedfit\n")
                lines += 1
                changed |= _token(hit.passage_id) != hit.passage_id
            task.advance(1)
    if changed:
        runtime.report.log("Note: spaces in ids of passages are written as _, because a TREC run can't hold them")
    return lines


def _tokens_of(identifiers: Sequence[str], runtime: Runtime) -> list[str]:
    """The queries' ids as a TREC file has them. Raises InputError where two become the same."""
    found: dict[str, str] = {}
    for identifier in identifiers:
        other = found.setdefault(_token(identifier), identifier)
        if other != identifier:
            raise InputError(
                f"A TREC run holds no spaces in ids, and so {other!r} and {identifier!r} would be one query.",
                remedy="Give them an _id each that differs in more than spaces.",
            )
    changed = [identifier for name, identifier in found.items() if name != identifier]
    if changed:
        runtime.report.log(
            f"Note: {len(changed):,} ids of queries have spaces, which a TREC run can't hold: "
            f"{changed[0]!r} is written as {_token(changed[0])!r}"
        )
    return list(map(_token, identifiers))


def _token(identifier: str) -> str:
    """An id without white space, at which readers of TREC files cut."""
    return "_".join(identifier.split()) or "_"
