"""OpenSearch is sent what ranks as the index. It holds the old rows or the new ones, and a password stays secret."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import HealthCheck, given, settings

from embedfit.errors import EmbedfitError, InputError, ModelError, UsageError
from embedfit.index.search import Index
from embedfit.index.sinks.client import Connected, connect
from embedfit.index.sinks.handover import IndexHandover, export
from embedfit.index.sinks.opensearch import connection, load
from embedfit.index.sinks.sink import Question, kind_of
from embedfit.path.artefacts import Value
from embedfit.progress import Silent
from tests.index.sinks import ranking
from tests.index.sinks.corpora import QUERIES, documents_index, expanded_index, hand
from tests.index.sinks.opensearch_server import Server
from tests.index.sinks.test_lancedb import FILTERS
from tests.index.sinks.test_postgres import WHERE
from tests.index.sinks.test_qdrant import Odd
from tests.index.sinks.test_sinks import Breaking
from tests.said import Said

#: OpenSearch compares by cosines, the index by inner products of unit vectors that are rounded to float16.
assert_ranks_as = partial(ranking.assert_ranks_as, atol=2e-3)


@pytest.fixture(scope="module")
def index(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Index:
    return documents_index(tmp_path_factory.mktemp("opensearch"), tiny_bert)


@pytest.fixture(scope="module")
def small(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Index:
    return documents_index(tmp_path_factory.mktemp("opensearch"), tiny_bert, count=9)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        yield server


@pytest.fixture
def url(server: Server) -> str:
    return f"opensearch://127.0.0.1:{server.port}/manuals"


@pytest.fixture(scope="module")
def store(index: Index, tiny_bert: Path) -> Iterator[Connected]:
    with Server() as server:
        url = f"opensearch://localhost:{server.port}"
        hand(index, url)
        with connect(url, tiny_bert) as opened:
            yield opened


@pytest.fixture(scope="module")
def question(store: Connected) -> Question:
    return store.ask("pump")


def test_it_is_asked_what_ranks_as_the_index(index: Index, store: Connected) -> None:
    assert_ranks_as(index, store, QUERIES)


@pytest.mark.parametrize("where", FILTERS, ids=str)
def test_it_filters_as_the_index(index: Index, store: Connected, where: dict[str, Value] | list[str]) -> None:
    assert_ranks_as(index, store, QUERIES[:1], where)


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(where=WHERE)
def test_any_filter_means_what_it_means_in_the_index(
    index: Index, store: Connected, question: Question, where: dict[str, object]
) -> None:
    """Either both refuse it, or the same passages meet it."""
    ranking.assert_filters_as(index, store, question, where)


def test_written_queries_count_too(tiny_bert: Path, tmp_path: Path, url: str, opened) -> None:
    queries = [(f"how to clean {n}", f"note {n} please") if n % 3 else () for n in range(12)]
    index = expanded_index(tmp_path, tiny_bert, queries=queries)
    hand(index, url)
    assert_ranks_as(index, opened(url), QUERIES)


def test_every_index_says_which_model_made_it(index: Index, server: Server, url: str) -> None:
    hand(index, url)
    about = IndexHandover(index, Silent()).about
    assert [one["mappings"]["_meta"]["fingerprint"] for one in server.indexes.values()] == [about.fingerprint] * 2
    assert server.aliases == {
        "manuals": [f"manuals_{about.content}"], "manuals_about": [f"manuals_{about.content}_about"],
    }  # fmt: skip
    weights = server.pipelines["manuals"]["phase_results_processors"][0]["normalization-processor"]["combination"]
    one, windows, words = weights["parameters"]["weights"]
    assert one == windows and one + windows + words == pytest.approx(1) and words > 0


def test_another_model_is_refused(store: Connected, question: Question, other_bert: Path) -> None:
    with pytest.raises(ModelError, match="can't be compared"):
        connect(store._url, other_bert)
    with pytest.raises(ModelError, match="can't be compared"):
        store.candidates(replace(question, fingerprint="other"), 3)


def test_an_interrupted_load_goes_on_and_is_not_seen(
    index: Index, small: Index, server: Server, url: str, opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "_REQUEST_ROWS", 2)
    hand(small, url)
    before = opened(url)
    with pytest.raises(KeyboardInterrupt):
        kind_of(url).open(url).write(Breaking(index, 4))
    assert_ranks_as(small, before, QUERIES[:2])
    content = IndexHandover(index, Silent()).about.content
    del server.indexes[f"manuals_{content}"]["documents"]["2"]  # a request that got through in part
    starts = []

    class Counting(IndexHandover):
        def batches(self, start: int = 0):
            starts.append(start)
            return super().batches(start)

    kind_of(url).open(url).write(Counting(index, Silent(), batch_rows=7))
    assert starts == [2]
    assert_ranks_as(index, before, QUERIES[:3])  # one that was opened before sees the new rows
    assert set(server.indexes) == {f"manuals_{content}", f"manuals_{content}_about"}
    asked = before.ask("pump")
    hand(small, url)
    with pytest.raises(InputError, match="handed over"):
        before.candidates(asked, 3)
    assert_ranks_as(small, before, QUERIES[:1])


def test_the_same_rows_are_not_written_again(small: Index, server: Server, url: str) -> None:
    hand(small, url)
    wrote = []

    def gate(method: str, path: str, _: bytes) -> None:
        if method == "DELETE" or "_bulk" in path or "_doc" in path.replace("_doc/0", ""):
            wrote.append(path)

    server.gate = gate
    hand(small, url)
    assert not wrote


@pytest.mark.parametrize("taken", ["index", "about", "alias"])
def test_others_indexes_are_not_touched(small: Index, server: Server, url: str, taken: str) -> None:
    name = {"index": "manuals", "about": "manuals_about", "alias": "mine"}[taken]
    server.indexes[name] = {"mappings": {}, "documents": {}}
    server.aliases = {"manuals": ["mine"]} if taken == "alias" else {}
    with pytest.raises(UsageError, match="is not touched"):
        hand(small, url)
    assert set(server.indexes) == {name}
    with pytest.raises(UsageError, match="holds no index"):
        connect(url)


def test_a_vector_of_another_dimension_is_refused_by_its_item(small: Index, url: str) -> None:
    handover = Odd(small, Silent())
    handover.changed = {"vector": np.ones(3, np.float32)}
    with pytest.raises(EmbedfitError, match="passage 2: the vectors don't fit the index"):
        kind_of(url).open(url).write(handover)
    with pytest.raises(UsageError, match="holds no index"):
        connect(url)


def test_an_overloaded_server_is_asked_again(
    small: Index, server: Server, url: str, monkeypatch: pytest.MonkeyPatch, opened
) -> None:
    monkeypatch.setattr(load, "_WAIT_SECONDS", 0)
    busy = {"3": 2, "5": 1}

    def item(number: str) -> tuple[int, str, str] | None:
        busy[number] = busy.get(number, 0) - 1
        return (429, "es_rejected_execution_exception", "queue is full") if busy[number] >= 0 else None

    server.item = item
    hand(small, url)
    assert_ranks_as(small, opened(url), QUERIES[:1])


@pytest.mark.parametrize(
    ("refused", "said"),
    [
        ((429, "es_rejected_execution_exception", "queue is full"), "overloaded"),
        (
            (403, "cluster_block_exception", "disk usage exceeded flood-stage watermark, index has block"),
            "disk is full",
        ),
        ((400, "mapper_parsing_exception", "failed to parse"), "passage 3: the server refused: mapper_parsing"),
    ],
)
def test_what_an_item_is_refused_for_is_said_and_the_old_rows_stay(
    index: Index, small: Index, server: Server, url: str, opened, monkeypatch: pytest.MonkeyPatch,
    refused: tuple[int, str, str], said: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(load, "_WAIT_SECONDS", 0)
    hand(small, url)
    server.item = lambda number: refused if number == "3" else None
    with pytest.raises(EmbedfitError, match=said):
        hand(index, url)
    server.item = lambda _: None
    assert_ranks_as(small, opened(url), QUERIES[:1])
    hand(index, url)
    assert_ranks_as(index, opened(url), QUERIES[:1])


@pytest.mark.parametrize(
    ("status", "said"), [(0, "connection failed or was lost"), (403, "asks for a user"), (500, "HTTP 500")]
)
def test_what_the_server_refuses_is_said(small: Index, server: Server, url: str, status: int, said: str) -> None:
    server.gate = lambda _, path, __: (status, "no") if path.endswith("_bulk") else None
    with pytest.raises(EmbedfitError, match=said):
        hand(small, url)
    with pytest.raises(UsageError, match="holds no index"):
        connect(url)


@pytest.mark.parametrize("answer", ["<html>hello</html>", [1], {"a": 1}])
def test_another_server_is_named(server: Server, url: str, monkeypatch: pytest.MonkeyPatch, answer: object) -> None:
    for status in (200, 400):
        monkeypatch.setattr(server, "answer", lambda *_, status=status: (status, answer))
        with pytest.raises(EmbedfitError, match=r"not OpenSearch's|refused"):
            kind_of(url).open(url)


def test_a_server_without_z_scores_gets_no_pipeline(small: Index, server: Server, url: str, opened) -> None:
    server.has_z_scores = False
    said = Said()
    kind_of(url).open(url).write(IndexHandover(small, said))
    assert "no z-score" in said.lines[0] and not server.pipelines
    assert_ranks_as(small, opened(url), QUERIES[:1])


def test_a_password_opens_the_server_and_is_never_shown(
    small: Index, server: Server, opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.login = "me:s3cret/@"
    place = f"127.0.0.1:{server.port}/manuals"
    for url in (
        f"opensearch://{place}", f"opensearch://me:s3cret@{place}", f"opensearch://me:s3/cret@{place}",
        "opensearch://me:s3cret@127.0.0.1:1/a", "opensearch://me:s3cret@h:port/a", "opensearch://me:s3cret@h/Big",
    ):  # fmt: skip
        with pytest.raises(EmbedfitError) as caught:
            hand(small, url)
        error: BaseException | None = caught.value
        while error is not None:
            assert "s3" not in str(error), error
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    hand(small, f"opensearch://me:s3cret%2F%40@{place}")
    monkeypatch.setenv("OPENSEARCH_PASSWORD", "s3cret/@")
    assert_ranks_as(small, opened(f"opensearch://me:@{place}"), QUERIES[:1])


def test_the_files_are_what_the_server_is_sent(index: Index, server: Server, url: str, tmp_path: Path) -> None:
    hand(index, url)
    (target,) = server.aliases["manuals"]
    export(index, kind_of("opensearch-files:x").open(f"opensearch-files:{tmp_path / 'out'}"), Silent(), batch_rows=7)
    out = tmp_path / "out"
    lines = [json.loads(line) for path in sorted(out.glob("bulk-*")) for line in path.read_text("utf-8").splitlines()]
    documents = {action["index"]["_id"]: source for action, source in zip(lines[::2], lines[1::2], strict=True)}
    assert documents == server.indexes[target]["documents"]
    assert json.loads((out / "index.json").read_text())["mappings"] == server.indexes[target]["mappings"]
    assert json.loads((out / "pipeline.json").read_text()) == server.pipelines["manuals"]
    hits = server._search(server.indexes[target], json.loads((out / "query.json").read_text()))
    assert hits[0]["_source"]["number"] == 0  # the example asks for passage 0
    hybrid = json.loads((out / "hybrid.json").read_text())["query"]["hybrid"]["queries"]
    assert [next(iter(one)) for one in hybrid] == ["knn", "nested", "neural_sparse"]


class Signed(Server):
    """A server that checks a signature as AWS does: it computes it again from the request and the secret."""

    credentials = Credentials("AKIDEXAMPLE", "s3cret-key", "session-token")

    def answer(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, Any]:
        lower = {name.lower(): value for name, value in headers.items()}
        signed = lower["authorization"].partition("SignedHeaders=")[2].partition(",")[0].split(";")
        request = AWSRequest(
            method, f"http://{lower['host']}{self.asked}", data=body, headers={name: lower[name] for name in signed}
        )
        request.context["timestamp"] = lower["x-amz-date"]
        auth = SigV4Auth(self.credentials, "es", "eu-central-1")
        text = auth.string_to_sign(request, auth.canonical_request(request))
        if not lower["authorization"].endswith(f"Signature={auth.signature(text, request)}"):
            return 403, self.refusal(403, "The request signature we calculated does not match")
        assert lower["x-amz-security-token"] == "session-token"
        return super().answer(method, path, body, headers)


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Credentials of AWS."""
    keys = {"ACCESS_KEY_ID": "AKIDEXAMPLE", "SECRET_ACCESS_KEY": "s3cret-key", "SESSION_TOKEN": "session-token"}
    for name, value in keys.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    for name in ("SHARED_CREDENTIALS_FILE", "CONFIG_FILE"):
        monkeypatch.setenv(f"AWS_{name}", str(tmp_path / "none"))
    monkeypatch.delenv("AWS_PROFILE", raising=False)


def test_requests_are_signed_as_aws_checks_them(
    index: Index, opened, aws: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Signed() as server:
        url = f"opensearch://127.0.0.1:{server.port}/manuals?aws=eu-central-1"
        hand(index, url)
        assert_ranks_as(index, opened(url), QUERIES[:2])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "an0ther")
        with pytest.raises(EmbedfitError, match="refuses this machine's AWS identity") as caught:
            hand(index, url)
        assert "an0ther" not in str(caught.value)


def test_a_domain_of_amazon_s_is_signed_for_by_its_region(aws: None) -> None:
    place = connection.place_of("opensearch://search-mine-abc.us-west-2.es.amazonaws.com/manuals")
    assert place.address == "https://search-mine-abc.us-west-2.es.amazonaws.com:443"
    signer = connection._login(place)
    assert "us-west-2/es/aws4_request" in signer("GET", place.address, None)["Authorization"]
    with_user = connection.place_of("opensearch://me:pw@search-mine-abc.us-west-2.es.amazonaws.com/manuals")
    assert connection._login(with_user) == ("me", "pw")
    with pytest.raises(UsageError, match="Serverless"):
        connection.place_of("opensearch://abc.us-west-2.aoss.amazonaws.com/manuals")


def test_without_credentials_of_aws_it_says_so(aws: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN"):
        monkeypatch.delenv(f"AWS_{name}")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(UsageError, match="this machine has none"):
        kind_of("opensearch:").open("opensearch://127.0.0.1:1/manuals?aws=eu-central-1")


def test_an_unknown_option_is_an_error() -> None:
    with pytest.raises(UsageError, match="unknown option") as caught:
        connection.place_of("opensearch://127.0.0.1/manuals?region=x&tls=false")
    assert "api_key, tls, aws" in str(caught.value)
