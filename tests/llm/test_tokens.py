import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from embedfit.llm.metered import ceiling_tokens
from embedfit.llm.tokens import CountsTokens


@pytest.fixture
def tokenizer_file(tmp_path):
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def test_with_a_tokenizer_tokens_are_counted(tokenizer_file, ask):
    model = CountsTokens("m", tokenizer_file)
    assert model.counts_exactly
    assert model.count_tokens(ask("a b c d")) - model.count_tokens(ask("a")) == 3
    assert model.count_tokens(ask("\ud800 a")) > 0


def test_the_tokenizer_in_the_hugging_face_cache_is_used(tokenizer_file, monkeypatch):
    asked = []

    def cached(repository, name):
        asked.append((repository, name))
        return str(tokenizer_file) if "8B" in repository else None

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", cached)
    assert CountsTokens("meta.llama3-3-70b-instruct-v1:0").counts_exactly  # the whole family has one tokenizer
    assert not CountsTokens("Qwen/Qwen3-4B").counts_exactly
    assert asked[-1] == ("Qwen/Qwen3-4B", "tokenizer.json")
    assert not CountsTokens("gpt-4o").counts_exactly
    assert not CountsTokens("a b/c d").counts_exactly


@pytest.mark.parametrize(
    "text", ["Lyft's revenue rose to $3.2 billion in 2021, a 36% increase.", "日本語の文章です。", "a1 b2 c3 | | 7", ""]
)
def test_without_one_they_are_estimated_upwards_but_under_the_ceiling(text, ask):
    tokens = CountsTokens("gpt-4o").count_tokens(ask(text * 20))
    assert tokens <= ceiling_tokens(ask(text * 20))
    if "|" not in text:  # prose; tables of single characters can take more
        assert tokens >= len(text.split()) * 20
