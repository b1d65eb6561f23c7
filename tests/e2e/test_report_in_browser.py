"""The report in a real browser: no error, no request, filters, keyboard, phone, dark."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

from embedfit.config import Config
from embedfit.path.artefacts import Evaluation
from embedfit.path.workspace import Workspace
from embedfit.reporting.stage import run
from embedfit.runtime import Runtime
from embedfit.testing.run_folder import HOSTILE


@pytest.fixture
def opened(shown_as: Any, run_copy: Callable[..., tuple[Workspace, Config]]) -> Any:
    """A function that opens the report of a run whose passages have pages."""

    def open_report(*, width: int = 1200, dark: bool = False, human: bool = True, ship: bool = True) -> Any:
        workspace, config = run_copy(human=human, ship=ship)
        evaluation = workspace.load(Evaluation)
        passages = {key: one.model_copy(update={"page": 3}) for key, one in evaluation.passages.items()}
        workspace.store(evaluation.model_copy(update={"passages": passages}))
        run(workspace, config, Runtime())
        page = shown_as(width=width, dark=dark)
        page.get(workspace.path("report.html").as_uri())
        return page

    return open_report


def shown(page: Any) -> list[str]:
    return [row.text for row in page.find_elements(By.CSS_SELECTOR, "#entries > li")]


def status(page: Any) -> str:
    return page.find_element(By.ID, "shown").text


def test_it_opens_without_an_error_or_a_request(opened):
    page = opened()
    assert page.get_log("browser") == []
    sent = [json.loads(line["message"])["message"] for line in page.get_log("performance")]
    asked = [event["params"] for event in sent if event["method"] == "Network.requestWillBeSent"]
    # The browser's own start page may still be loading what it shows.
    urls = [params["request"]["url"] for params in asked if params["documentURL"].startswith("file:")]
    assert urls and all(url.startswith(("file:", "data:")) for url in urls)
    assert "Search with the safe default" in page.title
    assert page.find_element(By.TAG_NAME, "h1").is_displayed()
    assert len(shown(page)) == 20


def test_filters_search_and_order(opened):
    page = opened()
    total = int(status(page).split(" of ")[1].split()[0])
    Select(page.find_element(By.ID, "f-outcome")).select_by_value("lost")
    lost = shown(page)
    assert lost and all(text.startswith("\N{MINUS SIGN}") for text in lost)
    Select(page.find_element(By.ID, "f-outcome")).select_by_value("won")
    assert all(text.startswith("+") for text in shown(page))
    Select(page.find_element(By.ID, "f-style")).select_by_visible_text("not a question")
    assert all("not a question" in text for text in shown(page))
    Select(page.find_element(By.ID, "f-style")).select_by_index(0)
    Select(page.find_element(By.ID, "f-outcome")).select_by_index(0)
    Select(page.find_element(By.ID, "f-order")).select_by_value("lost")
    deltas = [float(text.split()[0].replace("\N{MINUS SIGN}", "-")) for text in shown(page)]
    assert deltas == sorted(deltas) and deltas[0] < 0
    search = page.find_element(By.ID, "f-text")
    search.send_keys("zebra crossing")
    assert shown(page) == [] and status(page) == "No question matches these filters."
    search.clear()
    search.send_keys("MUTE")
    narrowed = int(status(page).split(" of ")[1].split()[0])
    assert 0 < narrowed < total


def test_a_question_opens_by_keyboard_and_shows_what_each_system_found(opened):
    page = opened()
    summary = page.find_element(By.CSS_SELECTOR, "#entries summary")
    summary.send_keys(Keys.ENTER)
    WebDriverWait(page, 5).until(lambda p: p.find_elements(By.CSS_SELECTOR, "#entries .detail"))
    detail = page.find_element(By.CSS_SELECTOR, "#entries .detail")
    heads = [head.text for head in detail.find_elements(By.TAG_NAME, "h4")]
    assert heads[0] == "The passage that answers it"
    assert [head.split(" (")[0] for head in heads[1:]] == ["Base", "Merged", "BM25", "Default"]
    assert len(detail.find_elements(By.CSS_SELECTOR, ".found ol")[0].find_elements(By.TAG_NAME, "li")) == 5
    assert "Answers it." in detail.text and "page" in detail.text


def test_show_more_adds_questions_and_moves_the_focus_there(opened):
    page = opened()
    more = page.find_element(By.ID, "more")
    page.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", more)
    more.click()
    assert len(shown(page)) == 40
    focused = page.switch_to.active_element
    assert focused == page.find_elements(By.CSS_SELECTOR, "#entries summary")[20]


def test_hostile_text_runs_nothing_and_is_shown(opened):
    page = opened()
    for fold in page.find_elements(By.CSS_SELECTOR, ".funnel details, #entries details"):
        page.execute_script("arguments[0].open = true", fold)
    WebDriverWait(page, 5).until(lambda p: HOSTILE[1] in p.find_element(By.ID, "entries").text)
    assert page.execute_script("return typeof window.pwned") == "undefined"
    assert page.get_log("browser") == []
    assert page.find_elements(By.TAG_NAME, "img") == []


def test_an_injected_script_would_be_stopped_by_the_policy(opened):
    page = opened()
    page.execute_script(
        "const s = document.createElement('script'); s.textContent = 'window.pwned = 5'; document.body.append(s)"
    )
    assert page.execute_script("return typeof window.pwned") == "undefined"


@pytest.mark.parametrize("kind", [{}, {"ship": False, "human": False}])
def test_a_phone_needs_no_sideways_scrolling(opened, kind):
    page = opened(width=390, **kind)
    page.find_element(By.CSS_SELECTOR, "#entries summary").send_keys(Keys.ENTER)
    assert page.execute_script("return document.documentElement.scrollWidth") <= 390
    smallest = page.execute_script(
        "const texts = [...document.querySelectorAll('svg.figure text')];"
        "return Math.min(...texts.map((text) => text.getBoundingClientRect().height))"
    )
    assert smallest >= 9  # the line box of a tick label, in CSS pixels


@pytest.mark.parametrize("dark", [False, True])
def test_every_text_has_contrast(opened, faint, dark):
    page = opened(dark=dark)
    page.find_element(By.CSS_SELECTOR, "#entries summary").send_keys(Keys.ENTER)
    page.execute_script("for (const d of document.querySelectorAll('details')) d.open = true")
    background = page.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (sum(int(v) for v in background[4:-1].split(",")) < 200) is dark
    assert faint() == []


def test_it_reads_without_javascript(opened):
    page = opened()
    page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        page.refresh()
        text = page.find_element(By.TAG_NAME, "body").text
        assert "Search with the safe default" in text and "This list needs JavaScript" in text
    finally:
        page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
