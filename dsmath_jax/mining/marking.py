"""One pass over a page's tree: formulas and code become marks, and what is never content goes."""

from __future__ import annotations

from selectolax.lexbor import LexborHTMLParser

from dsmath_jax.mining.code_blocks import code_mark
from dsmath_jax.mining.formulas import SELECTORS, formula_mark
from dsmath_jax.mining.stash import Stash

# A noscript repeats what is elsewhere.
_NEVER_CONTENT = (
    "noscript template style iframe object canvas audio video svg button select textarea datalist "
    "dialog nav rp"
)
_NEVER_CLASSES = (
    "mw-editsection headerlink linenos lineno gutter sr-only visually-hidden screen-reader-text"
)
NEVER_CONTENT = set(_NEVER_CONTENT.split())
NEVER_CLASSES = set(_NEVER_CLASSES.split())
CODE = {"pre", "code", "kbd", "samp", "tt"}
SELECTOR = ", ".join(
    [*NEVER_CONTENT, *(f".{name}" for name in NEVER_CLASSES), *CODE, "script", *SELECTORS]
)


def mark(tree: LexborHTMLParser, stash: Stash) -> None:
    """Replaces formulas and code by marks, outermost elements first."""
    for node in tree.css(SELECTOR):
        if node.parent is None:  # within an element that has been replaced
            continue
        tag = node.tag or ""
        text: str | None
        if tag in NEVER_CONTENT:
            text = ""
        elif tag in CODE:
            text = code_mark(node, tag, stash)
        else:
            attributes = node.attributes
            if not NEVER_CLASSES.isdisjoint((attributes.get("class") or "").split()):
                text = ""
            else:
                text = formula_mark(node, tag, attributes, stash)
        if text is not None:
            if text:
                node.insert_before(text)
            node.decompose()
