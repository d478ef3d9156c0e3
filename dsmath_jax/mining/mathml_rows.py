"""Pieces of a formula beside each other: spaces around operators, fences that grow."""

from __future__ import annotations

import dataclasses
import re

from dsmath_jax.mining.latex_symbols import join

MATRICES = {
    ("(", ")"): "pmatrix", ("[", "]"): "bmatrix", ("{", "}"): "Bmatrix",
    ("|", "|"): "vmatrix", ("‖", "‖"): "Vmatrix", ("∥", "∥"): "Vmatrix",
    ("{", ""): "cases",
}  # fmt: skip
OPENING = set("([{⟨〈⌊⌈⟦|‖∥")
CLOSING = set(")]}⟩〉⌋⌉⟧|‖∥")
TALL = re.compile(r"\\(?:frac|dfrac|binom|begin|sum|prod|int|sqrt|bigcup|bigcap|overbrace|left)\b")


@dataclasses.dataclass(slots=True)
class Piece:
    """What an element became.

    `kind`: "operator", "fence", "large" (takes limits), "table" (rows without an environment),
    "stack" (a fraction without a line), "braced" (an over- or underbrace), "skipped" or "".
    """

    latex: str
    kind: str = ""
    text: str = ""  # of an operator
    tall: bool = False  # a fence may grow


def row(pieces: list[Piece]) -> str:
    """Pieces beside each other: spaces around operators, fences around matrices and tall parts."""
    pieces = _fence_tables(pieces)
    lefts = _tall_fences(pieces)
    result = ""
    bars = 0
    before = "operator"  # at the start a sign has no left side
    for i, piece in enumerate(pieces):
        latex = piece.latex
        if piece.kind == "table":
            latex = environment("aligned" if piece.text == "aligned" else "matrix", latex)
        elif piece.kind == "stack":
            latex = "{" + latex.replace(SPLIT, " \\atop ") + "}"
        elif i in lefts:
            latex = f"\\{lefts[i]}{latex}"
        if not latex:
            continue
        if piece.kind == "operator" and before != "operator" and i + 1 < len(pieces):
            result = f"{result.rstrip()} {latex} "
        elif latex[0] == "'" or not result:
            result += latex
        elif (before in ("function", "large") and latex[0] not in "([{^_ \\") or (
            before == "sign" and result[-1] in ",;"
        ):
            result = f"{result} {latex}"
        else:
            result = join(result, latex)
        if piece.kind == "fence":
            opens = piece.text in OPENING and not (piece.text in CLOSING and bars % 2)
            bars += piece.text in OPENING and piece.text in CLOSING
            before = "operator" if opens else "fence"
        elif piece.kind != "space":
            before = piece.kind
    return result.rstrip() if not result.endswith("\\ ") else result


SPLIT = "\x1f"  # between the two parts of a stack


def _fence_tables(pieces: list[Piece]) -> list[Piece]:
    """Tables, and fractions without a line, with the fences that stand beside them."""
    if not any(p.kind in ("table", "stack") for p in pieces):
        return pieces
    result: list[Piece] = []
    i = 0
    while i < len(pieces):
        piece = pieces[i]
        if piece.kind in ("table", "stack"):
            left = result[-1] if result and result[-1].kind == "fence" else None
            right = pieces[i + 1] if i + 1 < len(pieces) else None
            if right is not None and right.kind != "fence" and right.latex:
                right = None
            closing = right.text if right is not None else ""
            if piece.kind == "stack":
                if left and left.text == "(" and closing == ")":
                    top, bottom = piece.latex.split(SPLIT)
                    result[-1] = Piece(f"\\binom{{{top}}}{{{bottom}}}")
                    i += 2
                    continue
            elif left and (name := MATRICES.get((left.text, closing))):
                result[-1] = Piece(environment(name, piece.latex))
                i += 2 if right is not None else 1
                continue
        result.append(piece)
        i += 1
    return result


def environment(name: str, body: str, arguments: str = "") -> str:
    return f"\\begin{{{name}}}{arguments}{body}\\end{{{name}}}"


def _tall_fences(pieces: list[Piece]) -> dict[int, str]:
    """Which fences need \\left and \\right: those around something taller than a line."""
    result: dict[int, str] = {}
    stack: list[int] = []
    for i, piece in enumerate(pieces):
        if piece.kind != "fence" or not piece.tall:
            continue
        both = piece.text in OPENING and piece.text in CLOSING
        inside = stack and pieces[stack[-1]].text == piece.text if both else piece.text in CLOSING
        if inside and stack:
            start = stack.pop()
            if any(
                p.kind in ("table", "stack") or TALL.search(p.latex) for p in pieces[start + 1 : i]
            ):
                result[start], result[i] = "left", "right"
        elif piece.text in OPENING:
            stack.append(i)
    return result
