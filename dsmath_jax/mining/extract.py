"""A page's content as plain text with its formulas in LaTeX.

Paragraphs are separated by blank lines. Headings begin with "#", items of lists with "-" or their
number, quotations with ">"; cells of tables are separated by " | ", code is in fences. Formulas are
`$...$`, and `$$...$$` on lines of their own.
"""

from __future__ import annotations

import dataclasses

from dsmath_jax.mining.blocks import blocks_of, join_blocks
from dsmath_jax.mining.boilerplate import drop_boilerplate
from dsmath_jax.mining.delimiters import Delimiters
from dsmath_jax.mining.formulas import cut_mathjax
from dsmath_jax.mining.html_text import MAX_CHARACTERS, PageTooLarge, parse
from dsmath_jax.mining.marking import mark
from dsmath_jax.mining.stash import Stash

__all__ = ["Extracted", "PageTooLarge", "extract"]


@dataclasses.dataclass(frozen=True)
class Extracted:
    text: str
    title: str
    formulas: int  # in the text


def extract(html: str, url: str = "") -> Extracted:
    """The content of a page.

    Args:
      html: the page as decoded text.
      url: its address, for messages.

    Raises:
      PageTooLarge: it has more than MAX_CHARACTERS characters.
    """
    if len(html) > MAX_CHARACTERS:
        raise PageTooLarge(
            f"{url or 'the page'} has {len(html)} characters, more than {MAX_CHARACTERS}: "
            "leave it out, or cut it"
        )
    result, everything, marks = _extract(html, by_name=True)
    # Names that mean a menu elsewhere may hold this page's content.
    if len(result.text) < 0.1 * everything - 100 or result.formulas < 0.5 * marks:
        whole, _, _ = _extract(html, by_name=False)
        if len(whole.text) > 2 * len(result.text) or whole.formulas > 1.5 * result.formulas:
            return whole
    return result


def _extract(html: str, *, by_name: bool) -> tuple[Extracted, int, int]:
    """The content, the characters of all text and the formulas found in it."""
    stash = Stash()
    html = cut_mathjax(html, stash)
    tree = parse(html)
    delimiters = Delimiters(html, stash)
    mark(tree, stash)
    found = stash.found
    title_node = tree.css_first("title")
    title = stash.restore(" ".join(title_node.text().split())) if title_node else ""
    root, everything = drop_boilerplate(tree, by_name=by_name)
    if root is None:
        return Extracted("", title, 0), 0, found
    blocks = blocks_of(root, delimiters)
    stash.formulas = 0
    text = stash.restore(join_blocks(blocks))
    if not title:
        title = next((b.text for b in blocks if b.kind == "heading"), "")
    return Extracted(text, title, stash.formulas), everything, found
