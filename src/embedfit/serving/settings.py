"""What can be set of a server: TEI's flags and a few of its own, each with an environment variable."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from embedfit.errors import UsageError

EngineName = Literal["auto", "openvino", "onnx", "torch"]
PrecisionName = Literal["auto", "fp32", "bf16", "int8"]

ENGINES: tuple[EngineName, ...] = ("auto", "openvino", "onnx", "torch")
PRECISIONS: tuple[PrecisionName, ...] = ("auto", "fp32", "bf16", "int8")
_KEY = re.compile(r"[!-~]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeSettings:
    """Settings of one server. Names and defaults are TEI's where TEI has the setting.

    access: a file of keys with what each may find, see serving.access.
    payload_limit: bytes of a request's body. max_batch_tokens: upper bound of rows × longest of one
    batch; the calibrated budget stays below it. max_queue_seconds: work that may wait, at the measured
    speed; None for five seconds, and the largest request at least. max_queue_tokens: instead, the tokens
    that may wait; 0 for none. Time-outs are in seconds.
    """

    host: str = "127.0.0.1"
    port: int = 3000
    served_model_name: str | None = None
    api_key: str | None = None
    access: str | None = None
    cors_allow_origin: tuple[str, ...] = ()
    max_concurrent_requests: int = 512
    max_batch_tokens: int = 16_384
    max_batch_requests: int | None = None
    max_client_batch_size: int = 32
    max_queue_tokens: int = 0
    max_queue_seconds: float | None = None
    payload_limit: int = 2_000_000
    auto_truncate: bool = True
    default_prompt_name: str | None = None
    default_prompt: str | None = None
    tokenization_workers: int = 0
    engine: EngineName = "auto"
    precision: PrecisionName = "auto"
    gate_beir: str | None = None
    header_timeout: float = 10.0
    body_timeout: float = 30.0
    write_timeout: float = 30.0
    keep_alive: float = 75.0
    drain_timeout: float = 30.0
    json_output: bool = False

    def __repr__(self) -> str:
        shown = {field.name: getattr(self, field.name) for field in fields(self)}
        shown["api_key"] = "***" if self.api_key else None
        return f"ServeSettings({', '.join(f'{name}={value!r}' for name, value in shown.items())})"

    def __post_init__(self) -> None:
        for name in ("max_concurrent_requests", "max_batch_tokens", "max_client_batch_size", "payload_limit"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} must be at least 1.")
        if self.max_batch_requests is not None and self.max_batch_requests < 1:
            raise UsageError("--max-batch-requests must be at least 1.")
        for name in ("header_timeout", "body_timeout", "write_timeout", "keep_alive", "drain_timeout"):
            if not 0 < getattr(self, name) < float("inf"):
                raise UsageError(f"--{name.replace('_', '-')} must be above 0.")
        if self.api_key is not None and not _KEY.fullmatch(self.api_key):
            raise UsageError(
                "The API key can't be sent in a header.",
                remedy="Use letters, digits and punctuation, without spaces. For example: openssl rand -hex 24",
            )
        if self.max_queue_seconds is not None and not 0 < self.max_queue_seconds < float("inf"):
            raise UsageError("--max-queue-seconds must be above 0.")
        if not 0 <= self.port <= 65_535:
            raise UsageError(f"--port {self.port} is no port.", remedy="Use 1 to 65535, or 0 for any free one.")
        if self.engine not in ENGINES:
            raise UsageError(f"There is no engine {self.engine!r}.", remedy=f"Use one of: {', '.join(ENGINES)}")
        if self.precision not in PRECISIONS:
            raise UsageError(
                f"There is no precision {self.precision!r}.", remedy=f"Use one of: {', '.join(PRECISIONS)}"
            )
        if self.default_prompt is not None and self.default_prompt_name is not None:
            raise UsageError("--default-prompt and --default-prompt-name exclude each other.")


#: Environment variables of settings whose own upper-case name is not the (only) one.
#: HOSTNAME, which TEI reads, is not among them: shells and containers set it to the machine's name.
_OTHER_NAMES = {
    "host": ("EMBEDFIT_HOST",),
    "port": ("PORT", "AIP_HTTP_PORT"),
    "precision": ("DTYPE", "PRECISION"),
}
#: Variables that hold the key: our own, which our clients read too, and TEI's.
_KEY_NAMES = ("EMBEDFIT_API_KEY", "API_KEY")
#: What TEI's --dtype calls the precisions.
_DTYPES = {"float32": "fp32", "bfloat16": "bf16", "float16": "bf16"}


def model_from_environment(environment: Mapping[str, str] = os.environ) -> str | None:
    """The model that TEI's or SageMaker's container variables name, or None."""
    return environment.get("MODEL_ID") or environment.get("HF_MODEL_ID") or None


def from_environment(
    environment: Mapping[str, str] = os.environ, *, overrides: Mapping[str, Any] | None = None
) -> ServeSettings:
    """Settings from the environment; overrides that are not None win over it.

    Raises UsageError that names the variable, and where two variables hold different keys.
    """
    found: dict[str, Any] = {}
    given = {name: value for name, value in (overrides or {}).items() if value is not None and value != ()}
    if "api_key" not in given:
        found["api_key"] = _key_from(environment)
    for field in fields(ServeSettings):
        if field.name == "api_key":
            continue
        for variable in _OTHER_NAMES.get(field.name, (field.name.upper(),)):
            if environment.get(variable):
                found[field.name] = _parsed(field.name, str(field.type), variable, environment[variable])
                break
    return replace(ServeSettings(), **{**found, **given})


def _key_from(environment: Mapping[str, str]) -> str | None:
    """The key under its own name or TEI's; a file's last line end is no part of it."""
    keys = {name: key for name in _KEY_NAMES if (key := environment.get(name, "").strip())}
    if len(set(keys.values())) > 1:
        raise UsageError(
            f"{' and '.join(keys)} hold different keys, so it is not clear which one clients must send.",
            remedy="Keep one of them, or give --api-key. For example: unset API_KEY",
        )
    return next(iter(keys.values()), None)


def _parsed(name: str, kind: str, variable: str, text: str) -> Any:  # noqa: ANN401 - the type of the field
    try:
        if kind == "bool":
            return _truth(text)
        if kind.startswith("int"):
            return int(text)
        if kind.startswith("float"):
            return float(text)
    except ValueError as error:
        raise UsageError(f"The environment variable {variable}={text!r} is not a {kind.split(' ')[0]}.") from error
    if kind.startswith("tuple"):
        return tuple(part.strip() for part in text.split(",") if part.strip())
    return _DTYPES.get(text, text) if name == "precision" else text


def _truth(text: str) -> bool:
    lowered = text.strip().lower()
    if lowered in ("1", "true", "yes", "on"):
        return True
    if lowered in ("0", "false", "no", "off"):
        return False
    raise ValueError(text)
