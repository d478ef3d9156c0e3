"""Unicode characters of formulas as LaTeX (commands of amsmath, amssymb and what MathJax knows)."""

from __future__ import annotations

import unicodedata

GREEK = {
    "αβγδεζηθικλμνξοπρςστυφχψω": "alpha beta gamma delta varepsilon zeta eta theta iota kappa "
    "lambda mu nu xi omicron pi rho varsigma sigma tau upsilon varphi chi psi omega",
    "ΓΔΘΛΞΠΣΥΦΨΩ": "Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega",
    "ϵϑϖϱϕϰϝ": "epsilon vartheta varpi varrho phi varkappa digamma",
}
# Capital letters that look like Latin ones have no commands.
LIKE_LATIN = dict(zip("ΑΒΕΖΗΙΚΜΝΟΡΤΧ", "ABEZHIKMNOPTX", strict=True)) | {"ο": "o"}

ORDINARY = {
    "∞": "infty", "∂": "partial", "∇": "nabla", "∅": "emptyset", "∀": "forall", "∃": "exists",
    "∄": "nexists", "¬": "neg", "ℓ": "ell", "ℏ": "hbar", "ℎ": "hbar", "ı": "imath", "ȷ": "jmath",
    "ℵ": "aleph", "ℶ": "beth", "℘": "wp", "ℜ": "Re", "ℑ": "Im", "∠": "angle", "∡": "measuredangle",
    "△": "triangle", "▵": "triangle", "□": "square", "■": "blacksquare", "◻": "square",
    "∎": "blacksquare", "⊤": "top", "⊥": "bot", "♯": "sharp", "♭": "flat", "♮": "natural",
    "♠": "spadesuit", "♣": "clubsuit", "♡": "heartsuit", "♢": "diamondsuit", "…": "ldots",
    "⋯": "cdots", "⋮": "vdots", "⋱": "ddots", "′": "prime", "‵": "backprime", "★": "bigstar",
    "†": "dagger", "‡": "ddagger", "§": "S", "¶": "P", "ð": "eth", "℧": "mho", "Ⅎ": "Finv",
    "∁": "complement", "√": "surd", "✓": "checkmark", "£": "pounds", "◊": "lozenge",
    "Å": "mathring{A}", "ϒ": "Upsilon",
}  # fmt: skip
BINARY = {
    "±": "pm", "∓": "mp", "×": "times", "÷": "div", "⋅": "cdot", "·": "cdot", "∗": "ast",
    "∘": "circ", "∙": "bullet", "•": "bullet", "⊕": "oplus", "⊖": "ominus", "⊗": "otimes",
    "⊘": "oslash", "⊙": "odot", "∪": "cup", "∩": "cap", "⊔": "sqcup", "⊓": "sqcap", "⊎": "uplus",
    "∧": "wedge", "∨": "vee", "∖": "setminus", "⧵": "setminus", "≀": "wr", "⋆": "star",
    "⋄": "diamond", "⋉": "ltimes", "⋊": "rtimes", "⋈": "bowtie", "⨿": "amalg", "⊞": "boxplus",
    "⊟": "boxminus", "⊠": "boxtimes", "⊡": "boxdot", "⋒": "Cap", "⋓": "Cup", "⊼": "barwedge",
    "⊻": "veebar", "∔": "dotplus", "⊺": "intercal", "◁": "triangleleft", "▷": "triangleright",
    "⊲": "lhd", "⊳": "rhd",
}  # fmt: skip
RELATIONS = {
    "≤": "leq", "≥": "geq", "≠": "neq", "≈": "approx", "≡": "equiv", "≅": "cong", "≃": "simeq",
    "∼": "sim", "∝": "propto", "≪": "ll", "≫": "gg", "≺": "prec", "≻": "succ", "⪯": "preceq",
    "⪰": "succeq", "≼": "preccurlyeq", "≽": "succcurlyeq", "≲": "lesssim", "≳": "gtrsim",
    "⩽": "leqslant", "⩾": "geqslant", "≦": "leqq", "≧": "geqq", "≮": "nless", "≯": "ngtr",
    "≰": "nleq", "≱": "ngeq", "∈": "in", "∉": "notin", "∋": "ni", "∌": "not\\ni", "⊂": "subset",
    "⊃": "supset", "⊆": "subseteq", "⊇": "supseteq", "⊊": "subsetneq", "⊋": "supsetneq",
    "⊄": "not\\subset", "⊅": "not\\supset", "⊈": "nsubseteq", "⊉": "nsupseteq", "⊏": "sqsubset",
    "⊐": "sqsupset", "⊑": "sqsubseteq", "⊒": "sqsupseteq", "∣": "mid", "∤": "nmid",
    "∥": "parallel", "∦": "nparallel", "⟂": "perp", "⊢": "vdash", "⊣": "dashv", "⊨": "models",
    "⊩": "Vdash", "⊬": "nvdash", "⊭": "nvDash", "≐": "doteq", "≑": "doteqdot", "≜": "triangleq",
    "≔": "coloneqq", "≕": "eqqcolon", "≍": "asymp", "≢": "not\\equiv", "≁": "nsim",
    "≉": "not\\approx", "≇": "ncong", "∴": "therefore", "∵": "because", "⌣": "smile",
    "⌢": "frown", "⊴": "trianglelefteq", "⊵": "trianglerighteq", "∽": "backsim", "≶": "lessgtr",
    "≷": "gtrless", "⋘": "lll", "⋙": "ggg", "∶": ":", "≗": "circeq", "≊": "approxeq",
    "⋪": "ntriangleleft", "⋬": "ntrianglelefteq", "≬": "between", "⋔": "pitchfork",
}  # fmt: skip
ARROWS = {
    "→": "to", "←": "leftarrow", "↔": "leftrightarrow", "⇒": "Rightarrow", "⇐": "Leftarrow",
    "⇔": "Leftrightarrow", "↦": "mapsto", "⟶": "longrightarrow", "⟵": "longleftarrow",
    "⟷": "longleftrightarrow", "⟹": "Longrightarrow", "⟸": "Longleftarrow",
    "⟺": "Longleftrightarrow", "⟼": "longmapsto", "↑": "uparrow", "↓": "downarrow",
    "↕": "updownarrow", "⇑": "Uparrow", "⇓": "Downarrow", "⇕": "Updownarrow", "↗": "nearrow",
    "↘": "searrow", "↙": "swarrow", "↖": "nwarrow", "↪": "hookrightarrow", "↩": "hookleftarrow",
    "⇀": "rightharpoonup", "⇁": "rightharpoondown", "↼": "leftharpoonup", "↽": "leftharpoondown",
    "⇌": "rightleftharpoons", "⇋": "leftrightharpoons", "↠": "twoheadrightarrow",
    "↣": "rightarrowtail", "⇝": "rightsquigarrow", "↝": "leadsto", "↛": "nrightarrow",
    "↚": "nleftarrow", "⇏": "nRightarrow", "⇍": "nLeftarrow", "⇎": "nLeftrightarrow",
    "↮": "nleftrightarrow", "⇄": "rightleftarrows", "⇆": "leftrightarrows", "⇉": "rightrightarrows",
    "⊸": "multimap", "↶": "curvearrowleft", "↷": "curvearrowright", "↺": "circlearrowleft",
    "↻": "circlearrowright", "↾": "upharpoonright", "⇢": "dashrightarrow",
}  # fmt: skip
LARGE = {
    "∑": "sum", "∏": "prod", "∐": "coprod", "∫": "int", "∬": "iint", "∭": "iiint", "∮": "oint",
    "⨌": "iiiint", "⋃": "bigcup", "⋂": "bigcap", "⨆": "bigsqcup", "⨅": "bigsqcap", "⋁": "bigvee",
    "⋀": "bigwedge", "⨁": "bigoplus", "⨂": "bigotimes", "⨀": "bigodot", "⨄": "biguplus",
    "∯": "oiint",
}  # fmt: skip
FENCES = {
    "(": "(", ")": ")", "[": "[", "]": "]", "{": "\\{", "}": "\\}", "|": "|", "‖": "\\|",
    "⟨": "\\langle", "⟩": "\\rangle", "〈": "\\langle", "〉": "\\rangle", "⌊": "\\lfloor",
    "⌋": "\\rfloor", "⌈": "\\lceil", "⌉": "\\rceil", "∥": "\\|", "/": "/", "⟦": "[\\![",
    "⟧": "]\\!]", "⟮": "\\lgroup", "⟯": "\\rgroup", "⎰": "\\lmoustache", "⎱": "\\rmoustache",
    "〚": "[\\![", "〛": "]\\!]", "┌": "\\ulcorner", "┐": "\\urcorner",
}  # fmt: skip
SPECIAL = {
    "\\": "\\backslash", "{": "\\{", "}": "\\}", "%": "\\%", "#": "\\#", "&": "\\&", "$": "\\$",
    "_": "\\_", "^": "\\hat{}", "~": "\\sim", "−": "-", "‐": "-", "–": "-", "—": "-",
    "°": "^\\circ",
    "‖": "\\|", "∕": "/", "ˆ": "\\hat{}", "\u00a0": "\\ ", "\u2003": "\\quad", "\u2002": "\\;",
    "\u2009": "\\,", "\u200a": "\\,", "\u2005": "\\:", "\u2004": "\\;", "\u2006": "\\,",
    "\u205f": "\\:", "\u2061": "", "\u2062": "", "\u2063": "", "\u2064": "", "\u200b": "",
    "\u2060": "", "\ufeff": "", "\u200c": "", "\u200d": "", "\u200e": "", "″": "''", "‴": "'''",
    "½": "\\frac{1}{2}", "¼": "\\frac{1}{4}", "¾": "\\frac{3}{4}", "²": "^2", "³": "^3", "¹": "^1",
    "⟨": "\\langle", "⟩": "\\rangle", "〈": "\\langle", "〉": "\\rangle", "⌊": "\\lfloor",
    "⌋": "\\rfloor", "⌈": "\\lceil", "⌉": "\\rceil", "€": "\\text{€}", "’": "'", "⁄": "/",
    "∆": "\\Delta", "µ": "\\mu", "Ω": "\\Omega",
}  # fmt: skip
# Accents above and below, as MathML has them; above one letter, and above more.
_BAR, _LINE = ("\\bar", "\\overline"), ("\\overline", "\\overline")
_HAT, _TILDE, _VECTOR = (
    ("\\hat", "\\widehat"), ("\\tilde", "\\widetilde"), ("\\vec", "\\overrightarrow"),
)  # fmt: skip
OVER = (
    dict.fromkeys("^ˆ\u0302", _HAT)
    | dict.fromkeys("~˜∼\u0303", _TILDE)
    | dict.fromkeys("¯ˉ-_−─\u0304", _BAR)
    | dict.fromkeys("‾\u2015\u0305", _LINE)
    | dict.fromkeys("→⇀\u20d7", _VECTOR)
    | {
        character: (command, command)
        for characters, command in {
            "←": "\\overleftarrow", "↔": "\\overleftrightarrow", "˙.⋅": "\\dot", "¨": "\\ddot",
            "\u20db": "\\dddot", "˘": "\\breve", "ˇ": "\\check", "´": "\\acute", "`": "\\grave",
            "˚": "\\mathring", "⏞︷": "\\overbrace", "⏜": "\\overparen",
            "⌢": "\\overset{\\frown}",
        }.items()
        for character in characters
    }
)  # fmt: skip
UNDER = dict.fromkeys("_¯‾\u2015\u0332-−─ˍ", "\\underline") | {
    "⏟": "\\underbrace", "︸": "\\underbrace", "→": "\\underrightarrow", "←": "\\underleftarrow",
}  # fmt: skip
_FUNCTIONS = (
    "arccos arcsin arctan arg cos cosh cot coth csc deg det dim exp gcd hom inf ker lg lim liminf "
    "limsup ln log max min Pr sec sin sinh sup tan tanh"
)
FUNCTIONS = set(_FUNCTIONS.split())
LIMITS = {"lim", "max", "min", "sup", "inf", "det", "gcd", "Pr", "limsup", "liminf"}

ALPHABETS = {
    "bold": "\\mathbf", "italic": "", "bold-italic": "\\boldsymbol", "double-struck": "\\mathbb",
    "script": "\\mathcal", "bold-script": "\\mathcal", "fraktur": "\\mathfrak",
    "bold-fraktur": "\\mathfrak", "sans-serif": "\\mathsf", "bold-sans-serif": "\\mathsf",
    "sans-serif-italic": "\\mathsf", "sans-serif-bold-italic": "\\mathsf",
    "monospace": "\\mathtt", "normal": "\\mathrm",
}  # fmt: skip
_NAMES = {
    "DOUBLE-STRUCK": "\\mathbb", "FRAKTUR": "\\mathfrak", "BLACK-LETTER": "\\mathfrak",
    "SCRIPT": "\\mathcal", "SANS-SERIF": "\\mathsf", "MONOSPACE": "\\mathtt",
    "BOLD ITALIC": "\\boldsymbol", "BOLD": "\\mathbf",
}  # fmt: skip

COMMANDS: dict[str, str] = {}
for _characters, _names in GREEK.items():
    COMMANDS |= {c: f"\\{n}" for c, n in zip(_characters, _names.split(), strict=True)}
for _table in (ORDINARY, BINARY, RELATIONS, ARROWS, LARGE):
    COMMANDS |= {c: f"\\{n}" for c, n in _table.items()}
COMMANDS |= LIKE_LATIN | SPECIAL | {"∶": ":"}
SPACED = set("=<>+-−:≔") | BINARY.keys() | RELATIONS.keys() | ARROWS.keys()


def latex_of(text: str) -> str:
    """The characters of a text as LaTeX in math mode, with the spaces that commands need."""
    result = ""
    for character in text:
        result = join(result, _character(character))
    return result


def join(left: str, right: str) -> str:
    """Two pieces of LaTeX, with a space where a command would run into a letter."""
    if right[:1].isalnum() and right[0].isascii() and ends_with_command(left):
        return f"{left} {right}"
    return left + right


def ends_with_command(latex: str) -> bool:
    end = len(latex)
    while end and latex[end - 1].isascii() and latex[end - 1].isalpha():
        end -= 1
    return 0 < end < len(latex) and latex[end - 1] == "\\" and latex[end - 2 : end - 1] != "\\"


def _character(c: str) -> str:
    if (command := COMMANDS.get(c)) is not None:
        return command
    if c < "\x80":
        return c
    # Letters of an alphabet of their own: U+1D400 and on, and those in Letterlike Symbols.
    if "\U0001d400" <= c <= "\U0001d7ff" or "\u2102" <= c <= "\u2138":
        plain = unicodedata.normalize("NFKC", c)
        name = unicodedata.name(c, "")
        letter = COMMANDS.get(plain, plain)
        for word, command in _NAMES.items():
            if word in name:
                return f"{command}{{{letter}}}"
        return letter
    return c
