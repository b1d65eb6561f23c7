import os
import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from embedfit.errors import ModelError
from embedfit.models.store.vectors import PROBES, VectorStore

from .fakes import WordsEmbedder

TEXTS = ["mute the tv", "reset", "pair the speaker now", "reset"]


def test_vectors_come_in_the_order_of_the_texts_and_each_text_is_embedded_once(cache):
    embedder = WordsEmbedder()
    vectors = cache.embed(embedder, TEXTS, is_query=False)
    assert_allclose(vectors, WordsEmbedder().embed(TEXTS, is_query=False))
    assert sorted(text for text, _ in embedder.asked) == sorted(set(TEXTS))


def test_a_second_time_nothing_is_embedded(cache):
    first = cache.embed(WordsEmbedder(), TEXTS, is_query=True)
    again = WordsEmbedder()
    assert_allclose(VectorStore(cache.folder).embed(again, TEXTS, is_query=True), first)
    assert again.asked == []


def test_only_new_texts_are_embedded(cache):
    cache.embed(WordsEmbedder(), TEXTS, is_query=True)
    again = WordsEmbedder()
    cache.embed(again, [*TEXTS, "new"], is_query=True)
    assert again.asked == [("new", True)]


def test_queries_and_passages_are_kept_apart(cache):
    embedder = WordsEmbedder()
    cache.embed(embedder, ["reset"], is_query=True)
    cache.embed(embedder, ["reset"], is_query=False)
    assert embedder.asked == [("reset", True), ("reset", False)]


def test_another_instruction_is_another_query_but_the_same_passage(cache):
    for is_query in (True, False):
        cache.embed(WordsEmbedder(), ["reset"], is_query=is_query)
    other = WordsEmbedder(instruction="find: ")
    for is_query in (True, False):
        cache.embed(other, ["reset"], is_query=is_query)
    assert other.asked == [("reset", True)]


def test_another_key_finds_nothing(cache):
    cache.embed(WordsEmbedder(key="a"), TEXTS, is_query=True)
    other = WordsEmbedder(key="b", turn=5)
    vectors = cache.embed(other, TEXTS, is_query=True)
    assert_allclose(vectors, WordsEmbedder(turn=5).embed(TEXTS, is_query=True))


def test_a_remote_model_that_changed_loses_its_stored_vectors(cache):
    cache.embed(WordsEmbedder(storage="probed"), TEXTS, is_query=True)
    same = WordsEmbedder(storage="probed")
    cache.embed(same, TEXTS, is_query=True)
    assert same.asked == [(text, is_query) for is_query in (False, True) for text in PROBES]
    changed = WordsEmbedder(storage="probed", turn=3)
    vectors = cache.embed(changed, TEXTS, is_query=True)
    assert_allclose(vectors, WordsEmbedder(turn=3).embed(TEXTS, is_query=True))


def test_a_remote_model_of_another_width_loses_its_stored_vectors(cache):
    cache.embed(WordsEmbedder(storage="probed"), TEXTS, is_query=True)
    assert cache.embed(WordsEmbedder(storage="probed", width=32), TEXTS, is_query=True).shape == (4, 32)


def test_what_an_embedder_keeps_itself_is_not_stored_again(cache):
    embedder = WordsEmbedder(storage="own")
    cache.embed(embedder, ["a"], is_query=True)
    cache.embed(embedder, ["a"], is_query=True)
    assert len(embedder.asked) == 2
    assert not cache.folder.exists()


def test_an_interrupted_run_keeps_what_was_embedded(cache, monkeypatch):
    monkeypatch.setattr("embedfit.models.store.vectors._CHUNK_TEXTS", 10)
    texts = [f"text {n:03d}" for n in range(35)]
    embedder = WordsEmbedder()
    whole = embedder.embed

    def breaks(chunk, *, is_query):
        if len(embedder.asked) >= 20:
            raise KeyboardInterrupt
        return whole(chunk, is_query=is_query)

    embedder.embed = breaks
    with pytest.raises(KeyboardInterrupt):
        cache.embed(embedder, texts, is_query=False)
    again = WordsEmbedder()
    cache.embed(again, texts, is_query=False)
    assert len(again.asked) == 15


def test_long_texts_are_embedded_few_at_a_time(cache):
    sizes = []
    embedder = WordsEmbedder()
    whole = embedder.embed

    def counts(texts, *, is_query):
        sizes.append(len(texts))
        return whole(texts, is_query=is_query)

    embedder.embed = counts
    cache.embed(embedder, [f"{n} " + "x" * 20_000 for n in range(6)] + ["short"], is_query=False)
    assert sizes == [3, 3, 1]


@pytest.mark.parametrize("damage", ["other", "cut", "empty", "flipped"])
@pytest.mark.parametrize("opened", [True, False])
def test_a_damaged_shard_is_noticed_and_computed_again(cache, damage, opened):
    right = cache.embed(WordsEmbedder(), TEXTS, is_query=True)
    (path,) = cache.folder.rglob("*.shard")
    whole = path.read_bytes()
    damaged = {"other": b"not a shard at all" * 100, "cut": whole[:-5], "empty": b""}
    damaged["flipped"] = whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:]
    path.write_bytes(damaged[damage])
    again = WordsEmbedder()
    store = cache if opened else VectorStore(cache.folder)
    assert_array_equal(store.embed(again, TEXTS, is_query=True), right)
    assert len(again.asked) == 3
    (path,) = cache.folder.rglob("*.shard")
    assert path.read_bytes() == whole


def test_the_longest_unused_shards_make_room(cache):
    small = VectorStore(cache.folder, limit=0)
    for key in ("old", "new"):
        small.embed(WordsEmbedder(key=key), TEXTS, is_query=True)
    small.embed(WordsEmbedder(key="newest"), TEXTS, is_query=True)
    assert {path.name for path in cache.folder.iterdir() if path.is_dir()} == {"newest"}
    for number, key in enumerate(("a", "b")):
        cache.embed(WordsEmbedder(key=key), TEXTS, is_query=True)
        for path in (cache.folder / key).glob("*.shard"):
            os.utime(path, (number, number))
    each = next((cache.folder / "a").glob("*.shard")).stat().st_size
    assert cache.clean(most=2 * each) == each
    assert {one.key for one in cache.holdings()} == {"b", "newest"}
    cache.embed(WordsEmbedder(key="b"), TEXTS, is_query=True)
    assert [one.key for one in cache.holdings()] == ["newest", "b"], "b was used last"


def test_old_sqlite_files_go_and_nothing_else(cache):
    cache.folder.mkdir()
    for name in (f"{'0a' * 20}.sqlite", f"{'0a' * 20}.sqlite-wal", "mine.sqlite", "note.txt"):
        (cache.folder / name).write_text("x")
    cache.embed(WordsEmbedder(), TEXTS, is_query=True)
    assert {path.name for path in cache.folder.iterdir() if path.is_file()} == {"mine.sqlite", "note.txt"} | {".lock"}


def test_holdings_say_what_is_stored(cache):
    cache.embed(WordsEmbedder("one"), TEXTS, is_query=True)
    (holding,) = cache.holdings()
    assert (holding.name, holding.key, holding.values) == ("one", "words-key", 3)
    assert holding.bytes == sum(path.stat().st_size for path in cache.folder.rglob("*.shard"))


def test_vectors_stay_on_the_disk_until_they_are_read(cache):
    texts = [f"text {n % 700}" for n in range(1000)]
    stored = pickle.loads(pickle.dumps(cache.stored(WordsEmbedder(), texts, is_query=False)))
    whole = cache.embed(WordsEmbedder(), texts, is_query=False)
    assert stored.shape == whole.shape
    assert_array_equal(stored[100:900], whole[100:900])
    assert_array_equal(stored[np.array([5, 999, 5])], whole[[5, 999, 5]])
    assert_array_equal(stored[7], whole[7])


def test_vectors_that_are_not_numbers_are_refused_and_not_stored(cache):
    embedder = WordsEmbedder()
    embedder.embed = lambda texts, is_query: np.full((len(texts), 4), np.nan, np.float32)
    with pytest.raises(ModelError, match="NaN"):
        cache.embed(embedder, TEXTS, is_query=True)
    assert not list(cache.folder.rglob("*.shard"))


def test_no_texts_are_no_vectors(cache):
    assert len(cache.embed(WordsEmbedder(), [], is_query=True)) == 0
