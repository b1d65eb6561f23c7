"""The elements of HTML: which show text, which are part of a line, and which role each has on a page."""

from __future__ import annotations

import re
from collections.abc import Mapping

#: Elements without text for people.
_SILENT = frozenset("script style metadata annotation annotation-xml rp iframe".split())
#: Elements that are judged as a whole when they end.
JUDGED = ("navigation", "list", "cookies", "fallback")
#: Elements that are part of a line of text, as are those with a colon (Word's <o:p>). Others, such as <my-card>, begin
#: a block.
_INLINE = frozenset(
    "a abbr acronym b bdi bdo big br button cite code data del dfn em font i img input ins kbd label mark meter nobr "
    "output picture progress q rb rt ruby s samp slot small span strike strong sub sup time tt u var wbr source track "
    "map area math mi mn mo mtext mrow msup msub mfrac msqrt svg g text tspan title desc path".split()
)
_PREFORMATTED = frozenset(("pre", "xmp", "listing", "plaintext"))
_NAVIGATION_ROLES = frozenset(("navigation", "banner", "contentinfo", "search", "menu", "menubar"))
#: Inside these a header or footer belongs to the text; elsewhere to the page.
_SECTIONS = frozenset("article section main blockquote figure details dialog".split())
#: Elements that a browser shows only if it can't show something better.
_FALLBACK = frozenset("noscript noframes noembed object video audio canvas".split())
_COOKIES = re.compile(
    r"(?:^|[\s_-])(?:(?:cookies?|consent|gdpr|ccpa)[_-]?(?:law[_-]?)?(?:info[_-]?)?"
    r"(?:banner|bar|notice|consent|popup|modal|overlay|dialog|message|wall|container)|onetrust-\S*|cybotcookiebot\S*|"
    r"didomi-\S*|usercentrics\S*|qc-cmp2\S*|iubenda-cs\S*|osano-cm\S*|truste\S*)(?:$|[\s_-])",
    re.I,
)
#: Classes of signs that are set as words ("expand_more"), of the ¶ behind a heading and of numbers of footnotes.
_SIGNS = re.compile(r"(?:^|\s)(?:material-(?:icons|symbols)\S*|headerlink|footnote-(?:ref|backref))(?:$|\s)")
#: The elements of the standard; others were invented by the makers of a page.
ELEMENTS = frozenset(
    "html head body base basefont bgsound link meta title style script noscript template slot address article aside "
    "footer header h1 h2 h3 h4 h5 h6 hgroup main nav section search blockquote dd div dl dt figcaption figure hr li "
    "menu menuitem ol p pre ul table caption col colgroup tbody td tfoot th thead tr form fieldset legend datalist "
    "optgroup option select textarea output details summary dialog iframe frame frameset noframes embed noembed object "
    "param applet audio video canvas center marquee dir listing plaintext xmp isindex keygen portal fencedframe".split()
)


def is_element(tag: str) -> bool:
    """Whether HTML, or another standard that pages use, defines an element."""
    return tag in ELEMENTS or tag in _SILENT or is_inline(tag)


def is_inline(tag: str) -> bool:
    """Whether an element is part of a line of text."""
    return tag in _INLINE or ":" in tag


def role_of(tag: str, attributes: Mapping[str, str], *, in_section: bool) -> str:
    """The role of an element, "" for none: one of JUDGED, "silent", "sign", "section", "pre", "link", "item", "svg".

    in_section: whether it stands inside one, where a footer belongs to the text.
    """
    if tag in _SILENT:
        return "silent"
    if (is_inline(tag) or "icon" in tag) and _SIGNS.search(attributes.get("class") or ""):
        return "sign"
    aria = (attributes.get("role") or "").lower()
    if tag == "nav" or aria in _NAVIGATION_ROLES:
        return "navigation"
    if tag == "menu":
        return "list"
    if tag == "footer" and not in_section:
        return "navigation"
    if tag in _FALLBACK:
        return "fallback"
    names = f"{attributes.get('id') or ''} {attributes.get('class') or ''}"
    if tag not in ("html", "body", "main", "article") and _COOKIES.search(names):
        return "cookies"
    if tag in _SECTIONS:
        return "section"
    if tag in _PREFORMATTED:
        return "pre"
    return {"a": "link", "li": "item", "dd": "item", "option": "item", "svg": "svg"}.get(tag, "")
