"""The page of an adaptation: its verdicts, and text that would run if it were not escaped."""

from __future__ import annotations

import re

import pytest
from lxml import html

from embedfit.path.artefacts import AdaptData, AdaptDecision, Adapted, AdaptEvidence, Comparison, System
from embedfit.reporting.adapted import headline, lead_lines, render
from embedfit.retrieval.metrics import METRICS
from embedfit.testing.run_folder import HOSTILE


def system(score: float) -> System:
    return System(metrics=dict.fromkeys(METRICS, score), ci95=dict.fromkeys(METRICS, (score - 0.1, score + 0.1)))


def result(*, ship: bool = True, measured: bool = True, text: str = "titan-v2") -> Adapted:
    systems = {"frozen": system(0.49), "mapped": system(0.68), "bm25": system(0.64)}
    ci95 = (0.154, 0.23) if ship else (-0.2, -0.1)
    delta = 0.195 if ship else -0.15
    compared = Comparison(a="mapped", b="frozen", metric="ndcg@10", delta=delta, ci95=ci95, p_value=0.0001, queries=356)
    return Adapted(
        vectors=text,
        map=AdaptDecision(ship=ship, share=1.0, why=f"weight 1: {text}."),
        move=AdaptDecision(why=f"no passage has written queries: {text}."),
        evidence=AdaptEvidence(kind="written", questions=40, delta=delta, ci95=ci95, tried={"0": 0.5, "1": 0.6}),
        data=AdaptData(passages=710, width=384, asked=355, eval_queries=356, eval_kind="human" if measured else "none"),
        systems=systems if measured else {},
        comparisons=(compared,) if measured else (),
        cluster_by="document",
        notes=(text,),
        timings_s={"vectors": 20.0, "map": 3.0},
    )


def test_the_page_says_what_ships_and_by_how_much() -> None:
    page = html.fromstring(render(result(), "runs/ad"))
    said = " ".join(page.text_content().split())
    assert "Search with mapped query vectors: the map gives +19.5" in said and "356 questions that people asked" in said
    rows = [row.text_content().split() for row in page.xpath("//table[@class='systems']/tbody/tr")]
    assert [row[0] for row in rows] == ["Frozen", "Query", "BM25"]
    assert page.xpath("//tr[@class='shipped']/th")[0].text_content().split() == ["Query", "map", "ships"]
    assert "query_map.safetensors" in said and page.xpath("//h1")[0].get("class") == "verdict better"


def test_keeping_the_frozen_vectors_is_said_clearly() -> None:
    kept = result(ship=False)
    page = html.fromstring(render(kept, "runs/ad"))
    assert headline(kept)[0] == "Keep the frozen vectors as they are"
    assert page.xpath("//tr[@class='shipped']/th")[0].text_content().split()[:2] == ["Frozen", "vectors"]
    assert "query_map.safetensors" not in page.text_content() and "−15.0" in page.text_content()
    assert not any("Use it" in line for line in lead_lines(kept, "runs/ad"))


def test_without_a_measurement_nothing_is_claimed() -> None:
    page = html.fromstring(render(result(measured=False), "runs/ad"))
    said = page.text_content()
    assert "nothing was measured" in said and "--eval-beir" in said and not page.xpath("//table[@class='systems']")
    assert page.xpath("//h1")[0].get("class") == "verdict unsure"


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text(text: str) -> None:
    page = render(result(text=text), f"runs/{text}")
    found = html.fromstring(page)
    assert not found.xpath("//script") and not found.xpath("//img") and text.strip() in found.text_content()
    assert "default-src 'none'" in page and not re.findall(r"https?://", page)
