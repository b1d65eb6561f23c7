"""What a call costs: a dated price table that the user can override."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib import resources
from pathlib import Path
from typing import Any

import platformdirs

from embedfit.errors import InputError
from embedfit.files.textfiles import toml_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_REGION_PREFIX = re.compile(r"^(us|us-gov|eu|apac|jp|au|ca|sa|global)\.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """USD per million tokens. date: when it was true; source: who says so. model may be a pattern."""

    provider: str
    model: str
    input: float
    output: float
    date: str = ""
    source: str = ""

    def usd(self, input_tokens: float, output_tokens: float) -> float:
        """What so many tokens cost."""
        return (self.input * input_tokens + self.output * output_tokens) / 1e6


@dataclass(frozen=True, slots=True)
class Prices:
    """A price table; the first match counts."""

    entries: tuple[Price, ...] = ()

    def find(self, provider: str, model: str) -> Price | None:
        """The price of a model, or None where the table does not know it.

        model: an id, an inference profile with its regional prefix, or an ARN that ends in one.
        """
        name = bare_model(model)
        for entry in self.entries:
            if entry.provider == provider and (fnmatchcase(model, entry.model) or fnmatchcase(name, entry.model)):
                return entry
        return None


def bare_model(model: str) -> str:
    """A Bedrock model's id without the regional prefix of an inference profile and without its ARN."""
    return _REGION_PREFIX.sub("", model.rsplit("/", 1)[-1] if model.startswith("arn:") else model)


def override_path() -> Path:
    """Where the user's own prices are looked for: $EMBEDFIT_PRICES, or prices.toml in the configuration folder."""
    named = os.environ.get("EMBEDFIT_PRICES")
    return Path(named) if named else Path(platformdirs.user_config_dir("embedfit")) / "prices.toml"


def load_prices(override: Path | None = None) -> Prices:
    """The shipped table with the user's entries before it. Raises InputError that names file and entry."""
    path = override if override is not None else override_path()
    named = override is not None or bool(os.environ.get("EMBEDFIT_PRICES"))
    own: tuple[Price, ...] = ()
    if path.exists():
        own = _entries(toml_of(path, remedy=_FORM), str(path))
    elif named:
        raise InputError(f"The price table {path} is missing.", remedy="Name an existing file in EMBEDFIT_PRICES.")
    shipped = resources.files("embedfit.llm").joinpath("prices.toml").read_text("utf-8")
    return Prices((*own, *_entries(tomllib.loads(shipped), "prices.toml")))


_FORM = 'An entry is: [[price]] provider = "bedrock", model = "…", input = 0.72, output = 0.72 (USD per million tokens)'


def _entries(table: dict[str, Any], where: str) -> tuple[Price, ...]:
    found: Sequence[Any] = table.get("price", [])
    if not isinstance(found, list) or set(table) - {"price"}:
        raise InputError(f"{where} must hold [[price]] entries only.", remedy=_FORM)
    return tuple(_entry(value, f"{where}, price {number}") for number, value in enumerate(found, 1))


def _entry(value: Any, where: str) -> Price:  # noqa: ANN401 - whatever the file holds
    if not isinstance(value, dict):
        raise InputError(f"{where} is not a table.", remedy=_FORM)
    if unknown := set(value) - {"provider", "model", "input", "output", "date", "source"}:
        raise InputError(f"{where}: unknown key {sorted(unknown)[0]!r}.", remedy=_FORM)
    for key in ("provider", "model"):
        if not isinstance(value.get(key), str):
            raise InputError(f"{where}: {key} must be a string.", remedy=_FORM)
    for key in ("input", "output"):
        price = value.get(key)
        if isinstance(price, bool) or not isinstance(price, int | float) or not 0 <= price < float("inf"):
            raise InputError(f"{where}: {key} must be a number of USD per million tokens, not negative.", remedy=_FORM)
    return Price(
        provider=value["provider"],
        model=value["model"],
        input=float(value["input"]),
        output=float(value["output"]),
        date=str(value.get("date", "")),
        source=str(value.get("source", "")),
    )
