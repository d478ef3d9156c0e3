"""Formulas of the generated web, in every form in which pages carry them."""

from __future__ import annotations

import functools
import html
import random
import urllib.parse
from dataclasses import dataclass

FORMS = (
    "delimiters",
    "mathjax2",
    "mathjax3",
    "katex",
    "mathml",
    "annotated",
    "wikipedia",
    "attribute",
    "image",
    "codecogs",
    "asciimath",
    "markup",
)


@dataclass(frozen=True, slots=True, eq=False)
class Formula:
    """One formula: LaTeX, presentation MathML, AsciiMath, and HTML of italics and scripts."""

    latex: str
    mathml: str
    ascii: str
    markup: str


def number(value: int) -> Formula:
    return Formula(str(value), f"<mn>{value}</mn>", str(value), str(value))


def letter(name: str) -> Formula:
    return Formula(name, f"<mi>{name}</mi>", name, f"<i>{name}</i>")


GREEK = {
    name: Formula("\\" + name, f"<mi>{sign}</mi>", name, sign)
    for name, sign in (("alpha", "α"), ("beta", "β"), ("lambda", "λ"), ("theta", "θ"), ("pi", "π"))
}
SIGNS = {
    sign: Formula(latex, f"<mo>{html.escape(sign)}</mo>", ascii, f" {html.escape(sign)} ")
    for sign, latex, ascii in (
        ("+", "+", "+"),
        ("−", "-", "-"),
        ("×", "\\times ", "xx"),
        ("÷", "\\div ", "-:"),
        ("=", "=", "="),
        ("<", "<", "<"),
        ("≤", "\\leq ", "<="),
        ("≥", "\\geq ", ">="),
        ("≡", "\\equiv ", "-="),
    )
}


def row(*parts: Formula) -> Formula:
    return Formula(
        "".join(p.latex for p in parts),
        "<mrow>" + "".join(p.mathml for p in parts) + "</mrow>",
        " ".join(p.ascii for p in parts),
        "".join(p.markup for p in parts),
    )


def bracket(a: Formula) -> Formula:
    mathml = f"<mrow><mo>(</mo>{a.mathml}<mo>)</mo></mrow>"
    return Formula(f"({a.latex})", mathml, f"({a.ascii})", f"({a.markup})")


def fraction(a: Formula, b: Formula) -> Formula:
    return Formula(
        f"\\frac{{{a.latex}}}{{{b.latex}}}",
        f"<mfrac>{a.mathml}{b.mathml}</mfrac>",
        f"({a.ascii})/({b.ascii})",
        f"({a.markup})/({b.markup})",
    )


def power(a: Formula, b: Formula) -> Formula:
    return Formula(
        f"{a.latex}^{{{b.latex}}}",
        f"<msup>{a.mathml}{b.mathml}</msup>",
        f"{a.ascii}^({b.ascii})",
        f"{a.markup}<sup>{b.markup}</sup>",
    )


def index(a: Formula, b: Formula) -> Formula:
    return Formula(
        f"{a.latex}_{{{b.latex}}}",
        f"<msub>{a.mathml}{b.mathml}</msub>",
        f"{a.ascii}_({b.ascii})",
        f"{a.markup}<sub>{b.markup}</sub>",
    )


def root(a: Formula) -> Formula:
    return Formula(
        f"\\sqrt{{{a.latex}}}",
        f"<msqrt>{a.mathml}</msqrt>",
        f"sqrt({a.ascii})",
        f"√({a.markup})",
    )


def big(sign: str, name: str, low: Formula, high: Formula, body: Formula) -> Formula:
    """A sum or an integral with both limits."""
    return Formula(
        f"\\{name}_{{{low.latex}}}^{{{high.latex}}} {body.latex}",
        f"<mrow><munderover><mo>{sign}</mo>{low.mathml}{high.mathml}</munderover>{body.mathml}</mrow>",
        f"{name}_({low.ascii})^({high.ascii}) {body.ascii}",
        f"{sign}<sub>{low.markup}</sub><sup>{high.markup}</sup> {body.markup}",
    )


def random_formula(rng: random.Random, kind: str) -> Formula:
    """A formula of a kind: "algebra" with letters, or "arithmetic" with numbers alone."""
    if kind == "arithmetic":
        return _arithmetic(rng)
    x, y = (letter(name) for name in rng.sample("abcfknpqrtuxyz", 2))
    a, b = (number(rng.randint(2, 30)) for _ in range(2))
    greek = GREEK[rng.choice(sorted(GREEK))]
    plus = SIGNS[rng.choice("+−")]
    relation = SIGNS[rng.choice("=<≤≥≡")]
    n = letter("n")
    left = (
        lambda: row(a, power(x, number(rng.randint(2, 5))), plus, b, x),
        lambda: fraction(row(x, plus, a), row(y, SIGNS["+"], b)),
        lambda: root(row(power(x, number(2)), plus, power(y, number(2)))),
        lambda: big(
            "∑", "sum", row(n, SIGNS["="], number(1)), number(rng.randint(9, 99)), power(x, n)
        ),
        lambda: big("∫", "int", number(0), a, row(power(x, b), letter("d"), x)),
        lambda: row(index(x, row(n, plus, number(1))), SIGNS["="], a, index(x, n)),
        lambda: row(letter("f"), bracket(x), SIGNS["="], power(x, a), plus, greek, x),
        lambda: power(bracket(row(x, plus, greek)), a),
        lambda: row(fraction(a, b), greek, SIGNS["+"], index(y, number(0))),
    )
    right = (lambda: number(rng.randint(0, 200)), lambda: fraction(y, a), lambda: row(b, greek))
    return row(rng.choice(left)(), relation, rng.choice(right)())


def _arithmetic(rng: random.Random) -> Formula:
    a, b = rng.randint(3, 99), rng.randint(2, 12)
    sign, result = rng.choice((("+", a + b), ("−", a - b), ("×", a * b)))
    if rng.random() < 0.25:
        return row(number(a * b), SIGNS["÷"], number(b), SIGNS["="], number(a))
    return row(number(a), SIGNS[sign], number(b), SIGNS["="], number(result))


# ---- HTML of each form -------------------------------------------------------------------------


@functools.lru_cache(maxsize=1 << 15)
def render(formula: Formula, form: str, display: bool = False) -> str:
    """HTML of a formula, as the tools and sites that use this form write it."""
    f, latex = formula, html.escape(formula.latex)
    mode = "block" if display else "inline"
    if form == "delimiters":
        return f"$${latex}$$" if display else f"\\({latex}\\)"
    if form == "mathjax2":
        kind = "math/tex; mode=display" if display else "math/tex"
        return (
            f'<span class="MathJax_Preview">{f.markup}</span><span class="MathJax" role="'
            f'presentation"><nobr>{f.markup}</nobr></span><script type="{kind}">{f.latex}</script>'
        )
    if form == "mathjax3":
        shown = f.mathml.replace("</m", "</mjx-m").replace("<m", "<mjx-m")
        return (
            f'<mjx-container class="MathJax" jax="CHTML"><mjx-math aria-hidden="true">{shown}'
            f'</mjx-math><mjx-assistive-mml unselectable="on" display="{mode}"><math xmlns="http:'
            f'//www.w3.org/1998/Math/MathML">{f.mathml}</math></mjx-assistive-mml></mjx-container>'
        )
    if form == "katex":
        return (
            f'<span class="katex"><span class="katex-mathml"><math xmlns="http://www.w3.org/1998/'
            f'Math/MathML"><semantics>{f.mathml}<annotation encoding="application/x-tex">{latex}'
            f'</annotation></semantics></math></span><span class="katex-html" aria-hidden="true">'
            f'<span class="base"><span class="strut"></span>{f.markup}</span></span></span>'
        )
    if form == "mathml":
        return (
            f'<math xmlns="http://www.w3.org/1998/Math/MathML" display="{mode}">{f.mathml}</math>'
        )
    if form == "annotated":
        return (
            f'<math display="{mode}"><semantics>{f.mathml}<annotation encoding="application/x-tex">'
            f"{latex}</annotation></semantics></math>"
        )
    if form == "wikipedia":
        style = f"{{\\displaystyle {latex}}}"
        return (
            f'<span class="mwe-math-element"><span class="mwe-math-mathml-{mode} mwe-math-mathml-'
            f'a11y" style="display: none;"><math alttext="{style}"><semantics>{f.mathml}'
            f'<annotation encoding="application/x-tex">{style}</annotation></semantics></math>'
            f'</span><img class="mwe-math-fallback-image-{mode}" src="/svg/{len(latex)}.svg" '
            f'aria-hidden="true" alt="{style}"></span>'
        )
    if form == "attribute":
        return f'<span class="formula" data-latex="{latex}">{f.markup}</span>'
    if form == "image":
        return f'<img class="latex" src="/latex/{len(latex)}.png" alt="{latex}">'
    if form == "codecogs":
        query = urllib.parse.quote(f.latex, safe="")
        return f'<img src="https://latex.codecogs.com/svg.image?{query}" border="0">'
    if form == "asciimath":
        return f"`{html.escape(f.ascii)}`"
    if form == "markup":
        return f.markup
    raise ValueError(f"form {form!r} is unknown; choose one of {', '.join(FORMS)}")
