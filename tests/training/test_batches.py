import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from embedfit.training.batches import Composer, epoch_batches, micro_batches
from embedfit.training.masking import known_positives
from embedfit.training.store import Example


def example(row, query, positives, negatives=(), **scores):
    return Example(row=row, query=query, positives=tuple(positives), negatives=tuple(negatives), **scores)


def composer(examples, hard_negatives=2, **options):
    return Composer(examples=examples, known=known_positives(examples, {}), hard_negatives=hard_negatives, **options)


@given(st.integers(1, 60), st.integers(2, 20), st.integers(1, 12), st.integers(0, 5))
def test_an_epoch_is_every_row_once_in_even_batches(rows, size, sources, seed):
    examples = [example(row, row, [1000 + row % sources]) for row in range(rows)]
    batches = epoch_batches(examples, size, np.random.default_rng(seed))
    assert sorted(np.concatenate(batches).tolist()) == list(range(rows))
    lengths = [len(batch) for batch in batches]
    assert max(lengths) <= size and max(lengths) - min(lengths) <= 1


def test_rows_of_one_source_are_kept_apart_where_they_can_be():
    examples = [example(row, row, [1000 + row // 3]) for row in range(60)]
    for batch in epoch_batches(examples, 12, np.random.default_rng(0))[:4]:
        positives = [examples[index].positives[0] for index in batch]
        assert len(set(positives)) == len(positives)


def test_texts_of_a_batch_are_distinct_and_columns_point_to_them():
    examples = [example(0, 0, [10], [11, 12]), example(1, 1, [11], [10]), example(2, 0, [13], [12])]
    batch = composer(examples).compose(np.arange(3), np.random.default_rng(0))
    assert len(set(batch.texts.tolist())) == len(batch.texts)
    assert batch.texts[batch.queries].tolist() == [0, 1, 0]
    passages = batch.texts[batch.passages]
    assert passages[batch.group[:, 0]].tolist() == [10, 11, 13]
    assert passages[batch.group[0, 1:]].tolist() == [11, 12] and batch.group[1].tolist()[2] == -1


def test_known_positives_are_never_negatives():
    examples = [
        example(0, 0, [10], [13]),  # 13 answers the same query elsewhere
        example(1, 0, [13]),
        example(2, 2, [14, 15]),
        example(3, 3, [14], [16]),  # 15 stands beside 14 elsewhere
    ]
    made = composer(examples)
    for seed in range(4):
        batch = made.compose(np.arange(4), np.random.default_rng(seed))
        passages = batch.texts[batch.passages].tolist()

        def allowed(row, text, batch=batch, passages=passages):
            return text in passages and bool(batch.allowed[row, passages.index(text)])

        assert allowed(0, 10) and not allowed(0, 13) and allowed(1, 13) and not allowed(1, 10)
        assert 13 not in [passages[c] for c in batch.group[0] if c >= 0]
        drawn = passages[batch.group[2, 0]]
        assert allowed(2, drawn) and not allowed(2, 29 - drawn) and not allowed(3, 15)
        assert allowed(0, 14) or drawn == 15
        assert allowed(3, 16)


def test_without_in_batch_negatives_a_row_sees_its_own():
    examples = [example(0, 0, [10], [11]), example(1, 1, [12], [13])]
    batch = composer(examples, in_batch=False).compose(np.arange(2), np.random.default_rng(0))
    assert batch.allowed.sum(1).tolist() == [2, 2]


def test_ten_thousand_negatives_are_sampled():
    examples = [example(0, 0, [1], range(10, 10_010)), example(1, 2, [3])]
    made = composer(examples, hard_negatives=4)
    first = made.compose(np.arange(2), np.random.default_rng(0))
    assert len(first.texts) == 2 + 2 + 4
    again = made.compose(np.arange(2), np.random.default_rng(0))
    other = made.compose(np.arange(2), np.random.default_rng(1))
    assert again.texts.tolist() == first.texts.tolist() != other.texts.tolist()


def test_scores_travel_with_their_passages():
    examples = [
        example(0, 0, [10], [11, 12], positive_scores=(5.0,), negative_scores=(1.0, 2.0)),
        example(1, 1, [13], [14]),
    ]
    batch = composer(examples).compose(np.arange(2), np.random.default_rng(0))
    assert batch.teacher[0].tolist() == [5.0, 1.0, 2.0] and np.isnan(batch.teacher[1]).all()


def test_the_guide_masks_what_chance_brought_and_spares_mined_negatives():
    examples = [example(0, 0, [2], [3]), example(1, 1, [4])]
    guide = np.array([[1, 0], [0, 1], [0.9, 0.1], [0.95, 0.05], [0.99, 0.01]], np.float32)
    guide /= np.linalg.norm(guide, axis=1, keepdims=True)
    batch = composer(examples, guide=guide, margin=0.05).compose(np.arange(2), np.random.default_rng(0))
    passages = batch.texts[batch.passages].tolist()
    allowed = {text: bool(batch.allowed[0, passages.index(text)]) for text in (2, 3, 4)}
    assert allowed == {2: True, 3: True, 4: False}


@given(st.lists(st.integers(2, 512), min_size=1, max_size=200), st.integers(64, 4096))
def test_micro_batches_are_whole_within_budget_and_little_padded(lengths, budget):
    lengths = np.array(lengths)
    runs = list(micro_batches(lengths, budget))
    assert sorted(np.concatenate(runs).tolist()) == list(range(len(lengths)))
    longest = [int(lengths[run].max()) for run in runs]
    assert longest == sorted(longest, reverse=True)
    for run, top in zip(runs, longest, strict=True):
        assert len(run) == 1 or len(run) * top <= budget
        assert len(run) * top - lengths[run].sum() <= 256


class Named:
    """A teacher whose scores name their query and passage."""

    def scores(self, queries, passages):
        return (100 * queries[:, None] + passages[None]).astype(np.float32)


def test_soft_labels_stand_in_the_columns_of_their_passages():
    examples = [example(0, 3, [10], [11, 12]), example(1, 1, [11], [10]), example(2, 3, [13], [12])]
    batch = composer(examples, teacher=Named()).compose(np.arange(3), np.random.default_rng(0))
    texts = batch.texts
    wanted = [[100 * texts[query] + texts[passage] for passage in batch.passages] for query in batch.queries]
    assert batch.soft_labels.tolist() == wanted
    assert composer(examples).compose(np.arange(3), np.random.default_rng(0)).soft_labels is None
