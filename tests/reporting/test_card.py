import re
from dataclasses import replace

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from sentence_transformers import SentenceTransformer

from embedfit.config import resolve
from embedfit.errors import ArtifactMissing
from embedfit.models.layout.reading import read_architecture
from embedfit.reporting import page
from embedfit.reporting.card import render
from embedfit.testing.run_folder import HOSTILE, PARTS
from embedfit.testing.tiny_model import make_tiny_bert
from tests.models.tiny_towers import SHAPES
from tests.reporting.conftest import summarised, told


def configured(evidence, **settings):
    """The evidence with other settings."""
    return replace(evidence, config=resolve(preset="offline", overrides={"docs": ["manuals/"], **settings}))


@pytest.fixture
def evidence(evidence):
    return configured(evidence)


def test_the_metadata_is_what_the_hub_reads(evidence):
    data = ModelCard(render(evidence, model_id="me/tuned")).data
    assert data.library_name == "sentence-transformers"
    assert data.pipeline_tag == "sentence-similarity"
    assert data.base_model == "sentence-transformers/all-MiniLM-L6-v2"
    assert data.language == "en"
    assert {"sentence-transformers", "feature-extraction", "text-embeddings-inference"} <= set(data.tags)
    results = {result.metric_type: result.metric_value for result in data.eval_results}
    assert results["cosine_ndcg@10"] == 0.557 and results["cosine_accuracy@5"] == 0.667
    assert data.model_name == "tuned"


def test_the_front_matter_is_plain_yaml(evidence):
    _, front, body = render(evidence).split("---\n", 2)
    assert set(yaml.safe_load(front)) >= {"base_model", "tags", "model-index", "pipeline_tag"}
    assert body.lstrip().startswith("# ")


def test_numbers_carry_intervals_and_the_base(evidence):
    card = render(evidence)
    row = next(line for line in card.splitlines() if line.startswith("| nDCG@10"))
    assert row == (
        "| nDCG@10 | 0.489 [0.462, 0.516] | 0.557 [0.530, 0.584] | 0.623 [0.596, 0.650] | 0.719 [0.692, 0.746] |"
    )
    assert "+6.8 points of nDCG@10, 95% interval +5.3 to" in card and "p &lt; 0.001" in card
    tokens = MarkdownIt().enable("table").parse(card)
    assert sum(token.type == "table_open" for token in tokens) == 2


def test_the_instruction_is_there_to_the_character(evidence, tmp_path):
    odd = make_tiny_bert(tmp_path / "odd", instruction="Represent this <question> | for `searching`: ")
    html = MarkdownIt().enable("table").render(render(replace(evidence, layout=read_architecture(odd))))
    shown = re.search(r"Query instruction</td>\s*<td><code>(.*?)</code>", html, re.S).group(1)
    assert shown == "Represent this &lt;question&gt; | for `searching`: "


def test_no_text_path_or_name_of_a_document_is_in_the_card(evidence, tmp_path):
    card = render(replace(evidence, root=str(tmp_path / "secret-run")), model_id="me/tuned")
    for word in (
        *HOSTILE,
        "window.pwned",
        *PARTS[:8],
        "manuals",
        "warranty",
        "secret-run",
        "corpus.jsonl",
        str(tmp_path),
    ):
        assert word not in card, word
    assert "12 documents, cut into 121 passages" in card


def test_how_to_load_names_the_model(evidence):
    card = render(evidence, model_id="me/tuned")
    assert card.count("SentenceTransformer('me/tuned')") == 1
    assert "text-embeddings-inference:cpu-1.9 --model-id me/tuned" in card
    assert "HuggingFaceEmbeddings" in card
    assert "embedfit index DOCS --model me/tuned --to-folder my-index" in card
    assert card.count("```") == 8


def test_a_local_base_is_not_passed_off_as_a_hub_id(evidence):
    own = configured(evidence, model="./models/own")
    data = ModelCard(render(own)).data
    assert data.base_model is None and data.language is None
    assert "models/own" not in render(own)


@pytest.mark.parametrize(("language", "known"), [("de", "de"), ("German, formal", None)])
def test_only_a_language_code_is_a_language(evidence, language, known):
    assert ModelCard(render(configured(evidence, generate={"language": language}))).data.language == known


def test_a_kept_base_and_an_unproven_model_are_said_so(kept, evidence):
    assert "**Use the base model.**" in render(kept)
    assert "the evaluation can’t tell" in render(told(evidence, "merged", "base", 0.005, (-0.01, 0.02)))


def test_a_broken_model_folder_has_no_card(evidence):
    with pytest.raises(ArtifactMissing, match="not a whole model folder"):
        render(replace(evidence, layout=None))


def asked_by(evidence, *models):
    """The evidence of a run whose calls these models answered."""
    cost = evidence.summary.cost.model_dump()
    return summarised(evidence, cost={**cost, "models": models})


def test_the_licences_of_writers_and_judges_say_what_they_ask(evidence):
    evidence = asked_by(evidence, "bedrock:meta.llama3-70b-instruct-v1:0", "openai:gpt-4o-mini", "local:SmolLM2.gguf")
    card = render(evidence)
    section = card.split("## Licences")[1].split("## How good")[0]
    assert "`meta.llama3-70b-instruct-v1:0`" in section.replace("` ", "`").replace(" `", "`")
    assert "begins its name with “Llama 3”" in section and "**Built with Meta Llama 3**" in section
    assert "compete with OpenAI" in section
    assert "It asks nothing of a model that is tuned on its replies." in section
    assert section.count("https://") == 3
    assert "not legal advice" in section
    html = MarkdownIt().render(section)
    assert html.count("<li>") == 3


def test_a_judge_that_is_a_model_of_its_own_counts(evidence):
    evidence = configured(evidence, generate={"judge": "someone/rare-judge"})
    section = render(asked_by(evidence, "local:SmolLM2.gguf")).split("## Licences")[1]
    assert "someone/rare-judge" in section
    assert "read what its licence asks" in section


@pytest.mark.parametrize(
    ("generator", "said"),
    [("bedrock:meta.llama3-1-8b-instruct-v1:0", "**Built with Llama**"), ("bedrock", "the model behind bedrock")],
)
def test_a_run_without_a_ledger_names_the_writer_of_its_settings(evidence, generator, said):
    config = resolve(overrides={"docs": ["manuals/"], "model": "minilm", "generate": {"generator": generator}})
    assert said in render(asked_by(replace(evidence, config=config)))


def test_without_written_queries_no_licence_is_named(evidence):
    data = {**evidence.summary.data.model_dump(), "queries_generated": 0}
    assert "## Licences" not in render(summarised(asked_by(evidence), data=data))


@pytest.mark.parametrize("model", ["openai:/home/ann/secret/thing", "openai:a`b|c\n# d", "x:<img src=x>"])
def test_the_name_of_a_language_model_does_no_harm_to_the_card(evidence, model):
    card = render(asked_by(evidence, model))
    assert "/home/ann" not in card
    assert "\n# d" not in card
    assert "<img" not in MarkdownIt().render(card.split("## Licences")[1])


@pytest.mark.parametrize("shape", SHAPES)
def test_a_card_of_two_towers_says_how_to_use_them(evidence, shape, tmp_path):
    folder = SHAPES[shape](make_tiny_bert(tmp_path / "base", pooling="mean"), tmp_path)
    own = replace(evidence, layout=read_architecture(folder))
    card = render(own, model_id="me/tuned")
    assert "**It has two towers.** Questions go through `query/`" in card
    assert ("a map behind it" in card) == ("a linear map" in card) == ("1.8.3" in card) == (shape == "map")
    assert "averaged with the base" not in card
    code = card.split("```python")[1].split("```")[0].replace("me/tuned", str(folder))
    names = {}
    exec(compile(code, "card", "exec"), names)
    theirs = SentenceTransformer(str(folder), device="cpu")
    assert np.allclose(names["queries"], theirs.encode_query(["what you search for"]), atol=1e-5)
    html = page.render(own)
    assert "Two towers: queries go through" in html and ("a map behind it" in html) == (shape == "map")


def test_a_card_of_one_tower_names_none(evidence):
    assert "tower" not in render(evidence) and "Two towers" not in page.render(evidence)
