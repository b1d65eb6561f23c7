"""Documents that come and go: the index is that of a fresh build, what did not change is not computed again, and a
build that is killed goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from embedfit.commands.indexing import index_documents, load, update_index
from embedfit.index.search import Index
from embedfit.index.tokens import TokenReader
from embedfit.models.encoder import Encoder
from embedfit.models.local import LocalModel
from embedfit.models.store.vectors import VectorStore
from embedfit.runtime import Runtime

THINGS = "tv lamp oven bike kite sofa door roof lake moon".split()


def text_of(thing, n):
    return (
        f"The {thing} of house {n} is {n * 7} years old, and whoever uses the {thing} keeps it dry. "
        f"Press the button of the {thing} twice, then wait {n} minutes before the {thing} is moved. "
    ) * (1 + n % 3)


def document(folder, thing):
    path = folder / f"{thing}.jsonl"
    rows = [{"_id": f"{thing}{n}", "title": "", "text": text_of(thing, n)} for n in range(3)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def same(one: Index, other: Index) -> None:
    """The same passages, words, constants and best ten; vectors within float16's last bit."""
    # Which part of a run a passage would be in depends on documents that were removed, and decides nothing here.
    listed = [[replace(passage, split="train") for passage in index.passages()] for index in (one, other)]
    assert listed[0] == listed[1]
    assert one.retriever == other.retriever
    for name in ("one", "windows", "tokens"):
        a, b = getattr(one.parts, name), getattr(other.parts, name)
        if name != "one":
            np.testing.assert_array_equal(a.starts, b.starts)
            a, b = a.vectors, b.vectors
        np.testing.assert_allclose(a.astype(float), b.astype(float), atol=1 if name == "tokens" else 2**-10)
    np.testing.assert_array_equal(one.stored.tokens.holders, other.stored.tokens.holders)
    for query in ("how old is the lamp", "wait before the kite is moved", "button"):
        np.testing.assert_array_equal(one.parts.words.coverage(query), other.parts.words.coverage(query))
        found = [[(hit.passage_id, hit.text) for hit in index.search(query, 10)] for index in (one, other)]
        assert found[0] == found[1]


@pytest.mark.parametrize("seed", range(3))
def test_any_order_of_adding_and_removing_gives_what_a_fresh_build_gives(seed, tmp_path, tiny_bert, monkeypatch):
    rng = np.random.default_rng(seed)
    waiting = [str(thing) for thing in rng.permutation(THINGS)]
    there = [waiting.pop(), waiting.pop()]
    index = index_documents([document(tmp_path, one) for one in there], folder=tmp_path / "ix", model=str(tiny_bert))
    for _ in range(3):
        if rng.random() < 0.6 or len(there) < 2:
            there.append(waiting.pop())
            index = update_index(tmp_path / "ix", add=[document(tmp_path, there[-1])])
        else:
            gone = there.pop(int(rng.integers(len(there))))
            documents = {hit.document for hit in index.search(gone, 100) if hit.passage_id.startswith(gone)}
            index = update_index(tmp_path / "ix", remove=sorted(documents))
    cold = Runtime(vectors=VectorStore(tmp_path / "cold"))
    documents = [document(tmp_path, one) for one in there]
    fresh = index_documents(documents, folder=tmp_path / "fresh", model=str(tiny_bert), runtime=cold)
    same(index, fresh)


def test_only_new_passages_are_read(tmp_path, tiny_bert, monkeypatch):
    index_documents(
        [document(tmp_path, "tv"), document(tmp_path, "lamp")], folder=tmp_path / "ix", model=str(tiny_bert)
    )
    encoded, read = [], []
    encode, tokens = Encoder.encode, TokenReader.read
    monkeypatch.setattr(
        Encoder, "encode", lambda self, texts, **more: encoded.extend(texts) or encode(self, texts, **more)
    )
    monkeypatch.setattr(TokenReader, "read", lambda self, texts: read.extend(texts) or tokens(self, texts))
    monkeypatch.setattr(TokenReader, "axes", lambda self: pytest.fail("the axes are the model's and are kept"))
    index = update_index(tmp_path / "ix", add=[document(tmp_path, "kite")])
    assert sorted(read) == sorted(one.content for one in index.passages() if one.passage_id.startswith("kite"))
    assert not set(encoded) & {one.content for one in index.passages() if not one.passage_id.startswith("kite")}
    encoded.clear(), read.clear()
    update_index(tmp_path / "ix", add=[document(tmp_path, "kite")], force=True)
    assert not read


def test_one_pass_of_the_model_gives_a_passage_its_vector_and_its_tokens(tiny_bert):
    """A passage beyond the model's window is read in windows, and has its one vector from elsewhere."""
    encoder = LocalModel("tiny", tiny_bert).encoder()
    texts = ["the lamp", "a kite in the wind", "word " * 200]
    single, tokens = TokenReader(encoder).read(texts)
    assert single[2] is None and len(tokens[2]) >= 200
    np.testing.assert_allclose(np.stack(single[:2]), encoder.encode_unit(texts[:2]), atol=1e-3)
    alone = TokenReader(encoder).read(texts[1:2])[1][0]
    np.testing.assert_allclose(tokens[1], alone, atol=2e-3)


def test_the_axes_are_the_models_and_are_orthonormal(tiny_bert):
    reader = TokenReader(LocalModel("tiny", tiny_bert).encoder())
    axes = reader.axes()
    np.testing.assert_allclose(axes.T @ axes, np.eye(axes.shape[1]), atol=1e-4)
    np.testing.assert_array_equal(axes, reader.axes())


# --- killed

CHILD = """
import os, signal, sys
left = [int(sys.argv[1])]
def watch(event, arguments):
    if event in ("os.rename", "os.remove", "os.rmdir", "shutil.rmtree") or (
        event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax")):
        if sys.argv[2] in str(arguments[0]) or event != "open":
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
import embedfit.commands.indexing
sys.addaudithook(watch)
embedfit.commands.indexing.update_index(sys.argv[2], add=sys.argv[3:])
print("done", left[0])
"""


def build_and_die(folder, added, at):
    """Run --add in a child that kills itself at its `at`-th change of a file. Whether it came to the end before."""
    command = [sys.executable, "-c", CHILD, str(at), str(folder), str(added)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=dict(os.environ), check=False)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr[-2000:]
    return done.returncode == 0


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
@pytest.mark.parametrize("at", [pytest.param(n, marks=[pytest.mark.slow] if n != 12 else []) for n in (2, 12, 20, 28)])
def test_a_killed_build_leaves_the_old_index_and_goes_on(at, tmp_path, tiny_bert):
    first, second = document(tmp_path, "tv"), document(tmp_path, "lamp")
    before = index_documents([first], folder=tmp_path / "ix", model=str(tiny_bert))
    build_and_die(tmp_path / "ix", second, at)
    left = load(tmp_path / "ix")
    assert len(left) in (len(before), 2 * len(before))
    assert left.search("button of the tv", 1)[0].passage_id.startswith("tv")
    after = update_index(tmp_path / "ix", add=[second])
    same(after, index_documents([first, second], folder=tmp_path / "fresh", model=str(tiny_bert)))
    assert not list((tmp_path / "ix").glob(".*.tmp")) and not list((tmp_path / "ix").glob(".*.old"))
