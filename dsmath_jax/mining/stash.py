"""Parts of a page that must pass through the making of its text unchanged: formulas and code.

Each stands in the text as a mark of two Unicode noncharacters with its number between them, and
comes back at the end, once.
"""

from __future__ import annotations

import re

INLINE, BLOCK, END = "\ufdd0", "\ufdd1", "\ufdd2"
MARK = re.compile(f"[{INLINE}{BLOCK}](\\d{{1,9}}){END}")
STRAY = re.compile(f"[{INLINE}{BLOCK}{END}]")

_ENCLOSED = re.compile(
    r"(?:\$\$(?P<a>.*)\$\$|\\\[(?P<b>.*)\\\]|\\\((?P<c>.*)\\\)|\$(?P<d>[^$]*)\$)", re.DOTALL
)
_WRAPPED = re.compile(r"\{\\(?:displaystyle|textstyle)\b\s*(.*)\}", re.DOTALL)
_BRACED = r"\{(?:[^{}]++|\{(?:[^{}]++|\{(?:[^{}]++|\{[^{}]*+\})*+\})*+\})*+\}"
_DEFINITIONS = re.compile(
    r"""(?:\\(?:(?:re)?newcommand|providecommand)\*?\s*(?:BRACED|\\\w+)(?:\[[^]]*\])*\s*BRACED\s*
    |\\def\s*\\[a-zA-Z]+[^{}]*BRACED\s*
    |\\DeclareMathOperator\*?\s*BRACED\s*BRACED\s*
    |\\definecolor\s*BRACED\s*BRACED\s*BRACED\s*)+""".replace("BRACED", _BRACED),
    re.VERBOSE,
)
_COMMENT = re.compile(r"(?<!\\)((?:\\\\)*)%[^\n]*(?:\n|$)")


class Stash:
    def __init__(self) -> None:
        self.parts: list[str | None] = []
        self.found = 0  # formulas in the page, and
        self.formulas = 0  # in the text

    def formula(self, latex: str, display: bool = False) -> str:
        """The mark for a formula; "" for an empty one, or one that only defines commands.

        Delimiters around the LaTeX are taken off, and say whether it is on a line of its own.
        """
        latex, display = clean(latex, display)
        if not latex or (latex.startswith("\\") and _DEFINITIONS.fullmatch(latex)):
            return ""
        self.found += 1
        return self._add(f"$${latex}$$" if display else f"${latex}$", BLOCK if display else INLINE)

    def code(self, text: str) -> str:
        """The mark for code within a line."""
        text = " ".join(text.split())
        if not text:
            return ""
        fence = "``" if "`" in text else "`"
        return self._add(f"{fence}{text}{fence}", INLINE)

    def verbatim(self, text: str) -> str:
        """The mark for a block of lines that stay as they are."""
        return self._add(text, BLOCK)

    def restore(self, text: str) -> str:
        """The text with its parts back, and `formulas` counted."""
        if text.isascii() or not (INLINE in text or BLOCK in text or END in text):
            return text
        return STRAY.sub("", MARK.sub(self._take, text))

    def _add(self, part: str, kind: str) -> str:
        self.parts.append(part)
        return f"{kind}{len(self.parts) - 1}{END}"

    def _take(self, match: re.Match[str]) -> str:
        index = int(match[1])
        if index >= len(self.parts) or (part := self.parts[index]) is None:
            return ""  # written by the page itself
        self.parts[index] = None
        self.formulas += part.startswith("$")
        return part


def clean(latex: str, display: bool = False) -> tuple[str, bool]:
    """LaTeX without delimiters, comments and empty lines, and whether it is displayed."""
    latex = latex.strip()
    if latex.startswith("% <![CDATA["):
        latex = latex[11:].strip().removesuffix("%]]>").strip()
    latex = latex.removeprefix("<![CDATA[").removesuffix("]]>")
    if latex[:1] in ("$", "\\") and (match := _ENCLOSED.fullmatch(latex)):
        display = display or match["a"] is not None or match["b"] is not None
        latex = next(x for x in match.groups() if x is not None).strip()
    while latex.startswith("{\\") and (match := _WRAPPED.fullmatch(latex)):
        if not _is_balanced(match[1]):
            break
        latex = match[1].strip()
    for prefix in ("\\displaystyle ", "\\displaystyle{"):
        if latex.startswith(prefix) and not display and prefix.endswith(" "):
            latex = latex[len(prefix) :].strip()
    if "%" in latex:
        latex = _COMMENT.sub(r"\1", latex)
    if not display:
        return " ".join(latex.split()), False
    lines = (" ".join(line.split()) for line in latex.splitlines())
    return "\n".join(line for line in lines if line), True


def _is_balanced(latex: str) -> bool:
    depth = 0
    for brace in re.findall(r"\\.|[{}]", latex):
        depth += (brace == "{") - (brace == "}")
        if depth < 0:
            return False
    return depth == 0
