"""A page gives all that it shows and all that it has folded away."""

from __future__ import annotations

import random
from html import escape
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedfit.corpus.readers.texts import html, markdown
from embedfit.corpus.readers.texts.html import blocks_of, parse

#: Kinds of places in which a page can hold a sentence.
PLACES = (
    "<p>{}</p>", "<p>{}", "<div>{}</div>", "{}<br>", "<h2>{}</h2>", "<h3><button aria-expanded=false>{}</button></h3>",
    "<details><summary>{}</summary></details>", "<details><summary>more</summary>{}</details>",
    "<details><summary>more</summary><p>{}</p></details>", "<aside class=warning><p>{}</p></aside>",
    "<div hidden><p>{}</p></div>", '<div style="display:none">{}</div>', '<div aria-hidden="true">{}</div>',
    "<form method=post action=x><p>{}</p></form>", "<form><label>{} <input type=checkbox></label></form>",
    "<select><option>{}</option><option>two</option></select>", "<select><optgroup label='{}'><option>x</select>",
    "<textarea>{}</textarea>", "<input type=text value='{}'>", "<input type=submit value='{}'>",
    "<fieldset><legend>{}</legend></fieldset>", "<template><p>{}</p></template>", "<noscript><p>{}</p></noscript>",
    "<table><tr><td>{}</td><td>b</td></tr></table>", "<table><td>{}", "<table><caption>{}</caption><tr><td>a</table>",
    "<table><tr><td><table><tr><td>{}</td></tr></table></td><td>c</td></tr></table>",
    "<table><tr><td><h2>Left</h2><p>{}</p></td><td>right</td></tr></table>", "<th>{}</th>",
    "<dl><dt>{}</dt><dd>b</dd></dl>", "<dl><dt>a<dd>{}</dl>", "<ul><li>{}<li>b</ul>", "<ol><li><p>{}</p></li></ol>",
    "<pre>{}</pre>", "<pre>code\n  {}\n</pre>", "<blockquote>{}</blockquote>", "<p><img alt='{}'></p>",
    "<a href=x><img alt='{}'></a><p>next</p>", "<figure><img><figcaption>{}</figcaption></figure>",
    "<svg><title>{}</title></svg>", "<svg><text>{}</text></svg>", "<p>a <a href=x>{}</a> b</p>",
    "<article><header>{}</header></article>", "<article><footer><p>{}</p></footer></article>", "<main>{}</main>",
    "<section><div><span>{}</span></div></section>", "<center><font color=red>{}</font></center>",
    "<my-card><slot>{}</slot></my-card>", "<iframe srcdoc='<p>{}</p>'></iframe>", "<dialog>{}</dialog>",
    "<p><b><i>{}</p>", "</p></div>{}", "<![foo[x]]>{}", "<!-- note -->{}", "<?php x ?>{}", "<video>{}</video>",
    "<object><p>{}</p></object>", "<p>{}<o:p></o:p></p>", "<address>{}</address>", "<mark>{}</mark>",
    "<nav><p>{}</p></nav>", "<footer><div>{}</div></footer>", "<div role=tabpanel>{}</div>", "<menu><li>{}</li></menu>",
    "<ruby>{}<rt>x</rt></ruby>", "<del>{}</del>", "<a name=top></a>{}", "<math><mtext>{}</mtext></math>",
)  # fmt: skip
FRAMES = (
    "<!doctype html><html><head><title>The title</title></head><body>{}</body></html>",
    "<html><head><title>The title</title><style>p {{color: red}}</style><script>var x = '<p>';</script><body>{}",
    "<head><meta charset=utf-8><title>The title</title>{}",
    "<body><form id=aspnetForm>{}</form>",
    "{}",
)


def sentence(number: int) -> str:
    return f"PLANTED{number} means that the valve of pump {number} has to be closed before winter & frost"


def text_of(markup: str) -> str:
    return " ".join(" ".join(block.text for block in blocks_of(markup)).split())


@pytest.mark.parametrize("place", PLACES)
def test_readers_keep_a_sentence_in_every_kind_of_place(place: str) -> None:
    for frame in FRAMES:
        page = frame.format(place.format(escape(sentence(1))) + "<p>The rest of the page.</p>")
        assert sentence(1) in text_of(page), page
        assert "The rest of the page." in text_of(page), page


@given(st.lists(st.sampled_from(PLACES), max_size=12), st.sampled_from(FRAMES), st.randoms())
def test_readers_keep_every_planted_sentence(places: list[str], frame: str, rng: random.Random) -> None:
    pieces = [place.format(escape(sentence(number))) for number, place in enumerate(places)]
    page = frame.format("\n".join(pieces) + rng.choice(["", "<p>end", "</body></html>trailing"]))
    found = text_of(page)
    for number in range(len(places)):
        assert sentence(number) in found, page


@pytest.mark.parametrize("file", ["aspnet.html", "faq.html"])
def test_readers_keep_forms_buttons_asides_and_hidden_panels(file: str) -> None:
    pages = {
        "aspnet.html": "<!DOCTYPE html><html><body><form method='post' id='aspnetForm'>"
        "<input type='hidden' name='__VIEWSTATE' value='abc' /><h1>Pump handbook</h1><p>Vent it first.</p></form>",
        "faq.html": "<main><h1>FAQ</h1><h3><button aria-expanded='false'>Why does it smell?</button></h3>"
        "<div hidden><p>Oil burns off.</p></div><aside class='warning'><p>Never cover it.</p></aside></main>",
    }
    expected = {
        "aspnet.html": [("heading", "Pump handbook"), ("text", "Vent it first.")],
        "faq.html": [("heading", "FAQ"), ("heading", "Why does it smell?"), ("text", "Oil burns off."),
                     ("text", "Never cover it.")],
    }  # fmt: skip
    assert [(block.kind, block.text) for block in blocks_of(pages[file])] == expected[file]


@pytest.mark.parametrize(
    ("markup", "reason"),
    [
        ("<nav><ul>" + "<li><a href=x>A link of the menu</a>" * 9 + "</ul></nav>", "navigation or a page's footer"),
        ("<div role=navigation>" + "<a href=x>Another link</a> " * 9 + "</div>", "navigation or a page's footer"),
        (
            "<footer>© 2024 The Pump Company. All rights reserved in all of the countries of this world.</footer>",
            "navigation or a page's footer",
        ),
        (
            "<div class='x cookie-banner'><p>We use cookies to make this site better and more fun for you.</p>"
            "<button>Accept</button></div>",
            "a cookie banner",
        ),
        (
            "<div id=onetrust-banner-sdk>By going on you consent to all that we and our 731 partners do.</div>",
            "a cookie banner",
        ),
        (
            "<noscript>You need to enable JavaScript to run this app, or nothing will be shown here.</noscript>",
            "for browsers that can't show the page",
        ),
    ],
)
def test_readers_list_what_is_no_text_of_the_page(markup: str, reason: str) -> None:
    page = parse(f"<body><p>Before.</p>{markup}<p>After.</p>")
    assert [block.text for block in page.blocks] == ["Before.", "After."]
    assert [removed.reason for removed in page.removed] == [reason]


def test_readers_leave_out_scripts_styles_and_hidden_fields() -> None:
    page = "<style>p{}</style><script>var a = '<p>no</p>'</script><input type=hidden value=no><!-- no --><p>yes"
    assert text_of(page) == "yes"
    assert text_of("<div class=cookie-recipes><p>Bake the cookies for ten minutes.</p></div>").startswith("Bake")
    assert text_of("<h2>Sound<a class=headerlink href=x>¶</a></h2>") == "Sound"


def test_readers_structure_of_a_page() -> None:
    blocks = blocks_of(
        "<title>No heading of level one</title><h2>Sound</h2>one<br>line<br><br>Two<dl><dt>term<dd>meaning</dl>"
        "<table><tr><th>key<th>use<tr><td>mute<td>no<p>sound</table><pre>a\n  b</pre>"
    )
    assert [(block.kind, block.level, block.text) for block in blocks] == [
        ("heading", 1, "No heading of level one"), ("heading", 2, "Sound"), ("text", 0, "one line"), ("text", 0, "Two"),
        ("text", 0, "term"), ("item", 0, "• meaning"), ("table", 0, "key | use\nmute | no sound"),
        ("code", 0, "a\n  b"),
    ]  # fmt: skip


def test_readers_keep_text_that_is_nested_too_deeply() -> None:
    page = "<div>" * 5000 + "<p>The deepest sentence.</p>" + "</div>" * 5000 + "<p>The last <b>one</b>.</p>"
    assert [block.text for block in blocks_of(page)] == ["The deepest sentence.", "The last one."]


def test_readers_take_html_in_markdown_for_html(tmp_path: Path) -> None:
    source = """+++
title = "The Manual"
summary = "A long summary that says once more what the text says, only shorter than it"
+++
Text[^1] with <span>HTML</span>.

<details><summary>How does it work?</summary>

Quite **well**.

</details>

[^1]: A note at the foot.
"""
    parsed = markdown.parse(source)
    assert [(block.kind, block.text) for block in parsed.blocks] == [
        ("heading", "The Manual"), ("text", "Text with HTML."), ("text", "How does it work?"), ("text", "Quite well."),
        ("item", "• A note at the foot."),
    ]  # fmt: skip
    assert [removed.reason for removed in parsed.removed] == ["front matter"]


def test_readers_of_pages_use_the_declared_encoding(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_bytes("<meta charset=windows-1252><p>Die Tür für €40 – “zu”".encode("cp1252"))
    parsed = html.read_html(tmp_path / "a.html")
    assert [block.text for block in parsed.blocks] == ["Die Tür für €40 – “zu”"]
    assert parsed.note == ""


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("<h2>Pump<a class='headerlink' href=#p>¶</a></h2>", ["Pump"]),
        ("<h2><a class='headerlink' href=#p>Overview</a></h2>", ["Overview"]),
        ("<p>Open<i class='material-icons'>expand_more</i></p>", ["Open"]),
        ("<div class='material-icons-list'><p>Vent the pump.</p></div>", ["Vent the pump."]),
        ("<span class='material-symbols'>Vent the pump.</span>", ["Vent the pump."]),
        ("<p>Pump<sup class='footnote-ref'><a>[12]</a></sup></p>", ["Pump"]),
        ("<ol><li class='footnote-ref'>Vent the pump.</li></ol>", ["• Vent the pump."]),
        ("<p>Pump</p><a class='footnote-backref'>↩︎</a>", ["Pump"]),
        ("<frameset cols='1,2'><frame src=a><noframes><p>Vent the pump.</p></noframes></frameset>", ["Vent the pump."]),
        ("<noembed>Vent the pump.</noembed>", ["Vent the pump."]),
        ("<menu><li>Soup<li>Bread<li><a href=x>Home</a></menu>", ["• Soup", "• Bread"]),
        ("<header role=banner><h1>Pumps</h1><a href=x>Home</a></header>", ["Pumps"]),
        ("<select><option label='Vent it'></select>", ["• Vent it"]),
        ("<x-panel title='How to vent?'>Slowly.</x-panel>", ["How to vent?", "Slowly."]),
        ("<p title='tip'>Pump</p>", ["Pump"]),
        ("<p>a <![CDATA[b < c]]> d</p>", ["a b < c d"]),
        ("<p>a</p><script>//<![CDATA[\nx = '<p>'\n//]]></script><p>b</p>", ["a", "b"]),
        ("<script>x = '<![CDATA['</script><p>a</p><p>]]></p>", ["a", "]]>"]),
        ("<p>a <![CDATA[ b</p>", ["a"]),
    ],
)
def test_what_stands_in_an_unusual_place_is_read(page: str, said: list[str]) -> None:
    assert [block.text for block in blocks_of(page)] == said


def test_whatever_is_left_out_as_navigation_is_listed() -> None:
    page = "<nav><a href=x>Home</a></nav><p>Pump</p><footer>5 Mill Lane</footer>"
    assert [one.preview for one in parse(page).removed] == ["Home", "5 Mill Lane"]
