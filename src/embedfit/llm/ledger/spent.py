"""The paid calls that a run folder's files name."""

from __future__ import annotations

from embedfit.path.artefacts import Grade, Judgement, Query
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
