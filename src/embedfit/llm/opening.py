"""From the settings to a language model."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from embedfit.config import GenerateConfig
from embedfit.errors import UsageError
from embedfit.llm.ledger import Ledger
from embedfit.llm.metered import LedgeredModel
from embedfit.llm.prices import Prices, load_prices
from embedfit.llm.protocol import LanguageModel
from embedfit.llm.providers.recorded import RecordedModel
from embedfit.llm.transport.remote import RemoteModel
from embedfit.llm.transport.throttle import Throttle
from embedfit.progress import Reporter, Silent
from embedfit.runtime import Runtime

#: Calls in flight at most. The throttle finds how many of them are of use.
CONNECTIONS = 96


@contextmanager
def opened_model(
    generate: GenerateConfig, runtime: Runtime, *, run: str, provider: LanguageModel | None = None
) -> Iterator[LedgeredModel]:
    """The language model that the settings name, behind the runtime's ledger and under --max-cost.

    run: who pays. provider: instead of the configured one.
    """
    with Ledger(runtime.ledger) as ledger:
        prices = load_prices()
        if provider is None:
            provider = open_model(generate, ledger, run=run, report=runtime.report, prices=prices)
        yield LedgeredModel(provider, ledger, prices, generate.max_cost, runtime.report, run=run)


def open_model(
    generate: GenerateConfig,
    ledger: Ledger,
    *,
    run: str = "",
    report: Reporter | None = None,
    prices: Prices | None = None,
    endpoint_url: str | None = None,
) -> LanguageModel:
    """The language model that the settings name.

    Asks the provider which model that is, which is free. Raises UsageError, MissingDependency or
    ProviderError, each with its remedy. ledger: where batch jobs keep their state. run: who pays for
    them; the same as LedgeredModel's. endpoint_url: of a stand-in for AWS, in tests.
    """
    told: Reporter = report if report is not None else Silent()
    if generate.generator == "local":
        # torch: seconds of start-up that no other provider needs
        from embedfit.llm.providers.local.model import LocalModel
        from embedfit.models.sources import resolve_generator

        return LocalModel(resolve_generator(generate.llm))
    if generate.generator == "recorded":
        return RecordedModel(generate.llm)
    if generate.generator == "openai":
        return _openai(generate, told)
    return _bedrock(generate, ledger, prices if prices is not None else load_prices(), run, told, endpoint_url)


def _remote(transport: Any, report: Reporter) -> RemoteModel:  # noqa: ANN401 - any Transport
    return RemoteModel(transport, throttle=Throttle(max_concurrency=CONNECTIONS), rng=random.Random(), report=report)


def _openai(generate: GenerateConfig, report: Reporter) -> LanguageModel:
    from embedfit.llm.providers.openai import transport as openai  # httpx is an extra

    client, key = openai.connect(generate.base_url, connections=CONNECTIONS)
    model = openai.resolve_model(client, generate.llm)
    return _remote(openai.OpenAiTransport(client, model, secret=key), report)


def _bedrock(
    generate: GenerateConfig, ledger: Ledger, prices: Prices, run: str, report: Reporter, endpoint_url: str | None
) -> LanguageModel:
    from embedfit.llm.providers import bedrock, bedrock_batch  # boto3 is an extra

    def client(service: str) -> Any:  # noqa: ANN401 - boto3 makes its clients at run time
        return bedrock.connect(service, region=generate.region, endpoint_url=endpoint_url, connections=CONNECTIONS)

    batch = generate.generator == "bedrock-batch"
    place = bedrock_batch.batch_place(generate.batch_s3_uri, generate.batch_role_arn) if batch else None
    if generate.base_url and not endpoint_url:
        raise UsageError(
            f"The generator {generate.generator} takes no base URL.", remedy="Use --generator openai, or leave it out."
        )
    control = client("bedrock")
    resolved = bedrock.resolve_model(control, generate.llm)
    if resolved.notice:
        report.log(resolved.notice)
    on_demand = _remote(bedrock.BedrockTransport(client("bedrock-runtime"), resolved), report)
    if place is None:
        return on_demand
    s3 = client("s3")
    bedrock_batch.check_s3(s3, place)
    return bedrock_batch.BatchModel(
        control,
        s3,
        resolved,
        place,
        ledger,
        price=prices.find("bedrock-batch", resolved.model),
        fallback=on_demand,
        run=run,
        report=report,
    )
