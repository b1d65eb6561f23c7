"""The grading page in a real browser: keys, touch, undo, what is saved, and what hostile text can do."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from embedfit.choosing.grades import by_question, person_grades
from embedfit.choosing.page.app import application
from embedfit.choosing.page.session import Session
from embedfit.index.highlight import Highlighter
from embedfit.path.artefacts import Passage, Pooled
from embedfit.path.workspace import Workspace
from embedfit.retrieval.words import Analysis

HOSTILE = '<img src=x onerror="window.pwned = 1"><script>window.pwned = 2</script> 😀 mute </div>'
TOKEN = "secret"


class Grading:
    """A session on a free port, with three questions of two passages, of which two are enough."""

    def __init__(self, root: Path) -> None:
        self.workspace = Workspace(root)
        self.workspace.root.mkdir(parents=True, exist_ok=True)
        passages = {
            f"p{n}": Passage(
                passage_id=f"p{n}", document_id="d", title=f"<b>Heading {n}</b>", text=f"{HOSTILE} {n} " * 9
            )
            for n in range(6)
        }
        pools = [
            Pooled(query_id=f"q{n}", query=f"how do I mute <i>{n}</i>", passages=(f"p{2 * n}", f"p{2 * n + 1}"))
            for n in range(3)
        ]
        self.session = Session(self.workspace, pools, passages, Highlighter(Analysis(["en"])), goal=2)
        config = uvicorn.Config(application(self.session, TOKEN), port=0, lifespan="off", log_config=None)
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        while not self.server.started:
            self.thread.join(0.01)
        port = self.server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/{TOKEN}/"

    @property
    def grades(self) -> dict[str, dict[str, int]]:
        return by_question(person_grades(self.workspace))

    def close(self) -> None:
        self.server.should_exit = True
        self.thread.join(10)


@pytest.fixture
def grading(tmp_path: Path) -> Iterator[Grading]:
    found = Grading(tmp_path / "run")
    yield found
    found.close()


@pytest.fixture
def opened(shown_as: Callable[..., Any], grading: Grading) -> Callable[..., Any]:
    def open_page(**look: Any) -> Any:
        page = shown_as(**look)
        page.get(grading.url)
        settle(page, "Passage 1 of 2")
        return page

    return open_page


def settle(page: Any, text: str) -> None:
    """Wait until the page shows a text and is at rest."""
    WebDriverWait(page, 20).until(
        lambda p: (
            text in p.find_element(By.ID, "main").text
            and p.find_element(By.ID, "main").get_attribute("aria-busy") == "false"
        )
    )


def press(page: Any, key: str, then: str) -> None:
    page.find_element(By.TAG_NAME, "body").send_keys(key)
    settle(page, then)


def test_the_keys_grade_undo_and_end(opened: Any, grading: Grading) -> None:
    page = opened()
    assert page.find_element(By.ID, "question").text == "how do I mute <i>0</i>"
    assert page.find_element(By.ID, "count").text == "0 of 2 questions"
    press(page, "3", "Passage 2 of 2")
    assert grading.grades == {"q0": {"p0": 3}}, "it is saved before the next one is shown"
    press(page, "u", "Passage 1 of 2")
    assert grading.grades == {}
    press(page, "0", "Passage 2 of 2")
    press(page, "1", "Passage 1 of 2")
    assert page.find_element(By.ID, "question").text == "how do I mute <i>1</i>"
    assert page.find_element(By.ID, "count").text == "1 of 2 questions"
    press(page, Keys.BACKSPACE, "Passage 2 of 2")
    assert grading.grades == {"q0": {"p0": 0}}
    press(page, "2", "Passage 1 of 2")
    press(page, "2", "Passage 2 of 2")
    press(page, "3", "2 questions are graded, which is enough")
    assert not page.find_element(By.ID, "passage").is_displayed()
    press(page, "1", "which is enough")
    assert grading.grades == {"q0": {"p0": 0, "p1": 2}, "q1": {"p2": 2, "p3": 3}}, "a key at the end grades nothing"
    page.find_element(By.ID, "more").click()
    settle(page, "Passage 1 of 2")
    press(page, "1", "Passage 2 of 2")
    press(page, "1", "All questions are graded")
    assert page.get_log("browser") == []


def test_a_page_that_is_opened_again_goes_on(opened: Any, grading: Grading) -> None:
    page = opened()
    press(page, "3", "Passage 2 of 2")
    page.refresh()
    settle(page, "Passage 2 of 2")
    press(page, "0", "Passage 1 of 2")
    assert grading.grades == {"q0": {"p0": 3, "p1": 0}}


def test_text_of_documents_runs_nothing_and_is_shown(opened: Any, grading: Grading) -> None:
    page = opened()
    assert HOSTILE in page.find_element(By.ID, "text").text
    assert page.find_element(By.ID, "heading").text == "<b>Heading 0</b>"
    assert {mark.text for mark in page.find_elements(By.TAG_NAME, "mark")} == {"mute"}
    assert page.execute_script("return typeof window.pwned") == "undefined"
    assert page.find_elements(By.CSS_SELECTOR, "img, i, b") == []
    page.execute_script(
        "const s = document.createElement('script'); s.textContent = 'window.pwned = 5'; document.body.append(s)"
    )
    assert page.execute_script("return typeof window.pwned") == "undefined", "the policy stops it"


def test_a_phone_has_large_buttons_and_no_sideways_scrolling(opened: Any, grading: Grading) -> None:
    page = opened(width=390, height=700)
    assert page.execute_script("return document.documentElement.scrollWidth") <= 390
    buttons = page.find_elements(By.CSS_SELECTOR, "[data-grade]")
    assert all(button.size["height"] >= 48 and button.size["width"] >= 150 for button in buttons)
    bottom = page.execute_script("return document.querySelector('footer').getBoundingClientRect().bottom")
    assert bottom <= page.execute_script("return innerHeight") + 1, "the buttons stay in sight"
    buttons[2].click()
    settle(page, "Passage 2 of 2")
    page.find_element(By.ID, "undo").click()
    settle(page, "Passage 1 of 2")
    assert grading.grades == {}


def test_a_server_that_is_gone_is_said_and_nothing_is_lost(opened: Any, grading: Grading) -> None:
    page = opened()
    press(page, "3", "Passage 2 of 2")
    grading.close()
    page.find_element(By.TAG_NAME, "body").send_keys("1")
    WebDriverWait(page, 20).until(lambda p: "can’t be reached" in p.find_element(By.ID, "status").text)
    assert re.match(r"Passage 2 of 2", page.find_element(By.ID, "place").text), "the same passage waits"
    assert grading.grades == {"q0": {"p0": 3}}


def test_every_control_has_a_name(opened: Any) -> None:
    page = opened()
    for control in page.find_elements(By.CSS_SELECTOR, "button, progress, article"):
        if control.is_displayed():
            assert control.accessible_name, control.get_attribute("outerHTML")[:100]


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1200, 390])
def test_every_text_has_contrast(opened: Any, faint: Any, dark: bool, width: int) -> None:
    page = opened(dark=dark, width=width)
    background = page.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (sum(int(v) for v in background[4:-1].split(",")) < 200) is dark
    assert faint() == []
