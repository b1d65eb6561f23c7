"""SageMaker endpoints that run Text Embeddings Inference or embedfit's server."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace

from embedfit.embedders import tei
from embedfit.embedders.client import ServerEmbedder, ServerInfo
from embedfit.embedders.http import message_in
from embedfit.embedders.registry import EmbedderKind, Opening, Spec
from embedfit.errors import UsageError
from embedfit.llm.transport.retry import CallError, retry_after
from embedfit.network import aws

#: The most bytes that invoke_endpoint takes in one request.
MAX_BYTES = 6_291_456
_FORM = "sagemaker:NAME@us-east-1"
_TARGET = re.compile(r"^(?P<name>[A-Za-z0-9](?:-?[A-Za-z0-9]){0,62})(?:@(?P<region>[a-z]{2}(?:-[a-z]+)+-\d))?$")


class EndpointSender:
    """An endpoint. client: boto3's sagemaker-runtime client, which always blocks."""

    def __init__(self, client: aws.Client, endpoint: str) -> None:
        self._client, self._endpoint = client, endpoint

    def send(self, path: str, body: bytes | None) -> bytes:
        """Call invoke_endpoint, which has one path only."""
        try:
            reply = self._client.invoke_endpoint(
                EndpointName=self._endpoint, ContentType="application/json", Accept="application/json", Body=body
            )
            content: bytes = reply["Body"].read()
        except aws.aws_exceptions() as error:
            raise self._failed(error) from error
        return content

    async def asend(self, path: str, body: bytes | None) -> bytes:
        """send() in a thread."""
        return await asyncio.to_thread(self.send, path, body)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _failed(self, error: Exception) -> CallError:
        """The error with the container's own status and message, which SageMaker wraps into a ModelError (424)."""
        reply = aws.response_of(error)
        about = reply.get("ResponseMetadata", {})
        if not reply:
            there = aws.is_without_credentials(error) or type(error).__name__ == "ParamValidationError"
            return CallError(
                f"The endpoint {self._endpoint} can't be reached: {error}",
                status=400 if there else None,
                remedy=aws.remedy_of(error),
            )
        status = 429 if aws.is_throttled(error) else reply.get("OriginalStatusCode") or about.get("HTTPStatusCode")
        text = message_in(str(reply.get("OriginalMessage") or reply.get("Error", {}).get("Message", "")))
        return CallError(
            f"The endpoint {self._endpoint} answered {aws.error_code(error)} {status}: {text}",
            status=int(status) if status else 400,
            remedy=aws.remedy_of(error) or f"Look at it: embedfit deploy sagemaker status --name {self._endpoint}",
            retry_after=retry_after(about.get("HTTPHeaders", {})),
        )


def runtime_client(region: str | None, profile: str | None, concurrency: int) -> aws.Client:
    """The client of sagemaker-runtime, without retries of boto3's. Raises MissingDependency without boto3."""
    session = aws.open_session(region, profile, needed_for="A SageMaker endpoint")
    return aws.client("sagemaker-runtime", session=session, attempts=1, connections=max(10, concurrency))


def sagemaker(
    endpoint: str,
    *,
    client: aws.Client | None = None,
    region: str | None = None,
    name: str = "",
    query_instruction: str | None = None,
    document_instruction: str | None = None,
    rows: int = 32,
    concurrency: int = 4,
) -> ServerEmbedder:
    """The model of an endpoint.

    client: boto3's sagemaker-runtime client; default one of the region. rows: texts in one request at most; if that is
    too many, the container's first refusal tells its limit. Raises MissingDependency without boto3.
    """
    client = client or runtime_client(region, None, concurrency)
    return ServerEmbedder(
        replace(tei.WIRE, info_path="", info=ServerInfo(rows=rows, body_bytes=MAX_BYTES)),
        EndpointSender(client, endpoint),
        name=name or endpoint,
        address=("sagemaker", f"{endpoint}@{region or ''}"),
        query_instruction=query_instruction,
        document_instruction=document_instruction,
        concurrency=concurrency,
    )


def _check(target: str) -> None:
    if _TARGET.match(target) is None:
        raise UsageError(f"{target!r} is no endpoint's name.", remedy=f"For example: {_FORM}")


def _open(spec: Spec, opening: Opening) -> ServerEmbedder:
    name, _, region = spec.target.partition("@")
    return sagemaker(name, region=region or None, name=spec.name, query_instruction=spec.instruction)


EMBEDDER = EmbedderKind(form=_FORM, check=_check, open=_open)
