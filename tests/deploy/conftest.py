"""The fake account as fixtures: one moto server for all tests, emptied before each."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from embedfit.runtime import Runtime
from embedfit.testing.aws_faults import Faults
from embedfit.testing.strict_sagemaker import StrictSagemaker
from tests.deploy.fake_account import BUCKET, TRUST, Account, Deployer, FakeTime, make_model_folder, new_session
from tests.said import Said


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    from moto.server import MotoRequestHandler, ThreadedMotoServer

    MotoRequestHandler.protocol_version = "HTTP/1.1"  # keeps connections: one for all calls, not one for each
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    yield f"http://{host}:{port}"
    moto.stop()


@pytest.fixture(scope="session")
def whole_account(server: str) -> Account:
    faults = Faults()
    session = new_session()
    faults.attach(session)
    return Account(url=server, session=session, plain_session=new_session(), faults=faults)


@pytest.fixture
def account(whole_account: Account, monkeypatch: pytest.MonkeyPatch) -> Account:
    """An account with a role and a bucket, and nothing else."""
    requests.post(f"{whole_account.url}/moto-api/reset", timeout=10)
    whole_account.faults.reset()
    whole_account.plain("iam").create_role(RoleName="endpoint", AssumeRolePolicyDocument=TRUST)
    whole_account.plain("s3").create_bucket(Bucket=BUCKET)
    whole_account.faults.refuse = StrictSagemaker(client=whole_account.plain("sagemaker"))
    quota = {"QuotaName": "ml.m5.xlarge for endpoint usage", "QuotaCode": "L-1", "Value": 8.0}
    whole_account.faults.canned["service-quotas.ListServiceQuotas"] = {"Quotas": [quota]}  # moto has none
    monkeypatch.setattr("botocore.endpoint.time.sleep", lambda seconds: None)
    return whole_account


@pytest.fixture
def time() -> FakeTime:
    return FakeTime()


@pytest.fixture
def lines() -> Said:
    return Said()


@pytest.fixture
def yes(lines: Said) -> Runtime:
    return Runtime(report=lines, confirm=lambda question: True)


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    """The smallest folder that TEI would boot; the weights are no weights, as nothing here reads them."""
    return make_model_folder(tmp_path / "em" / "merged")


@pytest.fixture
def deployer(account: Account, model_folder: Path, tmp_path: Path, time: FakeTime) -> Deployer:
    return Deployer(account=account, folder=model_folder, tmp_path=tmp_path, time=time)
