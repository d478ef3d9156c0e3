"""What MathML's elements for fractions, roots, scripts, fences and tables are in LaTeX."""

from __future__ import annotations

import re

from selectolax.lexbor import LexborNode

from dsmath_jax.mining.latex_symbols import FENCES, OVER, UNDER, join, latex_of
from dsmath_jax.mining.mathml_rows import SPLIT, Piece, environment, row

ENCLOSURES = {
    "box": "\\boxed", "roundedbox": "\\boxed", "circle": "\\boxed", "radical": "\\sqrt",
    "updiagonalstrike": "\\cancel", "downdiagonalstrike": "\\bcancel",
    "horizontalstrike": "\\cancel", "top": "\\overline", "bottom": "\\underline",
}  # fmt: skip
ARROW_COMMANDS = {
    "→": "\\xrightarrow", "⟶": "\\xrightarrow", "←": "\\xleftarrow", "⟵": "\\xleftarrow",
    "⇒": "\\xRightarrow", "⟹": "\\xRightarrow",
}  # fmt: skip
PRIMES = {"′": "'", "'": "'", "″": "''", "‴": "'''", "’": "'", "′′": "''"}
# A command with an argument, a fence, or something in one pair of fences.
BASE = re.compile(
    r"\\[a-zA-Z]+\{[^{}]*\}|\\[{}|]|\([^()]*\)|\[[^\[\]]*\]"
    r"|\\left(?:(?!\\left|\\right).)*\\right(?:[^a-zA-Z\\]|\\[a-zA-Z]+|\\.)"
)
COMMAND = re.compile(r"\\[a-zA-Z]+")
LEADING = ("=", "<", ">", "\\le", "\\ge", "\\equiv", "\\approx", "\\to", "\\Rightarrow")


def _argument(piece: Piece) -> str:
    return f"{{{row([piece])}}}"


def _parts(children: list[Piece], count: int) -> list[Piece]:
    """Exactly so many children: pages leave some out."""
    return [*children[:count], *[Piece("")] * (count - len(children))]


def _script(mark: str, piece: Piece) -> str:
    latex = row([piece])
    if not latex:
        return ""
    return f"{mark}{latex}" if len(latex) == 1 else f"{mark}{{{latex}}}"


def _base(piece: Piece) -> str:
    """What scripts can stand behind: one letter, number, command, or something in braces."""
    latex = row([piece])
    if piece.kind in ("large", "function", "braced") or len(latex) <= 1:
        return latex
    if latex.isdigit() or COMMAND.fullmatch(latex) or BASE.fullmatch(latex):
        return latex
    return f"{{{latex}}}"


def _fraction(node: LexborNode, children: list[Piece]) -> Piece:
    top, bottom = _parts(children, 2)
    attributes = node.attributes
    thickness = (attributes.get("linethickness") or "").strip()
    if thickness and re.fullmatch(r"0+(?:\.0*)?\s*[a-z%]*", thickness):
        return Piece(f"{row([top])}{SPLIT}{row([bottom])}", "stack")
    if attributes.get("bevelled") == "true":
        return Piece(f"{_base(top)}/{_base(bottom)}")
    return Piece(f"\\frac{_argument(top)}{_argument(bottom)}")


def _root(node: LexborNode, children: list[Piece]) -> Piece:
    radicand, index = _parts(children, 2)
    return Piece(f"\\sqrt[{row([index])}]{_argument(radicand)}")


def _square_root(node: LexborNode, children: list[Piece]) -> Piece:
    return Piece(f"\\sqrt{{{row(children)}}}")


def _subscript(node: LexborNode, children: list[Piece]) -> Piece:
    base, below = _parts(children, 2)
    return _scripts(base, below, Piece(""))


def _superscript(node: LexborNode, children: list[Piece]) -> Piece:
    base, above = _parts(children, 2)
    return _scripts(base, Piece(""), above)


def _both_scripts(node: LexborNode, children: list[Piece]) -> Piece:
    return _scripts(*_parts(children, 3))


def _scripts(base: Piece, below: Piece, above: Piece) -> Piece:
    latex = _base(base)
    if (primes := PRIMES.get(above.text)) or set(above.latex) == {"'"}:
        latex += (primes or above.latex) + _script("_", below)
    else:
        if above.latex == "^\\circ":
            above = Piece("\\circ")
        if latex.endswith("'") and above.latex:
            latex = f"{{{latex}}}"
        latex += _script("_", below) + _script("^", above)
    # A fence that carries scripts is still a fence.
    if base.kind == "fence":
        return Piece(latex.replace("{\\|}", "\\|"), "fence", base.text, base.tall)
    return Piece(latex, "large" if base.kind == "large" else "function" * (base.kind == "function"))


def _under(node: LexborNode, children: list[Piece]) -> Piece:
    base, below = _parts(children, 2)
    if (command := UNDER.get(below.text)) and base.kind != "large":
        return Piece(f"{command}{_argument(base)}", "braced" if "brace" in command else "")
    if base.kind in ("large", "braced"):
        return Piece(_base(base) + _script("_", below), base.kind)
    if (arrow := ARROW_COMMANDS.get(base.text)) is not None:
        return Piece(f"{arrow}[{row([below])}]{{}}", "operator")
    return Piece(f"\\underset{_argument(below)}{_argument(base)}", base.kind)


def _over(node: LexborNode, children: list[Piece]) -> Piece:
    base, above = _parts(children, 2)
    if (commands := OVER.get(above.text)) and base.kind != "large":
        latex = row([base])
        # One letter, also of another alphabet.
        narrow = len(re.sub(r"\\[a-zA-Z]+|[{}\s]", "", latex)) <= 1
        return Piece(
            f"{commands[0] if narrow else commands[1]}{{{latex}}}",
            "braced" if "brace" in commands[0] else "",
        )
    if base.kind in ("large", "braced"):
        return Piece(_base(base) + _script("^", above), base.kind)
    if (arrow := ARROW_COMMANDS.get(base.text)) is not None:
        return Piece(f"{arrow}{_argument(above)}", "operator")
    return Piece(f"\\overset{_argument(above)}{_argument(base)}", base.kind)


def _under_over(node: LexborNode, children: list[Piece]) -> Piece:
    base, below, above = _parts(children, 3)
    if base.kind in ("large", "braced"):
        return Piece(_base(base) + _script("_", below) + _script("^", above), base.kind)
    if (arrow := ARROW_COMMANDS.get(base.text)) is not None:
        return Piece(f"{arrow}[{row([below])}]{_argument(above)}", "operator")
    return _over(node, [_under(node, [base, below]), above])


def _multiscripts(node: LexborNode, children: list[Piece]) -> Piece:
    base, *rest = children or [Piece("")]
    cut = next((i for i, p in enumerate(rest) if p.kind == "mprescripts"), len(rest))
    behind, before = rest[:cut], rest[cut + 1 :]
    latex = ""
    for pair in _pairs(before):
        latex += "{}" + pair
    latex = join(latex, _base(base))
    pairs = _pairs(behind)
    return Piece(latex + "{}".join(pairs))


def _pairs(pieces: list[Piece]) -> list[str]:
    return [
        _script("_", pieces[i]) + _script("^", _parts(pieces[i + 1 : i + 2], 1)[0])
        for i in range(0, len(pieces), 2)
    ]


def _fenced(node: LexborNode, children: list[Piece]) -> Piece:
    attributes = node.attributes
    opening, closing = attributes.get("open", "("), attributes.get("close", ")")
    separators = (attributes.get("separators", ",") or "").replace(" ", "")
    pieces = [_fence(opening or "")]
    for i, child in enumerate(children):
        if i and separators:
            sign = separators[min(i - 1, len(separators) - 1)]
            pieces.append(Piece(latex_of(sign), "sign", sign))
        pieces.append(child)
    return Piece(row([*pieces, _fence(closing or "")]))


def _fence(text: str) -> Piece:
    text = text.strip()
    return Piece(FENCES.get(text, latex_of(text)) if text else "", "fence", text, tall=True)


def _phantom(node: LexborNode, children: list[Piece]) -> Piece:
    inside = row(children)
    return Piece(f"\\phantom{{{inside}}}" if inside else "", "space")


def _enclosed(node: LexborNode, children: list[Piece]) -> Piece:
    latex = row(children)
    for notation in (node.attributes.get("notation") or "").split():
        if command := ENCLOSURES.get(notation):
            return Piece(f"{command}{{{latex}}}")
    return Piece(latex)


# ---- Tables -------------------------------------------------------------------------------------


def _cell(node: LexborNode, children: list[Piece]) -> Piece:
    return Piece(row(children).strip(), "cell")


def _table_row(node: LexborNode, children: list[Piece]) -> Piece:
    return Piece(" & ".join(row([child]) for child in children), "row")


def _labelled_row(node: LexborNode, children: list[Piece]) -> Piece:
    label = row(children[:1]).removeprefix("\\text{").removesuffix("}").strip("() ")
    labelled = _table_row(node, children[1:])
    return Piece(f"{labelled.latex} \\tag{{{label}}}" if label else labelled.latex, "row")


def _table(node: LexborNode, children: list[Piece]) -> Piece:
    body = " \\\\ ".join(piece.latex for piece in children)
    if len(children) == 1 and "\\tag{" in body:  # a numbered equation
        return Piece(body.replace(" & ", " "))
    attributes = node.attributes
    columns = (attributes.get("columnalign") or "").split()
    lines = (attributes.get("columnlines") or "").split()
    if set(lines) & {"solid", "dashed"}:
        count = max((piece.latex.count(" & ") for piece in children), default=0) + 1
        columns += [columns[-1] if columns else "center"] * (count - len(columns))
        letters = [c[0] if c[0] in "lcr" else "c" for c in columns[:count]]
        marks = [x != "none" for x in lines]
        marks += [marks[-1]] * (count - 1 - len(marks))
        layout = letters[0] + "".join(
            ("|" if mark else "") + c for mark, c in zip(marks, letters[1:], strict=False)
        )
        return Piece(environment("array", body, f"{{{layout}}}"))
    aligned = columns[:2] == ["right", "left"] or "\\tag{" in body
    cells = [piece.latex.split(" & ") for piece in children]
    aligned = aligned or all(len(c) > 1 and c[1].startswith(LEADING) for c in cells)
    return Piece(body, "table", "aligned" if aligned else "")


LAYOUTS = {
    "mfrac": _fraction,
    "msqrt": _square_root,
    "mroot": _root,
    "msub": _subscript,
    "msup": _superscript,
    "msubsup": _both_scripts,
    "munder": _under,
    "mover": _over,
    "munderover": _under_over,
    "mmultiscripts": _multiscripts,
    "mfenced": _fenced,
    "mphantom": _phantom,
    "menclose": _enclosed,
    "mtd": _cell,
    "mtr": _table_row,
    "mlabeledtr": _labelled_row,
    "mtable": _table,
}
