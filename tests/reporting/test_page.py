import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfit.config import resolve
from embedfit.path.artefacts import Document, DroppedPassage, Evaluation
from embedfit.reporting.evidence import gather
from embedfit.reporting.page import data_island, render
from embedfit.testing.run_folder import HOSTILE, HOSTILE_NAME
from tests.reporting.conftest import summarised

VOID = {"meta", "link", "input", "br", "img"}
SVG = {"path", "line", "circle", "rect"}


class Page(HTMLParser):
    """Tags, attributes, texts by enclosing tag; fails on tags that do not nest."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.attributes, self.texts = [], [], [], {}
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)

    def text(self):
        return " ".join(" ".join(parts) for tag, parts in self.texts.items() if tag not in ("script", "style"))


@pytest.fixture
def hostile(run_copy):
    """The page of a run whose documents, questions, styles and reasons hold scripts."""
    workspace, config = run_copy()
    evaluation = workspace.load(Evaluation)
    wins = [one.model_copy(update={"style": HOSTILE[0]}) for one in evaluation.wins]
    workspace.store(evaluation.model_copy(update={"wins": tuple(wins)}))
    workspace.write(Document, [replace(one, reason=one.reason and HOSTILE[2]) for one in workspace.read(Document)])
    dropped = [replace(one, reason=HOSTILE[0], preview=HOSTILE[1]) for one in workspace.read(DroppedPassage)]
    workspace.write(DroppedPassage, dropped)
    return render(gather(workspace, config))


def test_the_verdict_comes_first(evidence):
    page = Page(render(evidence))
    heading = "".join(page.texts["h1"]) + "".join(page.texts["span"][:1])
    assert "Search with the safe default retriever over the tuned model" in heading and "it finds more" in heading
    assert page.tags.index("h1") < page.tags.index("h2") and page.tags.count("h1") == 1


def test_every_part_is_there(evidence):
    page = Page(render(evidence))
    text = page.text()
    for part in (
        "nDCG@10", "Paired comparisons", "Length of the question", "Question by question", "shorter than 60 characters",
        "Why questions were dropped", "Merging with the base", "Similar and different pairs", "Cost and time",
        "embedfit serve", "SentenceTransformer", "embedfit.load(", "Smaller vectors", "binary, rescored in int8",
        "deploy sagemaker plan", "embedfit.toml", "seed = 13",
    ):  # fmt: skip
        assert part in text, part
    ids = [attributes["id"] for _, attributes in page.attributes if "id" in attributes]
    assert len(ids) == len(set(ids))
    figures = [attributes for tag, attributes in page.attributes if tag == "svg" and attributes.get("role") == "img"]
    assert len(figures) == 9  # four metrics, loss, dev, two sweeps, cosines
    spoken = {name for attributes in figures for name in attributes["aria-labelledby"].split()}
    assert spoken <= set(ids)


def test_the_retrievers_come_first_with_interval_bytes_and_time(evidence):
    rows = {name: one.model_dump() for name, one in evidence.summary.retrievers.items()}
    for name in ("default", "chosen"):
        rows[name] |= {"bytes_a_passage": 18_400.5, "ms_a_query": 12.9}
    html = render(summarised(evidence, retrievers=rows))
    table = html[html.index('<table class="retrievers">') : html.index("</table>")]
    text = " ".join(re.sub(r"<[^>]*>", " ", table).split())
    for part in ("Base", "BM25", "Rank fusion", "Default, untuned", "ships", "18.4 kB", "13 ms", "0.719", "+23.0"):
        assert part in text, part
    assert "Chosen" not in text, "it is the default"
    assert text.index("Rank fusion") < text.index("Default, untuned") and "then late interaction" in text


def test_tables_have_headers_with_a_scope(evidence):
    page = Page(render(evidence))
    assert page.tags.count("table") >= 8
    assert all("scope" in attributes for tag, attributes in page.attributes if tag == "th")


def test_the_page_needs_no_network_and_no_inline_style_or_handler(evidence):
    html = render(evidence)
    page = Page(html)
    for tag, attributes in page.attributes:
        assert not any(name.startswith("on") or name == "style" for name in attributes), (tag, attributes)
        for name in ("src", "href"):
            assert attributes.get(name, "#").startswith(("#", "data:")), (tag, attributes)
    policy = next(a["content"] for _, a in page.attributes if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert "url(" not in "".join(page.texts["style"]) and "@import" not in "".join(page.texts["style"])
    script = "".join(page.texts["script"])
    assert not re.search(r"\beval\b|innerHTML|insertAdjacentHTML|document\.write|fetch\(|XMLHttpRequest", script)


def test_the_policy_allows_exactly_our_script_and_style(evidence):
    import base64
    import hashlib

    html = render(evidence)
    policy = next(a["content"] for _, a in Page(html).attributes if a.get("http-equiv") == "Content-Security-Policy")
    for tag in ("style", "script"):
        body = re.search(rf"<{tag}>(.*?)</{tag}>", html, re.S).group(1)
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_text_of_documents_queries_and_reasons_is_escaped(hostile):
    page = Page(hostile)
    assert page.tags.count("script") == 2  # the data and our own
    assert "img" not in page.tags
    assert not any("onmouseover" in a or "onerror" in a for _, a in page.attributes)
    for raw in (*HOSTILE[:3], HOSTILE_NAME):
        assert raw not in hostile
    for shown in (*HOSTILE[:3], HOSTILE_NAME):
        assert shown in page.text()  # escaped, not removed


def test_the_data_of_the_explorer_is_whole_whatever_it_holds(hostile):
    body = re.search(r'<script type="application/json" id="explorer">(.*?)</script>', hostile, re.S).group(1)
    assert not set(body) & set("<>&\u2028\u2029")
    data = json.loads(body)
    assert any(HOSTILE[1] in entry["query"] for entry in data["entries"])
    assert {s["name"] for entry in data["entries"] for s in entry["systems"]} == {"Base", "Merged", "BM25", "Default"}
    named = {p for e in data["entries"] for s in e["systems"] for p in s["top"]} | {
        p for e in data["entries"] for p in e["relevant"]
    }
    assert named == set(data["passages"])


@given(st.recursive(st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_any_json_survives_the_island(value):
    island = data_island(value)
    assert not set(island) & set("<>&\u2028\u2029")
    assert json.loads(island) == value


def test_an_instruction_in_a_document_is_text_to_the_template(hostile):
    assert "{{ 7 * 7 }}" in hostile  # in the island, not evaluated


def test_a_kept_base_is_said_plainly_with_evidence_and_next_steps(kept):
    local = replace(kept, config=resolve(preset="offline", overrides={"docs": ["manuals/"]}))
    page = Page(render(local))
    text = page.text()
    assert "Nothing of the tuning ships: no tuned model was found to be surely better than the base." in text
    assert "What to do next" in text and "--generator bedrock" in text
    assert "merged/ holds the base’s weights here, unchanged" in text
    assert "deploy sagemaker" not in text  # nothing was tuned that should be deployed


def test_where_the_base_is_kept_the_fine_tuned_model_is_held_against_it(kept):
    html = render(kept)
    text = " ".join(Page(html).text().split())
    assert "Here the fine-tuned model, which does not ship, is held against it" in text
    assert (
        "The fine-tuned model against the base:" in text
        and "Points of the fine-tuned model against the base, by kind of question." in text
    )
    body = re.search(r'id="explorer">(.*?)</script>', html, re.S).group(1)
    assert {one["name"] for one in json.loads(body)["entries"][0]["systems"]} == {
        "Base",
        "Fine-tuned",
        "BM25",
        "Default",
    }


def test_an_evaluation_without_wins_and_losses_says_so(run_copy):
    workspace, config = run_copy()
    value = workspace.read_json("evaluation.json")
    workspace.write_json("evaluation.json", {**value, "wins": [], "losses": []})
    assert "No question is won or lost." in Page(render(gather(workspace, config))).text()


def test_the_versions_are_told(evidence):
    manifest = replace(evidence.manifests[0], versions={"python": "3.11.4", "torch": "2.13.0"})
    assert "python 3.11.4, torch 2.13.0" in Page(render(replace(evidence, manifests=(manifest,)))).text()


def test_what_is_missing_is_named_and_breaks_nothing(run_copy):
    workspace, config = run_copy()
    for name in ("merge.json", "check.json", "evaluation.json", "documents.jsonl", "passages.jsonl", "queries.jsonl",
                 "dropped_passages.jsonl", "finetuned/losses.jsonl", "finetuned/training.json"):  # fmt: skip
        workspace.path(name).unlink()
    for path in workspace.root.glob("*.manifest.json"):
        path.unlink()
    page = Page(render(gather(workspace, config)))
    text = page.text()
    assert "Not in this report" in text and "merge.json" in text and "finetuned/losses.jsonl" in text
    assert "Search with the safe default retriever over the tuned model" in text


def test_counts_of_all_queries_win_over_those_kept(run_copy):
    workspace, config = run_copy()
    value = workspace.read_json("evaluation.json")
    workspace.write_json("evaluation.json", {**value, "counts": {"won": 300, "lost": 120, "tied": 280}})
    text = Page(render(gather(workspace, config))).text()
    assert "300 won, 120 lost and 280 unchanged" in text
    assert f"The {len(value['wins']) + len(value['losses'])} with the largest changes are here." in text


def test_a_password_in_an_address_is_not_shown(evidence):
    server = {"generator": "openai", "base_url": "https://me:secret@host/v1"}
    html = render(replace(evidence, config=resolve(overrides={"docs": ["manuals/"], "generate": server})))
    assert "secret" not in html and "host/v1" in html


def test_long_passages_are_cut_at_a_word(evidence):
    evaluation = evidence.evaluation
    passage_id, passage = next(iter(evaluation.passages.items()))
    long = {**evaluation.passages, passage_id: passage.model_copy(update={"text": "word " * 1000})}
    evidence = replace(evidence, evaluation=evaluation.model_copy(update={"passages": long}))
    body = re.search(r'id="explorer">(.*?)</script>', render(evidence), re.S).group(1)
    text = json.loads(body)["passages"][passage_id]["text"]
    assert len(text) <= 1202 and text.endswith("word …")
