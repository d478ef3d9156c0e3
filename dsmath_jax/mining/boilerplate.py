"""What of a page is not its content: menus, banners, side bars, forms, lists of links.

Where a rule is in doubt the content stays: text without its mathematics is worse for a corpus than
text with a menu.
"""

from __future__ import annotations

import itertools

from selectolax.lexbor import LexborHTMLParser, LexborNode

from dsmath_jax.mining.stash import BLOCK, INLINE

CANDIDATES = (
    "div, section, ul, ol, dl, aside, header, footer, form, table, p, center, main, article, "
    '[role], [hidden], [style*="display:none" i], [style*="display: none" i]'
)
MENU_ROLES = set(["navigation", "search", "menu", "menubar", "dialog", "alertdialog", "tablist"])
MAIN_IDS = ("mw-content-text", "content")

# Words of classes and ids. Of menus even a formula is a repeated one.
_MENUS = (
    "nav navbar navigation navlinks navbox menu menus submenu menubar breadcrumb breadcrumbs toc "
    "tableofcontents catlinks pagination pager paginator pagenav postnav prevnext skiplink "
    "skiplinks sitenotice printfooter tagcloud taglist sphinxsidebar trending recommended "
    "recommendations jp-relatedposts"
)
_EXTRAS = (
    "sidebar sidebars sidenav footer footers masthead topbar cookie cookies cookieconsent consent "
    "gdpr newsletter subscribe subscription signup login share sharing sharebuttons social "
    "sociallinks sharedaddy addtoany addthis advert adverts advertisement ads adsbygoogle sponsor "
    "sponsors sponsored promo promotion banner popup modal overlay widget widgets commentform "
    "respond disqus searchform searchbox searchbar related popular toolbar dropdown copyright "
    "colophon feedback rating votes byline metadata ambox sistersitebox noprint announcement "
    "contentinfo backtotop headline-anchor"
)
_PAIRS = (
    "side-bar site-header page-header top-bar sign-up log-in comment-form reply-form search-form "
    "search-box search-bar author-bio author-box author-info post-meta post-tags post-share "
    "entry-meta edit-page edit-link back-to follow-us authority-control skip-link skip-to "
    "recent-posts related-posts page-nav post-nav mw-panel mw-head md-header md-tabs md-sidebar"
)
MENUS = frozenset(_MENUS.split())
EXTRAS = frozenset(_EXTRAS.split())
PAIRS = frozenset(_PAIRS.split())
SEPARATORS = str.maketrans("_-", "  ")


def drop_boilerplate(tree: LexborHTMLParser, *, by_name: bool) -> tuple[LexborNode | None, int]:
    """Takes out what is not content, and returns the element that holds the rest, and the
    characters of all that is left.

    Args:
      tree: with marks for its formulas, and without what is never content.
      by_name: also judge by the names of classes and ids.
    """
    body = tree.body
    if body is None:
        return tree.root, 0
    text = body.text()
    total, formulas = len(text), _formulas(text)
    left, formulas_left = total, formulas
    mains: list[LexborNode] = []
    for node in tree.css(CANDIDATES):
        if node.parent is None:
            continue
        kind = _kind(node, node.attributes, by_name)
        if not kind:
            continue
        if kind == "main":
            mains.append(node)
            continue
        inside = node.text()
        length, marks = len(inside), _formulas(inside)
        if kind == "hidden":
            # Solutions that open on a click are hidden too.
            keep = bool(marks) and "\\newcommand" not in inside
        else:
            keep = bool(
                length > 0.4 * total
                or marks > 0.2 * formulas
                or (kind == "extra" and marks)
                or (node.tag == "form" and length > 1000)
            )
        if not keep:
            left, formulas_left = left - length, formulas_left - marks
            node.decompose()
    main = _main(mains, left, formulas_left) if by_name else None
    return main or body, left


def _kind(node: LexborNode, attributes: dict[str, str | None], by_name: bool) -> str:
    """What an element is besides content: "hidden", "main" (holds all of it), "menu", "extra" (it
    stays where it has formulas) or ""."""
    tag = node.tag
    if attributes:
        if "hidden" in attributes or "display" in (attributes.get("style") or ""):
            style = (attributes.get("style") or "").replace(" ", "").lower()
            if "hidden" in attributes or "display:none" in style:
                return "hidden"
        role = attributes.get("role")
        if role in MENU_ROLES:
            return "menu"
        if role == "main" or attributes.get("id") in MAIN_IDS:
            return "main"
    if tag in ("main", "article"):
        return "main"
    if tag == "footer":
        return "menu"
    if tag == "header":
        return "menu" if node.css_first("h1") is None else ""
    if tag in ("aside", "form"):
        return "extra"
    return _kind_by_name(attributes) if by_name and attributes else ""


def _kind_by_name(attributes: dict[str, str | None]) -> str:
    names = f"{attributes.get('class') or ''} {attributes.get('id') or ''}".lower()
    words = names.translate(SEPARATORS).split()
    if not MENUS.isdisjoint(words):
        return "menu"
    if not EXTRAS.isdisjoint(words):
        return "extra"
    if any(f"{a}-{b}" in PAIRS for a, b in itertools.pairwise(words)):
        return "extra"
    return ""


def _main(mains: list[LexborNode], length: int, formulas: int) -> LexborNode | None:
    """The element that says that it holds the content, if it holds most of the text.

    Args:
      length, formulas: of all that is left.
    """
    mains = [node for node in mains if node.parent is not None]
    for is_kind in (lambda n: n.tag == "main", lambda n: n.tag not in ("main", "article"), None):
        found = [node for node in mains if is_kind is None or is_kind(node)]
        if len(found) == 1:
            inside = found[0].text()
            if len(inside) > 0.4 * length and _formulas(inside) >= 0.8 * formulas:
                return found[0]
    return None


def _formulas(text: str) -> int:
    """Formulas in a text, also those between delimiters, and pieces of code."""
    delimiters = text.count("\\(") + text.count("\\[") + text.count("$") // 2
    return text.count(INLINE) + text.count(BLOCK) + delimiters
