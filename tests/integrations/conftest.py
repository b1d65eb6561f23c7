"""One real embedfit server of a tiny model, and SageMaker's runtime in front of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from embedfit.models.encoder import Encoder
from embedfit.testing.sagemaker_runtime import FakeRuntime, serve
from embedfit.testing.server import running_server


@pytest.fixture(scope="session")
def server_url(tiny_bert: Path) -> Iterator[str]:
    with running_server(tiny_bert, "--engine", "torch", "--max-client-batch-size", "8") as server:
        yield server.url


@pytest.fixture(scope="session")
def runtime(server_url: str) -> FakeRuntime:
    return FakeRuntime(server=server_url, exists=lambda name: name == "up")


@pytest.fixture(scope="session")
def runtime_client(runtime: FakeRuntime) -> Iterator[Any]:
    """A real boto3 client on the fake runtime."""
    import boto3

    with serve(runtime) as url:
        session = boto3.Session(aws_access_key_id="testing", aws_secret_access_key="testing", region_name="us-east-1")
        yield session.client("sagemaker-runtime", endpoint_url=url)


@pytest.fixture(scope="session")
def local(tiny_bert: Path) -> Encoder:
    return Encoder.load(tiny_bert, precision="fp32")
