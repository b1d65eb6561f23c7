"""PostgreSQL finds what the index finds, holds the old rows or the new ones, and keeps a password to itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedfit.errors import EmbedfitError, InputError, ModelError, UsageError
from embedfit.index.search import Index
from embedfit.index.sinks.client import Connected, connect
from embedfit.index.sinks.handover import IndexHandover
from embedfit.index.sinks.postgres import load
from embedfit.index.sinks.sink import Question, kind_of
from embedfit.path.artefacts import Value
from embedfit.progress import Silent
from tests.index.sinks.corpora import QUERIES, documents_index, expanded_index, hand
from tests.index.sinks.ranking import assert_filters_as, assert_ranks_as
from tests.index.sinks.test_lancedb import FILTERS
from tests.index.sinks.test_sinks import Breaking
from tests.said import Said

_NAMES = count()


@pytest.fixture
def url(postgres_server: str) -> str:
    """A name of its own in the database."""
    return f"{postgres_server}&table=t{next(_NAMES)}"


@pytest.fixture(scope="module")
def index(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Index:
    return documents_index(tmp_path_factory.mktemp("postgres"), tiny_bert)


@pytest.fixture(scope="module")
def small(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Index:
    return documents_index(tmp_path_factory.mktemp("postgres"), tiny_bert, count=9)


@pytest.fixture(scope="module")
def store(index: Index, tiny_bert: Path, postgres_server: str) -> Iterator[Connected]:
    url = f"{postgres_server}&table=select"  # a word of SQL
    hand(index, url)
    opened = connect(url, tiny_bert)
    yield opened
    opened.store.close()


@pytest.fixture(scope="module")
def question(store: Connected) -> Question:
    return store.ask("pump")


def asked(url: str, command: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url.partition("&table")[0], autocommit=True) as connection:
        cursor = connection.execute(command.encode())
        return cursor.fetchall() if cursor.description else []


def table_of(url: str) -> str:
    return url.partition("&table=")[2]


def relations(url: str) -> set[str]:
    found = asked(
        url, f"SELECT relname FROM pg_class WHERE relkind IN ('r', 'v') AND relname ~ '^{table_of(url)}(_|$)'"
    )
    return {str(name) for (name,) in found}


def test_it_ranks_as_the_index(index: Index, store: Connected) -> None:
    assert_ranks_as(index, store, QUERIES)


@pytest.mark.parametrize(
    "where",
    [
        *FILTERS, ["folder:x"], {"folder": {"contains": ""}}, ["year!=2003"], ["day<2024-01-05"],
        {"tags": ["c", "\0"]}, ["even=true"], {"year": 2003.0}, {"document": {"!=": 'say "hi"'}}, {"tags": "%s"},
        {"document": ["😀/ü", "{1:2}", "back\\slash"]}, {"tags": {"exists": True}},
    ],
    ids=str,
)  # fmt: skip
def test_it_filters_as_the_index(index: Index, store: Connected, where: dict[str, Value] | list[str]) -> None:
    assert_ranks_as(index, store, QUERIES[:2], where)


VALUES = st.one_of(
    st.sampled_from(
        [
            2003,
            2003.5,
            "2003",
            True,
            False,
            "a",
            "b'; --",
            "2024-01-05",
            "2024",
            "it's",
            "😀/ü",
            "%s",
            "\0",
            "",
            10**300,
            -(10**20),
            1e-300,
            "\ud800",
        ]
    ),
    st.integers(1995, 2045),
)
TESTS = st.fixed_dictionaries({}, optional={op: VALUES for op in ("=", "!=", "<", "<=", ">", ">=", "contains")}).filter(
    bool
)
WHERE = st.dictionaries(
    st.sampled_from(["year", "tags", "day", "even", "document", "folder", "file", "x"]),
    st.one_of(TESTS, st.lists(VALUES, min_size=1, max_size=3), st.booleans().map(lambda yes: {"exists": yes})),
    min_size=1, max_size=2,
)  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(where=WHERE)
def test_any_filter_means_what_it_means_in_the_index(
    index: Index, store: Connected, question: Question, where: dict[str, object]
) -> None:
    """Either both refuse it, or the same passages meet it."""
    assert_filters_as(index, store, question, where)


@pytest.mark.parametrize("where", [{"x' OR 1=1 --": 1}, ["tags<5"], ["year<2024-01-01"], {"year": "2003"}, ["day:a"]])
def test_a_filter_that_does_not_fit_is_an_error_as_in_the_index(index: Index, store: Connected, where: object) -> None:
    for one in (index, store):
        with pytest.raises(InputError, match=r"There is no field|does not fit"):
            one.search("pump", where=where)


def test_written_queries_count_too(tiny_bert: Path, tmp_path: Path, url: str, opened) -> None:
    queries = [(f"how to clean {n}", f"note {n} please") if n % 3 else () for n in range(12)]
    index = expanded_index(tmp_path, tiny_bert, queries=queries)
    hand(index, url)
    assert_ranks_as(index, opened(url), QUERIES)


def test_every_table_says_which_model_made_it(store: Connected, postgres_server: str) -> None:
    found = asked(
        postgres_server,
        "SELECT relname, obj_description(oid, 'pg_class') FROM pg_class WHERE relname ~ '^select(_|$)' "
        "AND relkind IN ('r', 'v')",
    )
    assert len(found) == 8 and all(store.store.about.fingerprint in str(text) for _, text in found)


def test_another_model_is_refused(store: Connected, other_bert: Path, postgres_server: str) -> None:
    with pytest.raises(ModelError, match="can't be compared"):
        connect(f"{postgres_server}&table=select", other_bert)
    with pytest.raises(ModelError, match="can't be compared"):
        store.candidates(replace(store.ask("pump"), fingerprint="other"), 3)
    with pytest.raises(ModelError, match="3 numbers"):
        store.candidates(replace(store.ask("pump"), vector=store.ask("pump").vector[:3]), 3)


def test_an_interrupted_load_goes_on_and_is_not_seen(index: Index, small: Index, url: str, opened) -> None:
    hand(small, url)
    before = opened(url)
    with pytest.raises(KeyboardInterrupt):
        kind_of(url).open(url).write(Breaking(index, 3))
    assert_ranks_as(small, before, QUERIES[:2])
    starts = []

    class Counting(IndexHandover):
        def batches(self, start: int = 0):
            starts.append(start)
            return super().batches(start)

    kind_of(url).open(url).write(Counting(index, Silent(), batch_rows=7))
    assert starts == [6]
    assert_ranks_as(index, before, QUERIES)  # one that was opened before sees the new rows
    assert not any(IndexHandover(small, Silent()).about.content in name for name in relations(url))
    hand(small, url)
    with pytest.raises(InputError, match="handed over"):  # its terms have other numbers now
        before.candidates(before.ask("pump"), 3)
    assert_ranks_as(small, before, QUERIES[:2])


def test_the_same_rows_are_not_written_again(small: Index, url: str) -> None:
    hand(small, url)
    before = relations(url)
    read = []
    handover = IndexHandover(small, Silent())
    handover.batches = lambda start=0: read.append(start) or iter(())  # type: ignore[method-assign]
    kind_of(url).open(url).write(handover)
    assert relations(url) == before and not read


def test_a_reader_s_rights_stay(index: Index, small: Index, url: str) -> None:
    hand(small, url)
    asked(url, "CREATE ROLE app")
    try:
        asked(url, f"GRANT SELECT ON {table_of(url)} TO app")
        hand(index, url)
        assert asked(url, f"SELECT has_table_privilege('app', '{table_of(url)}', 'SELECT')") == [(True,)]
    finally:
        asked(url, "DROP OWNED BY app; DROP ROLE app")


@pytest.mark.parametrize("suffix", ["", "_vectors", "_about"])
def test_others_tables_are_not_touched(small: Index, url: str, suffix: str) -> None:
    asked(url, f"CREATE TABLE {table_of(url)}{suffix} (mine int)")
    with pytest.raises(UsageError, match="is not touched"):
        hand(small, url)
    assert relations(url) == {f"{table_of(url)}{suffix}"}
    with pytest.raises(UsageError, match="holds no index"):
        connect(url)


class Odd(IndexHandover):
    """A hand-over with a text or an id that PostgreSQL can't hold."""

    changed: dict[str, object]

    def batches(self, start: int = 0):
        for batch in super().batches(start):
            yield [replace(row, **self.changed) if row.number == 2 else row for row in batch]


def test_nul_in_a_text_is_written_as_an_unreadable_sign(small: Index, url: str, opened) -> None:
    said = Said()
    handover = Odd(small, said)
    handover.changed = {"text": "a\0b", "metadata": {"no\0te": ("x\0", 1), "year": 2002}}
    kind_of(url).open(url).write(handover)
    assert "NUL" in said.lines[0] and "1 passages" in said.lines[0]
    found = {hit.passage_id: hit for hit in opened(url).search("note", 9)}[small.passage(2).passage_id]
    assert found.text == "a\ufffdb" and found.metadata["no\ufffdte"] == ("x\ufffd", 1)


@pytest.mark.parametrize("name", ["id", "document"])
def test_nul_in_an_id_is_refused(small: Index, url: str, name: str) -> None:
    handover = Odd(small, Silent())
    handover.changed = {name: "a\0b"}
    with pytest.raises(InputError, match="the sign NUL"):
        kind_of(url).open(url).write(handover)
    with pytest.raises(UsageError, match="holds no index"):
        connect(url)


def test_a_vector_of_another_dimension_is_refused(small: Index, url: str) -> None:
    handover = Odd(small, Silent())
    handover.changed = {"vector": small.parts.one[0][:3].astype("float32")}
    with pytest.raises(EmbedfitError, match="expected 32 dimensions, not 3"):
        kind_of(url).open(url).write(handover)
    with pytest.raises(UsageError, match="holds no index"):
        connect(url)


@pytest.mark.parametrize(
    ("state", "said"),
    [("53100", "disk is full"), ("42501", "may not do that"), ("22P05", "encoding"), ("XX000", "refused")],
)
def test_what_the_database_refuses_is_said_and_the_old_rows_stay(
    index: Index, small: Index, url: str, opened, state: str, said: str
) -> None:
    hand(small, url)
    asked(url, f"CREATE FUNCTION refuse_{table_of(url)}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION "
          f"'no' USING ERRCODE = '{state}'; END $$")  # fmt: skip
    handover = IndexHandover(index, Silent(), batch_rows=7)
    name = f"{table_of(url)}_{handover.about.content}_vectors"

    class Refused(Breaking):
        def batches(self, start: int = 0):
            asked(url, f"CREATE TRIGGER no BEFORE INSERT ON {name} EXECUTE FUNCTION refuse_{table_of(url)}()")
            return IndexHandover.batches(self, start)

    with pytest.raises(EmbedfitError, match=said) as caught:
        kind_of(url).open(url).write(Refused(index, 0))
    assert "goes on" in str(caught.value) or state == "22P05" or state == "42501"
    assert_ranks_as(small, opened(url), QUERIES[:1])


def test_a_dropped_connection_is_said_and_a_search_connects_again(index: Index, small: Index, url: str, opened) -> None:
    hand(small, url)
    store = opened(url)

    class Dropped(Breaking):
        def batches(self, start: int = 0):
            for batch in IndexHandover.batches(self, start):
                yield batch
                asked(url, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'embedfit'")

    with pytest.raises(EmbedfitError, match="was lost") as caught:
        kind_of(url).open(url).write(Dropped(index, 0))
    assert "goes on" in str(caught.value)
    assert_ranks_as(small, store, QUERIES[:1])
    hand(index, url)
    assert_ranks_as(index, store, QUERIES[:1])


def test_two_hand_overs_to_one_table_exclude_each_other(index: Index, url: str) -> None:
    class Meanwhile(Breaking):
        def batches(self, start: int = 0):
            with pytest.raises(EmbedfitError, match="Another process"):
                hand(self._index, url)
            return IndexHandover.batches(self, start)

    kind_of(url).open(url).write(Meanwhile(index, 0))


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:s3cret@127.0.0.1:1/db", "postgresql://me:s3/cr@t#x@127.0.0.1:1/db",
        "postgresql://127.0.0.1:1/db?user=me&password=s3cret", "postgres://me:s3cret%@127.0.0.1/db",
        "postgresql://me:s3cret@127.0.0.1:1/db?table=Ro%20bert",
    ],
)  # fmt: skip
def test_a_password_is_never_shown(small: Index, url: str) -> None:
    with pytest.raises(EmbedfitError) as caught:
        hand(small, url)
    error: BaseException | None = caught.value
    while error is not None:
        assert "s3" not in str(error), error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def test_a_server_without_pgvector_is_named(small: Index, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    create = load._Loader.create

    def without(self) -> None:
        self._run("CREATE EXTENSION IF NOT EXISTS vectorr")
        create(self)

    monkeypatch.setattr(load._Loader, "create", without)
    with pytest.raises(EmbedfitError, match="has no pgvector"):
        hand(small, url)
