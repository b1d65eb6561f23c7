"""The records of requests. They check what is sent, and the OpenAPI document is made from them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, TypeVar, cast
from urllib.parse import parse_qs

import orjson
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    JsonValue,
    PlainValidator,
    Tag,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from typing_extensions import TypedDict

from embedfit.errors import InputError
from embedfit.files.textfiles import without_surrogates
from embedfit.index.store.filters import Filter, filter_of, of_documents
from embedfit.models.architecture import QUERY
from embedfit.serving.engines.tokens import Direction, Input
from embedfit.serving.failures import BatchTooLarge, Empty, Invalid, Malformed, RequestFailure

#: The end of a model's name in OpenAI's form, if the texts are queries.
QUERIES = f":{QUERY}"
#: Passages that a query may ask for, and that all queries of a request may.
MOST_K = 1_000
MOST_HITS = 10_000
#: Documents that a request may name.
MOST_DOCUMENTS = 1_000

B = TypeVar("B")

#: An escape in a JSON string: a pair of surrogates, half a pair, or any other.
_ESCAPE = re.compile(rb"\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]..|(?P<half>u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL)

#: OpenAI's clients send ids from OpenAI's tokenizer, which stand for another text in this model's.
_FOREIGN_IDS = (
    "`input` holds token ids. They are numbers of OpenAI's tokenizer, which mean other words to this model: send the "
    "texts. In LangChain: OpenAIEmbeddings(..., check_embedding_ctx_length=False). "
    "Ids of this model's own tokenizer can be sent to /embed"
)


@dataclass(frozen=True, slots=True)
class Bounds:
    """The bounds of one request: the number of its inputs, and of the dimensions that vectors are cut to."""

    inputs: int
    dimensions: int


def _bounded(wanted: str) -> WrapValidator:
    """A check that inputs are of the wanted kind, not too many for the request's Bounds, and that none is empty."""

    def check(value: object, inner: ValidatorFunctionWrapHandler, info: ValidationInfo) -> object:
        name = f"`{info.field_name}`"
        try:
            found = inner(value)
        except ValidationError as error:
            raise Invalid(f"{name} must be {wanted}") from error
        rows, limit = rows_of(found), cast(Bounds, info.context).inputs
        if len(rows) > limit:
            raise BatchTooLarge(f"batch size {len(rows)} > maximum allowed batch size {limit}")
        if not rows or not all(rows):
            raise Empty(f"{name} cannot be empty")
        return found

    return WrapValidator(check)


def _refuse_foreign_ids(value: object) -> object:
    parts = value if isinstance(value, list) else []
    if any(_is_id(part) or (isinstance(part, list) and any(map(_is_id, part))) for part in parts):
        raise Invalid(_FOREIGN_IDS)
    return value


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _within_width(dimensions: int, info: ValidationInfo) -> int:
    width = cast(Bounds, info.context).dimensions
    if dimensions > width:
        raise Invalid(f"`dimensions` must be a whole number from 1 to {width}")
    return dimensions


def _readable_queries(value: str | list[str]) -> str | list[str]:
    if not all(query.strip() for query in ([value] if isinstance(value, str) else value)):
        raise Empty("`query` cannot be empty")
    return value


def _filter(value: object) -> Filter:
    try:
        return filter_of(value)
    except InputError as error:
        raise unfit(error) from error


def unfit(error: InputError) -> Invalid:
    """The failure for a malformed filter, or one that does not fit the index."""
    return Invalid(f"`filter`: {error.message}{f' {error.remedy}' if error.remedy else ''}")


# A list ends at its first error, because a body of megabytes could hold a million of them. Least lengths are stated
# for the document; _bounded checks them, after the number of inputs.
_NotEmpty = {"minItems": 1}
Text = Annotated[str, Field(json_schema_extra={"minLength": 1})]
# An id above 32 bits is surely wrong, and some clients can't represent it.
TokenId = Annotated[int, Field(ge=0, le=2**31 - 1, json_schema_extra={"format": "int32"})]
TokenIds = Annotated[list[TokenId], Field(fail_fast=True, json_schema_extra=_NotEmpty)]
Texts = Annotated[list[Text], Field(fail_fast=True, json_schema_extra=_NotEmpty)]
Inputs = Annotated[
    Text | TokenIds | Annotated[list[Text | TokenIds], Field(fail_fast=True, json_schema_extra=_NotEmpty)],
    Field(
        union_mode="left_to_right",
        description="A text, token ids of the model's own tokenizer, or a list of texts and token ids",
        examples=["how do I mute the tv"],
    ),
    _bounded("a string, a list of token ids, or a list of strings and lists of token ids"),
]
Dimensions = Annotated[
    int, Field(ge=1, description="So many numbers of a vector are kept, then normalised"), AfterValidator(_within_width)
]
PromptName = Annotated[
    str | None, Field(description='A prompt of the model, such as "query" or "document"; an empty name: none')
]


def rows_of(inputs: Input | list[Input]) -> list[Input]:
    """Inputs as a list; a single text or a flat list of ids is one input."""
    if isinstance(inputs, str) or (inputs and isinstance(inputs[0], int)):
        return [inputs]
    return cast("list[Input]", inputs)


class Request(BaseModel):
    """The body of a request. Values are never converted: a number is no text."""

    model_config = ConfigDict(strict=True)


class Truncation(Request):
    """How inputs become tokens."""

    truncate: bool | None = Field(None, description="Cut inputs that are too long; default: --auto-truncate")
    truncation_direction: Direction | None = Field(None, description="The end that is cut; default: Right")
    prompt_name: PromptName = None


class EmbedRequest(Truncation):
    """TEI's request for vectors."""

    inputs: Inputs
    normalize: bool = True
    dimensions: Dimensions | None = None


class OpenAIRequest(Request):
    """OpenAI's request for vectors, with `prompt_name` as an extra field.

    A model's name with ":query" behind it stands for the prompt "query", for clients that can't send another field.
    """

    input: Annotated[
        Text | Annotated[list[Text | TokenIds], Field(fail_fast=True)],
        Field(union_mode="left_to_right"),
        _bounded("a string, or a list of strings"),
        BeforeValidator(_refuse_foreign_ids, json_schema_input_type=Text | Texts),
    ]
    model: str | None = None
    user: str | None = None
    encoding_format: Literal["float", "base64"] | None = "float"
    dimensions: Dimensions | None = None
    prompt_name: PromptName = None

    # The other fields of TEI's form, so that both forms are served alike.
    truncate: ClassVar[None] = None
    truncation_direction: ClassVar[None] = None
    normalize: ClassVar[bool] = True

    @model_validator(mode="after")
    def _named_query(self) -> OpenAIRequest:
        if self.prompt_name is None and self.model is not None and self.model.endswith(QUERIES):
            self.prompt_name = QUERY
        return self

    @property
    def inputs(self) -> Inputs:
        """The inputs under their name in TEI's form."""
        return self.input


VectorRequest = EmbedRequest | OpenAIRequest


class SentencePairs(Request):
    """One sentence, and the sentences that it is compared with."""

    source_sentence: Annotated[Text, _bounded("a string")]
    sentences: Annotated[Texts, _bounded("a list of strings")]


class SimilarityRequest(Request):
    """TEI's form of the hub's sentence-similarity task."""

    inputs: SentencePairs
    parameters: Truncation | None = None

    def as_embed_request(self) -> EmbedRequest:
        """A request for the vectors of all sentences: the first is the source."""
        how = self.parameters or Truncation()
        return EmbedRequest.model_construct(
            inputs=cast("list[Input]", [self.inputs.source_sentence, *self.inputs.sentences]),
            truncate=how.truncate,
            truncation_direction=how.truncation_direction,
            prompt_name=how.prompt_name,
        )


def _kind(body: object) -> str:
    inputs = body.get("inputs") if isinstance(body, dict) else getattr(body, "inputs", None)
    return "similarity" if isinstance(inputs, dict | SentencePairs) else "embed"


#: The hub's client sends its sentence-similarity task to the bare address, without a path, too.
EmbedOrSimilarity = Annotated[
    Annotated[EmbedRequest, Tag("embed")] | Annotated[SimilarityRequest, Tag("similarity")], Discriminator(_kind)
]


class TokenizeRequest(Request):
    """TEI's request for tokens."""

    inputs: Inputs
    add_special_tokens: bool = True
    prompt_name: PromptName = None


class DecodeRequest(Request):
    """TEI's request for the text of token ids."""

    ids: Annotated[
        TokenIds | Annotated[list[TokenIds], Field(fail_fast=True, json_schema_extra=_NotEmpty)],
        Field(union_mode="left_to_right"),
        _bounded("a list of token ids, or a list of such lists"),
    ]
    skip_special_tokens: bool = True


class RerankRequest(Request):
    """TEI's request for the order of texts."""

    query: Annotated[Text, _bounded("a string"), AfterValidator(_readable_queries)]
    texts: Annotated[Texts, _bounded("a list of strings")]
    raw_scores: bool = Field(False, description="Scores as searches add them; else they lie from 0 to 1")
    return_text: bool = False
    truncate: bool | None = Field(None, description="Cut texts that are too long; default: --auto-truncate")
    truncation_direction: Literal["Right"] | None = Field(None, description="The end that is cut")


def _texts_of(documents: object) -> object:
    if not isinstance(documents, list):
        return documents
    return [one.get("text") if isinstance(one, dict) else one for one in documents]


class Document(TypedDict):
    """A text as an object."""

    text: str


class CommonRerankRequest(Request):
    """The request for the order of texts that Cohere's and Jina's clients send. Its other fields are not read."""

    model: str | None = None
    query: Annotated[Text, _bounded("a string"), AfterValidator(_readable_queries)]
    documents: Annotated[
        Texts,
        _bounded("a list of strings, or of objects with a `text`"),
        BeforeValidator(_texts_of, json_schema_input_type=list[Text | Document]),
    ]
    top_n: Annotated[int, Field(ge=1)] | None = Field(None, description="So many of the best; default: all")
    return_documents: bool | None = False


def _rerank_form(body: object) -> str:
    has_texts = "texts" in body if isinstance(body, dict) else isinstance(body, RerankRequest)
    return "tei" if has_texts else "common"


#: Both forms have the same route in different servers.
AnyRerankRequest = Annotated[
    Annotated[RerankRequest, Tag("tei")] | Annotated[CommonRerankRequest, Tag("common")], Discriminator(_rerank_form)
]


class VertexRequest(Request):
    """Vertex AI's request for predictions."""

    instances: Annotated[
        list[EmbedRequest],
        Field(fail_fast=True, json_schema_extra=_NotEmpty),
        _bounded("a list of bodies of /embed"),
    ]


class SearchRequest(Request):
    """A request for passages. An unknown field is refused, because an ignored filter would show too much."""

    model_config = ConfigDict(json_schema_extra={"additionalProperties": False})

    query: Annotated[
        Text | Texts,
        Field(
            description="What is looked for; the first 512 words of each query are read",
            examples=["how do I mute the tv"],
        ),
        _bounded("a string, or a list of strings"),
        AfterValidator(_readable_queries),
    ]
    k: Annotated[int, Field(ge=1, le=MOST_K)] | None = Field(
        10, description=f"Passages a query; at most {MOST_HITS:,} in one request"
    )
    filter: Annotated[
        Filter,
        PlainValidator(_filter, json_schema_input_type=dict[str, JsonValue] | list[str] | None),
        Field(
            description="Conditions on the fields of passages, all of them: "
            '{"lang": "de", "year": [2023, 2024], "date": {">=": "2024-01-01"}, "groups": {"contains": "hr"}}, '
            'or ["lang=de", "date>=2024-01-01"]',
        ),
    ] = Field(default_factory=Filter)
    documents: Annotated[list[str], Field(fail_fast=True, min_length=1, max_length=MOST_DOCUMENTS)] | None = Field(
        None, description="Only passages of documents with these ids"
    )
    base: bool = Field(False, description="The untuned model's passages too")

    @model_validator(mode="before")
    @classmethod
    def _known(cls, body: object) -> object:
        known = [field.alias or name for name, field in cls.model_fields.items()]
        unknown = next((name for name in body if name not in known), None) if isinstance(body, dict) else None
        if unknown is not None:
            raise Invalid(f"there is no field `{str(unknown)[:100]}`; there are {', '.join(known)}")
        return body

    @model_validator(mode="after")
    def _not_too_much(self) -> SearchRequest:
        if self.hits_a_query * len(self.queries) > MOST_HITS:
            raise Invalid(f"{len(self.queries)} queries with `k` {self.k} ask for more than {MOST_HITS} passages")
        return self

    @property
    def queries(self) -> list[str]:
        """The queries as a list, without halves of surrogate pairs."""
        given = [self.query] if isinstance(self.query, str) else self.query
        return [without_surrogates(query) for query in given]

    @property
    def hits_a_query(self) -> int:
        """Passages that each query asks for."""
        return self.k or 10

    @property
    def wanted(self) -> Filter:
        """The conditions that a passage must meet."""
        return self.filter if self.documents is None else self.filter.and_also(of_documents(self.documents))


class SearchParameters(SearchRequest):
    """A SearchRequest as parameters of an address. `query`, `filter` and `document` may be repeated."""

    model_config = ConfigDict(strict=False)

    filter: Annotated[Filter, PlainValidator(_filter, json_schema_input_type=list[str])] = Field(default_factory=Filter)
    documents: Annotated[list[str], Field(fail_fast=True, min_length=1, max_length=MOST_DOCUMENTS)] | None = Field(
        None, alias="document", description="Only passages of documents with these ids"
    )


def read_parameters(reader: TypeAdapter[B], query: bytes, bounds: Bounds) -> B:
    """Read a request from the query of an address. Raises Invalid, Empty or BatchTooLarge."""
    try:
        given = parse_qs(query.decode("latin-1"), keep_blank_values=True, max_num_fields=1_000)
    except ValueError as error:
        raise Invalid(f"the parameters can't be read: {error}") from error
    lists = {"filter", "document", *(["query"] if len(given.get("query", ())) > 1 else [])}
    fields = {name: values if name in lists else values[-1] for name, values in given.items()}
    try:
        return reader.validate_python(fields, context=bounds)
    except ValidationError as error:
        raise _failure_of(error) from error


def read_body(reader: TypeAdapter[B], content: bytes | bytearray, bounds: Bounds, *, mends: bool = False) -> B:
    """Read a request from its body. Raises Malformed, Invalid, Empty or BatchTooLarge.

    mends: halves of surrogate pairs are replaced, rather than refused.
    """
    try:
        return reader.validate_json(content, context=bounds)
    except (ValidationError, RequestFailure) as error:
        try:
            orjson.loads(content)  # orjson's error is clearer than pydantic's, and it refuses NaN
        except orjson.JSONDecodeError as broken:
            if mends and (mended := _ESCAPE.sub(_mended, content)) != content:
                return read_body(reader, mended, bounds)
            raise Malformed(f"Failed to parse the request body as JSON: {broken}") from error
        raise _failure_of(error) if isinstance(error, ValidationError) else error from error.__cause__


def _mended(escape: re.Match[bytes]) -> bytes:
    return b"\\ufffd" if escape["half"] else escape[0]


def _failure_of(error: ValidationError) -> Invalid | Empty:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    path = [str(part) for part in first["loc"] if part not in ("embed", "similarity", "tei", "common")]
    if first["type"] == "missing":
        return Invalid(f"missing field `{path[-1]}`")
    where = f"`{'.'.join(path)[:100]}`" if path else "the body"
    return Empty(f"{where} cannot be empty") if first["type"] == "too_short" else Invalid(f"{where}: {first['msg']}")
