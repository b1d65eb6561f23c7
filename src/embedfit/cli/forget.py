"""The command `forget`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from embedfit.commands import runs
from embedfit.progress import reporter_for


def forget(
    run_folder: Annotated[Path, typer.Option("--run", help="The run folder, or the folder of an index.")],
    query: Annotated[list[str] | None, typer.Option("--query", help="The text of a question.")] = None,
    query_id: Annotated[list[str] | None, typer.Option("--query-id", help="The id of one in queries.jsonl.")] = None,
    document: Annotated[list[str] | None, typer.Option("--document", help="The id or the path of a document.")] = None,
    queries: Annotated[
        list[Path] | None, typer.Option("--queries", help="A file of questions: one a line, or JSONL.")
    ] = None,
    ledger: Annotated[
        Path | None, typer.Option("--ledger", help="Another file for the ledger of language-model calls.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Delete without asking.")] = False,
) -> None:
    """Take a question or a document out of a run, its index, the ledger and the cache; say which models saw it."""
    from embedfit.forgetting.verb import forget as run_forget  # torch

    confirm = typer.confirm if sys.stdin.isatty() else None
    run_forget(
        run_folder,
        queries=query or (),
        query_ids=query_id or (),
        files=queries or (),
        documents=document or (),
        yes=yes,
        runtime=runs.make_runtime(reporter_for(sys.stderr), ledger=ledger, confirm=confirm),
    )
