"""AsciiMath to LaTeX, by the grammar of asciimath.org.

S ::= symbol | left E right | unary S | binary S S      a simple expression
I ::= S_S | S^S | S_S^S | S                             with scripts
E ::= I E | I/I
"""

from __future__ import annotations

import dataclasses
import re

from dsmath_jax.mining.latex_symbols import FUNCTIONS, GREEK, join

MAX_DEPTH = 40  # of brackets; deeper ones stay brackets of text
MAX_LENGTH = 10_000

SYMBOLS = {
    "+": "+", "-": "-", "*": "\\cdot", "**": "\\ast", "***": "\\star", "//": "/", "/": "/",
    "\\\\": "\\backslash", "xx": "\\times", "-:": "\\div", "@": "\\circ", "o+": "\\oplus",
    "ox": "\\otimes", "o.": "\\odot", "sum": "\\sum", "prod": "\\prod", "^^": "\\wedge",
    "^^^": "\\bigwedge", "vv": "\\vee", "vvv": "\\bigvee", "nn": "\\cap", "nnn": "\\bigcap",
    "uu": "\\cup", "uuu": "\\bigcup", "=": "=", "!=": "\\ne", ":=": ":=", "<": "<", ">": ">",
    "lt": "<", "gt": ">", "<=": "\\le", ">=": "\\ge", "le": "\\le", "ge": "\\ge", "lt=": "\\le",
    "gt=": "\\ge", "-<": "\\prec", ">-": "\\succ", "-<=": "\\preceq", ">-=": "\\succeq",
    "in": "\\in", "!in": "\\notin", "sub": "\\subset", "sup": "\\supset", "sube": "\\subseteq",
    "supe": "\\supseteq", "-=": "\\equiv", "~=": "\\cong", "~~": "\\approx", "~": "\\sim",
    "prop": "\\propto", "and": "\\text{ and }", "or": "\\text{ or }", "not": "\\neg",
    "=>": "\\Rightarrow", "if": "\\text{ if }", "<=>": "\\Leftrightarrow", "iff": "\\iff",
    "AA": "\\forall", "EE": "\\exists", "_|_": "\\bot", "TT": "\\top", "|--": "\\vdash",
    "|==": "\\models", "int": "\\int", "oint": "\\oint", "del": "\\partial", "grad": "\\nabla",
    "+-": "\\pm", "-+": "\\mp", "O/": "\\emptyset", "oo": "\\infty", "aleph": "\\aleph",
    "...": "\\ldots", "ldots": "\\ldots", "cdots": "\\cdots", "vdots": "\\vdots",
    "ddots": "\\ddots", ":.": "\\therefore", ":'": "\\because", "/_": "\\angle",
    "/_\\": "\\triangle", "'": "'", "\\ ": "\\ ", "quad": "\\quad", "qquad": "\\qquad",
    "diamond": "\\diamond", "square": "\\square", "CC": "\\mathbb{C}", "NN": "\\mathbb{N}",
    "QQ": "\\mathbb{Q}", "RR": "\\mathbb{R}", "ZZ": "\\mathbb{Z}", "lcm": "\\operatorname{lcm}",
    "lub": "\\operatorname{lub}", "glb": "\\operatorname{glb}", "mod": "\\bmod",
    "uarr": "\\uparrow", "darr": "\\downarrow", "rarr": "\\rightarrow", "->": "\\to",
    ">->": "\\rightarrowtail", "->>": "\\twoheadrightarrow", "|->": "\\mapsto",
    "larr": "\\leftarrow", "harr": "\\leftrightarrow", "rArr": "\\Rightarrow",
    "lArr": "\\Leftarrow", "hArr": "\\Leftrightarrow", ",": ",", "epsi": "\\epsilon",
    "phi": "\\phi", "epsilon": "\\epsilon", "%": "\\%", "#": "\\#", "&": "\\&", "$": "\\$",
}  # fmt: skip
for _names in GREEK.values():
    SYMBOLS |= {name: f"\\{name}" for name in _names.split() if name not in SYMBOLS}
SYMBOLS |= {name: f"\\{name}" for name in FUNCTIONS}

UNARY = {
    "sqrt": "\\sqrt{%s}", "abs": "\\left|%s\\right|", "norm": "\\left\\|%s\\right\\|",
    "floor": "\\left\\lfloor %s\\right\\rfloor", "ceil": "\\left\\lceil %s\\right\\rceil",
    "hat": "\\hat{%s}", "bar": "\\overline{%s}", "overline": "\\overline{%s}",
    "ul": "\\underline{%s}", "underline": "\\underline{%s}", "vec": "\\vec{%s}",
    "tilde": "\\tilde{%s}", "dot": "\\dot{%s}", "ddot": "\\ddot{%s}",
    "ubrace": "\\underbrace{%s}", "underbrace": "\\underbrace{%s}", "obrace": "\\overbrace{%s}",
    "overbrace": "\\overbrace{%s}", "cancel": "\\cancel{%s}", "bb": "\\mathbf{%s}",
    "mathbf": "\\mathbf{%s}", "bbb": "\\mathbb{%s}", "mathbb": "\\mathbb{%s}",
    "cc": "\\mathcal{%s}", "mathcal": "\\mathcal{%s}", "tt": "\\mathtt{%s}",
    "fr": "\\mathfrak{%s}", "mathfrak": "\\mathfrak{%s}", "sf": "\\mathsf{%s}",
}  # fmt: skip
BINARY = {
    "frac": "\\frac{%s}{%s}", "root": "\\sqrt[%s]{%s}", "stackrel": "\\stackrel{%s}{%s}",
    "overset": "\\overset{%s}{%s}", "underset": "\\underset{%s}{%s}",
}  # fmt: skip
LEFT = {
    "(": "(", "[": "[", "{": "\\{", "(:": "\\langle", "<<": "\\langle", "langle": "\\langle",
    "{:": ".", "|__": "\\lfloor", "|~": "\\lceil",
}  # fmt: skip
RIGHT = {
    ")": ")", "]": "]", "}": "\\}", ":)": "\\rangle", ">>": "\\rangle", "rangle": "\\rangle",
    ":}": ".", "__|": "\\rfloor", "~|": "\\rceil",
}  # fmt: skip
MATRICES = {("(", ")"): "pmatrix", ("[", "]"): "bmatrix", ("\\{", "\\}"): "Bmatrix"}
MATRICES |= {("\\{", "."): "cases", ("|", "|"): "vmatrix", (".", "."): "matrix"}

RELATIONS = ("=", "<", ">", ":=")
# Functions that take an argument, which is not the top of a fraction alone: (sin x)/x.
WITH_ARGUMENT = FUNCTIONS - {"lim", "liminf", "limsup", "dim", "gcd", "min", "max", "inf", "sup"}

_WORDS = sorted(
    {*SYMBOLS, *UNARY, *BINARY, *LEFT, *RIGHT, "_", "^", "|", "text", "mbox"}, key=len, reverse=True
)
TOKEN = re.compile(
    r'\s+|(?P<quoted>"[^"]*")|(?P<text>(?:text|mbox)\s*\((?P<inside>[^()]*)\))'
    r"|(?P<number>\d+(?:\.\d+)?)|(?P<word>" + "|".join(map(re.escape, _WORDS)) + r")|(?P<other>.)",
    re.DOTALL,
)


@dataclasses.dataclass(slots=True)
class Node:
    """`latex` with its brackets; `bare` without, as fractions, roots and scripts take it."""

    latex: str
    bare: str
    brackets: tuple[str, str] | None = None
    cells: list[str] | None = None  # of a bracket, between its commas
    rows: list[Node] | None = None  # a bracket's cells, where each is a bracket itself


def to_latex(source: str) -> str:
    """The LaTeX of an AsciiMath formula; whatever the source is, something comes out."""
    return _Parser(source[:MAX_LENGTH]).expression(0)[0].strip()


class _Parser:
    def __init__(self, source: str):
        self.tokens: list[tuple[str, str]] = []
        for match in TOKEN.finditer(source):
            kind = match.lastgroup
            if kind is None:
                continue
            if kind in ("text", "inside"):
                self.tokens.append(("text", match["inside"]))
            elif kind == "quoted":
                self.tokens.append(("text", match[0][1:-1]))
            else:
                self.tokens.append((kind, match[0]))
        self.at = 0

    def peek(self) -> str:
        return self.tokens[self.at][1] if self.at < len(self.tokens) else ""

    def is_word(self, *words: str) -> bool:
        return self.at < len(self.tokens) and self.tokens[self.at] in [("word", w) for w in words]

    def expression(self, depth: int, until_bar: bool = False) -> tuple[str, list[str], list[Node]]:
        """Up to a right bracket or the end: all of it, the cells between its commas, and the
        items where each cell is one."""
        whole, cell = "", ""
        cells: list[str] = []
        items: list[list[Node]] = [[]]
        while self.at < len(self.tokens):
            kind, token = self.tokens[self.at]
            if kind == "word" and (token in RIGHT or (until_bar and token == "|")) and depth:
                break
            if kind == "word" and token == "," and depth:
                self.at += 1
                cells.append(cell.strip())
                items.append([])
                whole, cell = whole + ", ", ""
                continue
            node = self.fraction(depth)
            whole, cell = _beside(whole, node.latex), _beside(cell, node.latex)
            items[-1].append(node)
        cells.append(cell.strip())
        alone = [x[0] for x in items if len(x) == 1]
        return whole, cells, alone if len(alone) == len(items) else []

    def fraction(self, depth: int) -> Node:
        top = self.scripted(depth)
        if not self.is_word("/") or self.at + 1 >= len(self.tokens):
            return top
        self.at += 1
        bottom = self.scripted(depth)
        return _plain(f"\\frac{{{top.bare}}}{{{bottom.bare}}}")

    def scripted(self, depth: int) -> Node:
        base = self.simple(depth)
        scripts = ""
        for mark in "_^":
            if self.is_word(mark) and self.at + 1 < len(self.tokens):
                self.at += 1
                bare = self.simple(depth).bare.strip()
                scripts += f"{mark}{bare}" if len(bare) == 1 else f"{mark}{{{bare}}}"
        return _plain(base.latex + scripts) if scripts else base

    def simple(self, depth: int) -> Node:
        if self.at >= len(self.tokens):
            return _plain("")
        kind, token = self.tokens[self.at]
        self.at += 1
        if kind == "text":
            return _plain(f"\\text{{{token}}}")
        if kind != "word":
            return _plain({"\\": "\\backslash", "`": ""}.get(token, token))
        nested = depth + 1 if depth < MAX_DEPTH else None
        if nested is None:
            return _plain(SYMBOLS.get(token) or LEFT.get(token) or RIGHT.get(token) or token)
        if token in LEFT or token == "|":
            return self.bracket(token, nested)
        if token in UNARY:
            argument = self.simple(nested).bare.strip()
            return _plain(UNARY[token].replace("%s", argument))
        if token in WITH_ARGUMENT and not self.is_word("_", "^", "/", "|", ",", *RIGHT):
            argument = self.simple(nested).latex
            return _plain(join(f"\\{token}", argument))
        if token in BINARY:
            first = self.simple(nested).bare.strip()
            second = self.simple(nested).bare.strip()
            before, middle, after = BINARY[token].split("%s")
            return _plain(before + first + middle + second + after)
        return _plain(SYMBOLS.get(token) or RIGHT.get(token) or token)

    def bracket(self, token: str, depth: int) -> Node:
        start = self.at
        whole, cells, alone = self.expression(depth, until_bar=token == "|")
        closing = self.peek()
        if token == "|":
            if closing != "|" or not whole:
                self.at = start
                return _plain("|" if closing != "|" else "\\mid")
            left = right = "|"
        else:
            left, right = LEFT[token], RIGHT.get(closing, ".")
        self.at += 1
        rows = [x for x in alone if x.cells is not None and x.brackets in (("(", ")"), ("[", "]"))]
        widths = {len(x.cells or []) for x in rows}
        is_matrix = len(rows) == len(cells) and len(widths) == 1 and (len(rows) > 1 or widths > {1})
        name = MATRICES.get((left, right))
        if is_matrix and name and (len(rows) > 1 or token == "["):
            body = " \\\\ ".join(" & ".join(x.cells or []) for x in rows)
            latex = f"\\begin{{{name}}}{body}\\end{{{name}}}"
            return Node(latex, latex)
        if left == "." and right == ".":
            return Node(whole, whole, (left, right), cells)
        if "." in (left, right) or "\\frac" in whole or "\\begin" in whole:
            latex = join(f"\\left{left}", whole) + f"\\right{right}"
        else:
            latex = join(left, whole) + right
        return Node(latex, whole, (left, right), cells)


def _plain(latex: str) -> Node:
    return Node(latex, latex)


def _beside(left: str, right: str) -> str:
    if not left or not right or left.endswith((" ", "(")):
        return left + right
    script = left[-2:-1] in ("_", "^") and right[0] not in "+-,)"
    relation = right in RELATIONS or left.endswith(RELATIONS)
    command = right[0] == "\\" and left[-1] not in "+-"
    return f"{left} {right}" if script or relation or command else join(left, right)
