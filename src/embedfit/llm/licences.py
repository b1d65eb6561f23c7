"""What a language model's licence asks of a model that was tuned on its replies. Information, not legal advice."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, TypeAdapter
from pydantic.dataclasses import dataclass as record

from embedfit.files.textfiles import toml_of

_SIGNS = re.compile(r"[^a-z0-9]+")
_HASH = re.compile(r"@[0-9a-f]{6,}\Z")
#: The provider whose "model" is a file of queries.
_RECORDED = "recorded"


def _compiles(patterns: tuple[str, ...]) -> tuple[str, ...]:
    for pattern in patterns:
        re.compile(pattern)
    return patterns


@record(frozen=True, kw_only=True)
class Licence:
    """A licence or terms of service. The fields are those of licences.toml, which explains them."""

    name: str
    models: Annotated[tuple[str, ...], AfterValidator(_compiles)]
    link: str
    asks: str = ""
    name_begins: str = ""
    shows: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Writer:
    """A language model whose replies went into a tuned model. licence: None if its name tells none."""

    name: str
    licence: Licence | None = None

    @property
    def terms(self) -> str:
        """What the licence asks of a model that is tuned on the writer's replies, in a sentence or two."""
        if self.licence is None:
            return "read what its licence asks of a model that is tuned on its replies."
        asked = self.licence.asks or "It asks nothing of a model that is tuned on its replies."
        return f"by its name under the {self.licence.name}. {asked}"

    @property
    def sentence(self) -> str:
        """The writer's name, what its licence asks, and where the licence is checked."""
        check = f" Check the licence at {self.licence.link}" if self.licence else ""
        return f"{self.name}: {self.terms}{check}"

    def permits(self, name: str) -> bool:
        """Whether a tuned model may have this name. Case and signs between words don't count."""
        begins = _plain(self.licence.name_begins) if self.licence else ""
        return _plain(name).replace("-", "").startswith(begins.replace("-", ""))


@cache
def licences() -> tuple[Licence, ...]:
    """The table, in its order."""
    table = toml_of(Path(__file__).with_name("licences.toml"))
    return TypeAdapter(tuple[Licence, ...]).validate_python(table["licence"])


def licence_of(model: str) -> Licence | None:
    """The licence that a model's name tells: an id of the Hub, of Bedrock, of Ollama, or a file's name."""
    plain = _plain(model)
    return next((one for one in licences() if any(re.search(pattern, plain) for pattern in one.models)), None)


def writer(spec: str) -> Writer:
    """The writer or judge of a spec such as bedrock:MODEL, local:FILE or recorded:FILE, or of a bare name."""
    provider, separator, model = spec.partition(":")
    if not separator or "/" in provider:
        provider, model = "", spec
    name = _HASH.sub("", model)
    if re.match(r"[./~\\]|[A-Za-z]:[\\/]", name):  # no path of this machine goes into a card
        name = re.split(r"[\\/]", name.rstrip("\\/"))[-1]
    if provider == _RECORDED:
        return Writer(name=f"the model that wrote {name}")
    return Writer(name=name or f"the model behind {provider}", licence=licence_of(name))


def writers(specs: Iterable[str]) -> tuple[Writer, ...]:
    """The writers and judges of several specs, each once."""
    return tuple(dict.fromkeys(writer(spec) for spec in specs))


def permitted(name: str, by: Iterable[Writer]) -> str:
    """The name of a tuned model, with the beginning that its writers' licences ask for if it lacks it."""
    asked = sorted((one.licence.name_begins for one in by if one.licence and not one.permits(name)), key=len)
    # "Llama 3" also begins with "Llama", so the longest satisfies those of one family.
    return f"{asked[-1].replace(' ', '-')}-{name}" if asked else name


def _plain(name: str) -> str:
    return _SIGNS.sub("-", name.casefold()).strip("-")
