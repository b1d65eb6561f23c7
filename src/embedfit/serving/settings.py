"""The settings of a server: TEI's and a few of its own, each with an option and an environment variable.

The fields below are checked by their types, and `embedfit serve` makes its options of them (`cli.options`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    model_validator,
)
from typing_extensions import Self

from embedfit.display.options import CommandOption, CommandRecord, option_of
from embedfit.errors import UsageError

EngineName = Literal["auto", "openvino", "onnx", "torch"]
PrecisionName = Literal["auto", "fp32", "bf16", "int8"]

_KEY = re.compile(r"[!-~]+")
#: Variables that hold the key: our own, which our clients read too, and TEI's.
_KEY_NAMES = ("EMBEDFIT_API_KEY", "API_KEY")
#: The names of precisions in TEI's --dtype.
_DTYPES = {"float32": "fp32", "bfloat16": "bf16", "float16": "bf16"}


def _sendable(key: str | None) -> str | None:
    if key is not None and not _KEY.fullmatch(key):
        raise UsageError(
            "The API key can't be sent in a header.",
            remedy="Use letters, digits and punctuation, without spaces. For example: openssl rand -hex 24",
        )
    return key


def _parts(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _adapter(assignment: str) -> tuple[str, str]:
    name, _, folder = assignment.partition("=")
    if not name or not folder or name.endswith(":query"):
        raise UsageError(
            f"--adapter {assignment!r} is not NAME=DIR.", remedy="For example: --adapter de=runs/de/merged"
        )
    return name, folder


def _precision(value: object) -> object:
    return _DTYPES.get(value, value) if isinstance(value, str) else value


Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Limit = partial(CommandOption, panel="Limits")


class ServeSettings(CommandRecord):
    """Settings of one server. Names and defaults are TEI's where TEI has the setting.

    Raises UsageError for an invalid value. The context of the validation is that of CommandRecord.
    """

    # HOSTNAME, which TEI reads, is not read: shells and containers set it to the machine's name.
    host: Annotated[
        str, CommandOption("Address to listen on.", ("--host", "--hostname"), variables=("EMBEDFIT_HOST",))
    ] = "127.0.0.1"
    port: Annotated[
        int,
        Field(ge=0, le=65_535),
        CommandOption("Port; 0 takes a free one.", ("--port", "-p"), variables=("PORT", "AIP_HTTP_PORT")),
    ] = 3000
    served_model_name: Annotated[str | None, CommandOption("What OpenAI's route calls the model.")] = None
    api_key: Annotated[
        str | None,
        AfterValidator(_sendable),
        Field(repr=False),
        CommandOption("Bearer key; better given as $EMBEDFIT_API_KEY.", variables=()),
    ] = None
    access: Annotated[
        str | None, CommandOption("TOML of keys, each with the filter that its searches can only narrow.")
    ] = None
    cors_allow_origin: Annotated[
        tuple[str, ...], BeforeValidator(_parts), CommandOption("May be given several times.")
    ] = ()
    mcp: Annotated[
        Literal["stdio", "http"] | None,
        CommandOption(
            "Tools for agents: stdio, instead of a port; http, at /mcp beside the other routes.",
            variables=("EMBEDFIT_MCP",),
        ),
    ] = None
    log_queries: Annotated[
        str | None,
        CommandOption("File that gets the queries of searches, one JSON object a line, for `run --queries`."),
    ] = None
    log_queries_bytes: Annotated[
        Count, CommandOption("Size from which the file becomes FILE.1 and a new one is begun.")
    ] = 50_000_000
    reranker: Annotated[
        str | None,
        CommandOption("Cross-encoder that orders the texts of /rerank, instead of late interaction: hub id or folder."),
    ] = None
    upstream: Annotated[
        str | None,
        CommandOption("Instead of a model: openai:URL#MODEL, tei:URL, sagemaker:NAME@REGION. Needs --map."),
    ] = None
    query_map: Annotated[
        str | None,
        CommandOption("The map of `embedfit adapt` for the upstream's query vectors.", ("--map", "--query-map")),
    ] = None
    adapter: Annotated[
        tuple[str, ...],
        BeforeValidator(_parts),
        CommandOption(
            "NAME=DIR, a model trained by an adapter (LoRA) of the served one.",
            shown="",
            variables=("EMBEDFIT_ADAPTERS",),
        ),
    ] = ()
    default_prompt_name: Annotated[str | None, CommandOption("Prompt of requests that name none.")] = None
    default_prompt: Annotated[str | None, CommandOption("Its text, instead of a name.")] = None
    engine: Annotated[EngineName, CommandOption("auto, openvino, onnx or torch.")] = "auto"
    precision: Annotated[
        PrecisionName,
        BeforeValidator(_precision),
        CommandOption("auto, fp32, bf16 or int8.", ("--precision", "--dtype"), variables=("DTYPE", "PRECISION")),
    ] = "auto"
    gate_beir: Annotated[
        str | None, CommandOption("BEIR or run folder whose queries decide whether int8 is good enough.")
    ] = None
    auto_truncate: Annotated[bool, CommandOption("Cut inputs that are too long.")] = True
    tokenization_workers: Annotated[int, CommandOption("Threads that tokenise.", shown="cores")] = 0
    json_output: Annotated[bool, CommandOption("Log lines as JSON.", ("--json-output",))] = False

    max_concurrent_requests: Annotated[Count, Limit("More are answered 429.")] = 512
    # The calibrated budget stays below this number.
    max_batch_tokens: Annotated[Count, Limit("Upper bound of rows × longest of a batch.")] = 16_384
    max_batch_requests: Annotated[Count | None, Limit("Rows of a batch.")] = None
    max_client_batch_size: Annotated[Count, Limit("Inputs of a request; more are answered 422.")] = 32
    # At the measured speed. None: five seconds, and the largest request at least.
    max_queue_seconds: Annotated[
        Seconds | None, Limit("Work that may wait; what would wait longer is answered 429.", shown="5")
    ] = None
    max_queue_tokens: Annotated[int, Limit("The same in tokens, instead.")] = 0
    payload_limit: Annotated[Count, Limit("Bytes of a body; more are answered 413.")] = 2_000_000
    header_timeout: Annotated[Seconds, Limit("Seconds for a request's header.")] = 10.0
    body_timeout: Annotated[Seconds, Limit("Seconds for its body.")] = 30.0
    write_timeout: Annotated[Seconds, Limit("Seconds that a client may read nothing of its answer.")] = 30.0
    keep_alive: Annotated[Seconds, Limit("Seconds that a connection may wait for its next request.")] = 75.0
    drain_timeout: Annotated[Seconds, Limit("Seconds to finish after SIGTERM.")] = 30.0

    @model_validator(mode="after")
    def _map_and_upstream(self) -> Self:
        if (self.upstream is None) != (self.query_map is None):
            raise UsageError(
                "--map and --upstream belong together.",
                remedy="For example: embedfit serve --map RUN/adapt/query_map.safetensors --upstream openai:URL#MODEL",
            )
        return self

    @model_validator(mode="after")
    def _adapters_by_name(self) -> Self:
        named = self.adapter_folders
        if len(named) < len(self.adapter) or self.served_model_name in named:
            raise UsageError("Two of the served models have one name.", remedy="Give each --adapter another NAME=DIR.")
        if named and self.upstream is not None:
            raise UsageError("--adapter needs a model here, and --upstream has none.", remedy="Leave out one of them.")
        if named and (self.engine not in ("auto", "torch") or self.precision == "int8"):
            raise UsageError(
                "Adapters over one base run in torch only.",
                remedy="Leave out --engine and int8; or serve each merged folder by itself, which is quicker.",
            )
        return self

    @property
    def adapter_folders(self) -> dict[str, str]:
        """The folders of adapters by name."""
        return dict(map(_adapter, self.adapter))

    @model_validator(mode="after")
    def _mcp_of_an_index(self) -> Self:
        if self.mcp is not None and self.upstream is not None:
            raise UsageError("--mcp serves an index, and --upstream has none.", remedy="Leave out one of them.")
        return self

    @model_validator(mode="after")
    def _one_default_prompt(self) -> Self:
        if self.default_prompt is not None and self.default_prompt_name is not None:
            raise UsageError("--default-prompt and --default-prompt-name exclude each other.")
        return self


def model_from_environment(environment: Mapping[str, str] = os.environ) -> str | None:
    """The model that TEI's or SageMaker's container variables name, or None."""
    return environment.get("MODEL_ID") or environment.get("HF_MODEL_ID") or None


def from_environment(
    environment: Mapping[str, str] = os.environ, *, overrides: Mapping[str, object] | None = None
) -> ServeSettings:
    """Settings from the environment; overrides that are not None win over it.

    Raises UsageError that names the variable, and where two variables hold different keys.
    """
    values = {name: value for name, value in (overrides or {}).items() if value is not None}
    sources: dict[str, str] = {}
    for name, field in ServeSettings.model_fields.items():
        option = option_of(field.metadata)
        variables = (name.upper(),) if option is None or option.variables is None else option.variables
        variable = next((one for one in variables if environment.get(one)), None)
        if variable is not None and name not in values:
            values[name], sources[name] = environment[variable], variable
    if "api_key" not in values:
        values["api_key"] = _key_from(environment)
    return ServeSettings.model_validate(values, context=sources)


def _key_from(environment: Mapping[str, str]) -> str | None:
    """The key from our variable or TEI's. The line end at the end of a file is not part of it."""
    keys = {name: key for name in _KEY_NAMES if (key := environment.get(name, "").strip())}
    if len(set(keys.values())) > 1:
        raise UsageError(
            f"{' and '.join(keys)} hold different keys, so it is not clear which one clients must send.",
            remedy="Keep one of them, or give --api-key. For example: unset API_KEY",
        )
    return next(iter(keys.values()), None)
