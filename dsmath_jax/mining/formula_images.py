"""Formulas that pages show as images: LaTeX from the alternative text or the address."""

from __future__ import annotations

import re
from urllib.parse import unquote

_CLASSES = (
    "latex tex math equation formula texrender equation_image eeimg ql-img-inline-formula "
    "ql-img-displayed-equation mwe-math-fallback-image-inline mwe-math-fallback-image-display "
    "latexcenter teximage math-tex"
)
CLASSES = set(_CLASSES.split())
# Services that draw the formula in their address: what comes before it there.
SERVICES = re.compile(
    r"""codecogs\.com/[^?]*\?
    |/latex\.php\?(?:[^#]*?&)?latex=
    |zhihu\.com/equation\?(?:[^#]*?&)?tex=
    |/render/math\?(?:[^#]*?&)?math=
    |math\.now\.sh/?\?(?:[^#]*?&)?(?:from|inline)=
    |chart\.(?:apis\.)?google(?:apis)?\.com/chart\?(?=[^#]*cht=tx)(?:[^#]*?&)?chl=
    |(?:mimetex|mathtex|latexrender)(?:\.cgi)?\?
    |upmath\.me/(?:svg|png)/
    |(?:latex|tex|formula|equation)[^/?]*\?(?:[^#]*?&)?(?:latex|tex|formula|eq|math)=
    """,
    re.VERBOSE | re.IGNORECASE,
)
NEXT_FIELD = re.compile(
    r"&(?:bg|fg|s|c|zoom|color|size|cht|chf|chs|chco|inline|mode|alternateText)=.*"
)
ENTITIES = {"&space;": " ", "&plus;": "+", "&hash;": "#", "&amp;": "&", "&lt;": "<", "&gt;": ">"}
# How a service is told to draw.
STYLE = re.compile(
    r"\s*(?:\\(?:dpi|bg|fn|inline|large|Large|LARGE|huge|Huge|small|tiny|normalsize|displaystyle"
    r"|opaque|fg)(?:_\w+|\s*\{[^{}]*\})?(?![a-zA-Z])|\{\\color\[[^]]*\]\{[^{}]*\}\s*)\s*"
)
GENERIC = re.compile(
    r"\s*(?:the |an? )?(?:latex|tex|equation|formula|image|math|eq\w*|公式|img)?"
    r"[\s\d:.]*(?:image|equation|formula)?\s*",
    re.IGNORECASE,
)
DELIMITED = re.compile(r"\s*(?:\$.+\$|\\\(.+\\\)|\\\[.+\\\]|\{\\displaystyle.+\})\s*", re.DOTALL)
LATEX = re.compile(r"\\[a-zA-Z]|[\^_{}=+]")


def latex_of_image(attributes: dict[str, str | None]) -> tuple[str, bool] | None:
    """(LaTeX, whether it is displayed) of an `img` element; None where it shows no formula."""
    alt = attributes.get("alt") or ""
    classes = attributes.get("class") or ""
    names = set(classes.lower().split())
    is_marked = not names.isdisjoint(CLASSES) or "eeimg" in attributes
    url_latex = ""
    for name in ("src", "data-src", "data-lazy-src", "data-original"):
        if url_latex := latex_of_url(attributes.get(name) or ""):
            break
    display = "display" in classes or "latexcenter" in names
    content = attributes.get("data-equation-content") or attributes.get("data-latex")
    if content:
        return content, display
    only_words = LATEX.search(url_latex) and not LATEX.search(alt)
    if url_latex and (only_words or GENERIC.fullmatch(alt)):
        return url_latex, display
    if alt and (
        url_latex
        or DELIMITED.fullmatch(alt)
        or (is_marked and not GENERIC.fullmatch(alt) and not _is_prose(alt))
    ):
        return alt, display
    return None


def latex_of_url(url: str) -> str:
    """The LaTeX in an address of one of the SERVICES; "" for any other address."""
    if len(url) > 20_000 or not (match := SERVICES.search(url)):
        return ""
    query = url[match.end() :]
    codecogs = "codecogs" in match[0]
    if not codecogs:
        query = NEXT_FIELD.sub("", query)
        if "mimetex" not in match[0] and "mathtex" not in match[0] and "upmath" not in match[0]:
            query = query.replace("+", " ")
    for entity, character in ENTITIES.items():
        query = query.replace(entity, character)
    latex = unquote(query)
    for entity, character in ENTITIES.items():
        latex = latex.replace(entity, character)
    while style := STYLE.match(latex):
        latex = latex[style.end() :]
    return latex.strip()


def _is_prose(alt: str) -> bool:
    words = re.findall(r"(?<![\\a-zA-Z])[a-zA-Z]{3,}", alt)
    return len(words) >= 3 and not LATEX.search(alt)
