"""Code of a page: kept as it is, line by line, and never searched for formulas."""

from __future__ import annotations

import re

from selectolax.lexbor import LexborNode

from dsmath_jax.mining.stash import Stash

LANGUAGE = re.compile(r"(?:^|\s)(?:language|lang|highlight|brush:?)[-\s](?!source)([\w+#-]{1,20})")
LINE_NUMBERS = ".linenos, .lineno, .linenumber, .line-numbers-rows, .gutter, .ln-num, .hljs-ln-n"


def code_mark(node: LexborNode, tag: str, stash: Stash) -> str | None:
    """What comes in place of a `pre`, or of code within a line; None where it stays."""
    classes = node.attributes.get("class") or ""
    if tag == "pre":
        child = node.css_first("code")
        classes += " " + (child.attributes.get("class") or "" if child is not None else "")
    if "js-render-math" in classes or "language-math" in classes:
        display = node.attributes.get("data-math-style") == "display" or tag == "pre"
        return stash.formula(node.text(), display)
    if tag == "pre":
        return _block(node, stash)
    text = node.text()
    # A few old pages have everything in one such element.
    if len(text) > 2000 or node.css_first("p, div, table, ul, h1, h2, h3") is not None:
        return None
    return stash.code(stash.restore(text))


def _block(node: LexborNode, stash: Stash) -> str:
    for number in node.css(LINE_NUMBERS):
        number.decompose()
    for line_break in node.css("br"):
        line_break.replace_with("\n")
    text = stash.restore(node.text()).replace("\u00a0", " ")
    lines = [line.rstrip() for line in text.splitlines()]
    text = "\n".join(lines).strip("\n")
    if not text.strip():
        return ""
    fence = "```"
    while fence in text:
        fence += "`"
    return stash.verbatim(f"{fence}{_language(node)}\n{text}\n{fence}")


def _language(node: LexborNode) -> str:
    """As the element, the code in it or what is around it says."""
    code = node.css_first("code")
    around = [node, code, node.parent, node.parent.parent if node.parent else None]
    for element in around:
        if element is not None:
            match = LANGUAGE.search(element.attributes.get("class") or "")
            if match and match[1] not in ("default", "text", "none", "plaintext", "source"):
                return match[1]
    return ""
