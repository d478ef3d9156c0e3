"""The formulas of a page's tree: each is found once, whatever made it, and replaced by a mark.

A formula often stands in a page several times: as what is seen, as MathML for screen readers, as
its source. The source is taken where there is one, in this order: an annotation of the MathML, its
`alttext`, a script of MathJax 2, a data attribute, the alternative text or the address of an image;
then the MathML is converted.
"""

from __future__ import annotations

import html as html_module
import re

from selectolax.lexbor import LexborHTMLParser, LexborNode

from dsmath_jax.mining import asciimath, mathml
from dsmath_jax.mining.formula_images import latex_of_image
from dsmath_jax.mining.stash import Stash

DATA_ATTRIBUTES = ("data-latex", "data-expr", "data-tex", "data-math", "data-formula")
NOT_LATEX = {"", "true", "false", "inline", "block", "display", "none"}
SELECTORS = (
    "math", r"mml\:math", r"m\:math", "img", "mjx-container", ".mwe-math-element",
    ".katex-display", ".katex", ".katex-error", ".ql-formula", ".math.inline", ".math.display",
    ".latex-rendered",
    # Drawn by MathJax 2, beside the script that holds the source.
    '[class^="MathJax"]', ".mjx-chtml", ".MJXc-display",
    *(f"[{name}]" for name in DATA_ATTRIBUTES),
)  # fmt: skip
SUBSTACK = re.compile(r'"persistentExpression":"((?:[^"\\]|\\.)*)"')

_QUOTED = r"""(?:"([^"]*+)"|'([^']*+)'|([^\s>"']++))"""
_OTHERS = r"""(?:\s++(?!data-latex=)|[^>"'\s]++|"[^"]*+"|'[^']*+')*+"""  # attributes
MATHJAX_SOURCE = re.compile(rf"<(?:mjx-math|math|g)\b{_OTHERS}\s++data-latex={_QUOTED}")
MATHJAX_OPENING = re.compile(r"""<mjx-container\b(?:[^>"']++|"[^"]*+"|'[^']*+')*+>""")
DISPLAY = re.compile(r"\sdisplay=[\"']?true")
REFERENCE = re.compile(r"&#?\w+;")
CONTAINER = "<mjx-container"


def cut_mathjax(html: str, stash: Stash) -> str:
    """The page with marks for the formulas of MathJax 3 and 4 whose source is beside them, and the
    others as MathML alone. They make up most of a page that has them, and parsing it whole costs
    twice the time."""
    if (start := html.find(CONTAINER)) < 0:
        return html
    parts: list[str] = []
    copied = 0
    while start >= 0:
        end = html.find("</mjx-container>", start)
        if end < 0:
            break
        inner_end = end
        end += len("</mjx-container>")
        opening = MATHJAX_OPENING.match(html, start)
        following = html.find(CONTAINER, start + 1)
        nested = 0 <= following < inner_end
        if opening and opening.end() <= inner_end and not nested:
            display = DISPLAY.search(opening[0]) is not None
            # The root is the first that has a source.
            if source := MATHJAX_SOURCE.search(html, opening.end(), inner_end):
                latex = next(x for x in source.groups() if x is not None)
                if "&" in latex:
                    latex = REFERENCE.sub(lambda m: html_module.unescape(m[0]), latex)
                parts += html[copied:start], stash.formula(latex, display)
                copied = end
            elif (math := html.find("<math", opening.end(), inner_end)) >= 0:
                math_end = html.find("</math>", math, inner_end)
                if math_end >= 0:
                    parts += html[copied : opening.end()], html[math : math_end + 7]
                    parts.append("</mjx-container>")
                    copied = end
        start = html.find(CONTAINER, inner_end) if nested else following
    return "".join(parts) + html[copied:]


def formula_mark(
    node: LexborNode, tag: str, attributes: dict[str, str | None], stash: Stash
) -> str | None:
    """What comes in place of an element that SELECTORS find, or a script; None where it stays."""
    if tag == "img":
        found = latex_of_image(attributes)
        return stash.formula(*found) if found else None
    if tag == "script":
        return _script(node, attributes.get("type") or "", stash)
    classes = set((attributes.get("class") or "").split())
    if tag.rpartition(":")[2] == "math":
        latex, display = _math(node)
        return stash.formula(latex, display) if latex else ""
    if tag == "mjx-container":
        display = attributes.get("display") == "true"
        return _first_math(node, stash, display)
    if "mwe-math-element" in classes:
        display = "mwe-math-element-block" in classes
        return _first_math(node, stash, display) or _first_image(node, stash, display)
    if classes & {"katex-display", "katex"}:
        if (marked := _first_math(node, stash, "katex-display" in classes)) is not None:
            return marked
        return _from_data(node, attributes, classes, stash)
    if classes & {"katex-error", "ql-formula"}:
        return stash.formula(attributes.get("data-value") or node.text())
    if "inline" in classes or "display" in classes:
        return _pandoc(node, "display" in classes, stash)
    if "latex-rendered" in classes:
        source = SUBSTACK.search(attributes.get("data-attrs") or "")
        return stash.formula(source[1].replace("\\\\", "\\"), True) if source else None
    if any("mathjax" in c.lower() or c in ("mjx-chtml", "MJXc-display") for c in classes):
        return _mathjax2(node, classes, stash)
    return _from_data(node, attributes, classes, stash)


def _math(node: LexborNode) -> tuple[str, bool]:
    attributes = node.attributes
    display = attributes.get("display") == "block" or attributes.get("mode") == "display"
    for annotation in node.css("annotation"):
        encoding = (annotation.attributes.get("encoding") or "").lower()
        if "tex" in encoding and (latex := annotation.text().strip()):
            return latex, display
    for name in ("alttext", "data-latex"):
        latex = (attributes.get(name) or "").strip()
        if latex and not re.fullmatch(r"[a-zA-Z]{2,}(?:[\s,]+[a-zA-Z]+)+", latex):
            return latex, display
    return mathml.to_latex(node), display


def _first_math(node: LexborNode, stash: Stash, display: bool) -> str | None:
    math = node.css_first("math")
    if math is None:
        return None
    latex, own_display = _math(math)
    return stash.formula(latex, display or own_display) or None


def _first_image(node: LexborNode, stash: Stash, display: bool) -> str | None:
    image = node.css_first("img")
    found = latex_of_image(image.attributes) if image else None
    return stash.formula(found[0], display or found[1]) if found else None


def _script(node: LexborNode, kind: str, stash: Stash) -> str:
    source = node.text()
    kind = kind.lower()
    display = "mode=display" in kind.replace(" ", "")
    if kind.startswith("math/mml"):
        math = LexborHTMLParser(source).css_first("math")
        latex, own_display = _math(math) if math else ("", False)
        return stash.formula(latex, display or own_display)
    if kind.startswith("math/asciimath"):
        return stash.formula(asciimath.to_latex(source), display)
    return stash.formula(source, display) if kind.startswith("math/tex") else ""


def _mathjax2(node: LexborNode, classes: set[str], stash: Stash) -> str | None:
    """Nothing where a script with the source follows; else from the MathML it carries."""
    following = node.next
    while following is not None and not (following.tag == "-text" and following.text().strip()):
        if following.tag == "script":
            if (following.attributes.get("type") or "").startswith("math/"):
                return ""
            break
        if following.tag != "-text" and "MathJax" not in (following.attributes.get("class") or ""):
            break
        following = following.next
    if "MathJax_Preview" in classes:
        return None if node.text().strip() else ""
    carrier = node if "data-mathml" in node.attributes else node.css_first("[data-mathml]")
    display = any("isplay" in c for c in classes)
    if carrier is not None:
        math = LexborHTMLParser(carrier.attributes["data-mathml"] or "").css_first("math")
        if math is not None:
            latex, own_display = _math(math)
            return stash.formula(latex, display or own_display)
    if marked := _first_math(node, stash, display):
        return marked
    if script := node.css_first('script[type^="math/"]'):
        return _script(script, script.attributes.get("type") or "", stash)
    return None


def _pandoc(node: LexborNode, display: bool, stash: Stash) -> str | None:
    """Raw LaTeX that a script would draw; text with delimiters, or with elements, stays."""
    text = node.text()
    if "\\(" in text or "\\[" in text or "$" in text:
        return None
    if node.css_first("*:not(br)") is not None and any(c.tag != "-text" for c in node.iter()):
        return None
    is_latex = re.search(r"\\[a-zA-Z]|[\^_{}]", text) is not None
    return stash.formula(text, display) if is_latex else None


def _from_data(
    node: LexborNode, attributes: dict[str, str | None], classes: set[str], stash: Stash
) -> str | None:
    for name in DATA_ATTRIBUTES:
        latex = (attributes.get(name) or "").strip()
        if latex.lower() in NOT_LATEX:
            continue
        text = node.text()
        if len(text) > 20 * len(latex) + 1000:  # more than a formula is in it
            continue
        display = any("display" in c or "block" in c for c in classes)
        display = display or attributes.get("data-display") == "true" or node.tag == "div"
        return stash.formula(latex, display)
    return None
