"""Presentation MathML to LaTeX.

A formula's elements are converted from the last to the first, so that children come before their
parents and nesting needs no recursion.
"""

from __future__ import annotations

import re

from selectolax.lexbor import LexborNode

from dsmath_jax.mining.latex_symbols import (
    ALPHABETS,
    COMMANDS,
    FENCES,
    FUNCTIONS,
    LARGE,
    LIMITS,
    SPACED,
    latex_of,
)
from dsmath_jax.mining.mathml_layouts import LAYOUTS
from dsmath_jax.mining.mathml_rows import CLOSING, OPENING, Piece, row

MAX_ELEMENTS = 20_000  # of a formula; one with more is a table of data or hostile: its text is kept
SKIPPED = {"annotation", "annotation-xml", "-comment", "script", "style"}
# A command with an argument, a fence, or something in one pair of fences.
BASE = re.compile(
    r"\\[a-zA-Z]+\{[^{}]*\}|\\[{}|]|\([^()]*\)|\[[^\[\]]*\]"
    r"|\\left(?:(?!\\left|\\right).)*\\right(?:[^a-zA-Z\\]|\\[a-zA-Z]+|\\.)"
)
LEADING = ("=", "\\leq", "\\geq", "\\equiv", "\\approx", "<", ">", "\\to", "\\Rightarrow", "\\le")
LENGTH = re.compile(r"\s*(-?[\d.]+)\s*(em|ex|px|pt|)")


def to_latex(math: LexborNode) -> str:
    """The LaTeX of a `math` element, without delimiters; "" where nothing is visible."""
    nodes = []
    for node in math.traverse():
        nodes.append(node)
        if len(nodes) > MAX_ELEMENTS:
            return latex_of(" ".join(math.text(separator=" ").split()))
    pieces: dict[int, Piece] = {}
    for node in reversed(nodes):
        children = []
        for child in node.iter():
            piece = pieces.pop(child.mem_id, None)
            if piece is not None and piece.kind != "skipped":
                children.append(piece)
        tag = (node.tag or "").rpartition(":")[2]
        pieces[node.mem_id] = _convert(tag, node, children)
    return row([pieces[math.mem_id]]).strip()


def _convert(tag: str, node: LexborNode, children: list[Piece]) -> Piece:
    if tag in SKIPPED:
        return Piece("", "skipped")
    if tag in TOKENS:
        return TOKENS[tag](node)
    if tag == "mspace":
        return Piece(_space(node.attributes.get("width")), "space")
    if tag in ("none", "mprescripts", "malignmark", "maligngroup"):
        return Piece("", tag)
    if tag == "semantics" or tag == "maction":
        return children[0] if children else Piece("")
    if tag in LAYOUTS:
        return LAYOUTS[tag](node, children)
    if len(children) == 1:  # mrow, mstyle, mpadded, math, ...
        return children[0]
    return Piece(row(children) if children else latex_of(" ".join(node.text().split())))


# ---- Tokens -------------------------------------------------------------------------------------


def _identifier(node: LexborNode) -> Piece:
    text = " ".join(node.text().split()).strip("\u2061\u2062\u2063\u2064")
    if text in FUNCTIONS:
        return Piece(f"\\{text}", "large" if text in LIMITS else "function")
    variant = node.attributes.get("mathvariant")
    latex = latex_of(text)
    if len(text) == 1 and (variant is None or not text.isalpha() or text in "∞∂∇ℏℓ"):
        return Piece(latex, "large" if text in LARGE else "", text)
    if variant is None and not (text.isalpha() and len(text) > 1 and text.isascii()):
        return Piece(latex)
    return Piece(_in_alphabet(latex, variant or "normal"))


def _number(node: LexborNode) -> Piece:
    latex = latex_of(" ".join(node.text().split()))
    variant = node.attributes.get("mathvariant")
    return Piece(_in_alphabet(latex, variant) if variant not in (None, "normal") else latex)


def _in_alphabet(latex: str, variant: str | None) -> str:
    command = ALPHABETS.get(variant or "", "")
    if not command or not latex or latex.startswith(command):
        return latex
    if "\\" in latex and command in ("\\mathbf", "\\mathrm", "\\mathsf", "\\mathtt"):
        # Greek letters and signs are not in the fonts of these commands.
        return f"\\boldsymbol{{{latex}}}" if command == "\\mathbf" else latex
    return f"{command}{{{latex}}}"


def _operator(node: LexborNode) -> Piece:
    text = " ".join(node.text().split()).strip("\u2061\u2062\u2063\u2064")
    if not text:
        return Piece("")
    if text in LARGE:
        return Piece(COMMANDS[text], "large", text)
    if text in FUNCTIONS or text in ("lim sup", "lim inf"):
        text = text.replace(" ", "")
        return Piece(f"\\{text}", "large" if text in LIMITS else "function", text)
    if text in FENCES and (text in OPENING or text in CLOSING):
        attributes = node.attributes
        if text in "|‖∥" and attributes.get("fence") == "false" and "stretchy" not in attributes:
            return Piece("\\mid" if text == "|" else "\\parallel", "operator", text)
        return Piece(FENCES[text], "fence", text, tall=attributes.get("stretchy") != "false")
    if len(text) > 1 and text.isascii() and text.isalpha():
        return Piece(f"\\operatorname{{{text}}}", "function", text)
    if text == ":=":
        return Piece(":=", "operator", text)
    spaced = text in SPACED or (len(text) == 2 and set(text) <= set("<>=!+-|&"))
    return Piece(latex_of(text), "operator" if spaced else "sign", text)


def _text(node: LexborNode) -> Piece:
    text = re.sub(r"\s+", " ", node.text()).replace("\u00a0", " ")
    if not text.strip():
        return Piece("\\ " if text else "", "space")
    escaped = re.sub(r"([#$%&_{}])", r"\\\1", text.replace("\\", ""))
    return Piece(f"\\text{{{escaped}}}", "text")


def _space(width: str | None) -> str:
    match = LENGTH.match(width or "")
    if not match or not match[1].strip("-."):
        return ""
    ems = float(match[1]) * {"em": 1, "ex": 0.43, "px": 1 / 16, "pt": 1 / 12}.get(match[2], 0)
    if ems >= 2:
        return "\\qquad "
    if ems >= 1:
        return "\\quad "
    return "\\;" if ems > 0.25 else "\\," if ems > 0.1 else ""


TOKENS = {
    "mi": _identifier,
    "mn": _number,
    "mo": _operator,
    "mtext": _text,
    "ms": _text,
}
