"""Missing vectors are computed by the executor: the same bytes as in this process, whoever computes them."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from embedfit.errors import EmbedfitError
from embedfit.index.tokens import store_tokens, stored_tokens
from embedfit.models.local import LocalModel
from embedfit.models.store.vectors import VectorStore
from embedfit.progress import Silent
from embedfit.runtime import Runtime
from embedfit.scale.executor import Executor
from embedfit.scale.inline import Inline
from embedfit.scale.processes import Processes
from tests.training.conftest import WORDS


class LastFirst:
    """An executor whose results come in the worst order, each with a state of its own, as in another process."""

    def map(self, function, shards, *, state, **how):
        work = [(number, shard) for number, shard in enumerate(shards)]
        for number, shard in reversed(work):
            with pickle.loads(pickle.dumps(state)) as opened:
                yield number, function(opened, pickle.loads(pickle.dumps(shard)), lambda share: None)


def texts_of(count: int) -> list[str]:
    return [f"{number} " + " ".join(WORDS[: 1 + number % len(WORDS)]) for number in range(count)]


@pytest.mark.parametrize(
    "executor", [LastFirst(), pytest.param(Processes(2), marks=pytest.mark.slow)], ids=["last first", "processes"]
)
def test_who_encodes_makes_no_difference(tiny_bert: Path, tmp_path: Path, executor: Executor) -> None:
    texts = [*texts_of(700), "the first one again", "the first one again"]
    here, there = (VectorStore(tmp_path / name, executor=one) for name, one in (("a", Inline()), ("b", executor)))
    model = LocalModel("base", tiny_bert)
    for is_query in (False, True):
        one, other = (store.embed(model, texts, is_query=is_query) for store in (here, there))
        assert one.tobytes() == other.tobytes() and one.shape[0] == len(texts)
    assert np.array_equal(there.embed(model, texts[5:9], is_query=False), here.embed(model, texts, is_query=False)[5:9])


def test_who_computes_token_vectors_makes_no_difference(tiny_bert: Path, tmp_path: Path) -> None:
    texts, model = texts_of(520), LocalModel("base", tiny_bert)
    found = []
    for name, executor in (("a", Inline()), ("b", LastFirst())):
        store = VectorStore(tmp_path / name, executor=executor)
        tokens, _ = stored_tokens(texts, model, store, Silent(), are_contents=True)
        found.append((tokens.vectors.tobytes(), store.embed(Never(model), texts, is_query=False).tobytes()))
    assert found[0] == found[1]


def test_tokens_that_are_stored_load_no_weights(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts, store = texts_of(30), VectorStore(tmp_path)
    store_tokens(texts, LocalModel("base", tiny_bert), store, Silent())
    monkeypatch.setattr(LocalModel, "encoder", lambda self: pytest.fail("the weights are loaded"))
    store_tokens(texts, LocalModel("base", tiny_bert), store, Silent())


def test_tokens_that_were_stored_for_later_are_read_and_not_computed_again(tiny_bert: Path, tmp_path: Path) -> None:
    texts, model = texts_of(520), LocalModel("base", tiny_bert)
    store, other = VectorStore(tmp_path / "a"), VectorStore(tmp_path / "b")
    store_tokens(texts, model, store, Silent())
    assert (
        store.embed(Never(model), texts, is_query=False).tobytes()
        == other.embed(model, texts, is_query=False).tobytes()
    )
    (tokens, space), (expected, same) = (
        stored_tokens(texts, model, one, Silent(), are_contents=True) for one in (store.computed_by(Refuses()), other)
    )
    assert tokens.vectors.tobytes() == expected.vectors.tobytes()
    assert np.array_equal(space.projection, same.projection)


class Refuses:
    """An executor that must have nothing to do."""

    def map(self, function, shards, *, state, **how):
        raise AssertionError("something was computed again")


class Never:
    """A model whose vectors are all stored: it computes none."""

    storage = "key"

    def __init__(self, model: LocalModel) -> None:
        self.name, self.key, self.instruction = model.name, model.key, model.instruction

    def embed(self, texts, *, is_query):
        raise AssertionError("a vector is missing")

    def release(self) -> None:
        pass


class Poisoned(Never):
    """A model that can't encode some texts."""

    def __init__(self, model: LocalModel, bad: str) -> None:
        super().__init__(model)
        self.model, self.bad = model, bad

    def embed(self, texts, *, is_query):
        if self.bad in texts:
            raise EmbedfitError("a text is poison", remedy="Leave it out.")
        return self.model.embed(texts, is_query=is_query)


def test_a_chunk_that_fails_is_named_and_the_others_are_stored(tiny_bert: Path, tmp_path: Path) -> None:
    texts, model, store = texts_of(1_300), LocalModel("base", tiny_bert), VectorStore(tmp_path)
    longest = max(texts, key=len)
    with pytest.raises(EmbedfitError, match="a text is poison") as caught:
        store.embed(Poisoned(model, longest), texts, is_query=False)
    assert "base, 512 texts from " in caught.value.message and longest[:20] in caught.value.message
    kept = sorted(texts, key=lambda text: -len(text))[512:]
    store.embed(Never(model), kept, is_query=False)


def test_a_model_goes_to_another_process_as_its_name_and_key(tiny_bert: Path) -> None:
    model = LocalModel("base", tiny_bert)
    model.encoder()
    sent = pickle.dumps(model)
    arrived = pickle.loads(sent)
    assert len(sent) < 20_000 and arrived.key == model.key and arrived.precision == model.precision
    texts = texts_of(3)
    assert np.array_equal(arrived.embed(texts, is_query=False), model.embed(texts, is_query=False))


def test_a_runtime_lets_its_executor_encode(tmp_path: Path) -> None:
    executor, store = Processes(2), VectorStore(tmp_path)
    assert Runtime(executor=executor, vectors=store).vectors.executor is executor
    assert isinstance(store.executor, Inline) and isinstance(Runtime(vectors=store).vectors.executor, Inline)
