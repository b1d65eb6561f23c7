"""An endpoint's whole life without an AWS account: plan, apply, scale, test, search from LangChain, destroy.

The control plane is moto, the endpoint a real embedfit server holding the real model; everything in between is
what runs against AWS too: real boto3 clients, the same plan, the same state file.

    python examples/endpoint_life.py [MODEL]
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
import tempfile
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path

import boto3
from langchain_core.vectorstores import InMemoryVectorStore
from moto.server import ThreadedMotoServer

from embedfit.deploy.account.calls import Aws
from embedfit.deploy.account.prices import load_prices
from embedfit.deploy.account.sagemaker import discover
from embedfit.deploy.apply import apply
from embedfit.deploy.artefact import resolve_artefact
from embedfit.deploy.destroy import destroy
from embedfit.deploy.endpoint.plan import DeployPlan, make_plan
from embedfit.deploy.options import Options
from embedfit.deploy.probe import probe, texts_of
from embedfit.deploy.status import status
from embedfit.integrations.langchain import EmbedfitSagemakerEmbeddings
from embedfit.models.sources import resolve_model
from embedfit.progress import LogLines
from embedfit.runtime import Runtime
from embedfit.testing.sagemaker_runtime import FakeRuntime, serve
from embedfit.testing.server import running_server

REGION = "us-east-1"
ROLE = "arn:aws:iam::123456789012:role/endpoint"
MANUAL = [
    "To mute the TV, press the volume button on the remote control once.",
    "To mirror your phone, open Source and choose Screen Mirroring; both devices need the same Wi-Fi.",
    "If the picture freezes, unplug the TV for thirty seconds and plug it in again.",
    "Parental locks are set in Broadcasting > Rating Lock; the default PIN is 0000.",
    "A sound bar is connected to the HDMI port marked ARC.",
]


def main(model: str = "minilm") -> int:
    """Go through the whole life, saying each step. Returns the exit code."""
    runtime = Runtime(report=LogLines(sys.stdout), confirm=lambda question: True)
    with ExitStack() as stack:
        run_folder = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "manual"
        folder = run_folder / "merged"
        shutil.copytree(resolve_model(model), folder)
        (run_folder / "embedfit.toml").write_text("")
        aws = fake_aws(stack, folder)

        step("1. plan: what would be done, and what it costs; nothing is changed")
        plan = plan_of(folder, aws, max_instances=2)
        for resource in plan.steps:
            for call in resource.calls:
                print(f"   {call.service}.{call.operation}")
        print(f"   ${plan.cost.low_usd_per_hour}/h to ${plan.cost.high_usd_per_hour}/h")
        print(f"   the endpoint's rights: {json.dumps(plan.policies.execution)[:150]} …")

        step("2. apply")
        deployment = apply(plan, aws, runtime)

        step("3. scale: the same command with other limits changes them in place")
        apply(plan_of(folder, aws, max_instances=4), aws, runtime)
        targets = aws.client("application-autoscaling").describe_scalable_targets(ServiceNamespace="sagemaker")
        print(f"   up to {targets['ScalableTargets'][0]['MaxCapacity']} instances")

        step("4. status")
        for one in status(aws, plan.state_folder):
            print(f"   {one.name}: {one.endpoint}, {one.instances} × {one.instance_type}, ${one.usd_per_hour}/h")

        step("5. test: the endpoint's vectors against the local model's, and its latency")
        result = probe(aws, deployment.name, folder, texts_of(folder), requests=50, concurrency=2)
        print(f"   lowest cosine to the local vectors {result.lowest_cosine:.6f}, agrees: {result.agrees}")
        print(f"   similar pairs {result.similar_mean:.3f}, different pairs {result.different_mean:.3f}")
        print(f"   p50 {result.p50_ms:.1f} ms, p95 {result.p95_ms:.1f} ms, p99 {result.p99_ms:.1f} ms")
        print(f"   {result.requests_per_second:.0f} requests/s")

        step("6. search from LangChain")
        embeddings = EmbedfitSagemakerEmbeddings(deployment.name, client=aws.client("sagemaker-runtime"))
        store = InMemoryVectorStore.from_texts(MANUAL, embeddings)
        question = "how do I show my phone's screen on the television"
        for document, score in store.similarity_search_with_score(question, k=2):
            print(f"   {score:.3f}  {document.page_content}")

        step("7. destroy, and see that nothing is left")
        destroy(aws, runtime, state_folder=plan.state_folder)
        left = discover(aws, buckets=(plan.bucket or "",), warn=print)
        print(f"   deployments left: {len(left)}")
        return 0 if result.agrees and not left else 1


def step(title: str) -> None:
    """Say what comes next."""
    print(f"\n{title}", flush=True)


def plan_of(folder: Path, aws: Aws, max_instances: int) -> DeployPlan:
    """The plan of the model on a small CPU instance."""
    options = Options(
        model=str(folder),
        region=REGION,
        instance_type="ml.m5.xlarge",
        role_arn=ROLE,
        ttl="8h",
        max_instances=max_instances,
        target_invocations=200.0,
    )
    artefact = resolve_artefact(str(folder), aliases={}, user_folder=folder.parent, device="cpu")
    return make_plan(options, artefact, aws=aws, prices=load_prices(), now=datetime.now(timezone.utc))


def fake_aws(stack: ExitStack, folder: Path) -> Aws:
    """An account with a role and a bucket, whose endpoints are one local server."""
    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    stack.callback(moto.stop)
    host, port = moto.get_host_and_port()
    server = stack.enter_context(running_server(folder))
    runtime_url = stack.enter_context(serve(FakeRuntime(server=server.url)))
    session = boto3.Session(aws_access_key_id="testing", aws_secret_access_key="testing", region_name=REGION)
    aws = Aws(
        session=session, region=REGION, endpoints={"*": f"http://{host}:{port}", "sagemaker-runtime": runtime_url}
    )
    trust = {"Effect": "Allow", "Principal": {"Service": "sagemaker.amazonaws.com"}, "Action": "sts:AssumeRole"}
    aws.client("iam").create_role(RoleName="endpoint", AssumeRolePolicyDocument=json.dumps({"Statement": [trust]}))
    aws.client("s3").create_bucket(Bucket=f"sagemaker-{REGION}-123456789012")
    return aws


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
