"""Files of shards: whole or absent, named by content, the same whoever writes them."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfit.errors import EmbedfitError, UsageError
from embedfit.models.local import LocalModel
from embedfit.models.store.vectors import VectorStore
from embedfit.network.aws import client
from embedfit.scale.shards import FolderShards, ObjectShards, Shards, name_of, open_shards

PARTS = st.lists(st.one_of(st.text(max_size=8), st.binary(max_size=8)), max_size=4)


def _bytes(parts: list[str | bytes]) -> list[bytes]:
    return [part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part for part in parts]


@given(PARTS, PARTS)
def test_only_equal_parts_have_one_name(first: list[str | bytes], second: list[str | bytes]) -> None:
    assert (name_of(*first) == name_of(*second)) == (_bytes(first) == _bytes(second))


def test_a_shard_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    shards, name = FolderShards(tmp_path), name_of("a")
    with pytest.raises(ZeroDivisionError), shards.writing(name) as file:
        file.write(b"half")
        assert not shards.has(name)
        raise ZeroDivisionError
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    shards.write(name, b"whole")
    shards.write(name, b"is not written again")
    assert shards.read(name) == b"whole" and shards.has(name) and shards.read(name_of("b")) is None


def test_many_writers_of_one_shard_leave_one_whole_file(tmp_path: Path) -> None:
    shards, name, data = FolderShards(tmp_path), name_of("a"), b"x" * 1_000_000
    writers = [threading.Thread(target=shards.write, args=(name, data)) for _ in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [shards.path(name)]
    assert shards.read(name) == data


def test_a_full_disk_is_an_error_for_people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(EmbedfitError, match="is full"):
        FolderShards(tmp_path).write("ab", b"data")
    assert not FolderShards(tmp_path).has("ab")


class Refusing:
    """A server like S3 that answers every tenth call with 503 SlowDown."""

    def __init__(self, app: Callable[..., Iterable[bytes]], every: int = 10) -> None:
        self.app, self.every, self.calls, self.refused = app, every, 0, 0

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        self.calls += 1
        if self.calls % self.every == 0:
            self.refused += 1
            start_response("503 Slow Down", [("Content-Type", "application/xml")])
            return [b"<Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"]
        return self.app(environ, start_response)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Refusing]]:
    """The address of a fake S3 that holds the bucket `work` and refuses every tenth call."""
    server_of_moto = pytest.importorskip("moto.server")
    serving = pytest.importorskip("werkzeug.serving")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    app = Refusing(server_of_moto.DomainDispatcherApplication(server_of_moto.create_backend_app))
    server = serving.make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        address = f"http://127.0.0.1:{server.server_port}"
        client("s3", endpoint_url=address).create_bucket(Bucket="work")
        yield address, app
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_bucket_that_refuses_every_tenth_call_loses_nothing(bucket: tuple[str, Refusing]) -> None:
    address, app = bucket
    shards = pickle.loads(pickle.dumps(ObjectShards("s3://work/a/b/", endpoint_url=address)))
    names = [name_of(str(number)) for number in range(24)]
    for name in names:
        assert shards.read(name) is None
        shards.write(name, name.encode() * 100)
        shards.write(name, b"is not written again")
    assert [shards.read(name) for name in names] == [name.encode() * 100 for name in names]
    assert app.refused >= 9, "the server did refuse"


def test_a_bucket_that_is_not_there_is_an_error_for_people(bucket: tuple[str, Refusing]) -> None:
    for act in (lambda shards: shards.read("a"), lambda shards: shards.write("a", b"")):
        with pytest.raises(EmbedfitError, match="s3://other can't be read or written") as caught:
            act(ObjectShards("s3://other", endpoint_url=bucket[0]))
        assert "s3:PutObject" in (caught.value.remedy or "")


@pytest.mark.parametrize("place", ["s3://", "s3:///prefix", "gs://bucket"])
def test_a_wrong_place_says_the_right_form(place: str) -> None:
    with pytest.raises(UsageError, match="names no bucket") as caught:
        open_shards(place)
    assert "s3://my-bucket/shards" in (caught.value.remedy or "")
    assert isinstance(open_shards("~/shards"), FolderShards)


def test_another_driver_takes_up_what_lies_in_the_bucket(
    bucket: tuple[str, Refusing], tiny_bert: Path, tmp_path: Path
) -> None:
    """Of a driver whose machine is lost, stored vectors and all, the shared shards are left."""
    address, _ = bucket
    texts = [f"part {number} " + "red " * (number % 9) for number in range(700)]
    model, shared = LocalModel("base", tiny_bert), ObjectShards("s3://work", endpoint_url=address)
    first = VectorStore(tmp_path / "lost", shared=shared).embed(model, texts, is_query=False)
    alone = VectorStore(tmp_path / "alone").embed(model, texts, is_query=False)
    model.embed = None  # type: ignore[assignment,method-assign] - the second driver computes nothing
    second = VectorStore(tmp_path / "new", shared=shared).embed(model, texts, is_query=False)
    assert first.tobytes() == second.tobytes() == alone.tobytes()


@pytest.mark.parametrize("where", ["folder", "bucket"])
def test_a_forgotten_text_leaves_no_shared_shard(
    where: str, request: pytest.FixtureRequest, tiny_bert: Path, tmp_path: Path
) -> None:
    shared: Shards = FolderShards(tmp_path / "shared")
    if where == "bucket":
        shared = ObjectShards("s3://work/a", endpoint_url=request.getfixturevalue("bucket")[0])
        shared.write("not of vectors", b"of another program")
    shared.write("0" * 64, b"of another program")
    model, texts = LocalModel("base", tiny_bert), [f"part {number}" for number in range(1_100)]
    first = VectorStore(tmp_path / "first", shared=shared).embed(model, texts, is_query=False)
    store, before = VectorStore(tmp_path / "second", shared=shared), set(shared.names())
    assert len(before) == 4
    assert store.forget_shared(["query ", "passage"], [texts[7], "unknown"], dry=True) == 1
    assert set(shared.names()) == before
    assert store.forget_shared(["query ", "passage"], [texts[7], "unknown"]) == 1
    (gone,) = before - set(shared.names())
    assert shared.read(gone) is None and shared.head(gone, 9) == b""
    assert store.forget_shared(["passage"], [texts[7]]) == 0
    assert store.embed(model, texts, is_query=False).tobytes() == first.tobytes(), "what went along is computed again"
    shared.delete("f" * 64)
