"""Opening the language model that the settings, or a spec such as openai:URL#MODEL, name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field

from embedfit.config import GenerateConfig, with_generator
from embedfit.errors import InputError
from embedfit.generators import generator
from embedfit.llm.ledger import Ledger
from embedfit.llm.metered import LedgeredModel
from embedfit.llm.prices import Prices, load_prices
from embedfit.llm.protocol import LanguageModel
from embedfit.progress import Reporter, Silent
from embedfit.runtime import Runtime


@dataclass(frozen=True, slots=True, kw_only=True)
class Outside:
    """Things from outside the settings that a provider may need.

    ledger: where batch jobs keep their state. run: the name under which they are booked, as in LedgeredModel.
    endpoint_url: the address of a stand-in for AWS, in tests.
    """

    ledger: Ledger
    run: str = ""
    report: Reporter = field(default_factory=Silent)
    prices: Prices = field(default_factory=load_prices)
    endpoint_url: str | None = None


def open_model(generate: GenerateConfig, outside: Outside) -> LanguageModel:
    """The language model that the settings name.

    Asks the provider which model that is, which is free. Raises UsageError, MissingDependency or ProviderError, each
    with its remedy.
    """
    model = generator(generate.generator).open(generate, outside)
    if not isinstance(model, LanguageModel):
        raise InputError(
            f"The generator {generate.generator} opens a {type(model).__name__}, which is no LanguageModel.",
            remedy="Make it a subclass of embedfit.llm.protocol.LanguageModel.",
        )
    return model


@contextmanager
def opened_model(generate: GenerateConfig, runtime: Runtime, *, run: str) -> Iterator[LedgeredModel]:
    """The runtime's language model, or the one that the settings name, behind its ledger and under --max-cost.

    run: the name under which its calls are booked.
    """
    with ExitStack() as stack:
        ledger = stack.enter_context(Ledger(runtime.ledger))
        outside = Outside(ledger=ledger, run=run, report=runtime.report, prices=load_prices())
        model = runtime.language_model
        if model is None:
            model = open_model(generate, outside)
            stack.callback(model.close)
        yield LedgeredModel(model, ledger, outside.prices, generate.max_cost, runtime.report, run=run)


def open_spec(
    spec: str, runtime: Runtime, *, run: str, like: GenerateConfig | None = None
) -> AbstractContextManager[LedgeredModel]:
    """The language model of a spec: bedrock:MODEL, openai:URL#MODEL, recorded:FILE, local or local:FOLDER.

    It stands behind the runtime's ledger. like: settings whose region, limits and --max-cost hold for it too. Raises
    UsageError for any other spec.
    """
    return opened_model(with_generator(like or GenerateConfig(), spec), runtime, run=run)
