import itertools
import random
import re

import pytest
from selectolax.lexbor import LexborHTMLParser

from dsmath_jax.mining.mathml import MAX_ELEMENTS, to_latex


def latex(mathml):
    return to_latex(LexborHTMLParser(f"<math>{mathml}</math>").css_first("math"))


def row(*cells):
    return "<mtr>" + "".join(f"<mtd>{cell}</mtd>" for cell in cells) + "</mtr>"


X, N, TWO = "<mi>x</mi>", "<mi>n</mi>", "<mn>2</mn>"
TABLE = f"<mtable>{row('<mn>1</mn>', X)}{row(N, TWO)}</mtable>"
BODY = "1 & x \\\\ n & 2"


@pytest.mark.parametrize(
    "mathml, expected",
    [
        (f"<mfrac>{X}{TWO}</mfrac>", r"\frac{x}{2}"),
        (f"<msqrt>{X}<mo>+</mo>{TWO}</msqrt>", r"\sqrt{x + 2}"),
        (f"<mroot>{X}<mn>3</mn></mroot>", r"\sqrt[3]{x}"),
        (f"<msup>{X}{TWO}</msup>", "x^2"),
        (f"<msub>{X}<mrow><mi>i</mi><mo>+</mo><mn>1</mn></mrow></msub>", "x_{i + 1}"),
        (f"<msubsup>{X}<mi>i</mi>{TWO}</msubsup>", "x_i^2"),
        (f"<msup><msup>{X}{TWO}</msup>{N}</msup>", "{x^2}^n"),
        (f"<msup><mrow><mo>(</mo>{X}<mo>+</mo>{N}<mo>)</mo></mrow>{TWO}</msup>", "(x + n)^2"),
        ("<msup><mi>f</mi><mo>′</mo></msup><mo>(</mo><mi>x</mi><mo>)</mo>", "f'(x)"),
        ("<msubsup><mi>f</mi><mi>n</mi><mo>′</mo></msubsup>", "f'_n"),
        ("<mn>90</mn><mo>°</mo>", r"90^\circ"),
        (
            f"<munder><mo>lim</mo><mrow>{X}<mo>→</mo><mi>∞</mi></mrow></munder>{X}",
            r"\lim_{x \to \infty} x",
        ),
        (
            f"<munderover><mo>∑</mo><mrow>{N}<mo>=</mo><mn>0</mn></mrow><mi>∞</mi></munderover>{X}",
            r"\sum_{n = 0}^{\infty} x",
        ),
        (f"<mover>{X}<mo>¯</mo></mover>", r"\bar{x}"),
        (f"<mover><mrow>{X}{N}</mrow><mo>¯</mo></mover>", r"\overline{xn}"),
        (f"<mover>{X}<mo>^</mo></mover>", r"\hat{x}"),
        (f"<mover>{X}<mo>→</mo></mover>", r"\vec{x}"),
        (f"{N}<mover><mo>→</mo><mi>f</mi></mover>{X}", r"n \xrightarrow{f} x"),
        (f"<munder>{X}<mo>_</mo></munder>", r"\underline{x}"),
        (f"<mover><mover>{X}<mo>⏞</mo></mover>{N}</mover>", r"\overbrace{x}^n"),
        (f"<munder><mo>=</mo>{X}</munder>", r"\underset{x}{=}"),
        (f"<mo>(</mo>{TABLE}<mo>)</mo>", rf"\begin{{pmatrix}}{BODY}\end{{pmatrix}}"),
        (f"<mo>[</mo>{TABLE}<mo>]</mo>", rf"\begin{{bmatrix}}{BODY}\end{{bmatrix}}"),
        (f"<mo>|</mo>{TABLE}<mo>|</mo>", rf"\begin{{vmatrix}}{BODY}\end{{vmatrix}}"),
        (f"<mo>{{</mo>{TABLE}", rf"\begin{{cases}}{BODY}\end{{cases}}"),
        (TABLE, rf"\begin{{matrix}}{BODY}\end{{matrix}}"),
        (
            f'<mfenced open="[" close="]">{TABLE}</mfenced>',
            rf"\begin{{bmatrix}}{BODY}\end{{bmatrix}}",
        ),
        (f"<mfenced>{X}{N}</mfenced>", "(x, n)"),
        (
            f"<mtable>{row(X, f'<mo>=</mo>{N}')}{row('', f'<mo>=</mo>{TWO}')}</mtable>",
            r"\begin{aligned}x & =n \\  & =2\end{aligned}",
        ),
        (
            f"<mtable><mlabeledtr><mtd><mtext>(7)</mtext></mtd><mtd>{X}</mtd></mlabeledtr></mtable>",
            r"x \tag{7}",
        ),
        (
            f'<mtable columnlines="none solid">{row(X, N, TWO)}</mtable>',
            r"\begin{array}{cc|c}x & n & 2\end{array}",
        ),
        (f'<mo>(</mo><mfrac linethickness="0">{N}{TWO}</mfrac><mo>)</mo>', r"\binom{n}{2}"),
        (
            f"<mo>(</mo><mfrac>{X}{TWO}</mfrac><mo>)</mo>",
            r"\left(\frac{x}{2}\right)",
        ),
        (f"<mo>|</mo><mi>x</mi><mo>|</mo><mo>≤</mo>{TWO}", r"|x| \leq 2"),
        ("<mo>-</mo><mi>x</mi><mo>-</mo><mi>y</mi>", "-x - y"),
        ("<mi>sin</mi><mo>\u2061</mo><mi>x</mi>", r"\sin x"),
        ("<mn>2</mn><mo>\u2062</mo><mi>π</mi><mi>r</mi>", r"2\pi r"),
        ('<mi mathvariant="double-struck">R</mi>', r"\mathbb{R}"),
        ("<mi>ℝ</mi><mo>⊂</mo><mi>𝒞</mi>", r"\mathbb{R} \subset \mathcal{C}"),
        ('<mi mathvariant="bold">v</mi><mi mathvariant="normal">d</mi>', r"\mathbf{v}\mathrm{d}"),
        ("<mi>rank</mi><mi>A</mi>", r"\mathrm{rank}A"),
        ("<mtext>50% of x_1</mtext>", r"\text{50\% of x\_1}"),
        (f'{X}<mspace width="2em"/>{N}', r"x\qquad n"),
        (f"<mphantom>{X}</mphantom><mo>=</mo>{N}", r"\phantom{x}=n"),
        (f'<menclose notation="box">{X}</menclose>', r"\boxed{x}"),
        (
            f"<mmultiscripts><mi>F</mi>{TWO}<none/><mprescripts/>{N}<mn>1</mn></mmultiscripts>",
            "{}_n^1F_2",
        ),
        (f"<semantics>{X}<annotation-xml><ci>y</ci></annotation-xml></semantics>", "x"),
        ("<mi>A</mi><mo>∖</mo><mi>B</mi><mo>=</mo><mi>∅</mi>", r"A \setminus B = \emptyset"),
        ("<mo>{</mo><mi>x</mi><mo>}</mo>", r"\{x\}"),
        ("", ""),
    ],
)
def test_by_hand(mathml, expected):
    assert latex(mathml) == expected


@pytest.mark.parametrize(
    "mathml",
    [
        "<msup>",
        "<mfrac></mfrac>",
        "<msubsup><mi>x</mi></msubsup>",
        "<mtable><mtr></mtr></mtable>",
        "<mmultiscripts></mmultiscripts>",
        "<mmultiscripts><mi>x</mi><mprescripts/></mmultiscripts>",
        "<munderover></munderover>",
        '<mfenced separators="" open=""></mfenced>',
        '<mtable columnlines="solid" columnalign=" "><mtr><mtd>x</mtd></mtr></mtable>',
        '<mspace width="-.em"/>',
        "text <mi>x</mi>",
    ],
)
def test_damaged_elements_give_something(mathml):
    assert isinstance(latex(mathml), str)


def test_nesting_needs_no_stack():
    depth = MAX_ELEMENTS // 3
    assert latex("<msqrt>" * depth + "<mi>x</mi>").count(r"\sqrt") == depth


def test_a_flood_of_elements_keeps_its_text():
    assert latex("<mrow><mi>x</mi></mrow>" * MAX_ELEMENTS).count("x") == MAX_ELEMENTS


# ---- Round trips: LaTeX to MathML by latex2mathml, back by ours, and to MathML again -------------


def formulas(seed, count):
    rng = random.Random(seed)
    atoms = [*"abxyn", "2", "10", r"\alpha", r"\pi", r"\infty", r"\mathbb{R}", r"\mathbf{v}"]

    def expression(depth):
        if depth == 0:
            return rng.choice(atoms)
        a, b = expression(depth - 1), expression(rng.randrange(depth))
        return rng.choice(
            [
                rf"\frac{{{a}}}{{{b}}}",
                rf"\sqrt{{{a}}}",
                rf"\sqrt[3]{{{a}}}",
                rf"{{{a}}}^{{{b}}}",
                rf"{b}_{{{a}}}",
                rf"{a} + {b}",
                rf"{a} \leq {b}",
                rf"\left({a}\right) - {b}",
                rf"\sum_{{{b}}}^{{n}} {a}",
                rf"\int_{{{b}}}^{{{a}}} x",
                rf"\lim_{{x \to {b}}} {a}",
                rf"\begin{{pmatrix}}{a} & {b} \\ 1 & 0\end{{pmatrix}}",
                rf"\overline{{{a}}}",
                rf"\sin x \cdot {a}",
            ]
        )

    return [expression(1 + i % 4) for i in range(count)]


def structure(mathml):
    """Elements and their text without what only groups or styles."""
    mathml = re.sub(r"</?(?:mrow|math|mstyle|mpadded)\b[^>]*>", "", mathml)
    mathml = re.sub(r"(<\w+)[^>]*?(/?>)", r"\1\2", mathml)
    return re.sub(r"\s+", "", mathml)


@pytest.mark.parametrize("seed", range(4))
def test_round_trip(seed):
    converter = pytest.importorskip("latex2mathml.converter")
    for source in formulas(seed, 100):
        mathml = converter.convert(source)
        back = latex(mathml.partition(">")[2].removesuffix("</math>"))
        assert structure(converter.convert(back)) == structure(mathml), (source, back)


def test_all_fences_close():
    """Braces and \\left, \\right balance, whatever fences stand where."""
    fences = ["(", ")", "[", "]", "|", "{", "}", "‖"]
    inner = f"<mfrac>{X}{TWO}</mfrac>"
    for a, b, c in itertools.product(fences, repeat=3):
        text = latex(f"<mo>{a}</mo>{inner}<mo>{b}</mo>{inner}<mo>{c}</mo>")
        assert text.count(r"\left") == text.count(r"\right")
        assert len(re.findall(r"(?<!\\)\{", text)) == len(re.findall(r"(?<!\\)\}", text))
