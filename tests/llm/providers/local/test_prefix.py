from hypothesis import given
from hypothesis import strategies as st

from embedfit.llm.providers.local.prefix import plan, shared

prompts_of_few_tokens = st.lists(
    st.lists(st.integers(0, 2), min_size=1, max_size=12).map(tuple), min_size=1, max_size=60
)


@given(prompts_of_few_tokens, st.integers(1, 80), st.integers(1, 9))
def test_every_prompt_is_covered_once_and_whole(prompts, token_budget, max_samples):
    seen = {}
    for wave in plan(prompts, token_budget=token_budget, reply_tokens=2, max_samples=max_samples):
        assert len(wave.families) == 1 or sum(f.samples for f in wave.families) <= max_samples
        for family in wave.families:
            assert family.trunk, "a leaf's first logits come from a token of its own family"
            for leaf in family.leaves:
                for request in leaf.requests:
                    assert request not in seen
                    seen[request] = wave.root + family.trunk + leaf.tokens
    assert [seen[index] for index in range(len(prompts))] == prompts


@given(st.lists(st.integers(0, 1)).map(tuple), st.lists(st.integers(0, 1)).map(tuple))
def test_shared_is_the_length_of_the_common_prefix(a, b):
    expected = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    assert shared(a, b) == expected


def test_passage_is_read_once_for_its_styles_and_seeds():
    system, passage = tuple(range(100)), [tuple(range(1000 * i, 1000 * i + 50)) for i in range(1, 5)]
    styles = [(1, 2), (3, 4, 5)]
    prompts = [system + p + s for p in passage for s in styles for _ in range(2)]
    (wave,) = plan(prompts, token_budget=10_000, reply_tokens=10, max_samples=64)
    assert wave.root == system
    assert sorted(f.trunk for f in wave.families) == passage
    assert all([len(leaf.requests) for leaf in f.leaves] == [2, 2] for f in wave.families)


def test_a_large_group_with_its_own_examples_gets_its_own_root():
    system = tuple(range(20))
    examples = [tuple(range(100 * i, 100 * i + 90)) for i in (1, 2)]
    prompts = [system + e + (5000 + i, *range(30)) for e in examples for i in range(40)]
    waves = plan(prompts, token_budget=10_000, reply_tokens=10, max_samples=64)
    assert sorted(wave.root for wave in waves) == [system + e for e in examples]


def test_waves_hold_the_budget():
    prompts = [(9, *range(i)) for i in range(1, 40)]
    for wave in plan(prompts, token_budget=100, reply_tokens=5, max_samples=64):
        longest = max(f.length for f in wave.families)
        padded = longest * len(wave.families) + 5 * sum(f.samples for f in wave.families)
        assert padded <= 100 or len(wave.families) == 1
