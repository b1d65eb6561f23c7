"""The commands for data: `sample` and `convert`."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from embedfit.cli.options import AsJson
from embedfit.cli.results import files_written, prints
from embedfit.display.terminal import say, say_json
from embedfit.progress import reporter_for


@prints("embedfit.cli.results:FilesWritten")
def sample(
    name: Annotated[str, typer.Argument(help="10k: the filings of Lyft and Uber for 2021.")],
    source: Annotated[Path | None, typer.Option("--from", help="A folder that has the files already.")] = None,
    target: Annotated[Path, typer.Option("--to", help="Where to put them.")] = Path("data"),
    as_json: AsJson = False,
) -> None:
    """Fetch and verify sample documents."""
    from embedfit.corpus.sources.sample import fetch  # readers are slow to import

    files_written(*fetch(name, to=target, source=source, report=reporter_for(sys.stderr)), as_json=as_json)


@prints("embedfit.files.conversion:Conversion")
def convert(
    source: Annotated[Path, typer.Argument(metavar="FROM", help="A file or folder in one of the three formats.")],
    target: Annotated[
        Path, typer.Argument(metavar="TO", help=".jsonl FlagEmbedding, .json LlamaIndex, a folder BEIR.")
    ],
    as_json: AsJson = False,
) -> None:
    """Convert between FlagEmbedding JSONL, LlamaIndex EmbeddingQAFinetuneDataset JSON and BEIR."""
    from embedfit.files.conversion import convert as run_convert

    done = run_convert(source, target)
    if as_json:
        say_json(asdict(done))
    else:
        say(f"{done}")
