"""The records of answers, from which the OpenAPI document is made."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import NotRequired, TypedDict

from embedfit.serving.schemas import Document

Numbers = list[float]


class Embedding(TypedDict):
    """One vector in OpenAI's form: numbers, or their 32-bit floats in base64."""

    object: Literal["embedding"]
    embedding: Numbers | str
    index: int


class Usage(TypedDict):
    """Tokens that were read."""

    prompt_tokens: int
    total_tokens: int


class OpenAIResponse(TypedDict):
    """Vectors in OpenAI's form."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: Usage


class VertexResponse(TypedDict):
    """Vertex AI's answer: the answer of /embed for each instance."""

    predictions: list[list[Numbers]]


class Hit(TypedDict):
    """A passage that a search found."""

    passage_id: str
    score: float
    text: str
    document: str
    page: Annotated[int, Field(description="0 where the format has none")]
    heading: str
    parts: Annotated[dict[str, float], Field(description="What each part of the retriever gave the passage")]
    metadata: Annotated[dict[str, object], Field(description="The fields of the passage and of its document")]
    marked: Annotated[
        list[tuple[int, int]],
        Field(description="Ranges of the text's characters (Unicode code points) that the query asks for"),
    ]


class QueryAnswer(TypedDict):
    """The passages of one query. base: the untuned model's, if they were asked for."""

    query: str
    hits: list[Hit]
    base: NotRequired[list[Hit]]


class QueryAnswers(TypedDict):
    """The passages of a list of queries, in their order."""

    results: list[QueryAnswer]


class Rank(TypedDict):
    """A text in TEI's answer of /rerank. index: its number in the request. text: if it was asked for."""

    index: int
    score: float
    text: NotRequired[str]


class RankedDocument(TypedDict):
    """A text in the common answer of /rerank."""

    index: int
    relevance_score: float
    document: NotRequired[Document]


class TokensRead(TypedDict):
    """Tokens that were read."""

    total_tokens: int


class RerankResponse(TypedDict):
    """The common answer of /rerank, best text first."""

    model: str
    results: list[RankedDocument]
    usage: TokensRead


class Error(TypedDict):
    """An error in TEI's form."""

    error: str
    error_type: str


class OpenAIError(TypedDict):
    """An error in OpenAI's form."""

    message: str
    code: int
    type: str
