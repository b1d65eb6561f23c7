import re
from dataclasses import replace

import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from embedfit.errors import ArtifactMissing
from embedfit.reporting.card import render
from embedfit.reporting.evidence import gather
from tests.run_folder import HOSTILE, TOPICS, build_run


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


def test_the_instruction_is_there_to_the_character(evidence):
    html = MarkdownIt().enable("table").render(render(evidence))
    shown = re.search(r"Query instruction</td>\s*<td><code>(.*?)</code>", html, re.S).group(1)
    assert shown == "Represent this &lt;question&gt; | for `searching`: "


def test_no_text_path_or_name_of_a_document_is_in_the_card(tmp_path):
    evidence = gather(*build_run(tmp_path / "secret-run", hostile=True))
    card = render(evidence, model_id="me/tuned")
    for word in (HOSTILE, "window.pwned", *TOPICS, "manuals", "tv-1", "secret-run", "eval-data", str(tmp_path)):
        assert word not in card, word
    assert "6 documents, cut into 120 passages" in card


def test_how_to_load_names_the_model(evidence):
    card = render(evidence, model_id="me/tuned")
    assert card.count("SentenceTransformer('me/tuned')") == 1
    assert "text-embeddings-inference:cpu-1.9 --model-id me/tuned" in card
    assert "HuggingFaceEmbeddings" in card
    assert "embedfit index DOCS --model me/tuned --to-folder my-index" in card
    assert card.count("```") == 8


def test_a_local_base_is_not_passed_off_as_a_hub_id(tmp_path):
    evidence = gather(*build_run(tmp_path / "run", model="./models/own"))
    data = ModelCard(render(evidence)).data
    assert data.base_model is None and data.language is None
    assert "models/own" not in render(evidence)


@pytest.mark.parametrize(("language", "known"), [("de", "de"), ("German, formal", None)])
def test_only_a_language_code_is_a_language(tmp_path, language, known):
    evidence = gather(*build_run(tmp_path / "run", generate={"language": language}))
    assert ModelCard(render(evidence)).data.language == known


def test_a_kept_base_and_an_unproven_model_are_said_so(tmp_path, evidence):
    assert "**Use the base model.**" in render(gather(*build_run(tmp_path / "kept", ship="base")))
    unsure = (replace(evidence.comparisons[0], ci95=(-0.01, 0.02)),)
    assert "the evaluation can’t tell" in render(replace(evidence, comparisons=unsure))


def test_a_broken_model_folder_has_no_card(evidence):
    with pytest.raises(ArtifactMissing, match="not a whole model folder"):
        render(replace(evidence, layout=None))
