"""The commands `serve` and `export`: parse, call, print."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from embedfit.cli.options import AsJson, with_options
from embedfit.cli.results import files_written, prints
from embedfit.errors import MissingDependency, UsageError
from embedfit.progress import LogLines, Reporter, reporter_for
from embedfit.runtime import Runtime
from embedfit.serving.settings import ServeSettings, from_environment, model_from_environment

if TYPE_CHECKING:
    from embedfit.index.search import Index

ModelArgument = Annotated[
    Optional[str],  # noqa: UP045 - typer reads annotations at run time on 3.10
    typer.Argument(
        help="Alias, hub id, model folder, or a run folder to search. Default: $MODEL_ID or $HF_MODEL_ID.",
        show_default=False,
    ),
]


@with_options(ServeSettings)
def serve(
    model: ModelArgument = None,
    model_id: Annotated[Optional[str], typer.Option("--model-id", hidden=True)] = None,  # noqa: UP045
    *,
    given: Mapping[str, object],
) -> None:
    """Serve a model: TEI's, OpenAI's, SageMaker's and Vertex AI's protocols on one port.

    If it is a run folder or a folder of `embedfit index`, its index is served too: /search, and a page to try it at /.
    With --mcp agents search it by the Model Context Protocol.

    Every option can be given as an environment variable of its upper-case name, as with TEI.
    """
    settings = from_environment(overrides=given)
    named = model or model_id or (None if settings.upstream else model_from_environment())
    if settings.upstream is not None and named is not None:
        raise UsageError(f"Both a model and an upstream are named: {named} and --upstream.", remedy="Leave out one.")
    if settings.upstream is not None:
        named = "the upstream"  # its address may hold a password
    if named is None:
        raise UsageError("No model is named.", remedy="For example: embedfit serve runs/em/merged --port 8081")
    # Imported late: it is an extra, and a wrong setting shall be reported before so slow an import.
    try:
        from embedfit.serving.server import logger
        from embedfit.serving.server import serve as serve_model
    except ImportError as error:
        raise MissingDependency(error.name or "uvicorn", extra="serve", needed_for="embedfit serve") from error

    log = logger(json_output=settings.json_output)
    report = _LogLines(log) if settings.json_output else reporter_for(sys.stderr)
    opened = None if settings.upstream else _opener(named, report)
    if settings.mcp is not None and opened is None:
        raise UsageError(
            f"{named} holds no index, and --mcp serves one.",
            remedy="Name a run folder, or make an index: embedfit index DOCS... --model minilm --to-folder DIR",
        )
    if settings.reranker is not None and (opened is None or settings.mcp == "stdio"):
        raise UsageError(
            "--reranker orders the texts of /rerank, which a server of an index has.",
            remedy="For example: embedfit serve runs/em --reranker cross-encoder/ms-marco-MiniLM-L6-v2",
        )
    if settings.mcp == "stdio":
        from embedfit.serving.agents.stdio import serve_stdio  # an extra

        assert opened is not None
        serve_stdio(opened, settings, log=log)
        return
    serve_model(named, settings, log=log, opened=opened)


class _LogLines(LogLines):
    """Lines of progress, written where the server's own lines go."""

    def __init__(self, write: Callable[[str], None]) -> None:
        super().__init__()
        self._write_line = write

    def log(self, message: str) -> None:
        """Write the line at once."""
        self._write_line(message)


def _opener(named: str, report: Reporter) -> Callable[[], Index] | None:
    """A function that opens the index of a run or index folder, building a run's if it has none. None for a model."""
    from embedfit.index.store.manifest import is_searchable

    folder = Path(named).expanduser()
    if not is_searchable(folder):
        return None

    def opened() -> Index:
        from embedfit.commands.indexing import load_or_build  # loads torch, which a model alone does not need

        return load_or_build(folder, Runtime(report=report))

    return opened


@prints("embedfit.cli.results:FilesWritten")
def export(
    model: Annotated[str, typer.Argument(help="Alias, hub id or folder.")],
    onnx: Annotated[bool, typer.Option("--onnx", help="Write onnx/model.onnx, which TEI on CPU prefers.")] = False,
    openvino: Annotated[bool, typer.Option("--openvino", help="Write openvino/model.xml.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a model as a graph into its folder, or into those of its two towers, checked against torch."""
    from embedfit.models.graphs.export import to_onnx, to_openvino  # loads torch
    from embedfit.models.layout.towers import plain_folders
    from embedfit.models.sources import resolve_model

    if not onnx and not openvino:
        raise UsageError("Say which graph to write.", remedy=f"For example: embedfit export {model} --onnx")
    written: list[Path] = []
    for folder in plain_folders(resolve_model(model)):
        if onnx:
            written.append(to_onnx(folder))
        if openvino:
            written.append(to_openvino(folder, folder / "openvino"))
    files_written(*written, as_json=as_json)
