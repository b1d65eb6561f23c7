"""Prices of calls: a dated table that the user can override."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from importlib import resources
from pathlib import Path
from typing import Annotated

import platformdirs
from pydantic import BeforeValidator, Field, StrictStr, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as record

from embedfit.errors import InputError
from embedfit.files.textfiles import toml_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_REGION_PREFIX = re.compile(r"^(us|us-gov|eu|apac|jp|au|ca|sa|global)\.")


_Amount = Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)]


@record(frozen=True, kw_only=True)
class Price:
    """USD per million tokens. date: when it was true; source: the page that states it. model may be a pattern."""

    provider: StrictStr
    model: StrictStr
    input: _Amount
    output: _Amount
    date: Annotated[str, BeforeValidator(str)] = ""
    source: Annotated[str, BeforeValidator(str)] = ""

    def usd(self, input_tokens: float, output_tokens: float) -> float:
        """The cost of so many tokens, in USD."""
        return (self.input * input_tokens + self.output * output_tokens) / 1e6


@dataclass(frozen=True, slots=True)
class Prices:
    """A price table; the first match counts."""

    entries: tuple[Price, ...] = ()

    def find(self, provider: str, model: str) -> Price | None:
        """The price of a model, or None if the table does not know it.

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
    """The file of the user's own prices: $EMBEDFIT_PRICES, or prices.toml in the configuration folder."""
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


def _entries(table: Mapping[str, object], where: str) -> tuple[Price, ...]:
    found = table.get("price", [])
    if not isinstance(found, list) or set(table) - {"price"}:
        raise InputError(f"{where} must hold [[price]] entries only.", remedy=_FORM)
    return tuple(_entry(value, f"{where}, price {number}") for number, value in enumerate(found, 1))


def _entry(value: object, where: str) -> Price:
    if not isinstance(value, dict):
        raise InputError(f"{where} is not a table.", remedy=_FORM)
    if unknown := sorted(set(value) - {one.name for one in fields(Price)}):
        raise InputError(f"{where}: unknown key {unknown[0]!r}.", remedy=_FORM)
    try:
        return _PRICE.validate_python(value)
    except ValidationError as error:
        name = str(error.errors()[0]["loc"][0])
        amount = "must be a number of USD per million tokens, not negative"
        must = amount if name in ("input", "output") else "must be a string"
        raise InputError(f"{where}: {name} {must}.", remedy=_FORM) from error


_PRICE = TypeAdapter(Price)
