"""The visible text of a page, fast, and the parsing of pages that may be hostile."""

from __future__ import annotations

import re

import numpy as np
from selectolax.lexbor import LexborDocumentOptions, LexborHTMLParser

from dsmath_jax.mining.formulas import cut_mathjax
from dsmath_jax.mining.stash import Stash

MAX_CHARACTERS = 10_000_000
MAX_DEPTH = 512  # of elements, as in browsers; deeper ones are taken out and their content stays
MAX_ATTRIBUTES = 500  # of an element; one with more loses all

# The parser looks at all open elements for each new one, and at all attributes of an element for
# each new one. Up to these sizes a page needs seconds at most, unless it is made to hide them.
FEW_TAGS = 30_000
FEW_CHARACTERS = 1_000_000
WINDOW = 20_000  # characters, with
FEW_ENDS = 20  # ">" or less: maybe one tag

# As the HTML standard reads tags: quotes count only behind "=". Possessive, so always linear.
TAG = re.compile(
    r"""<(?:(?P<end>/)?(?P<name>[a-zA-Z][^\s/>]*+)(?P<attributes>
    (?:[\s/]++|=?[^\s/>=]++(?:\s*+=\s*+(?:"[^"]*+"|'[^']*+'|[^\s>"'][^\s>]*+)?+)?+)*+)>|!--.*?-->)""",
    re.VERBOSE | re.DOTALL,
)
ATTRIBUTE = re.compile(r"""[\s/]++[^\s/>=]++(?:\s*+=\s*+(?:"[^"]*+"|'[^']*+'|[^\s>"']++))?+""")
OPEN_END = re.compile(r"<[a-zA-Z/].*", re.DOTALL)
_VOID = "area base br col embed hr img input link meta param source track wbr"
# Elements that end by themselves where another of the kind begins.
_SELF_ENDING = "p li dt dd tr td th tbody thead tfoot option optgroup colgroup rt rp"
FLAT = set(f"{_VOID} {_SELF_ENDING} html head body".split())

INVISIBLE = "script, style, noscript, template, iframe, noframes, noembed, object, textarea"


class PageTooLarge(ValueError):
    """The page has more characters than extraction takes."""


def parse(html: str, max_characters: int = MAX_CHARACTERS) -> LexborHTMLParser:
    """The tree of a page, in bounded time whatever the page is.

    Raises:
      PageTooLarge: there are more than `max_characters`.
    """
    if len(html) > max_characters:
        raise PageTooLarge(
            f"the page has {len(html)} characters, more than {max_characters}: "
            "leave it out, or cut it"
        )
    if "\0" in html:
        html = html.replace("\0", "")
    data = _encoded(html)
    if len(html) > FEW_CHARACTERS or _may_be_hostile(html, data):
        data = _encoded(_flatten(html))
    return LexborHTMLParser(data, options=LexborDocumentOptions.WO_EVENTS)


def _encoded(html: str) -> bytes:
    try:
        return html.encode()
    except UnicodeEncodeError:  # half a surrogate pair
        return html.encode("utf-8", "replace")


def visible_text(html: str, without: str = "") -> str:
    """All visible text in page order, for scoring: one line; of MathJax's formulas the LaTeX.

    Args:
      without: CSS selector of elements that are left out, too.

    Raises:
      PageTooLarge: the page has more than MAX_CHARACTERS.
    """
    stash = Stash()
    tree = parse(cut_mathjax(html, stash))
    for node in tree.css(f"{INVISIBLE},{without}" if without else INVISIBLE):
        node.decompose()
    root = tree.root
    text = root.text(separator=" ") if root else ""
    return stash.restore(" ".join(text.split()))


def _may_be_hostile(html: str, data: bytes) -> bool:
    """Whether there are many tags, or there may be one with thousands of attributes.

    Args:
      data: the page in UTF-8.
    """
    array = np.frombuffer(data, np.uint8)
    if np.count_nonzero(array == ord("<")) > FEW_TAGS:
        return True
    # Any window of characters holds one of these, which are of half as many bytes.
    is_end = array == ord(">")
    starts = range(0, len(is_end) - WINDOW // 2, WINDOW // 2)
    if all(np.count_nonzero(is_end[i : i + WINDOW // 2]) > FEW_ENDS for i in starts):
        return False
    ends = (html.count(">", i, i + WINDOW) for i in range(0, len(html) - WINDOW, WINDOW))
    return any(count <= FEW_ENDS for count in ends)


def _flatten(html: str) -> str:
    """The page without tags below MAX_DEPTH, and without attributes where they are too many."""
    last = html.rfind(">") + 1
    parts: list[str] = []
    copied = 0
    opened: dict[str, int] = {}  # by name: elements that are open, and
    left_out: dict[str, int] = {}  # those of them that are left out
    depth = 0
    for match in TAG.finditer(html, 0, last):
        name = match["name"]
        if name is None:  # a comment
            continue
        name = name.lower()
        replacement = None
        if match.end() - match.start() > 2 * MAX_ATTRIBUTES:
            attributes = ATTRIBUTE.findall(match["attributes"])
            if len(attributes) > MAX_ATTRIBUTES:
                replacement = f"<{name}>"
        if name not in FLAT:
            if not match["end"]:
                if depth < MAX_DEPTH:
                    opened[name] = opened.get(name, 0) + 1
                    depth += 1
                else:
                    left_out[name] = left_out.get(name, 0) + 1
                    replacement = ""
            elif left_out.get(name):
                left_out[name] -= 1
                replacement = ""
            elif opened.get(name):
                opened[name] -= 1
                depth -= 1
        if replacement is not None:
            parts += html[copied : match.start()], replacement
            copied = match.end()
    # A tag that never ends is no text, and no tag either.
    rest = html[copied:last] + OPEN_END.sub("", html[last:])
    return "".join(parts) + rest
