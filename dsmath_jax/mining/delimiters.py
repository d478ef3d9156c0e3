"""Formulas that stand in a page's text between delimiters."""

from __future__ import annotations

import functools
import re

from dsmath_jax.mining import asciimath
from dsmath_jax.mining.stash import Stash

MAX_INLINE = 1000  # characters between two dollar signs
ENVIRONMENTS = "equation|align|gather|multline|eqnarray|alignat|flalign|displaymath|aligned|CD"

# Each kind ends where another of it begins, so that marks without an end cost no time.
DELIMITED = re.compile(
    r"""(?<!\\)\\\[(?P<brackets>(?:[^\\]++|\\\\|\\(?![\[\]\\]))++)\\\]
    |(?<!\\)\\\((?P<parentheses>(?:[^\\]++|\\\\|\\(?![()\\]))++)\\\)
    |(?<![\\$])\$\$(?P<dollars>(?:[^\\$]++|\\.|\$(?!\$))++)\$\$
    |(?P<environment>\\begin\{(?P<name>(?:ENVIRONMENTS)\*?)\}
        (?:[^\\]++|\\(?!begin\{(?P=name)\}|end\{(?P=name)\}))++\\end\{(?P=name)\})
    |\[(?P<tag>tex|latex|math)\](?P<tagged>[^\[]++)\[/(?P=tag)\]
    |(?<![\\$\w])\$(?![\s$])(?:latex\s(?=\S))?(?P<dollar>(?:[^\\$]|\\.){1,MAX_INLINE}?)(?<![\s\\])\$(?![\d$])
    """.replace("ENVIRONMENTS", ENVIRONMENTS).replace("MAX_INLINE", str(MAX_INLINE)),
    re.VERBOSE | re.DOTALL,
)
BACKTICKS = re.compile(r"`([^`\n]{1,1000})`")
# What between two dollar signs is no price.
LOOKS_LIKE_LATEX = re.compile(
    r"[\\^_=<>]|^[a-zA-Z]$|^[-+]?\d*[a-zA-Z]?$|^[a-zA-Z]['(]|[+*/-]\s*[a-zA-Z]"
)
ENGINES = ("MathJax", "mathjax", "katex", "KaTeX", "math-container", "latex.php", "jsMath")
ASCIIMATH = re.compile(
    r"asciimath2jax|input/asciimath|ascii-?mathml|AM_[A-Z]+|MathJax[^\"']*AM[_-]", re.IGNORECASE
)


class Delimiters:
    """What a page's scripts make of its text.

    Args:
      html: the page, for its scripts.
    """

    def __init__(self, html: str, stash: Stash):
        self.stash = stash
        self.html = html

    @functools.cached_property
    def has_engine(self) -> bool:
        return any(name in self.html for name in ENGINES)

    @functools.cached_property
    def has_asciimath(self) -> bool:
        return ASCIIMATH.search(self.html) is not None

    def mark(self, text: str) -> str:
        """The text with marks in place of its formulas."""
        if "$" in text or "\\" in text or "[/" in text:
            text = DELIMITED.sub(self._replace, text)
        if "`" in text and self.has_asciimath:
            text = BACKTICKS.sub(self._replace_asciimath, text)
        return text

    def _replace(self, match: re.Match[str]) -> str:
        kind = match.lastgroup
        if kind == "dollar":
            latex = match["dollar"]
            if not self.has_engine and not LOOKS_LIKE_LATEX.search(latex):
                return match[0]
            return self.stash.formula(latex)
        if match["environment"] is not None:
            return self.stash.formula(match["environment"], display=True)
        if match["parentheses"] is not None:
            return self.stash.formula(match["parentheses"])
        if match["tagged"] is not None:
            return self.stash.formula(match["tagged"])
        return self.stash.formula(match["brackets"] or match["dollars"], display=True)

    def _replace_asciimath(self, match: re.Match[str]) -> str:
        return self.stash.formula(asciimath.to_latex(match[1])) or match[0]
