"""The bodies of requests, checked: what is not here can't reach the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from embedfit.serving.failures import BatchTooLarge, Empty, Invalid
from embedfit.serving.tokens import Direction, Input

#: Largest value that an OpenAPI int32 holds; larger ones are surely wrong, and some clients can't send them back.
_INT_MAX = 2**31 - 1

#: OpenAI's clients take ids from OpenAI's tokenizer: for this model they are another text's.
_FOREIGN_IDS = (
    "`input` holds token ids. They are numbers of OpenAI's tokenizer, which mean other words to this model: send the "
    "texts. In LangChain: OpenAIEmbeddings(..., check_embedding_ctx_length=False). "
    "Ids of this model's own tokenizer can be sent to /embed"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedRequest:
    """A request for vectors. truncate: None for the server's default. many: inputs came as a list."""

    inputs: tuple[Input, ...]
    many: bool
    truncate: bool | None = None
    direction: Direction = "Right"
    prompt_name: str | None = None
    normalize: bool = True
    dimensions: int | None = None

    @property
    def characters(self) -> int:
        """Characters of all texts."""
        return sum(len(text) for text in self.inputs if isinstance(text, str))


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAIRequest:
    """A request in OpenAI's form."""

    embed: EmbedRequest
    base64: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SimilarityRequest:
    """One sentence against many: the first input is the source."""

    embed: EmbedRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizeRequest:
    """Texts to tokens."""

    inputs: tuple[Input, ...]
    many: bool
    special: bool
    prompt_name: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeRequest:
    """Tokens to texts."""

    rows: tuple[list[int], ...]
    skip_special: bool


class Fields:
    """A JSON object whose fields are taken out one by one with their types checked."""

    def __init__(self, value: Any, where: str = "the body") -> None:  # noqa: ANN401 - JSON
        if not isinstance(value, dict):
            raise Invalid(f"{where} must be an object")
        self._value: dict[str, Any] = value

    def required(self, name: str) -> Any:  # noqa: ANN401 - JSON
        """A field that must be there."""
        if name not in self._value:
            raise Invalid(f"missing field `{name}`")
        return self._value[name]

    def flag(self, name: str, default: bool) -> bool:
        """A boolean."""
        value = self._value.get(name, default)
        if not isinstance(value, bool):
            raise Invalid(f"`{name}` must be true or false")
        return value

    def optional_flag(self, name: str) -> bool | None:
        """A boolean, or None where it is absent or null."""
        return None if self._value.get(name) is None else self.flag(name, False)

    def text(self, name: str) -> str | None:
        """A string, or None where it is absent or null."""
        value = self._value.get(name)
        if value is not None and not isinstance(value, str):
            raise Invalid(f"`{name}` must be a string")
        return value

    def choice(self, name: str, allowed: Sequence[str]) -> str:
        """One of some strings; the first where it is absent or null."""
        value = self._value.get(name)
        if value is None:
            return allowed[0]
        for one in allowed:
            if value == one:
                return one
        raise Invalid(f"`{name}` must be one of {', '.join(allowed)}")

    def integer(self, name: str, *, low: int, high: int) -> int | None:
        """A whole number, or None where it is absent or null."""
        value = self._value.get(name)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise Invalid(f"`{name}` must be a whole number from {low} to {high}")
        return value

    def nested(self, name: str) -> Fields:
        """An object; an empty one where it is absent or null."""
        value = self._value.get(name)
        return Fields({} if value is None else value, f"`{name}`")


def _is_id(value: Any) -> bool:  # noqa: ANN401 - JSON
    return isinstance(value, int) and not isinstance(value, bool)


def _holds_ids(value: Any) -> bool:  # noqa: ANN401 - JSON
    """Whether there are token ids in OpenAI's `input`, alone, in lists, or among texts."""
    parts = value if isinstance(value, list) else ()
    return any(_is_id(part) or (isinstance(part, list) and any(map(_is_id, part))) for part in parts)


def _one(value: Any, name: str) -> Input:  # noqa: ANN401 - JSON
    if isinstance(value, str):
        if not value:
            raise Empty(f"`{name}` cannot be empty")
        return value
    if isinstance(value, list) and all(map(_is_id, value)):
        if not value:
            raise Empty(f"`{name}` cannot be empty")
        if min(value) < 0 or max(value) > _INT_MAX:
            raise Invalid(f"`{name}` holds a number that is no token id")
        return value
    raise Invalid(f"`{name}` must be a string, a list of token ids, or a list of these")


def inputs_of(value: Any, name: str, limit: int) -> tuple[tuple[Input, ...], bool]:  # noqa: ANN401 - JSON
    """The inputs, and whether they came as a batch: a flat list of numbers is one input.

    Raises Empty, Invalid or BatchTooLarge.
    """
    if isinstance(value, list) and not (value and _is_id(value[0])):
        if not value:
            raise Empty(f"`{name}` cannot be empty")
        if len(value) > limit:
            raise BatchTooLarge(f"batch size {len(value)} > maximum allowed batch size {limit}")
        return tuple(_one(one, name) for one in value), True
    return (_one(value, name),), False


def embed_request(body: Any, *, limit: int, hidden_size: int) -> EmbedRequest:  # noqa: ANN401 - JSON
    """TEI's form: /embed, /embed_all, /invocations."""
    fields = Fields(body)
    inputs, many = inputs_of(fields.required("inputs"), "inputs", limit)
    return EmbedRequest(
        inputs=inputs,
        many=many,
        truncate=fields.optional_flag("truncate"),
        direction=_direction(fields),
        prompt_name=fields.text("prompt_name"),
        normalize=fields.flag("normalize", True),
        dimensions=fields.integer("dimensions", low=1, high=hidden_size),
    )


def openai_request(body: Any, *, limit: int, hidden_size: int) -> OpenAIRequest:  # noqa: ANN401 - JSON
    """OpenAI's form, with `prompt_name` as an extra field."""
    fields = Fields(body)
    given = fields.required("input")
    if _holds_ids(given):
        raise Invalid(_FOREIGN_IDS)
    inputs, many = inputs_of(given, "input", limit)
    fields.text("model")
    fields.text("user")
    embed = EmbedRequest(
        inputs=inputs,
        many=many,
        prompt_name=fields.text("prompt_name"),
        dimensions=fields.integer("dimensions", low=1, high=hidden_size),
    )
    return OpenAIRequest(embed=embed, base64=fields.choice("encoding_format", ("float", "base64")) == "base64")


def similarity_request(body: Any, *, limit: int) -> SimilarityRequest:  # noqa: ANN401 - JSON
    """TEI's form of the hub's sentence-similarity task."""
    fields = Fields(body)
    pair = Fields(fields.required("inputs"), "`inputs`")
    source = _one(_string(pair.required("source_sentence"), "source_sentence"), "source_sentence")
    sentences = pair.required("sentences")
    if not isinstance(sentences, list):
        raise Invalid("`sentences` must be a list of strings")
    given, _ = inputs_of([_string(one, "sentences") for one in sentences], "sentences", limit)
    parameters = fields.nested("parameters")
    return SimilarityRequest(
        embed=EmbedRequest(
            inputs=(source, *given),
            many=True,
            truncate=parameters.optional_flag("truncate"),
            direction=_direction(parameters),
            prompt_name=parameters.text("prompt_name"),
        )
    )


def tokenize_request(body: Any, *, limit: int) -> TokenizeRequest:  # noqa: ANN401 - JSON
    """TEI's /tokenize."""
    fields = Fields(body)
    inputs, many = inputs_of(fields.required("inputs"), "inputs", limit)
    return TokenizeRequest(
        inputs=inputs,
        many=many,
        special=fields.flag("add_special_tokens", True),
        prompt_name=fields.text("prompt_name"),
    )


def decode_request(body: Any, *, limit: int) -> DecodeRequest:  # noqa: ANN401 - JSON
    """TEI's /decode: one list of ids, or several."""
    fields = Fields(body)
    given, _ = inputs_of(fields.required("ids"), "ids", limit)
    rows = []
    for ids in given:
        if isinstance(ids, str):
            raise Invalid("`ids` must be a list of token ids, or a list of these")
        rows.append(ids)
    return DecodeRequest(rows=tuple(rows), skip_special=fields.flag("skip_special_tokens", True))


def vertex_instances(body: Any, *, limit: int) -> list[Any]:  # noqa: ANN401 - JSON
    """The instances of a Vertex AI prediction request, each of them a body of /embed."""
    instances = Fields(body).required("instances")
    if not isinstance(instances, list):
        raise Invalid("`instances` must be a list")
    if not instances:
        raise Empty("`instances` cannot be empty")
    if len(instances) > limit:
        raise BatchTooLarge(f"batch size {len(instances)} > maximum allowed batch size {limit}")
    return instances


def _string(value: Any, name: str) -> str:  # noqa: ANN401 - JSON
    if not isinstance(value, str):
        raise Invalid(f"`{name}` must hold strings")
    return value


def _direction(fields: Fields) -> Direction:
    found: Literal["Left", "Right"] = (
        "Left" if fields.choice("truncation_direction", ("Right", "Left")) == "Left" else "Right"
    )
    return found
