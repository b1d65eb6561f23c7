"""Amazon Bedrock's Converse API: the choice of the model, and one call."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from embedfit.errors import UsageError
from embedfit.generators import Generator
from embedfit.llm.prices import bare_model
from embedfit.llm.protocol import LanguageModel, Reply, Request
from embedfit.llm.replies import cut_at_stop, text_of_message, well_formed
from embedfit.llm.tokens import CountsTokens
from embedfit.llm.transport.remote import CONNECTIONS, RemoteModel, paced
from embedfit.llm.transport.retry import CallError
from embedfit.network.aws import client as aws_client

if TYPE_CHECKING:
    from mypy_boto3_bedrock import BedrockClient
    from mypy_boto3_bedrock.type_defs import FoundationModelSummaryTypeDef as Summary
    from mypy_boto3_bedrock.type_defs import InferenceProfileSummaryTypeDef as Profile
    from mypy_boto3_bedrock_runtime import BedrockRuntimeClient
    from mypy_boto3_bedrock_runtime.type_defs import ContentBlockOutputTypeDef as Block
    from mypy_boto3_bedrock_runtime.type_defs import ConverseResponseTypeDef as Response

    from embedfit.config import GenerateConfig
    from embedfit.llm.opening import Outside

#: The default models: the Llama-3-70B-Instruct family, the cheapest and newest first.
DEFAULT_FAMILY = (
    "meta.llama3-3-70b-instruct-v1:0",
    "meta.llama3-1-70b-instruct-v1:0",
    "meta.llama3-70b-instruct-v1:0",
)
_ACCESS = "In the Bedrock console of that region, open Model access and ask for the model."
_FINISH = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "guardrail_intervened": "refusal",
    "content_filtered": "refusal",
}
_REFUSED_FIELDS = {"stopsequences": "stopSequences", "topp": "topP", "top_p": "topP", "system": "system"}
_UNSUPPORTED = re.compile(r"(not|n.t) support|cannot both|unsupported|not permitted|extraneous", re.I)
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedModel:
    """model: the foundation model's id, which names the calls in the ledger. invoke_id: the id by which it is called.

    notice: a warning for the user, such as that the model is going away; empty for none.
    """

    model: str
    invoke_id: str
    notice: str = ""


# --- which model


def resolve_model(control: BedrockClient, wanted: str | None) -> ResolvedModel:
    """The wanted model, in the form in which this account and region can call it.

    wanted: a model id, an inference profile's id or ARN, or None for the newest of the Llama-3-70B-Instruct family that
    is there. Raises UsageError for a model that is retired or not in the region, and lists the models that are.
    """
    try:
        if wanted is not None and bare_model(wanted) != wanted:
            return _profile(control, wanted)
        return _foundation(control, wanted)
    except CallError as error:
        if error.status == 403 and "is not authorized" in error.message:
            # Many accounts may invoke models but not list them. Then the name is taken as it is.
            name = wanted or f"{_geography(control)}.{DEFAULT_FAMILY[0]}"
            return ResolvedModel(
                model=bare_model(name),
                invoke_id=name,
                notice=f"{name} is used unchecked: these credentials may not list Bedrock's models.",
            )
        raise


def _foundation(control: BedrockClient, wanted: str | None) -> ResolvedModel:
    there = {item["modelId"]: item for item in call_aws(control.list_foundation_models)["modelSummaries"]}
    profiles = _profiles(control)
    for model in (wanted,) if wanted is not None else DEFAULT_FAMILY:
        found = _invocable(model, there.get(model), profiles)
        if found is not None:
            return found
    region = control.meta.region_name
    state = "can't be called on demand" if wanted in there else "is retired, or was never"
    problem = f"The model {wanted} {state} in the region {region}."
    if wanted is None:
        problem = f"The region {region} has no Llama 3 70B Instruct."
    raise UsageError(
        f"{problem} It has: {_some(there)}.",
        remedy="Choose one of those with --set generate.llm=ID, or another region with --set generate.region=NAME.",
    )


def _profile(control: BedrockClient, wanted: str) -> ResolvedModel:
    try:
        profile = call_aws(control.get_inference_profile, inferenceProfileIdentifier=wanted)
    except CallError as error:
        if error.status not in (400, 404):
            raise
        there = [item["inferenceProfileId"] for item in _profiles(control)]
        raise UsageError(
            f"There is no inference profile {wanted} in the region {control.meta.region_name}. It has: {_some(there)}.",
            remedy="Choose one of those, or a model id, with --set generate.llm=ID.",
        ) from error
    models = [bare_model(item.get("modelArn", "")) for item in profile.get("models", [])]
    return ResolvedModel(model=models[0] if models else bare_model(wanted), invoke_id=wanted)


def _invocable(model: str, detail: Summary | None, profiles: Sequence[Profile]) -> ResolvedModel | None:
    """How a model can be called, if it can: by its own id, or through a profile."""
    notice = ""
    if detail is not None:
        lifecycle = detail.get("modelLifecycle") or {"status": "ACTIVE"}
        if lifecycle.get("status") == "LEGACY":
            end = lifecycle.get("endOfLifeTime")
            when = f" on {end:%Y-%m-%d}" if end else ""
            notice = f"{model} is a legacy model: AWS will switch it off{when}."
        if "ON_DEMAND" in detail.get("inferenceTypesSupported", ["ON_DEMAND"]):
            return ResolvedModel(model=model, invoke_id=model, notice=notice)
    for profile in profiles:
        if profile.get("status", "ACTIVE") == "ACTIVE" and any(
            bare_model(item.get("modelArn", "")) == model for item in profile.get("models", [])
        ):
            return ResolvedModel(model=model, invoke_id=profile["inferenceProfileId"], notice=notice)
    return None


def _profiles(control: BedrockClient) -> list[Profile]:
    page = call_aws(control.list_inference_profiles, maxResults=100)
    found = list(page["inferenceProfileSummaries"])
    while token := page.get("nextToken"):
        page = call_aws(control.list_inference_profiles, maxResults=100, nextToken=token)
        found += page["inferenceProfileSummaries"]
    return found


def _geography(control: BedrockClient) -> str:
    return {"us": "us", "ca": "us", "eu": "eu"}.get(control.meta.region_name.split("-", 1)[0], "apac")


def _some(names: Iterable[str]) -> str:
    """Some of the names, Llama's first."""
    names = list(names)
    listed = [name for name in names if "llama" in name and "instruct" in name] or names
    return ", ".join(listed[:8]) + (", …" if len(listed) > 8 else "") or "none"


# --- one call


def parts_of(settings: GenerateConfig, outside: Outside) -> tuple[BedrockClient, ResolvedModel, RemoteModel]:
    """(a "bedrock" client, the model, that model on demand) of the settings."""
    if settings.base_url and not outside.endpoint_url:
        raise UsageError(
            f"The generator {settings.generator} takes no base URL.", remedy="Use --generator openai, or leave it out."
        )
    control: BedrockClient = connect("bedrock", region=settings.region, endpoint_url=outside.endpoint_url)
    resolved = resolve_model(control, settings.llm)
    if resolved.notice:
        outside.report.log(resolved.notice)
    runtime = connect("bedrock-runtime", region=settings.region, endpoint_url=outside.endpoint_url)
    return control, resolved, paced(BedrockTransport(runtime, resolved), outside.report)


def _open(settings: GenerateConfig, outside: Outside) -> LanguageModel:
    return parts_of(settings, outside)[2]


GENERATOR = Generator(name="bedrock", open=_open)


class BedrockTransport(CountsTokens):
    """Converse, one call at a time. runtime: a "bedrock-runtime" client."""

    provider = "bedrock"
    price_provider = "bedrock"

    def __init__(self, runtime: BedrockRuntimeClient, resolved: ResolvedModel) -> None:
        self._runtime = runtime
        self._invoke_id = resolved.invoke_id
        self._left_out: frozenset[str] = frozenset()
        super().__init__(resolved.model)

    def close(self) -> None:
        """Close the connections."""
        self._runtime.close()  # type: ignore[no-untyped-call]

    def send(self, request: Request) -> Reply:
        """One Converse call. Raises CallError."""
        while True:
            left_out = self._left_out
            body = converse_input(request, left_out)
            try:
                return converse_reply(call_aws(self._runtime.converse, modelId=self._invoke_id, **body), request)
            except CallError as error:
                field = _refused_field(error)
                if field is None or field in left_out:
                    raise
                self._left_out |= {field}


def converse_input(request: Request, left_out: frozenset[str] = frozenset()) -> dict[str, object]:
    """A request as Converse's parameters. left_out: fields that the model does not take."""
    said = [
        (message.role, {"text": message.content.encode("utf-8", "replace").decode()}) for message in request.messages
    ]
    system = [content for role, content in said if role == "system"]
    turns = [(role, [content]) for role, content in said if role != "system"]
    inference = {
        "maxTokens": request.max_tokens,
        "temperature": request.temperature,
        "topP": request.top_p,
        "stopSequences": list(request.stop),
    }
    if not request.stop:
        del inference["stopSequences"]
    for field in left_out - {"system"}:
        inference.pop(field, None)
    body: dict[str, object] = {"inferenceConfig": inference}
    if system and "system" not in left_out:
        body["system"] = system
    elif system:  # the model takes no system messages, so their text begins the first turn
        role, content = turns[0]
        turns[0] = role, [*system, *content]
    body["messages"] = [{"role": role, "content": content} for role, content in turns]
    if request.extra:
        body["additionalModelRequestFields"] = json.loads(request.extra)
    return body


def converse_reply(response: Response, request: Request) -> Reply:
    """The reply in Converse's response. Raises CallError for a response that is not one."""
    try:
        blocks = response["output"]["message"]["content"]
        text, stopped = cut_at_stop(_text_of_blocks(blocks), request.stop)
        usage = response["usage"]
        return Reply(
            text=well_formed(text),
            input_tokens=int(usage["inputTokens"]),
            output_tokens=int(usage["outputTokens"]),
            finish="stop" if stopped else _FINISH.get(response.get("stopReason", ""), "stop"),
        )
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise CallError("Bedrock answered with something that is not a reply.", maybe_billed=True) from error


def _text_of_blocks(blocks: Sequence[Block]) -> str:
    """The texts of a message's blocks, or the input of its tool calls, or, marked as such, its thoughts."""
    calls = [{"function": {"arguments": use.get("input")}} for block in blocks if (use := block.get("toolUse"))]
    thoughts = "".join(
        str((reasoning.get("reasoningText") or {"text": ""}).get("text") or "")
        for block in blocks
        if (reasoning := block.get("reasoningContent"))
    )
    parts = [{"type": "text", "text": block.get("text")} for block in blocks]
    return text_of_message({"content": parts, "tool_calls": calls, "reasoning_content": thoughts})


def _refused_field(error: CallError) -> str | None:
    if error.status != 400 or not _UNSUPPORTED.search(error.message):
        return None
    text = error.message.lower().replace(" ", "")
    return next((field for name, field in _REFUSED_FIELDS.items() if name in text), None)


# --- AWS


def connect(service: str, *, region: str | None = None, endpoint_url: str | None = None) -> Any:  # noqa: ANN401 - boto3 makes its clients at run time
    """A boto3 client without retries of its own, which would hide throttling from our throttle."""
    return aws_client(
        service, region=region, endpoint_url=endpoint_url, attempts=1, read_timeout=120, connections=CONNECTIONS,
        needed_for="Amazon Bedrock",
    )  # fmt: skip


def call_aws(operation: Callable[..., T], **parameters: object) -> T:
    """Call a boto3 operation. Raises CallError for every error of the service or the network."""
    from botocore import exceptions as aws
    from botocore.parsers import ResponseParserError

    try:
        return operation(**parameters)
    except aws.ClientError as error:
        raise call_error(error.response) from error
    except (aws.NoCredentialsError, aws.PartialCredentialsError, aws.TokenRetrievalError, aws.SSOError) as error:
        raise CallError(
            f"There are no usable AWS credentials: {error}",
            status=401,
            remedy="Run: aws configure (or aws sso login), or export AWS_PROFILE.",
        ) from error
    except (aws.EndpointConnectionError, aws.ConnectTimeoutError, aws.ProxyConnectionError) as error:
        raise CallError(f"Bedrock could not be reached: {error}") from error
    except aws.ReadTimeoutError as error:
        raise CallError("Bedrock did not answer in time.", maybe_billed=True) from error
    except aws.ParamValidationError as error:
        raise CallError(f"Bedrock would not take the request: {error}", status=400) from error
    except (aws.HTTPClientError, aws.BotoCoreError, ResponseParserError, ValueError) as error:
        raise CallError(f"The connection to Bedrock broke: {error}", maybe_billed=True) from error


def call_error(response: Mapping[str, Mapping[str, object]]) -> CallError:
    """The error of a response that botocore calls an error."""
    said = response.get("Error", {})
    code, text = str(said.get("Code", "")), str(said.get("Message", ""))
    answered = status = int(str(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500)))
    throttled = code == "ThrottlingException" or (status == 429 and code != "ModelNotReadyException")
    remedy: str | None = None
    if throttled and status == 429 and "per day" in text.lower():
        throttled, status = False, 402
        remedy = "The day's quota is used up: go on tomorrow, or ask AWS for a higher one."
    elif throttled:
        status = 429
    elif status == 403:
        expired = "Expired" in code or "expired" in text or "UnrecognizedClient" in code
        remedy = "Renew the AWS credentials (aws sso login, for example)." if expired else _ACCESS
    elif status == 404:
        remedy = "The model may be retired: leave generate.llm out, or choose another."
    elif status == 400 and "on-demand throughput" in text:
        status, remedy = 404, "Name an inference profile: --set generate.llm=us.MODEL-ID"
    return CallError(
        f"Bedrock answered {answered} {code}: {text}"[:400],
        status=status,
        remedy=remedy,
        throttled=throttled,
        maybe_billed=status in (408, 504),
    )
