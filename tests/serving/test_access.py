"""Keys whose searches find some passages only: nothing of the others may show, whatever is asked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedfit.commands.indexing import index_documents
from embedfit.errors import EmbedfitError, InputError
from embedfit.index.search import Index
from embedfit.index.store.filters import filter_of
from embedfit.models.store.vectors import VectorStore
from embedfit.runtime import Runtime
from embedfit.serving.app import App
from embedfit.serving.edge.access import Caller, keys_of
from embedfit.serving.search.searcher import Searcher
from embedfit.serving.settings import ServeSettings
from tests.serving.conftest import FakeEngine, make_app
from tests.serving.test_app import Client

SECRET = "pelican"
TEXTS = {
    "all": "Press the mute button to turn the sound of the tv off. Note {n}.",
    "hr": f"The {SECRET} project pays the wages of the tv team in March. Note {{n}}.",
    "it": "The password of the tv server is changed each month. Note {n}.",
}
ACCESS = """
[[keys]]
name = "staff"
env = "STAFF_KEY"
filter = { groups = "all" }

[[keys]]
name = "hr"
sha256 = "SHA"
filter = { groups = ["all", "hr"] }

[[keys]]
name = "admin"
env = "ADMIN_KEY"
everything = true
"""
KEYS = {"staff": "staff-key-1", "hr": "hr-key-2", "admin": "admin-key-3"}
ENVIRONMENT = {"STAFF_KEY": KEYS["staff"], "ADMIN_KEY": KEYS["admin"] + "\n"}


def rows() -> list[dict[str, Any]]:
    return [{"_id": f"{group}-{n}", "title": group if group == "all" else f"{SECRET} {group}", "text": text.format(n=n),
             "groups": [group], "lang": "de" if n % 2 else "en",
             **({"budget": n, "owner": SECRET} if group == "hr" else {})}
            for group, text in TEXTS.items() for n in range(4)]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("access")
    (where / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows()))
    (where / "access.toml").write_text(ACCESS.replace("SHA", hashlib.sha256(KEYS["hr"].encode()).hexdigest()))
    runtime = Runtime(vectors=VectorStore(where / "vectors"))
    index_documents(where / "corpus.jsonl", folder=where / "ix", model=str(tiny_bert), runtime=runtime)
    return where


@pytest.fixture(scope="module")
def app(folder: Path, tiny_bert: Path) -> Iterator[App]:
    searcher = Searcher(index=Index.open(folder / "ix" / "index"))
    made = make_app(FakeEngine(), tiny_bert)
    serving = ServeSettings(access=str(folder / "access.toml"))
    app = App(serving, searches=True, keys=keys_of(serving, ENVIRONMENT))
    assert made.answers.service is not None
    info = made.answers.service.info | {"index": {"passages": len(searcher.index), "base": "tiny"}}
    app.answers.service = replace(made.answers.service, searcher=searcher, info=info)
    yield app
    searcher.close()


def client(app: App, name: str) -> Client:
    return Client(app, authorization=f"Bearer {KEYS[name]}")


def ids(answer: Any) -> set[str]:
    body = answer.json()
    return {hit["passage_id"] for one in body.get("results", [body]) for name in ("hits", "base")
            for hit in one.get(name, [])}  # fmt: skip


def test_each_key_finds_what_its_filter_allows(app: App):
    query = {"query": f"the {SECRET} tv", "k": 100, "base": True}
    assert ids(client(app, "staff").post("/search", query)) == {f"all-{n}" for n in range(4)}
    both = {f"{group}-{n}" for n in range(4) for group in ("all", "hr")}
    assert ids(client(app, "hr").post("/search", query)) == both
    assert len(ids(client(app, "admin").post("/search", query))) == 12
    # and in this order too: nothing is kept from one caller for the next
    assert ids(client(app, "staff").post("/search", query)) == {f"all-{n}" for n in range(4)}


@pytest.mark.parametrize("path", ["/search", "/fields", "/info", "/v1/models"])
@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Bearer x", "Basic staff-key-1", "staff-key-1", "Bearer hr",
               "Bearer staff", "Bearer staff-key-1 x", "Bearer STAFF-KEY-1"],
)  # fmt: skip
def test_without_a_key_there_is_nothing(app: App, path: str, header: str | None):
    asked = Client(app) if header is None else Client(app, authorization=header)
    answer = asked.get(path + ("?query=tv" if path == "/search" else ""))
    assert answer.status_code == 401 and SECRET not in answer.text
    if path == "/search":
        assert asked.post("/search", {"query": "tv"}).status_code == 401


def test_a_digest_is_no_key(app: App):
    digest = hashlib.sha256(KEYS["hr"].encode()).hexdigest()
    assert Client(app, authorization=f"Bearer {digest}").get("/search?query=tv").status_code == 401


AROUND: list[dict[str, Any]] = [
    {"filter": {"groups": "hr"}},
    {"filter": {"groups": ["all", "hr", "it"]}},
    {"filter": {"groups": {"contains": "hr"}}},
    {"filter": {"groups": {"!=": "all"}}},
    {"filter": {"groups": {"exists": False}}},
    {"filter": {"groups": {"exists": True}}},
    {"filter": ["groups:hr"]},
    {"filter": ["groups=all|hr|it"]},
    {"filter": "groups!=all"},
    {"filter": ['groups="all" OR groups="hr"']},
    {"filter": {"or": [{"groups": "hr"}]}},
    {"filter": {"$or": [{"groups": "hr"}]}},
    {"filter": {"groups": {"or": "hr"}}},
    {"filter": {"document": [f"{group}-{n}" for group in ("hr", "it") for n in range(4)] + [f"{SECRET} hr", "hr"]}},
    {"filter": {"budget": {">=": 0}}},
    {"filter": {"owner": SECRET}},
    {"filter": ["owner=*"]},
    {"documents": ["hr", "hr-0", f"{SECRET} hr", "all"]},
    {"documents": ["hr-0"], "filter": {"groups": "hr"}},
    {"filter": None}, {"filter": {}}, {"filter": []},
    {"k": 1000}, {"base": True},
    {"query": [f"{SECRET} wages", "tv"]},
    {"query": [SECRET] * 3, "filter": {"lang": "de"}, "base": True},
    {"groups": ["hr"]}, {"where": {}}, {"caller": "admin"}, {"allowed": None}, {"key": KEYS["admin"]},
]  # fmt: skip


@pytest.mark.parametrize("more", AROUND)
def test_no_way_around_the_filter(app: App, more: dict[str, Any]):
    answer = client(app, "staff").post("/search", {"query": "tv", "k": 50, "base": True} | more)
    assert answer.status_code in (200, 422)
    if answer.status_code == 200:
        assert ids(answer) <= {f"all-{n}" for n in range(4)}
    told = answer.text.replace(json.dumps(more.get("query")), "")
    if "owner" not in str(more) and SECRET not in str(more):
        assert SECRET not in told and "budget" not in told.replace("'budget'", "") and "owner" not in told


@pytest.mark.parametrize(
    "address", ["filter=groups:hr", "filter=groups:all&filter=groups:hr", "filter=groups=all|hr", "document=hr-0",
                "filter=groups!=all", "filter=document=hr-0|it-0"],
)  # fmt: skip
def test_no_way_around_it_in_the_address(app: App, address: str):
    answer = client(app, "staff").get(f"/search?query=tv&k=50&base=true&{address}")
    allowed = {f"all-{n}" for n in range(4)} if "|" in address and "groups" in address else set()
    assert answer.status_code == 200 and ids(answer) == allowed


def test_a_hidden_document_is_as_if_it_were_not_there(app: App):
    def told(name: str) -> tuple[int, Any]:
        answer = client(app, "staff").post("/search", {"query": "tv", "documents": [name], "base": True})
        return answer.status_code, answer.json()

    assert told("hr") == told("nothing at all")
    hidden, unknown = (
        client(app, "staff").post("/search", {"query": "tv", "filter": {name: 1}}) for name in ("budget", "budgex")
    )
    assert hidden.status_code == unknown.status_code == 422
    assert hidden.text.replace("budget", "x") == unknown.text.replace("budgex", "x")


def test_listings_and_counts_are_of_what_is_allowed(app: App):
    listed = client(app, "staff").get("/fields")
    assert listed.headers["cache-control"] == "no-store"
    assert SECRET not in listed.text and "budget" not in listed.text and "hr" not in listed.text
    body = listed.json()
    assert body["passages"] == 4
    lang = next(one for one in body["fields"] if one["name"] == "lang")
    assert lang == {"name": "lang", "kinds": ["text"], "is_list": False, "passages": 4, "complete": True,
                    "values": [{"value": "de", "passages": 2}, {"value": "en", "passages": 2}]}  # fmt: skip
    assert client(app, "staff").get("/info").json()["index"]["passages"] == 4
    assert client(app, "hr").get("/info").json()["index"]["passages"] == 8
    assert client(app, "admin").get("/fields").json()["passages"] == 12
    for path in ("/", "/metrics", "/docs", "/api-doc/openapi.json", "/health"):
        assert SECRET not in Client(app).get(path).text


def test_scores_do_not_depend_on_what_is_hidden(app: App, folder: Path):
    query = {"query": ["mute the tv", SECRET], "k": 50, "base": True}
    before = client(app, "staff").post("/search", query).json()
    assert app.answers.service is not None and app.answers.service.searcher is not None
    index = app.answers.service.searcher.index
    hidden = ~index.stored.catalogue.allowed(filter_of({"groups": "all"}))  # type: ignore[operator]
    parts = index.stored.parts
    assert parts.one is not None and parts.tokens is not None
    one, tokens = np.array(parts.one), np.array(parts.tokens.vectors)
    one[hidden] = one[~hidden][0]
    for number in np.flatnonzero(hidden).tolist():
        tokens[parts.tokens.starts[number] : parts.tokens.starts[number + 1]] = 127
    changed = replace(parts, one=one, tokens=replace(parts.tokens, vectors=tokens))
    other = Searcher(index=Index(replace(index.stored, parts=changed), index.asker))
    kept, app.answers.service = app.answers.service, replace(app.answers.service, searcher=other)
    try:
        assert client(app, "staff").post("/search", query).json() == before
    finally:
        app.answers.service = kept
        other.close()


conditions = st.dictionaries(
    st.sampled_from(["groups", "lang", "document", "folder", "budget", "owner", "metadata", "or", "file"]),
    st.recursive(
        st.sampled_from(["all", "hr", "it", "de", "hr-0", "*", SECRET, "", 1, True, None]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["=", "!=", "contains", "exists", ">", "<=", "or"]), inner, max_size=2)
        ),
        max_leaves=5,
    ),
    max_size=3,
)


@given(wanted=conditions, documents=st.none() | st.lists(st.sampled_from(["hr-0", "all-0", "it-1", "hr"]), min_size=1))
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_filter_narrows(app: App, wanted: Any, documents: Any):
    body = {"query": "tv", "k": 50, "base": True, "filter": wanted, "documents": documents}
    answer = client(app, "staff").post("/search", body)
    assert answer.status_code in (200, 422)
    if answer.status_code == 200:
        assert ids(answer) <= {f"all-{n}" for n in range(4)}
    else:
        assert "owner (" not in answer.text and "budget (" not in answer.text


# --- the file


def access_file(folder: Path, text: str) -> ServeSettings:
    (folder / "keys.toml").write_text(text)
    return ServeSettings(access=str(folder / "keys.toml"))


ONE = '[[keys]]\nname = "a"\n'


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "must hold keys"), ("[[keys]", "not valid TOML"), ("keys = []", "must hold keys"),
        (f'{ONE}env = "A"\neverything = true\n[other]\n', "must hold keys"), ("keys = [1]", "has no name"),
        (f'{ONE}env = "A"', "either a filter or everything"),
        (f'{ONE}env = "A"\neverything = false', "either a filter or everything"),
        (f'{ONE}env = "A"\neverything = true\nfilter = {{ a = 1 }}', "either a filter or everything"),
        (f'{ONE}env = "A"\nfilter = {{}}', "no condition"), (f'{ONE}env = "A"\nfilter = []', "no condition"),
        (f'{ONE}env = "A"\nfilter = {{ groups = [] }}', "names no value"),
        (f'{ONE}env = "A"\nfilter = 3', "a filter is an object"),
        (f'{ONE}env = "A"\nfilter = "groups"', "can't be read"),
        (f'{ONE}env = "A"\nfilters = {{ a = 1 }}', "no setting 'filters'"),
        (f'{ONE}everything = true', "either env or sha256"),
        (f'{ONE}sha256 = "12"\neverything = true', "64 hexadecimal"),
        (f'{ONE}sha256 = 12\neverything = true', "64 hexadecimal"),
        (f'{ONE}env = "MISSING"\neverything = true', "MISSING is not set"),
        (f'{ONE}env = "BLANK"\neverything = true', "BLANK is not set"),
        (f'{ONE}env = "SPACED"\neverything = true', "can't be sent"),
        (f'{ONE}env = "A"\neverything = true\n{ONE}env = "B"\neverything = true', "two keys alike"),
        (f'{ONE}env = "A"\neverything = true\n[[keys]]\nname = "b"\nenv = "A"\nfilter = {{ a = 1 }}', "the same as"),
    ],
)  # fmt: skip
def test_a_file_that_is_wrong_is_refused_without_a_key_in_the_error(tmp_path: Path, text: str, why: str):
    environment = {"A": "key-of-a", "B": "key-of-b", "BLANK": " ", "SPACED": "two words"}
    with pytest.raises(EmbedfitError) as error:
        keys_of(access_file(tmp_path, text), environment)
    said = str(error.value)
    assert why.lower() in said.lower()
    assert not any(key in said for key in ("key-of-a", "key-of-b", "two words"))


def test_the_key_of_the_option_finds_everything_beside_the_file(tmp_path: Path):
    given = access_file(tmp_path, f'{ONE}env = "A"\nfilter = ["groups:hr"]')
    both = ServeSettings(**{**given.model_dump(), "api_key": "k0"})
    keys = keys_of(both, {"A": "k1"})
    assert keys.caller(b"k0") == Caller("--api-key")
    assert keys.caller(b"k1") == Caller("a", filter_of("groups:hr"))
    assert keys.caller(b"k2") is keys.caller(b"") is None
    assert "k1" not in repr(keys) and not keys_of(ServeSettings(), {})


def test_a_filter_that_does_not_fit_the_index_is_refused_at_the_start(folder: Path):
    searcher = Searcher(index=Index.open(folder / "ix" / "index"))
    with pytest.raises(InputError, match=r"the key 'typo' does not fit.*no field 'group'"):
        searcher.findable(Caller("typo", filter_of({"group": {"!=": "hr"}})))
    assert searcher.findable(Caller("nobody", filter_of({"groups": "unknown"}))).size == 0
    searcher.close()
