"""The commands for data: `sample` and `convert`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from embedfit.display.terminal import say
from embedfit.progress import reporter_for


def sample(
    name: Annotated[str, typer.Argument(help="10k: the filings of Lyft and Uber for 2021.")],
    source: Annotated[Path | None, typer.Option("--from", help="A folder that has the files already.")] = None,
    target: Annotated[Path, typer.Option("--to", help="Where to put them.")] = Path("data"),
) -> None:
    """Fetch and verify sample documents."""
    from embedfit.corpus.sources.sample import fetch  # readers are slow to import

    for path in fetch(name, to=target, source=source, report=reporter_for(sys.stderr)):
        say(f"{path}")


def convert(
    source: Annotated[Path, typer.Argument(metavar="FROM", help="A file or folder in one of the three formats.")],
    target: Annotated[
        Path, typer.Argument(metavar="TO", help=".jsonl FlagEmbedding, .json LlamaIndex, a folder BEIR.")
    ],
) -> None:
    """Convert between FlagEmbedding JSONL, LlamaIndex EmbeddingQAFinetuneDataset JSON and BEIR."""
    from embedfit.files.conversion import convert as run_convert

    say(f"{run_convert(source, target)}")
