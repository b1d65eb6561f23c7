import numpy as np
import pytest
import torch
from transformers import AutoModel

from embedfit.models.encoder import Encoder
from embedfit.progress import Silent
from embedfit.training.store import Text
from embedfit.training.teachers import late_interaction
from embedfit.training.teachers.late_interaction import LateInteraction, token_vectors
from tests.training.conftest import WORDS

RNG = np.random.default_rng(8)
PASSAGES = [" ".join(RNG.choice(WORDS, size)) for size in (20, 4, 1, 120, 11)]
QUERIES = [Text("red green", "find loud: "), Text(f"{WORDS[0]} {WORDS[3]} bright", "find loud: "), Text("zebra", "")]
ALL_QUERIES, ALL_PASSAGES = np.arange(3), np.arange(5)


@pytest.fixture
def encoder(tiny_bert):
    return Encoder.load(tiny_bert, precision="fp32")


def layers_of(encoder, text):
    """Ids and hidden states of a text's own tokens, by transformers."""
    ids = encoder.tokenizer.encode(text).ids
    model = AutoModel.from_pretrained(encoder.folder)
    with torch.no_grad():
        states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states
    return ids[1:-1], [state[0, 1:-1].numpy() for state in states]


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def inner_and_last(states):
    depth = len(states) - 1
    return unit(states[round(depth * 2 / 3)]), unit(states[depth])


def test_a_cosine_of_tokens_is_the_mean_of_an_inner_layers_and_the_last_ones(encoder):
    _, states = layers_of(encoder, PASSAGES[0])
    rows = [encoder.tokenizer.encode(PASSAGES[0]).ids, encoder.tokenizer.encode(PASSAGES[1]).ids]
    vectors = token_vectors(encoder, rows)
    assert [len(vector) for vector in vectors] == [len(row) for row in rows]
    ours = vectors[0][1:-1].float().numpy()
    inner, last = inner_and_last(states)
    np.testing.assert_allclose(ours @ ours.T, (inner @ inner.T + last @ last.T) / 2, atol=2e-3)


def test_scores_are_sums_of_the_best_cosines_of_rare_tokens(encoder):
    late = LateInteraction(encoder, QUERIES, [*PASSAGES[:3], PASSAGES[4]], Silent())
    tokens = [layers_of(encoder, passage) for passage in (*PASSAGES[:3], PASSAGES[4])]

    def both(states):
        return np.concatenate(inner_and_last(states), 1) / np.sqrt(2)

    wanted = np.zeros((3, 4))
    for row, query in enumerate(QUERIES):
        ids, states = layers_of(encoder, query.prompt + query.content)
        prompt = len(encoder.tokenizer.encode(query.prompt).ids) - 2
        for token, vector in list(zip(ids, both(states), strict=True))[prompt:]:
            holders = sum(token in own for own, _ in tokens)
            rarity = np.log(1 + (4 - holders + 0.5) / (holders + 0.5))
            wanted[row] += [rarity * (both(passage) @ vector).max() for _, passage in tokens]
    wanted = (wanted - wanted.mean(1, keepdims=True)) / wanted.std(1, keepdims=True)
    columns = np.array([3, 0, 1, 2])
    np.testing.assert_allclose(late.scores(ALL_QUERIES, columns), wanted[:, columns], atol=0.02)


def test_what_a_window_cannot_hold_is_read_too(encoder):
    room = encoder.layout.max_tokens - 2
    assert len(encoder.tokenizer.encode(PASSAGES[3]).ids) > 2 * room, "the passage has an end that one window misses"
    end = " ".join(PASSAGES[3].split()[-6:])
    passages = [PASSAGES[3], PASSAGES[1], PASSAGES[3].removesuffix(end)]
    late = LateInteraction(encoder, [Text(end, "")], passages, Silent())
    scores = late.scores(np.array([0]), np.arange(3))[0]
    assert scores[0] > scores[2] > scores[1]


@pytest.mark.parametrize(("room", "computed"), [(1 << 30, 3), (10_000, 3 + 1), (0, 3 + 5)])
def test_vectors_that_find_no_room_are_computed_again(encoder, monkeypatch, room, computed):
    passages = [*PASSAGES[:3], *PASSAGES[4:], "red"]
    wanted = LateInteraction(encoder, QUERIES, passages, Silent()).scores(ALL_QUERIES, ALL_PASSAGES)
    monkeypatch.setattr(late_interaction, "_KEPT", room)
    late = LateInteraction(encoder, QUERIES, passages, Silent())
    rows = []
    compute = late_interaction.token_vectors
    monkeypatch.setattr(late_interaction, "token_vectors", lambda model, ids: rows.extend(ids) or compute(model, ids))
    np.testing.assert_allclose(late.scores(ALL_QUERIES, ALL_PASSAGES), wanted, atol=1e-3)
    assert len(rows) == computed


def test_queries_without_a_token_of_their_own_prefer_nothing(encoder):
    late = LateInteraction(encoder, [Text("", "find: "), Text("red", "find: ")], PASSAGES, Silent())
    scores = late.scores(np.array([0, 1]), ALL_PASSAGES)
    assert not scores[0].any() and scores[1].any() and np.isfinite(scores).all()
