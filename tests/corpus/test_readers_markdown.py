"""Markdown loses nothing that its author wrote for people, though GitHub's rules would leave it out."""

from __future__ import annotations

import pytest

from embedfit.corpus.readers.texts.markdown import blocks_of, parse


def said(text: str) -> str:
    return " | ".join(block.text for block in blocks_of(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("---\nA text between rules\n\n---\nB", "A text between rules | B"),
        ("---\n\n# A\n\nA whole page: of it\n\n---\nB", "A | A whole page: of it | B"),
        ("---\ntitle: A\n---\nB", "A | B"),
        ("---\ntitle: >-\n  A\n  long one\ntags: [x]\n---\nB", "A long one | B"),
        ("---\ntags:\n- x\n# comment\n\ntitle: 'A'\n...\nB", "A | B"),
        ('+++\ntitle = "A"\n[x]\n+++\nB', "A | B"),
        ("---\n---\nB", "B"),
        ("---\ntitle: A\nB", "title: A B"),
        ("\ufeff---\ntitle: A\n---\nB", "A | B"),
    ],
)
def test_front_matter_is_what_looks_like_it(text: str, expected: str) -> None:
    assert said(text) == expected


def test_other_lines_of_front_matter_are_listed() -> None:
    assert [one.preview for one in parse("---\ntitle: A\nsee: b\n---\nB").removed] == ["see: b"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Write <your-name> and List<String> here.", "Write <your-name> and List<String> here."),
        ("Replace <Your Name>.", "Replace <Your Name>."),
        ("The <style> element, then <script> too.\n\nB", "The <style> element, then <script> too. | B"),
        ("An <iframe src=x></iframe> here.", "An | here."),
        ("<style>\np {}\n</style>\n\nB", "B"),
        ("<script>\nB\n\nC", "<script> B C"),
        ("<b>A</b> <br> <kbd>B</kbd>", "A B"),
        ("<x-note>A</x-note>", "A"),
        ('<Card title="How?" />\n\nB', "How? | B"),
        ('<TabItem value="a" label="Linux">\n\nB\n\n</TabItem>', "Linux | B"),
        ("<details><summary>A</summary>\n\nB\n\n</details>", "A | B"),
    ],
)
def test_names_in_angles_and_components(text: str, expected: str) -> None:
    assert said(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("| a | b |\n|---|---|\n| c | d | e | f |\n| g |", "a | b\nc | d | e | f\ng"),
        ("a|b\n-|-\nc|`d|e`", "a | b\nc | `d | e`"),
        ("| a |\n| --- |\n| b \\| c |", "a | b | c"),
        ("a | b\n\nc", "a | b | c"),
    ],
)
def test_tables_keep_the_cells_beyond_their_header(text: str, expected: str) -> None:
    assert said(text) == expected


def test_footnotes_without_a_reference_are_read() -> None:
    assert said("A[^1]\n\n[^1]: B\n\n[^2]: C").split(" | ") == ["A", "• C", "• B"]
