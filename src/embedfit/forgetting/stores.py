"""Takes a target out of the user's ledger and cache of vectors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from embedfit.config import WINDOW_TOKENS, Config
from embedfit.errors import EmbedfitError
from embedfit.forgetting.files import Place
from embedfit.forgetting.target import Target
from embedfit.llm.ledger.store import Ledger
from embedfit.models.layout.prompts import open_model
from embedfit.models.layout.reading import read_architecture
from embedfit.models.store.vectors import VectorStore
from embedfit.models.tokenizer import load_tokenizer
from embedfit.models.windows import windows_of_model
from embedfit.path.workspace import Workspace
from embedfit.progress import Reporter


def ledger_rows(path: Path, target: Target, report: Reporter, *, dry: bool) -> tuple[list[Place], list[str]]:
    """Delete the calls that hold the target. Returns the places, and the names of the models that were sent it."""
    if not path.exists():
        return [], []
    keys: list[str] = []
    sent: dict[str, None] = {}
    with Ledger(path) as ledger:
        total = sum(one.calls for one in ledger.totals())
        known: dict[tuple[str, ...], bool] = {}
        with report.task("Looking through the ledger", total, "calls") as task:
            for row in ledger.rows():
                task.advance()
                *before, last = [message.content for message in row.request.messages] or [""]
                prefix = tuple(before)
                if prefix not in known:
                    known[prefix] = any(target.marks.holds(text) for text in prefix)
                if (
                    row.call_id in target.calls
                    or known[prefix]
                    or target.marks.holds(last)
                    or target.marks.holds(row.reply.text)
                ):
                    keys.append(row.call_id)
                    sent[f"{row.provider} {row.model}"] = None
        if not dry:
            ledger.forget(keys)
    return ([Place(str(path), len(keys), "calls")] if keys else []), list(sent)


def vectors(config: Config, workspace: Workspace, target: Target, store: VectorStore, *, dry: bool) -> list[Place]:
    """Delete the vectors of the target's texts and of their windows, under every model."""
    texts = [*target.texts, *target.contents, *_pieces(config, target)]
    kinds = ["passage", *(f"query {one}" for one in _instructions(config, workspace))]
    count, shared = store.forget(kinds, texts, dry=dry), store.forget_shared(kinds, texts, dry=dry)
    found = [Place(str(store.folder), count, "vectors"), Place(str(store.shared), shared, "shards of vectors")]
    return [place for place in found if place.count]


def _instructions(config: Config, workspace: Workspace) -> set[str]:
    """The instructions that the run's models put before queries."""
    found = {"", config.query_instruction or "", (config.adapt.vectors or "").partition("|")[2]}
    with suppress(EmbedfitError):
        found.add(open_model(config.model, config.query_instruction)[1].query_instruction)
    for name in ("finetuned", "merged"):
        if workspace.path(name).is_dir():
            with suppress(EmbedfitError):
                found.add(read_architecture(workspace.path(name)).query_instruction)
    return found


def _pieces(config: Config, target: Target) -> Iterator[str]:
    """The windows of the passages, which have vectors of their own."""
    if not target.contents:
        return
    with suppress(EmbedfitError):  # the model may no longer be available
        folder, layout = open_model(config.model, config.query_instruction)
        tokenizer = load_tokenizer(folder)
        for size in {WINDOW_TOKENS, config.evaluate.windows} - {0}:
            yield from windows_of_model(target.contents, tokenizer, layout, max_tokens=size).texts
