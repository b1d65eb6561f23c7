import pytest

from embedfit.errors import InputError
from embedfit.llm.prices import Price, Prices, bare_model, load_prices

LLAMA = "meta.llama3-3-70b-instruct-v1:0"


@pytest.mark.parametrize(
    "name",
    [
        LLAMA,
        f"us.{LLAMA}",
        f"eu.{LLAMA}",
        f"arn:aws:bedrock:us-east-1::foundation-model/{LLAMA}",
        f"arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.{LLAMA}",
    ],
)
def test_a_model_has_one_price_however_it_is_named(name):
    assert bare_model(name) == LLAMA
    price = load_prices().find("bedrock", name)
    assert (price.input, price.output) == (0.72, 0.72)
    assert price.usd(1_000_000, 500_000) == pytest.approx(1.08)


def test_every_price_is_dated_or_free():
    assert all(price.date or not price.usd(1, 1) for price in load_prices().entries)


def test_batch_is_half_of_on_demand():
    prices = load_prices()
    for entry in prices.entries:
        if entry.provider == "bedrock-batch":
            assert entry.usd(1, 1) == pytest.approx(prices.find("bedrock", entry.model).usd(1, 1) / 2)


def test_an_unknown_model_has_no_price_and_ones_own_machine_is_free():
    prices = load_prices()
    assert prices.find("bedrock", "no.such-model") is None
    assert prices.find("openai@models.example.com", "gpt-4o") is None
    assert prices.find("openai@private", "anything").usd(1e9, 1e9) == 0.0
    assert prices.find("local", "SmolLM2@0123").usd(1e9, 1e9) == 0.0


def test_the_users_own_prices_come_first(tmp_path, monkeypatch):
    own = tmp_path / "mine.toml"
    own.write_text(
        '[[price]]\nprovider = "bedrock"\nmodel = "meta.llama3-3-*"\ninput = 9\noutput = 10.5\ndate = "2027"\n'
    )
    monkeypatch.setenv("EMBEDFIT_PRICES", str(own))
    price = load_prices().find("bedrock", f"us.{LLAMA}")
    assert price == Price(provider="bedrock", model="meta.llama3-3-*", input=9.0, output=10.5, date="2027")
    assert load_prices().find("openai", "gpt-4o").input == 2.5


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[[price]\n", "not valid TOML"),
        ("[prices]\n", r"must hold \[\[price\]\] entries only"),
        ('[[price]]\nprovider = "x"\nmodel = "m"\ninput = 1\n', "price 1: output must be a number"),
        ('[[price]]\nprovider = "x"\nmodel = "m"\ninput = -1\noutput = 1\n', "price 1: input must be a number"),
        ('[[price]]\nprovider = "x"\nmodel = "m"\ninput = nan\noutput = 1\n', "price 1: input must be a number"),
        ('[[price]]\nprovider = "x"\nmodle = "m"\ninput = 1\noutput = 1\n', "unknown key 'modle'"),
    ],
)
def test_a_wrong_table_is_named_with_the_form(tmp_path, text, problem):
    (tmp_path / "p.toml").write_text(text)
    with pytest.raises(InputError, match=problem) as caught:
        load_prices(tmp_path / "p.toml")
    assert "[[price]] provider" in caught.value.remedy


def test_a_table_that_is_named_must_be_there(tmp_path):
    with pytest.raises(InputError, match="is missing"):
        load_prices(tmp_path / "none.toml")


def test_the_first_match_counts():
    prices = Prices(
        (Price(provider="x", model="a*", input=1, output=1), Price(provider="x", model="ab", input=2, output=2))
    )
    assert prices.find("x", "ab").input == 1
