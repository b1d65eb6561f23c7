"""Amazon Bedrock over HTTP: Converse, InvokeModel with Titan V2 vectors, models, profiles, batch jobs.

Give its url as endpoint_url to real boto3 clients ("bedrock" and "bedrock-runtime"). Batch jobs read
and write through the S3 client that it is given, usually one of a moto server.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import random
import re
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from email.message import Message
from urllib.parse import parse_qs, urlsplit

from embedfit.files.textfiles import JsonObject
from embedfit.network.aws import Client
from embedfit.testing.language_service import Ask, Behaviour, LanguageService, Response, count_tokens

_ACCOUNT = "arn:aws:bedrock:us-east-1:123456789012"
_NAMES = {
    400: "ValidationException",
    403: "AccessDeniedException",
    404: "ResourceNotFoundException",
    408: "ModelTimeoutException",
    424: "ModelErrorException",
    429: "ThrottlingException",
    500: "InternalServerException",
    503: "ServiceUnavailableException",
}
_THROTTLED = {
    "requests": "Too many requests, please wait before trying again.",
    "tokens": "Too many tokens, please wait before trying again.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeFoundationModel:
    """A model of the region. legacy: it is going away. on_demand: callable by its own id. access: granted."""

    model: str
    legacy: bool = False
    on_demand: bool = True
    access: bool = True
    refuses: frozenset[str] = frozenset()


#: A region as of 2026: the newest Llama only through a profile, the oldest going away.
REGION = (
    FakeFoundationModel(model="meta.llama3-70b-instruct-v1:0", legacy=True, refuses=frozenset({"stopSequences"})),
    FakeFoundationModel(model="meta.llama3-1-70b-instruct-v1:0", on_demand=False, refuses=frozenset({"stopSequences"})),
    FakeFoundationModel(model="meta.llama3-3-70b-instruct-v1:0", on_demand=False, refuses=frozenset({"stopSequences"})),
    FakeFoundationModel(model="amazon.titan-embed-text-v2:0"),
)


@dataclass(kw_only=True)
class _BatchJob:
    arn: str
    request: JsonObject
    states: list[str]
    total: int = 0
    processed: int = 0
    message: str = ""
    polled: int = 0
    calls: list[str] = field(default_factory=list)


class FakeBedrock(LanguageService):
    """The service.

    models: the region's; each that is not callable on demand has a profile us.MODEL. may_list: whether the credentials
    may list models. s3: for batch jobs. batch_states: a job's state at the first, second … look; the last is final.
    record_fault: given a record's last user turn, an error (code, message), or "missing" for a record without a line,
    or None.
    """

    def __init__(
        self,
        behaviour: Behaviour | None = None,
        *,
        port: int = 0,
        models: Iterable[FakeFoundationModel] = REGION,
        may_list: bool = True,
        s3: Client = None,
        batch_states: tuple[str, ...] = ("Submitted", "InProgress", "Completed"),
        record_fault: Callable[[str], tuple[str, str] | str | None] = lambda key: None,
    ) -> None:
        super().__init__(behaviour, port=port)
        self._models = {model.model: model for model in models}
        self._may_list = may_list
        self._s3 = s3
        self._batch_states = batch_states
        self._record_fault = record_fault
        self._jobs: dict[str, _BatchJob] = {}
        self._by_token: dict[str, str] = {}
        self._jobs_lock = threading.Lock()
        self._numbers = itertools.count(1)
        self.batch_records: list[str] = []

    @property
    def jobs(self) -> int:
        """Batch jobs that were created."""
        return len(self._jobs)

    def route(self, method: str, path: str, query: str, headers: Message, body: bytes) -> Response:
        """Answer a request."""
        value = json.loads(body) if body else {}
        routes: tuple[tuple[str, str, Callable[..., Response]], ...] = (
            ("POST", r"/model/(.+)/converse", lambda model: self._converse(model, value)),
            ("POST", r"/model/(.+)/invoke", lambda model: self._invoke(model, value)),
            ("GET", r"/foundation-models", lambda: self._list_models()),
            ("GET", r"/foundation-models/(.+)", lambda model: self._get_model(model)),
            ("GET", r"/inference-profiles", lambda: self._list_profiles(query)),
            ("GET", r"/inference-profiles/(.+)", lambda name: self._get_profile(name)),
            ("POST", r"/model-invocation-job", lambda: self._create_job(value)),
            ("GET", r"/model-invocation-job/(.+)", lambda arn: self._get_job(arn)),
        )
        for wanted, pattern, handle in routes:
            found = re.fullmatch(pattern, path)
            if method == wanted and found:
                return handle(*found.groups())
        return _error(404, f"No operation {method} {path}")

    # --- inference

    def _resolved(self, name: str) -> FakeFoundationModel | Response:
        bare = name.rsplit("/", 1)[-1]
        profile = bare.startswith("us.")
        model = self._models.get(bare.removeprefix("us."))
        if model is None:
            return _error(404, "The requested model has reached its end of life, or was never here.")
        if not model.access:
            return _error(403, "You don't have access to the model with the specified model ID.")
        if not model.on_demand and not profile:
            return _error(
                400,
                f"Invocation of model ID {bare} with on-demand throughput isn't supported. Retry your request with the "
                "ID or ARN of an inference profile that contains this model.",
            )
        return model

    def _converse(self, name: str, body: JsonObject) -> Response:
        model = self._resolved(name)
        if not isinstance(model, FakeFoundationModel):
            return model
        ask = _checked(body, model)
        if isinstance(ask, str):
            return _error(400, ask)
        result = self.serve(ask)
        if (fault := _fault(result)) is not None:
            return fault
        if result == "incomplete":
            return 200, {"metrics": {"latencyMs": 1}}, {}
        return 200, _converse_output(ask, str(result)), {}

    def _invoke(self, name: str, body: JsonObject) -> Response:
        model = self._resolved(name)
        if not isinstance(model, FakeFoundationModel):
            return model
        if "titan-embed" not in model.model:
            return _error(400, "This fake speaks InvokeModel with Titan's vectors only.")
        text, dimensions = body.get("inputText", ""), body.get("dimensions", 1024)
        if not text or len(text) > 50_000 or dimensions not in (256, 512, 1024):
            return _error(400, "Malformed input request: 1 to 50000 characters and 256, 512 or 1024 dimensions.")
        ask = Ask(key=text, system="", turns=1, max_tokens=0, input_tokens=count_tokens(text))
        result = self.serve(ask)
        if (fault := _fault(result)) is not None:
            return fault
        vector = titan_vector(text, dimensions, normalize=body.get("normalize", True))
        by_type = {kind: vector for kind in body.get("embeddingTypes", ["float"]) if kind == "float"}
        value = {"inputTextTokenCount": ask.input_tokens, "embeddingsByType": by_type}
        return 200, {"embedding": vector, **value}, {"x-amzn-bedrock-input-token-count": str(ask.input_tokens)}

    # --- models and profiles

    def _details(self, model: FakeFoundationModel) -> JsonObject:
        return {
            "modelArn": f"arn:aws:bedrock:us-east-1::foundation-model/{model.model}",
            "modelId": model.model,
            "modelName": model.model,
            "providerName": model.model.split(".", 1)[0],
            "inputModalities": ["TEXT"],
            "outputModalities": ["EMBEDDING" if "embed" in model.model else "TEXT"],
            "inferenceTypesSupported": ["ON_DEMAND"] if model.on_demand else ["INFERENCE_PROFILE"],
            "modelLifecycle": {"status": "LEGACY", "endOfLifeTime": "2027-03-01T00:00:00Z"}
            if model.legacy
            else {"status": "ACTIVE"},
        }

    def _forbidden(self, action: str) -> Response:
        return _error(403, f"User: arn:aws:iam::123456789012:user/fake is not authorized to perform: bedrock:{action}")

    def _list_models(self) -> Response:
        if not self._may_list:
            return self._forbidden("ListFoundationModels")
        return 200, {"modelSummaries": [self._details(model) for model in self._models.values()]}, {}

    def _get_model(self, name: str) -> Response:
        if not self._may_list:
            return self._forbidden("GetFoundationModel")
        model = self._models.get(name)
        if model is None:
            return _error(404, "Could not resolve the foundation model from the model identifier.")
        return 200, {"modelDetails": self._details(model)}, {}

    def _profile(self, model: FakeFoundationModel) -> JsonObject:
        return {
            "inferenceProfileName": f"US {model.model}",
            "inferenceProfileId": f"us.{model.model}",
            "inferenceProfileArn": f"{_ACCOUNT}:inference-profile/us.{model.model}",
            "models": [{"modelArn": f"arn:aws:bedrock:us-east-1::foundation-model/{model.model}"}],
            "status": "ACTIVE",
            "type": "SYSTEM_DEFINED",
        }

    def _list_profiles(self, query: str) -> Response:
        if not self._may_list:
            return self._forbidden("ListInferenceProfiles")
        through_profile = [model for model in self._models.values() if not model.on_demand]
        start = int(parse_qs(query).get("nextToken", ["0"])[0])
        page: JsonObject = {"inferenceProfileSummaries": [self._profile(m) for m in through_profile[start : start + 1]]}
        if start + 1 < len(through_profile):  # one item a page, so that clients must follow the token
            page["nextToken"] = str(start + 1)
        return 200, page, {}

    def _get_profile(self, name: str) -> Response:
        if not self._may_list:
            return self._forbidden("GetInferenceProfile")
        model = self._models.get(name.rsplit("/", 1)[-1].removeprefix("us."))
        if model is None or model.on_demand:
            return _error(404, f"Could not resolve the inference profile {name}.")
        return 200, self._profile(model), {}

    # --- batch jobs

    def _create_job(self, body: JsonObject) -> Response:
        token = body.get("clientRequestToken", "")
        with self._jobs_lock:
            if token and token in self._by_token:
                return 200, {"jobArn": self._by_token[token]}, {}
            model = self._resolved(body["modelId"])
            if not isinstance(model, FakeFoundationModel):
                return model
            arn = f"{_ACCOUNT}:model-invocation-job/{next(self._numbers):012d}"
            self._jobs[arn] = _BatchJob(arn=arn, request=body, states=list(self._batch_states))
            self._by_token[token] = arn
            return 200, {"jobArn": arn}, {}

    def _get_job(self, arn: str) -> Response:
        with self._jobs_lock:
            job = self._jobs.get(arn)
            if job is None:
                return _error(404, "The batch job was not found.")
            state = job.states[min(job.polled, len(job.states) - 1)]
            job.polled += 1
            if job.polled == len(job.states):
                self._finish(job)
                state = job.states[-1]
        return (
            200,
            {
                "jobArn": job.arn,
                "jobName": job.request["jobName"],
                "modelId": job.request["modelId"],
                "roleArn": job.request["roleArn"],
                "status": state,
                "message": job.message,
                "submitTime": "2026-01-01T00:00:00Z",
                "inputDataConfig": job.request["inputDataConfig"],
                "outputDataConfig": job.request["outputDataConfig"],
                "totalRecordCount": job.total,
                "processedRecordCount": job.processed,
            },
            {},
        )

    def _finish(self, job: _BatchJob) -> None:
        source = urlsplit(job.request["inputDataConfig"]["s3InputDataConfig"]["s3Uri"])
        target = urlsplit(job.request["outputDataConfig"]["s3OutputDataConfig"]["s3Uri"])
        content = self._s3.get_object(Bucket=source.netloc, Key=source.path.lstrip("/"))["Body"].read().decode()
        records = [json.loads(line) for line in content.splitlines() if line.strip()]
        job.total = len(records)
        if len(records) < 100:
            job.states[-1], job.message = "Failed", "The job has fewer records than the minimum of 100."
            return
        if job.states[-1] == "Failed":
            return
        reached = len(records) // 2 if job.states[-1] in ("Stopped", "Expired") else len(records)
        lines = [line for record in records[:reached] if (line := self._record(job, record)) is not None]
        random.Random(job.arn).shuffle(lines)
        job.processed = len(lines)
        folder = f"{target.path.strip('/')}/{job.arn.rsplit('/', 1)[-1]}"
        name = source.path.rsplit("/", 1)[-1]
        manifest = {"totalRecordCount": len(records), "processedRecordCount": len(lines)}
        for key, text in (
            (f"{name}.out", "\n".join(map(json.dumps, lines))),
            ("manifest.json.out", json.dumps(manifest)),
        ):
            self._s3.put_object(Bucket=target.netloc, Key=f"{folder}/{key}", Body=text.encode())

    def _record(self, job: _BatchJob, record: JsonObject) -> JsonObject | None:
        model = self._resolved(job.request["modelId"])
        ask = _checked(record["modelInput"], model) if isinstance(model, FakeFoundationModel) else "no model"
        base = {"recordId": record["recordId"], "modelInput": record["modelInput"]}
        if isinstance(ask, str):
            return {**base, "error": {"errorCode": 400, "errorMessage": ask}}
        self.batch_records.append(ask.key)
        fault = self._record_fault(ask.key)
        if fault == "missing":
            return None
        if isinstance(fault, tuple):
            return {**base, "error": {"errorCode": fault[0], "errorMessage": fault[1]}}
        return {**base, "modelOutput": _converse_output(ask, self.behaviour.answer(ask))}


def titan_vector(text: str, dimensions: int, *, normalize: bool = True) -> list[float]:
    """A vector by hashed words, so that texts which share words are close. Deterministic."""
    vector = [0.0] * dimensions
    for word in re.findall(r"\w+", text.lower()) or [text]:
        digest = hashlib.sha256(word.encode()).digest()
        vector[int.from_bytes(digest[:4], "little") % dimensions] += 1.0 if digest[4] & 1 else -1.0
    length = math.sqrt(sum(x * x for x in vector)) or 1.0
    return [x / length for x in vector] if normalize else vector


def _fault(result: str | int) -> Response | None:
    """The answer to a call that the behaviour lets fail in a way that all operations share; None for any other."""
    if result in ("requests", "tokens"):
        return _error(429, _THROTTLED[str(result)])
    if isinstance(result, int):
        return _error(result, f"status {result} on demand")
    if result == "malformed":
        return 200, b"<html>upstream connect error</html>", {}
    return None


def _checked(body: JsonObject, model: FakeFoundationModel) -> Ask | str:
    """The request in a Converse body, or the error that Bedrock would give for it."""
    messages = body.get("messages") or []
    roles = [turn["role"] for turn in messages]
    if not messages or roles[0] != "user":
        return "A conversation must start with a user message."
    if any(a == b for a, b in itertools.pairwise(roles)):
        return 'roles must alternate between "user" and "assistant"'
    contents = ["".join(block["text"] for block in turn["content"]) for turn in messages]
    if any(not block["text"].strip() for turn in messages for block in turn["content"]):
        return "The text field in the ContentBlock object is blank. Add text to the text field, and try again."
    inference = body.get("inferenceConfig", {})
    for field_name in sorted(model.refuses & set(inference)):
        return f"This model doesn't support the {field_name} field. Remove {field_name} and try again."
    system = "".join(block["text"] for block in body.get("system", []))
    return Ask(
        key=contents[-1],
        system=system,
        turns=len(messages),
        max_tokens=inference.get("maxTokens", 512),
        input_tokens=sum(map(count_tokens, contents)) + (count_tokens(system) if system else 0),
    )


def _converse_output(ask: Ask, text: str) -> JsonObject:
    refused = text == "refusal"
    content = "I can't help with that." if refused else text[: ask.max_tokens * 4]
    tokens = count_tokens(content)
    stop = "content_filtered" if refused else "max_tokens" if len(content) < len(text) else "end_turn"
    return {
        "output": {"message": {"role": "assistant", "content": [{"text": content}]}},
        "stopReason": stop,
        "usage": {"inputTokens": ask.input_tokens, "outputTokens": tokens, "totalTokens": ask.input_tokens + tokens},
        "metrics": {"latencyMs": 1},
    }


def _error(status: int, message: str) -> Response:
    return status, {"message": message}, {"x-amzn-ErrorType": _NAMES.get(status, "InternalServerException")}
