"""The commands `serve` and `export`: parse, call, print."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from embedfit.display.terminal import say
from embedfit.errors import UsageError
from embedfit.progress import LogLines, Reporter, reporter_for
from embedfit.runtime import Runtime

if TYPE_CHECKING:
    from embedfit.index.search import Index

ModelArgument = Annotated[
    Optional[str],  # noqa: UP045 - typer reads annotations at run time on 3.10
    typer.Argument(
        help="Alias, hub id, model folder, or a run folder to search. Default: $MODEL_ID or $HF_MODEL_ID.",
        show_default=False,
    ),
]


def _limit(text: str, flag: str) -> object:
    return typer.Option(flag, help=text, show_default=False, rich_help_panel="Limits")


def serve(
    model: ModelArgument = None,
    model_id: Annotated[Optional[str], typer.Option("--model-id", hidden=True)] = None,  # noqa: UP045
    host: Annotated[str | None, typer.Option("--host", "--hostname", help="Address to listen on. [127.0.0.1]")] = None,
    port: Annotated[Optional[int], typer.Option("--port", "-p", help="Port; 0 takes a free one. [3000]")] = None,  # noqa: UP045
    served_model_name: Annotated[Optional[str], typer.Option(help="What OpenAI's route calls the model.")] = None,  # noqa: UP045
    api_key: Annotated[Optional[str], typer.Option(help="Bearer key; better given as $EMBEDFIT_API_KEY.")] = None,  # noqa: UP045
    access: Annotated[
        str | None, typer.Option(help="TOML of keys, each with the filter that its searches can only narrow.")
    ] = None,
    cors_allow_origin: Annotated[Optional[list[str]], typer.Option(help="May be given several times.")] = None,  # noqa: UP045
    default_prompt_name: Annotated[Optional[str], typer.Option(help="Prompt of requests that name none.")] = None,  # noqa: UP045
    default_prompt: Annotated[Optional[str], typer.Option(help="Its text, instead of a name.")] = None,  # noqa: UP045
    engine: Annotated[Optional[str], typer.Option(help="auto, openvino, onnx or torch. [auto]")] = None,  # noqa: UP045
    precision: Annotated[
        str | None, typer.Option("--precision", "--dtype", help="auto, fp32, bf16 or int8. [auto]")
    ] = None,
    gate_beir: Annotated[
        str | None, typer.Option(help="BEIR or run folder whose queries decide whether int8 is good enough.")
    ] = None,
    auto_truncate: Annotated[Optional[bool], typer.Option(help="Cut inputs that are too long. [yes]")] = None,  # noqa: UP045
    max_concurrent_requests: Annotated[Optional[int], typer.Option(help="More are answered 429. [512]")] = None,  # noqa: UP045
    max_batch_tokens: Annotated[Optional[int], typer.Option(help="Upper bound of rows × longest. [16384]")] = None,  # noqa: UP045
    max_batch_requests: Annotated[Optional[int], typer.Option(help="Rows of a batch.")] = None,  # noqa: UP045
    max_client_batch_size: Annotated[
        int | None, typer.Option(help="Inputs of a request; more are answered 422. [32]")
    ] = None,
    max_queue_seconds: Annotated[
        float | None, typer.Option(help="Work that may wait; what would wait longer is answered 429. [5]")
    ] = None,
    max_queue_tokens: Annotated[Optional[int], typer.Option(help="The same in tokens, instead.")] = None,  # noqa: UP045
    payload_limit: Annotated[int | None, typer.Option(help="Bytes of a body; more are answered 413. [2000000]")] = None,
    tokenization_workers: Annotated[Optional[int], typer.Option(help="Threads. [cores]")] = None,  # noqa: UP045
    header_timeout: Annotated[Optional[float], typer.Option(help="Seconds for a request's header. [10]")] = None,  # noqa: UP045
    body_timeout: Annotated[Optional[float], typer.Option(help="Seconds for its body. [30]")] = None,  # noqa: UP045
    write_timeout: Annotated[
        float | None, typer.Option(help="Seconds that a client may read nothing of its answer. [30]")
    ] = None,
    drain_timeout: Annotated[Optional[float], typer.Option(help="Seconds to finish after SIGTERM. [30]")] = None,  # noqa: UP045
    json_output: Annotated[Optional[bool], typer.Option("--json-output", help="Log lines as JSON.")] = None,  # noqa: UP045
) -> None:
    """Serve a model: TEI's, OpenAI's, SageMaker's and Vertex AI's protocols on one port.

    Of a run folder, or a folder of `embedfit index`, the index is served too: /search, and a page to try it at /.

    Every option can be given as an environment variable of its upper-case name, as with TEI.
    """
    from embedfit.serving.settings import from_environment, model_from_environment

    named = model or model_id or model_from_environment()
    if named is None:
        raise UsageError("No model is named.", remedy="For example: embedfit serve runs/em/merged --port 8081")
    settings = from_environment(
        overrides={
            "host": host,
            "port": port,
            "served_model_name": served_model_name,
            "api_key": api_key,
            "access": access,
            "cors_allow_origin": tuple(cors_allow_origin or ()),
            "default_prompt_name": default_prompt_name,
            "default_prompt": default_prompt,
            "engine": engine,
            "precision": precision,
            "gate_beir": gate_beir,
            "auto_truncate": auto_truncate,
            "max_concurrent_requests": max_concurrent_requests,
            "max_batch_tokens": max_batch_tokens,
            "max_batch_requests": max_batch_requests,
            "max_client_batch_size": max_client_batch_size,
            "max_queue_seconds": max_queue_seconds,
            "max_queue_tokens": max_queue_tokens,
            "payload_limit": payload_limit,
            "tokenization_workers": tokenization_workers,
            "header_timeout": header_timeout,
            "body_timeout": body_timeout,
            "write_timeout": write_timeout,
            "drain_timeout": drain_timeout,
            "json_output": json_output,
        }
    )
    # An extra, and slower to import than a wrong setting deserves.
    from embedfit.serving.server import logger
    from embedfit.serving.server import serve as serve_model

    log = logger(json_output=settings.json_output)
    report = _LogLines(log) if settings.json_output else reporter_for(sys.stderr)
    serve_model(named, settings, log=log, opened=_opener(named, report))


class _LogLines(LogLines):
    """Lines of progress that go where the server's own go."""

    def __init__(self, write: Callable[[str], None]) -> None:
        super().__init__()
        self._write_line = write

    def log(self, message: str) -> None:
        """Write the line at once."""
        self._write_line(message)


def _opener(named: str, report: Reporter) -> Callable[[], Index] | None:
    """Opens the index of a run or index folder, and builds it where a run has none. None: `named` is a model."""
    from embedfit.index.store.manifest import is_searchable

    folder = Path(named).expanduser()
    if not is_searchable(folder):
        return None

    def opened() -> Index:
        from embedfit.commands.indexing import load_or_build  # loads torch, which a model alone does not need

        return load_or_build(folder, Runtime(report=report))

    return opened


def export(
    model: Annotated[str, typer.Argument(help="Alias, hub id or folder.")],
    onnx: Annotated[bool, typer.Option("--onnx", help="Write onnx/model.onnx, which TEI on CPU prefers.")] = False,
    openvino: Annotated[bool, typer.Option("--openvino", help="Write openvino/model.xml.")] = False,
) -> None:
    """Write a model as a graph into its folder, checked against torch."""
    from embedfit.models.export import to_onnx, to_openvino  # loads torch
    from embedfit.models.sources import resolve_model

    if not onnx and not openvino:
        raise UsageError("Say which graph to write.", remedy=f"For example: embedfit export {model} --onnx")
    folder = resolve_model(model)
    if onnx:
        say(str(to_onnx(folder)))
    if openvino:
        say(str(to_openvino(folder, folder / "openvino")))
