"""The bodies of requests, checked: what is not here can't reach the model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import parse_qs

from embedfit.errors import InputError
from embedfit.files.textfiles import without_surrogates
from embedfit.index.store.filters import Filter, filter_of, of_documents
from embedfit.serving.engines.tokens import Direction, Input
from embedfit.serving.failures import BatchTooLarge, Empty, Invalid

#: Largest value that an OpenAPI int32 holds; larger ones are surely wrong, and some clients can't send them back.
_INT_MAX = 2**31 - 1

#: Passages that a query may ask for, and that all queries of a request may.
MOST_K = 1_000
MOST_HITS = 10_000
#: Documents that a request may name.
MOST_DOCUMENTS = 1_000

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


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchRequest:
    """Queries to passages. many: they came as a list. base: the untuned model's passages are wanted too."""

    queries: tuple[str, ...]
    many: bool
    k: int
    wanted: Filter
    base: bool


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

    def optional(self, name: str) -> Any:  # noqa: ANN401 - JSON
        """A field, or None where it is absent."""
        return self._value.get(name)

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

    def only(self, *names: str) -> None:
        """Refuse every other field."""
        for name in self._value:
            if name not in names:
                raise Invalid(f"there is no field `{name[:100]}`; there are {', '.join(names)}")

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


def search_request(body: Any, *, limit: int) -> SearchRequest:  # noqa: ANN401 - JSON
    """Our own form. A field that is not known is refused: a filter that is ignored would show too much."""
    fields = Fields(body)
    fields.only("query", "k", "filter", "documents", "base")
    given = fields.required("query")
    many = isinstance(given, list)
    queries = given if many else [given]
    if not queries:
        raise Empty("`query` cannot be empty")
    if len(queries) > limit:
        raise BatchTooLarge(f"batch size {len(queries)} > maximum allowed batch size {limit}")
    k = fields.integer("k", low=1, high=MOST_K) or 10
    if k * len(queries) > MOST_HITS:
        raise Invalid(f"{len(queries)} queries with `k` {k} ask for more than {MOST_HITS} passages in one request")
    return SearchRequest(
        queries=tuple(_query(one) for one in queries),
        many=many,
        k=k,
        wanted=_filter(fields).and_also(_documents(fields)),
        base=fields.flag("base", False),
    )


def search_parameters(query_string: bytes) -> dict[str, Any]:
    """The body that the parameters of GET /search stand for. `query`, `filter` and `document` may be repeated."""
    try:
        given = parse_qs(query_string.decode("latin-1"), keep_blank_values=True, max_num_fields=1_000)
    except ValueError as error:
        raise Invalid(f"the parameters can't be read: {error}") from error
    body: dict[str, Any] = {name: values[-1] for name, values in given.items()}
    if len(given.get("query", ())) > 1:
        body["query"] = given["query"]
    if "document" in body:
        del body["document"]
        body["documents"] = given["document"]
    if "filter" in body:
        body["filter"] = given["filter"]
    if re.fullmatch(r"-?[0-9]{1,18}", str(body.get("k", ""))):
        body["k"] = int(body["k"])
    if "base" in body:
        body["base"] = {"true": True, "1": True, "false": False, "0": False}.get(body["base"].lower(), body["base"])
    return body


def _query(value: Any) -> str:  # noqa: ANN401 - JSON
    if not isinstance(value, str):
        raise Invalid("`query` must be a string, or a list of strings")
    if not value.strip():
        raise Empty("`query` cannot be empty")
    mended: str = without_surrogates(value)
    return mended


def _filter(fields: Fields) -> Filter:
    try:
        return filter_of(fields.optional("filter"))
    except InputError as error:
        raise unfit(error) from error


def unfit(error: InputError) -> Invalid:
    """The answer to a filter that is none, or that does not fit the index."""
    return Invalid(f"`filter`: {error.message}{f' {error.remedy}' if error.remedy else ''}")


def _documents(fields: Fields) -> Filter:
    given = fields.optional("documents")
    if given is None:
        return Filter()
    if not isinstance(given, list) or not all(isinstance(one, str) for one in given):
        raise Invalid("`documents` must be a list of document ids")
    if not given:
        raise Empty("`documents` cannot be empty; leave it out to search all of them")
    if len(given) > MOST_DOCUMENTS:
        raise Invalid(f"`documents` names {len(given)} documents; {MOST_DOCUMENTS} are the most")
    return of_documents(given)


def _string(value: Any, name: str) -> str:  # noqa: ANN401 - JSON
    if not isinstance(value, str):
        raise Invalid(f"`{name}` must hold strings")
    return value


def _direction(fields: Fields) -> Direction:
    found: Literal["Left", "Right"] = (
        "Left" if fields.choice("truncation_direction", ("Right", "Left")) == "Left" else "Right"
    )
    return found
