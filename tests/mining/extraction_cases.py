# ruff: noqa: E501  (pages as programs write them)
"""Pages with one formula each, as programs write them: {form: (HTML, the text it must become)}.

Every page has the words "Alpha" before its formula and "omega" behind it.
"""

KATEX = (
    '<span class="katex"><span class="katex-mathml"><math xmlns="http://www.w3.org/1998/Math/MathML">'
    "<semantics><mrow><msup><mi>a</mi><mn>2</mn></msup></mrow>"
    '<annotation encoding="application/x-tex">a^2</annotation></semantics></math></span>'
    '<span class="katex-html" aria-hidden="true"><span class="base"><span class="strut"></span>'
    '<span class="mord"><span class="mord mathnormal">a</span><span class="msupsub">'
    '<span class="vlist"><span class="mord mtight">2</span></span></span></span></span></span></span>'
)
MATHJAX2 = (
    '<span class="MathJax_Preview">x squared</span><span class="MathJax" id="MathJax-Element-1-Frame" '
    'role="presentation" data-mathml="&lt;math&gt;&lt;msup&gt;&lt;mi&gt;x&lt;/mi&gt;&lt;mn&gt;2&lt;/mn'
    '&gt;&lt;/msup&gt;&lt;/math&gt;"><nobr aria-hidden="true"><span class="math"><span>x</span>'
    '<span>2</span></span></nobr><span class="MJX_Assistive_MathML" role="presentation"><math><msup>'
    "<mi>x</mi><mn>2</mn></msup></math></span></span>"
)
ASSISTIVE = (
    "<mjx-assistive-mml unselectable='on' display='{display}'><math xmlns="
    "'http://www.w3.org/1998/Math/MathML'{block}><msqrt><mi>n</mi></msqrt></math></mjx-assistive-mml>"
)
MATHJAX3 = (
    '<mjx-container class="MathJax" jax="CHTML"><mjx-math class="MJX-TEX" aria-hidden="true">'
    '<mjx-msqrt><mjx-sqrt><mjx-surd><mjx-mo><mjx-c class="mjx-c221A"></mjx-c></mjx-mo></mjx-surd>'
    '<mjx-box><mjx-mi><mjx-c class="mjx-c1D45B">n</mjx-c></mjx-mi></mjx-box></mjx-sqrt></mjx-msqrt>'
    f"</mjx-math>{ASSISTIVE.format(display='inline', block='')}</mjx-container>"
)
MATHJAX3_SVG = (
    '<mjx-container class="MathJax" jax="SVG" display="true"><svg viewBox="0 0 9 9"><g data-mml-node='
    '"math"><path d="M0 0"></path></g></svg>'
    + ASSISTIVE.format(display="block", block=" display='block'")
    + "</mjx-container>"
)
MATHJAX4 = (
    '<mjx-container class="MathJax" jax="CHTML" display="true"><mjx-math data-latex="a &lt; b \\quad '
    'c" class="NCM-N"><mjx-mi data-latex="a"><mjx-c>𝑎</mjx-c></mjx-mi><mjx-mo data-latex="&lt;">'
    '<mjx-c>&lt;</mjx-c></mjx-mo></mjx-math><mjx-assistive-mml><math data-latex="a &lt; b \\quad c">'
    '<mi data-latex="a">a</mi></math></mjx-assistive-mml></mjx-container>'
)
WIKIPEDIA = (
    '<span class="mwe-math-element mwe-math-element-inline"><span class="mwe-math-mathml-inline '
    'mwe-math-mathml-a11y" style="display: none;"><math xmlns="http://www.w3.org/1998/Math/MathML" '
    'alttext="{\\displaystyle e^{i\\pi }+1=0}"><semantics><mrow class="MJX-TeXAtom-ORD"><mstyle '
    'displaystyle="true" scriptlevel="0"><msup><mi>e</mi><mrow><mi>i</mi><mi>π</mi></mrow></msup>'
    '<mo>+</mo><mn>1</mn><mo>=</mo><mn>0</mn></mstyle></mrow><annotation encoding="application/x-tex"'
    ">{\\displaystyle e^{i\\pi }+1=0}</annotation></semantics></math></span><img src="
    '"https://wikimedia.org/api/rest_v1/media/math/render/svg/abc" class="mwe-math-fallback-image-'
    'inline mw-invert" aria-hidden="true" alt="{\\displaystyle e^{i\\pi }+1=0}"></span>'
)
LATEXML = (
    '<math id="S1.p1.m1" class="ltx_Math" alttext="\\frac{\\partial f}{\\partial x}" display="inline">'
    "<mfrac><mrow><mo>∂</mo><mi>f</mi></mrow><mrow><mo>∂</mo><mi>x</mi></mrow></mfrac></math>"
)
SUM = (
    '<math display="block"><munderover><mo>∑</mo><mrow><mi>i</mi><mo>=</mo><mn>1</mn></mrow><mi>n'
    "</mi></munderover><msubsup><mi>a</mi><mi>i</mi><mn>2</mn></msubsup><mo>≤</mo><mi>∞</mi></math>"
)
MATRIX = (
    "<math><mi>A</mi><mo>=</mo><mrow><mo>(</mo><mtable><mtr><mtd><mn>1</mn></mtd><mtd><mn>2</mn>"
    "</mtd></mtr><mtr><mtd><mn>3</mn></mtd><mtd><mn>4</mn></mtd></mtr></mtable><mo>)</mo></mrow></math>"
)
CASES_MATHML = (
    "<math><mi>f</mi><mo>=</mo><mrow><mo>{</mo><mtable><mtr><mtd><mi>x</mi></mtd><mtd><mtext>if </mtext>"
    "<mi>x</mi><mo>&gt;</mo><mn>0</mn></mtd></mtr><mtr><mtd><mn>0</mn></mtd><mtd><mtext>else</mtext>"
    "</mtd></mtr></mtable><mo></mo></mrow></math>"
)
ASCIIMATH_HEAD = '<script src="MathJax.js?config=AM_CHTML"></script>'


def inline(formula, head=""):
    body = f"<p>Alpha {formula} omega.</p>"
    return f"<html><head><title>T</title>{head}</head><body>{body}</body></html>"


CASES = {
    "MathJax 2, inline": (
        inline(MATHJAX2 + '<script type="math/tex" id="MathJax-Element-1">x^2</script>'),
        "Alpha $x^2$ omega.",
    ),
    "MathJax 2, display": (
        inline(
            '<span class="MathJax_Preview"></span><div class="MathJax_Display">'
            + MATHJAX2.partition("</span>")[2]
            + '</div><script type="math/tex; mode=display">x^2 % square\n+ 1</script>'
        ),
        "Alpha\n\n$$x^2 + 1$$\n\nomega.",
    ),
    "MathJax 2, script lost": (inline(MATHJAX2.partition("</span>")[2]), "Alpha $x^2$ omega."),
    "MathJax 2, kramdown": (
        inline('<script type="math/tex">% <![CDATA[\na < b %]]></script>'),
        "Alpha $a < b$ omega.",
    ),
    "MathJax 3, CHTML with assistive MathML": (inline(MATHJAX3), "Alpha $\\sqrt{n}$ omega."),
    "MathJax 3, SVG with assistive MathML": (
        inline(MATHJAX3_SVG),
        "Alpha\n\n$$\\sqrt{n}$$\n\nomega.",
    ),
    "MathJax 4, source in data-latex": (
        inline(MATHJAX4),
        "Alpha\n\n$$a < b \\quad c$$\n\nomega.",
    ),
    "KaTeX, inline": (inline(KATEX), "Alpha $a^2$ omega."),
    "KaTeX, display": (
        inline(f'<span class="katex-display">{KATEX}</span>'),
        "Alpha\n\n$$a^2$$\n\nomega.",
    ),
    "MathML with annotation": (
        inline(
            "<math><semantics><mi>α</mi><annotation encoding='application/x-tex'>\\alpha_0"
            "</annotation></semantics></math>"
        ),
        "Alpha $\\alpha_0$ omega.",
    ),
    "MathML with alttext (LaTeXML)": (
        inline(LATEXML),
        "Alpha $\\frac{\\partial f}{\\partial x}$ omega.",
    ),
    "MathML alone: fraction and root": (
        inline("<math><mfrac><mn>1</mn><msqrt><mn>2</mn></msqrt></mfrac></math>"),
        "Alpha $\\frac{1}{\\sqrt{2}}$ omega.",
    ),
    "MathML alone: sum and scripts": (
        inline(SUM),
        "Alpha\n\n$$\\sum_{i = 1}^n a_i^2 \\leq \\infty$$\n\nomega.",
    ),
    "MathML alone: matrix": (
        inline(MATRIX),
        "Alpha $A = \\begin{pmatrix}1 & 2 \\\\ 3 & 4\\end{pmatrix}$ omega.",
    ),
    "MathML alone: cases": (
        inline(CASES_MATHML),
        "Alpha $f = \\begin{cases}x & \\text{if }x > 0 \\\\ 0 & \\text{else}\\end{cases}$ omega.",
    ),
    "MathML with a prefix": (
        inline("<mml:math><mml:msup><mml:mi>x</mml:mi><mml:mn>3</mml:mn></mml:msup></mml:math>"),
        "Alpha $x^3$ omega.",
    ),
    "Wikipedia, hidden MathML and image": (inline(WIKIPEDIA), "Alpha $e^{i\\pi }+1=0$ omega."),
    "data-tex (Zhihu)": (
        inline('<span class="ztext-math" data-eeimg="1" data-tex="x_1">x1</span>'),
        "Alpha $x_1$ omega.",
    ),
    "data-expr": (
        inline('<span class="math" data-expr="\\log n"><span>log n</span></span>'),
        "Alpha $\\log n$ omega.",
    ),
    "image, alt text (WordPress)": (
        inline(
            '<img src="https://s0.wp.com/latex.php?latex=n%21&amp;bg=fff" alt="n!" class="latex">'
        ),
        "Alpha $n!$ omega.",
    ),
    "image, address only (codecogs)": (
        inline(
            '<img src="https://latex.codecogs.com/gif.latex?\\dpi{110}&amp;space;\\frac{a}{b}">'
        ),
        "Alpha $\\frac{a}{b}$ omega.",
    ),
    "image, address only (WordPress)": (
        inline('<img src="//s0.wp.com/latex.php?latex=a%2Bb+%5Cne+c&amp;bg=ffffff&amp;s=0">'),
        "Alpha $a+b \\ne c$ omega.",
    ),
    "image, QuickLaTeX": (
        inline(
            '<img class="ql-img-inline-formula" src="a.png" alt="\\[ \\pi \\]" title="QuickLaTeX">'
        ),
        "Alpha\n\n$$\\pi$$\n\nomega.",
    ),
    "image, Zhihu": (
        inline('<img src="https://www.zhihu.com/equation?tex=%5Cbeta" alt="公式" eeimg="1">'),
        "Alpha $\\beta$ omega.",
    ),
    "AsciiMath": (
        inline("`sum_(i=1)^n i = (n(n+1))/2`", ASCIIMATH_HEAD),
        "Alpha $\\sum_{i = 1}^n i = \\frac{n(n+1)}{2}$ omega.",
    ),
    "delimiters \\( \\)": (inline("\\(a &lt; b\\)"), "Alpha $a < b$ omega."),
    "delimiters \\[ \\]": (
        inline("\\[x = \\begin{bmatrix}1\\\\[2pt]2\\end{bmatrix}\\]"),
        "Alpha\n\n$$x = \\begin{bmatrix}1\\\\[2pt]2\\end{bmatrix}$$\n\nomega.",
    ),
    "delimiters $$ $$": (inline("$$x+y$$"), "Alpha\n\n$$x+y$$\n\nomega."),
    "delimiters $ $": (inline("$x_i$"), "Alpha $x_i$ omega."),
    "environment without delimiters": (
        inline("\\begin{align}a &amp;= b \\\\ c &amp;= d\\end{align}"),
        "Alpha\n\n$$\\begin{align}a &= b \\\\ c &= d\\end{align}$$\n\nomega.",
    ),
    "pandoc span": (
        inline('<span class="math inline">\\(x \\in X\\)</span>'),
        "Alpha $x \\in X$ omega.",
    ),
    "pandoc span for KaTeX, raw": (
        inline('<span class="math display">x \\in X</span>'),
        "Alpha\n\n$$x \\in X$$\n\nomega.",
    ),
    "GitLab code span": (
        inline('<code class="code math js-render-math" data-math-style="inline">k \\ge 1</code>'),
        "Alpha $k \\ge 1$ omega.",
    ),
    "prices are no formulas": (inline("costs $5 or $10, or"), "Alpha costs $5 or $10, or omega."),
    "raised and lowered text": (
        inline("x<sup>2</sup> + a<sub>i+1</sub> on the 1<sup>st</sup>"),
        "Alpha x^2 + a_{i+1} on the 1st omega.",
    ),
}
