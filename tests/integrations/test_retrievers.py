"""Retrievers of LangChain and LlamaIndex find what the index finds, in this process and through a server."""

from __future__ import annotations

import asyncio
import datetime
import inspect
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain_tests.integration_tests import RetrieversIntegrationTests
from llama_index.core.llms.mock import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.response_synthesizers.no_text import NoText
from llama_index.core.vector_stores import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters

from embedfit.errors import ArtifactMissing, EmbedfitError, InputError, UsageError
from embedfit.integrations import langchain, llamaindex
from embedfit.integrations.searching import OWN, Found, ServedIndex
from embedfit.llm.transport.retry import CallError
from tests.integrations.conftest import Place

QUERY = "mute the tv"


class Unknown:
    """A value that no JSON has. Its name is the same in every process that collects the tests."""

    def __repr__(self) -> str:
        return "unknown"


UNKNOWN = Unknown()


class _Suite(RetrieversIntegrationTests):
    @property
    def retriever_constructor(self) -> type[langchain.EmbedfitRetriever]:
        return langchain.EmbedfitRetriever

    @property
    def retriever_query_example(self) -> str:
        return QUERY


class TestLangChainHere(_Suite):
    @pytest.fixture(autouse=True)
    def _place(self, place: Place) -> None:
        self.folder = place.folder

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"index": str(self.folder)}


class TestLangChainServed(_Suite):
    @pytest.fixture(autouse=True)
    def _place(self, place: Place) -> None:
        self.url = place.url

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"base_url": self.url, "api_key": "all-key"}


@dataclass(frozen=True)
class Either:
    """A retriever of one of the frameworks, with the same names for what both can do."""

    framework: str
    retriever: Any

    def __call__(self, query: str, **given: Any) -> list[tuple[str, str, Mapping[str, Any], float]]:
        if self.framework == "langchain":
            return self._read(self.retriever.invoke(query, None, **given))
        return self._read(self.retriever.retrieve(query, **self._renamed(given)))

    async def ask(self, query: str, **given: Any) -> list[tuple[str, str, Mapping[str, Any], float]]:
        if self.framework == "langchain":
            return self._read(await self.retriever.ainvoke(query, None, **given))
        return self._read(await self.retriever.aretrieve(query, **self._renamed(given)))

    def _renamed(self, given: Mapping[str, Any]) -> dict[str, Any]:
        return {{"k": "similarity_top_k", "filter": "filters"}[name]: value for name, value in given.items()}

    def _read(self, found: list[Any]) -> list[tuple[str, str, Mapping[str, Any], float]]:
        if self.framework == "langchain":
            return [(one.id, one.page_content, one.metadata, one.metadata["score"]) for one in found]
        assert all(one.node.ref_doc_id == one.node.metadata["document"] for one in found)
        return [(one.node.node_id, one.node.get_content(), one.node.metadata, one.score) for one in found]


def made(framework: str, **given: Any) -> Either:
    library = langchain if framework == "langchain" else llamaindex
    return Either(framework, library.EmbedfitRetriever(**given))


@pytest.fixture(params=["langchain", "llamaindex"])
def framework(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["here", "served"])
def either(request: pytest.FixtureRequest, framework: str, place: Place) -> Either:
    if request.param == "here":
        return made(framework, index=place.folder)
    return made(framework, base_url=place.url, api_key="all-key")


FILTERS: list[Any] = [
    None, {"lang": "de"}, {"lang": ["de", "fr"], "year": {">=": 2022}}, "lang!=de", ["groups:hr", "year<=2024"],
    {"date": {">": datetime.date(2024, 2, 15)}}, {"year": np.int64(2021)}, {"groups": {"exists": False}},
]  # fmt: skip


@pytest.mark.parametrize("wanted", FILTERS, ids=str)
async def test_both_find_what_the_index_finds(either: Either, place: Place, wanted: Any):
    expected = place.index.search(QUERY, 5, where=wanted)
    for found in (either(QUERY, k=5, filter=wanted), await either.ask(QUERY, k=5, filter=wanted)):
        assert [one[0] for one in found] == [hit.passage_id for hit in expected]
        np.testing.assert_allclose([one[3] for one in found], [hit.score for hit in expected], atol=1e-5)
        for (_, text, metadata, score), hit in zip(found, expected, strict=True):
            assert text == hit.text
            own = {"document": hit.document, "title": hit.heading, "page": hit.page, "score": score}
            plain = {name: list(value) if name == "groups" else value for name, value in hit.metadata.items()}
            fields = {f"metadata.{name}" if name in OWN else name: value for name, value in plain.items()}
            assert metadata == {**fields, **own}
            assert metadata["metadata.score"] == "of the author"


async def test_k_is_ten_unless_it_is_given(either: Either):
    assert len(either(QUERY)) == 10 == len(await either.ask(QUERY))
    assert len(either(QUERY, k=2)) == 2 and len(either(QUERY)) == 10


def test_a_filter_of_the_object_holds_unless_the_call_has_another(framework: str, place: Place):
    name = "filter" if framework == "langchain" else "filters"
    for where in ({"index": place.index}, {"base_url": f"{place.url}/search", "api_key": "all-key"}):
        retriever = made(framework, **where, **{name: "lang=de"})
        assert {one[2]["lang"] for one in retriever(QUERY)} == {"de"}
        assert {one[2]["lang"] for one in retriever(QUERY, filter={"lang": "en"})} == {"en"}
        assert {one[2]["lang"] for one in retriever(QUERY)} == {"de"}


def test_a_key_of_the_server_narrows(framework: str, place: Place):
    retriever = made(framework, base_url=place.url, api_key="de-key")
    assert {one[2]["lang"] for one in retriever(QUERY)} == {"de"}
    assert retriever(QUERY, filter={"lang": "en"}) == []


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"filter": {"colour": "red"}}, "no field 'colour'"), ({"filter": {"lang": {"or": 1}}}, "no operator"),
        ({"filter": "lang"}, "can't be read"), ({"filter": 3}, "A filter is"), ({"filter": {"year": UNKNOWN}}, "year"),
        ({"k": 0}, "k"), ({"k": -1}, "k"), ({"k": "many"}, "k"), ({"query": ""}, "mpty"), ({"query": " \n"}, "mpty"),
    ],
    ids=str,
)  # fmt: skip
async def test_what_can_not_be_asked_is_refused(either: Either, given: dict[str, Any], why: str):
    query = given.get("query", QUERY)
    rest = {name: value for name, value in given.items() if name != "query"}
    with pytest.raises(EmbedfitError, match=why):
        either(query, **rest)
    with pytest.raises(EmbedfitError, match=why):
        await either.ask(query, **rest)


async def test_queries_of_any_kind(either: Either, place: Place):
    for query in ("half \ud800 a pair", "\x00", "tv " * 5_000, "'; DROP TABLE passages; --", "電視 🔇"):
        expected = [hit.passage_id for hit in place.index.search(query, 3)]
        assert [one[0] for one in either(query, k=3)] == expected
        assert [one[0] for one in await either.ask(query, k=3)] == expected


async def test_a_wrong_key_and_a_server_that_is_away(framework: str, place: Place):
    wrong = made(framework, base_url=place.url, api_key="not-this-one")
    away = made(framework, base_url="http://127.0.0.1:9", api_key="x")
    for retriever, why, remedy in (
        (wrong, "401", "EMBEDFIT_API_KEY"), (away, "can't be reached", "embedfit serve runs/em --port"),
    ):  # fmt: skip
        with pytest.raises(CallError, match=why) as caught:
            retriever(QUERY)
        assert remedy in str(caught.value) and "not-this-one" not in str(caught.value)
        with pytest.raises(CallError, match=why):
            await retriever.ask(QUERY)


def test_a_server_without_an_index_says_what_to_serve():
    said = "This server has no index to search. Serve a run folder: embedfit serve RUN"
    transport = httpx.MockTransport(lambda request: httpx.Response(404, json={"error": said, "error_type": "NotFound"}))
    with pytest.raises(CallError, match=said):
        ServedIndex("http://there", transport=transport).search("x", 3, None)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"hits": [{"text": 1}]}', b'{"results": []}', b"[" * 9_000])
def test_an_answer_that_is_no_answer(body: bytes):
    transport = httpx.MockTransport(lambda request: httpx.Response(200, content=body))
    with pytest.raises(CallError, match="did not answer /search with passages"):
        ServedIndex("http://there", transport=transport).search("x", 3, None)


@given(st.dictionaries(st.sampled_from([*OWN, *(f"metadata.{name}" for name in OWN), "lang"]), st.integers()))
def test_no_field_is_lost_by_its_name(fields: dict[str, int]):
    found = Found(passage_id="a", score=1.0, text="t", document="d", page=3, heading="h", metadata=fields)
    described = found.described()
    assert {name: described.pop(name) for name in OWN} == {"document": "d", "title": "h", "page": 3, "score": 1.0}
    assert sorted(described.values()) == sorted(fields.values())  # type: ignore[type-var]


def test_a_busy_server_is_asked_again():
    statuses = [429, 503, 200]
    hits = [{"passage_id": "a", "score": 1.0, "text": "t", "document": "d", "page": 0, "heading": "", "metadata": {}}]
    transport = httpx.MockTransport(lambda request: httpx.Response(statuses.pop(0), json={"hits": hits}))
    served = ServedIndex("http://there", transport=transport)
    object.__setattr__(served.patience, "sleep", lambda seconds: None)
    assert served.search("x", 3, None) == [Found.model_validate(hits[0])] and not statuses


def test_what_is_named(framework: str, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("EMBEDFIT_BASE_URL", raising=False)
    for named, error, why in (
        ({}, UsageError, "No index is named"), ({"index": 3}, UsageError, "not a int"),
        ({"index": tmp_path, "base_url": place.url}, UsageError, "Both"),
        ({"index": tmp_path / "nothing"}, ArtifactMissing, "embedfit index"),
        ({"base_url": "there"}, EmbedfitError, "there"),
    ):  # fmt: skip
        with pytest.raises(error, match=why):
            made(framework, **named)
    monkeypatch.setenv("EMBEDFIT_BASE_URL", place.url)
    monkeypatch.setenv("EMBEDFIT_API_KEY", "de-key")
    assert len(made(framework)(QUERY, k=1)) == 1


def test_no_key_is_shown(framework: str):
    retriever = made(framework, base_url="http://there", api_key="SECRET").retriever
    assert "SECRET" not in f"{retriever!r} {retriever} {vars(retriever)}"


async def test_asking_a_server_takes_no_threads(framework: str, place: Place):
    retriever = made(framework, base_url=place.url, api_key="all-key")
    before = threading.active_count()
    await asyncio.gather(*(retriever.ask(f"{QUERY} {n}", k=1) for n in range(40)))
    assert threading.active_count() <= before + 8
    assert inspect.iscoroutinefunction(langchain.EmbedfitRetriever._aget_relevant_documents)


async def test_searches_at_the_same_time_do_not_disturb_each_other(framework: str, place: Place):
    retriever = made(framework, index=place.folder)
    queries = [f"{topic} {n}" for n in range(4) for topic in ("mute the tv", "bulb of the lamp", "bread")]
    expected = [[hit.passage_id for hit in place.index.search(query, 3)] for query in queries]
    found = await asyncio.gather(*(retriever.ask(query, k=3) for query in queries))
    assert [[one[0] for one in each] for each in found] == expected


# --- LangChain


def test_it_is_a_step_of_a_chain(place: Place):
    from langchain_core.runnables import RunnablePassthrough
    from langchain_core.tools.retriever import create_retriever_tool

    chain = {"found": langchain.EmbedfitRetriever(index=place.index, k=2), "asked": RunnablePassthrough()}
    answer = (RunnablePassthrough() | chain).invoke(QUERY)
    assert answer["asked"] == QUERY and len(answer["found"]) == 2
    tool = create_retriever_tool(langchain.EmbedfitRetriever(index=place.index, k=1), "search", "searches manuals")
    assert tool.invoke({"query": QUERY}) == place.index.search(QUERY, 1)[0].text


# --- LlamaIndex


def one(key: str, operator: FilterOperator, value: Any = None) -> MetadataFilter:
    return MetadataFilter(key=key, operator=operator, value=value)


@pytest.mark.parametrize(
    ("filters", "where"),
    [
        ([one("lang", FilterOperator.EQ, "de")], {"lang": "de"}),
        ([one("lang", FilterOperator.NE, "de")], ["lang!=de"]),
        ([one("year", FilterOperator.GT, 2021), one("year", FilterOperator.LTE, 2022)], ["year>2021", "year<=2022"]),
        ([one("year", FilterOperator.GTE, 2022), one("year", FilterOperator.LT, 2023)], {"year": 2022}),
        ([one("year", FilterOperator.IN, [2020, 2023])], {"year": [2020, 2023]}),
        ([one("year", FilterOperator.NIN, [2020, 2023])], {"year": {"!=": [2020, 2023]}}),
        ([one("groups", FilterOperator.CONTAINS, "hr")], ["groups:hr"]),
        ([one("groups", FilterOperator.ANY, ["hr", "it"])], {"groups": ["hr", "it"]}),
        ([one("groups", FilterOperator.IS_EMPTY)], {"groups": {"exists": False}}),
        ([MetadataFilters(filters=[one("lang", FilterOperator.EQ, "de")]), one("year", FilterOperator.EQ, 2021)],
         {"lang": "de", "year": 2021}),
    ],
)  # fmt: skip
def test_llamaindex_own_filters(place: Place, filters: list[Any], where: Any):
    expected = [hit.passage_id for hit in place.index.search(QUERY, 50, where=where)]
    for named in ({"index": place.index}, {"base_url": place.url, "api_key": "all-key"}):
        retriever = made("llamaindex", **named, filters=MetadataFilters(filters=filters))
        assert [each[0] for each in retriever(QUERY, k=50)] == expected


@pytest.mark.parametrize(
    ("filters", "why"),
    [
        (MetadataFilters(filters=[one("lang", FilterOperator.TEXT_MATCH, "d")]), "text_match"),
        (MetadataFilters(filters=[one("groups", FilterOperator.ALL, ["hr", "it"])]), "'all'"),
        (MetadataFilters(filters=[one("lang", FilterOperator.EQ, "de")] * 2), "two conditions"),
        (MetadataFilters(filters=[one("a", FilterOperator.EQ, 1)] * 2, condition=FilterCondition.OR), "operator IN"),
        (MetadataFilters(filters=[one("a", FilterOperator.EQ, 1)], condition=FilterCondition.NOT), "NIN"),
    ],
)
def test_a_filter_of_llamaindex_that_we_lack_is_refused(place: Place, filters: MetadataFilters, why: str):
    with pytest.raises(InputError, match=why):
        made("llamaindex", index=place.index)(QUERY, filter=filters)


def test_it_feeds_a_query_engine_and_hides_the_score_from_the_model(place: Place):
    retriever = llamaindex.EmbedfitRetriever(place.index, similarity_top_k=2)
    engine = RetrieverQueryEngine(retriever, response_synthesizer=NoText(llm=MockLLM()))
    nodes = engine.query(QUERY).source_nodes
    assert [each.node.node_id for each in nodes] == [hit.passage_id for hit in place.index.search(QUERY, 2)]
    from llama_index.core.schema import MetadataMode

    shown = nodes[0].node.get_content(metadata_mode=MetadataMode.LLM)
    assert "title: tv" in shown and "\nscore:" not in f"\n{shown}"


names = st.sampled_from(["lang", "year", "groups", "score", "no such field", ""])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["=", ">", "contains", "or"]), inner),
    max_leaves=4,
)


@given(wanted=values | st.dictionaries(names, values, max_size=3), k=st.integers(-2, 60) | st.none())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_filter_gives_the_same_here_and_from_the_server(place: Place, wanted: Any, k: int | None):
    answers = []
    for named in ({"index": place.index}, {"base_url": place.url, "api_key": "all-key"}):
        try:
            answers.append([each[0] for each in made("langchain", **named)(QUERY, k=k, filter=wanted)])
        except EmbedfitError:
            answers.append("refused")
    assert answers[0] == answers[1]
