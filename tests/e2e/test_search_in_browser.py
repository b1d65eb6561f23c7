"""The page at `/` of a server with an index, in a real browser."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

from embedfit.commands.indexing import index_documents
from embedfit.models.store.vectors import VectorStore
from embedfit.runtime import Runtime
from embedfit.testing.server import RunningServer, running_server

HOSTILE = '<img src=x onerror="window.pwned = 1"><script>window.pwned = 2</script> emoji 😀 mute then'
TEXTS = {
    "tv": "Press the mute button to turn the sound of the tv off. Press it again to hear the tv.",
    "lamp": "The lamp in the hall has a switch at its base. A new bulb must have forty watts at most.",
    "oven": "Heat the oven for ten minutes before the bread goes in. " * 12 + "A hollow loaf is done.",
    "hostile": HOSTILE,
    "<b>bold</b>": "A document whose name is markup.",
}


pytestmark = pytest.mark.slow  # a server and a browser


@pytest.fixture(scope="module")
def served(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("search")
    corpus = folder / "corpus.jsonl"
    rows = [{"_id": f"{name}-{n}", "title": name, "text": text, "lang": ["de", "<i>en</i>"][n % 2]}
            for name, text in TEXTS.items() for n in range(3)]  # fmt: skip
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows))
    runtime = Runtime(vectors=VectorStore(folder / "vectors"))
    index_documents(corpus, folder=folder / "ix", model=str(tiny_bert), runtime=runtime)
    with running_server(folder / "ix", "--engine", "torch") as running:
        yield running


@pytest.fixture
def opened(shown_as: Callable[..., Any], served: RunningServer) -> Callable[..., Any]:
    """A function that opens the page."""

    def open_page(query: str = "", **look: Any) -> Any:
        page = shown_as(**look)
        page.get(f"{served.url}/")
        if query:
            ask(page, query)
        return page

    return open_page


def ask(page: Any, query: str) -> None:
    field = page.find_element(By.ID, "query")
    field.clear()
    field.send_keys(query, Keys.ENTER)
    WebDriverWait(page, 20).until(
        lambda p: " ms" in status(p) or "error" in p.find_element(By.ID, "status").get_attribute("class")
    )


def status(page: Any) -> str:
    return page.find_element(By.ID, "status").text


def hits(page: Any, name: str = "hits") -> list[Any]:
    return page.find_elements(By.CSS_SELECTOR, f"#{name} .hit")


def test_results_of_index_and_base_stand_side_by_side(opened, served):
    page = opened("mute the tv")
    assert len(hits(page)) == 10 and len(hits(page, "base")) == 10
    first = hits(page)[0]
    assert {mark.text.lower() for mark in first.find_elements(By.TAG_NAME, "mark")} <= {"mute", "tv"}
    assert (
        "the base has it at" in page.find_element(By.ID, "hits").text
        or "not among" in page.find_element(By.ID, "hits").text
    )
    parts = page.find_elements(By.CSS_SELECTOR, "#hits li:first-child dt")
    assert [part.text for part in parts] == ["one vector", "windows", "words", "late interaction"]
    left, right = (page.find_element(By.ID, name).rect for name in ("hits", "base"))
    assert left["x"] + left["width"] <= right["x"] and left["y"] == right["y"]
    asked = [json.loads(line["message"])["message"]["params"] for line in page.get_log("performance")
             if 'Network.requestWillBeSent"' in line["message"]]  # fmt: skip
    own = [one["request"]["url"] for one in asked if one["documentURL"].startswith(served.url)]
    assert own and all(url.startswith((f"{served.url}/", "data:")) for url in own)
    assert page.get_log("browser") == []


def choose(page: Any, name: str, text: str) -> None:
    Select(page.find_element(By.ID, name)).select_by_visible_text(text)


def test_a_filter_is_offered_and_narrows_both_lists(opened):
    page = opened("mute the tv")
    WebDriverWait(page, 20).until(lambda p: p.find_element(By.ID, "filter").is_displayed())
    field = Select(page.find_element(By.ID, "field"))
    assert [one.text for one in field.options] == ["anything", "document is", "lang is"]
    choose(page, "field", "lang is")
    choose(page, "value", "<i>en</i> (5)")
    WebDriverWait(page, 20).until(lambda _: len(hits(page)) == len(hits(page, "base")) == 5)
    assert page.find_elements(By.TAG_NAME, "i") == []
    page.get(page.current_url)  # the address holds the filter
    WebDriverWait(page, 20).until(lambda _: len(hits(page)) == 5)
    assert page.find_element(By.ID, "value").get_attribute("value") == '"<i>en</i>"'
    choose(page, "field", "anything")
    WebDriverWait(page, 20).until(lambda _: len(hits(page)) == 10)
    assert page.get_log("browser") == []


def test_hostile_text_runs_nothing_and_is_shown(opened):
    page = opened("onerror script emoji mute")
    assert HOSTILE in [hit.find_element(By.CSS_SELECTOR, ".text").text for hit in hits(page)]
    assert any("<b>bold</b>" in hit.text for hit in (ask(page, "document whose name is markup"), *hits(page))[1:])
    assert page.execute_script("return typeof window.pwned") == "undefined"
    assert page.find_elements(By.TAG_NAME, "img") == [] and page.find_elements(By.TAG_NAME, "b") == []
    assert page.get_log("browser") == []


def test_marks_are_right_behind_letters_of_two_units(opened):
    page = opened("mute onerror emoji")
    found = next(hit for hit in hits(page) if "😀" in hit.text)
    assert [mark.text for mark in found.find_elements(By.TAG_NAME, "mark")] == ["onerror", "emoji", "mute"]


def test_an_injected_script_would_be_stopped_by_the_policy(opened):
    page = opened()
    page.execute_script(
        "const s = document.createElement('script'); s.textContent = 'window.pwned = 5'; document.body.append(s)"
    )
    assert page.execute_script("return typeof window.pwned") == "undefined"


def test_the_keyboard_does_it_all(opened):
    page = opened()
    focused = lambda: page.switch_to.active_element  # noqa: E731
    page.execute_script("document.activeElement.blur()")
    focused().send_keys("/")
    assert focused().get_attribute("id") == "query"
    focused().send_keys("bread in the oven / a hollow loaf", Keys.ENTER)
    WebDriverWait(page, 20).until(lambda p: hits(p) and " ms" in status(p))
    focused().send_keys(Keys.ARROW_DOWN)
    assert focused() == hits(page)[0]
    focused().send_keys(Keys.ARROW_DOWN)
    assert focused() == hits(page)[1]
    focused().send_keys(Keys.ARROW_RIGHT)
    assert focused() == hits(page, "base")[1]
    focused().send_keys(Keys.ARROW_LEFT)
    focused().send_keys(Keys.ARROW_UP)
    assert focused() == hits(page)[0]
    before = focused().text
    assert focused().get_attribute("aria-expanded") == "false"
    focused().send_keys(Keys.ENTER)
    assert focused().get_attribute("aria-expanded") == "true" and len(focused().text) > len(before)
    focused().send_keys(Keys.ARROW_UP)
    assert focused().get_attribute("id") == "query"
    assert "q=bread%20in" in page.current_url


def test_every_control_has_a_name(opened):
    page = opened("lamp")
    for control in page.find_elements(By.CSS_SELECTOR, "input, button, section, ol"):
        if control.is_displayed() and control.tag_name != "ol":
            assert control.accessible_name, control.get_attribute("outerHTML")[:100]
    assert page.find_element(By.ID, "status").get_attribute("aria-live") == "polite"


def test_states_for_nothing_and_for_errors(opened):
    page = opened()
    page.find_element(By.ID, "query").send_keys("   ", Keys.ENTER)
    assert status(page) == "Type a question first."
    page.execute_script('window.fetch = async () => new Response(\'{"error": "Model is overloaded"}\', {status: 429})')
    ask(page, "lamp")
    assert status(page) == "Model is overloaded"
    page.execute_script("window.fetch = async () => { throw new TypeError('gone') }")
    ask(page, "lamp again")
    assert "can’t be reached" in status(page)
    page.execute_script('window.fetch = async () => new Response(\'{"query": "x", "hits": [], "base": []}\')')
    page.find_element(By.ID, "query").send_keys(Keys.ENTER)
    WebDriverWait(page, 5).until(lambda p: status(p) == "No passage was found.")
    page.execute_script("window.fetch = () => new Promise(() => {})")
    page.find_element(By.ID, "query").send_keys(Keys.ENTER)
    assert status(page) == "Searching …"
    assert page.find_element(By.ID, "main").get_attribute("aria-busy") == "true"


def test_a_phone_shows_one_list_at_a_time_and_needs_no_sideways_scrolling(opened):
    page = opened("mute the tv", width=390)
    assert page.execute_script("return document.documentElement.scrollWidth") <= 390
    assert hits(page)[0].is_displayed() and not hits(page, "base")[0].is_displayed()
    page.find_element(By.CSS_SELECTOR, "[data-side=base]:not(main)").click()
    assert hits(page, "base")[0].is_displayed() and not hits(page)[0].is_displayed()


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1200, 390])
def test_every_text_has_contrast(opened, faint, dark, width):
    page = opened("mute the tv", dark=dark, width=width)
    background = page.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (sum(int(v) for v in background[4:-1].split(",")) < 200) is dark
    assert faint() == []


def test_a_key_is_asked_for_where_the_server_wants_one(opened):
    page = opened()
    page.execute_script(
        "const real = window.fetch; window.fetch = async (to, o = {}) => o.headers?.authorization === 'Bearer k1'"
        " ? real(to, {...o, headers: {'content-type': 'application/json'}}) : new Response('{}', {status: 401})"
    )
    page.find_element(By.ID, "query").send_keys("lamp", Keys.ENTER)
    WebDriverWait(page, 5).until(lambda p: p.find_element(By.ID, "key").is_displayed())
    page.find_element(By.ID, "key").send_keys("k1", Keys.ENTER)
    WebDriverWait(page, 20).until(hits)
    assert not page.find_element(By.ID, "key").is_displayed()
