"""The paid calls that a run folder's files name."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from embedfit.llm.ledger.rows import Usage
from embedfit.llm.ledger.store import Ledger
from embedfit.path.artefacts import Cost, Grade, Judgement, Query
from embedfit.path.workspace import FILES, Workspace


def calls_of_run(workspace: Workspace) -> set[str]:
    """The ledger's keys of the calls that wrote or judged the run's queries, training rows and search results."""
    keys: set[str] = set()
    if workspace.path(FILES[Query]).exists():
        for query in workspace.read(Query):
            keys |= {query.call_id, query.judge_call_id}
    if workspace.path(FILES[Judgement]).exists():
        keys |= {judgement.call_id for judgement in workspace.read(Judgement)}
    if workspace.path(FILES[Grade]).exists():
        keys |= {grade.call_id for grade in workspace.read(Grade)}
    return keys - {""}


def cost_of(ledger: Path, workspace: Workspace, further: Iterable[Usage]) -> Cost:
    """The cost of the run's language-model calls, including those of earlier commands, and of further ones."""
    used, call_ids = list(further), calls_of_run(workspace)
    models: tuple[str, ...] = ()
    if call_ids and ledger.exists():
        with Ledger(ledger) as calls:
            used.append(calls.usage_of(call_ids))
            models = calls.models_of(call_ids)
    return Cost(
        calls=sum(one.calls for one in used),
        input_tokens=sum(one.input_tokens for one in used),
        output_tokens=sum(one.output_tokens for one in used),
        usd=round(sum(one.usd for one in used), 6),
        models=models,
    )
