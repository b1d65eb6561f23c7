"""A password or key in an address is in no output, log, error or repr, whether the hand-over works or not."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from embedfit.cli.main import app
from embedfit.errors import EmbedfitError
from embedfit.index.search import Index
from embedfit.index.sinks.client import Connected, connect
from embedfit.index.sinks.sink import kind_of
from tests.index.sinks import opensearch_server, qdrant_server
from tests.index.sinks.corpora import documents_index

SECRET = "s3cret-7"


@pytest.fixture(scope="module")
def index(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Index:
    return documents_index(tmp_path_factory.mktemp("secrets"), tiny_bert, count=3)


@pytest.fixture(params=["postgresql", "qdrant", "opensearch"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "postgresql":
        server = request.getfixturevalue("postgres_server")
        yield f"{server.replace('postgres:@', f'postgres:{SECRET}@')}&table=secrets"
    elif request.param == "qdrant":
        with qdrant_server.Server() as running:
            running.api_key = SECRET
            yield f"qdrant://:{SECRET}@127.0.0.1:{running.port}/manuals"
    else:
        with opensearch_server.Server() as running:
            running.login = f"me:{SECRET}"
            yield f"opensearch://me:{SECRET}@127.0.0.1:{running.port}/manuals"


@pytest.mark.parametrize("options", [["--json"], []])
def test_what_works_says_no_secret(
    index: Index, url: str, options: list[str], opened: Callable[[str], Connected], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    assert SECRET in url
    folder = str(index.stored.folder.parent)
    done = CliRunner().invoke(app, ["index", "--to-folder", folder, "--to", url, *options])
    assert done.exit_code == 0, done.output
    if options:
        assert "***" in json.loads(done.stdout)["to"]
    else:
        assert "in the place of ***" in done.stdout
    store = opened(url)
    store.search("pump")
    sink = kind_of(url).open(url)
    shown = [repr(one) for one in (store, store.store, store.store.__dict__, sink, sink.__dict__)]
    assert SECRET not in "".join([done.output, caplog.text, *shown])


@pytest.mark.parametrize("options", [["--json"], []])
def test_what_fails_says_no_secret(
    index: Index, url: str, options: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    start, at, end = url.rpartition("@")
    wrong = f"{start}{at}127.0.0.1:1/db" if url.startswith("postgresql") else f"{start}x{at}{end}"
    done = CliRunner().invoke(app, ["index", "--to-folder", str(index.stored.folder.parent), "--to", wrong, *options])
    assert isinstance(done.exception, EmbedfitError)
    with pytest.raises(EmbedfitError) as caught:
        connect(wrong)
    assert SECRET not in "".join(
        [done.output, caplog.text, *(f"{one!r} {one}" for one in (done.exception, caught.value))]
    )
