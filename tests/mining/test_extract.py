"""What is kept of a page besides its formulas, how it is laid out, and what is left out."""

import re
import zlib

import pytest
from extraction_cases import CASES

from dsmath_jax.mining.delimiters import Delimiters
from dsmath_jax.mining.extract import extract
from dsmath_jax.mining.formula_images import latex_of_url
from dsmath_jax.mining.stash import Stash, clean

PROSE = "<p>" + "The sum of two even numbers is even, as the reader may check. " * 5 + "</p>"


def text_of(body, head=""):
    return extract(f"<html><head>{head}</head><body>{body}</body></html>").text


@pytest.mark.parametrize("form", CASES)
def test_every_form(form):
    html, text = CASES[form]
    result = extract(html)
    assert result.text == text
    assert result.title == "T"
    assert result.formulas == (0 if "no formulas" in form or "raised" in form else 1)


def test_all_forms_on_one_page_keep_their_order():
    names = [n for n in CASES if n != "prices are no formulas" and "raised" not in n]
    bodies = [re.search(r"<body>(.*)</body>", CASES[n][0], re.DOTALL)[1] for n in names]
    page = f"<head><script src='MathJax.js?config=AM_CHTML'></script></head>{''.join(bodies)}"
    result = extract(page)
    assert result.text == "\n\n".join(CASES[n][1] for n in names)
    assert result.formulas == len(names)


# ---- Layout -------------------------------------------------------------------------------------


def test_headings_paragraphs_lists_and_quotations():
    body = """<h1>Sums</h1><p>First
      paragraph.</p>Loose text<br>on two lines<h3>Part \\(A\\)</h3>
      <ul><li>one<li>two<ol start=3><li>inner<li>more<p>again</p></ol></ul>
      <blockquote><p>Quoted.</p></blockquote><dl><dt>Term<dd>Meaning</dl>"""
    assert text_of(body) == (
        "# Sums\n\nFirst paragraph.\n\nLoose text\non two lines\n\n### Part $A$\n\n"
        "- one\n- two\n  3. inner\n  4. more\n    again\n\n> Quoted.\n\nTerm\n\nMeaning"
    )


def test_tables():
    body = """<table><caption>Squares</caption><thead><tr><th>n<th>\\(n^2\\)</thead>
      <tr><td>1<td><p>1</p><tr><td>2<td><p>4</p><tr><td>3<td></table>"""
    assert text_of(body) == "Squares\n\nn | $n^2$\n1 | 1\n2 | 4\n3 |"


def test_tables_for_layout_are_no_tables():
    body = f"<table><tr><td><h2>Title</h2>{PROSE}</td><td><table><tr><td>a<td>b</table></table>"
    assert text_of(body).splitlines()[::2] == ["## Title", PROSE[3:-5], "a | b"]


def test_numbered_equations_in_tables():
    body = "<table><tr><td></td><td>$$x$$</td><td>(1)</td></tr></table>"
    assert text_of(body) == "$$x$$\n\n(1)"


def test_code_stays_as_it_is():
    body = """<p>Call <code>f(\\(x\\), $y$)</code>:</p><div class="highlight-python"><pre><span
      class="linenos">1</span><span>def</span> f(x):<br>    return "\\(x\\) $y$ `"  </pre></div>"""
    assert text_of(body) == (
        'Call `f(\\(x\\), $y$)`:\n\n```python\ndef f(x):\n    return "\\(x\\) $y$ `"\n```'
    )
    assert extract(body).formulas == 0
    assert text_of("<pre>```\nx</pre>") == "````\n```\nx\n````"


def test_chinese_text_is_whole():
    body = "<p>设函数&nbsp;<b>连续</b>，\n  则\\(f(x)\\)有界。</p><p>第二\u200b段</p>"
    assert text_of(body) == "设函数 连续，则$f(x)$有界。\n\n第二段"


def test_title():
    assert extract("<title> A \n B </title><h1>C</h1>").title == "A B"
    assert extract("<h1>C</h1><p>x</p>").title == "C"
    assert extract("").title == ""


# ---- Boilerplate --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "junk",
    [
        "<nav><a href=/>Junk</a></nav>",
        "<footer>Junk</footer>",
        "<header><a href=/>Junk</a></header>",
        "<aside>Junk</aside>",
        "<script>Junk()</script>",
        "<style>.Junk {}</style>",
        "<noscript>Junk</noscript>",
        "<div class='sidebar'>Junk</div>",
        "<div id='cookie-banner'>Junk</div>",
        "<div class='share-buttons'>Junk</div>",
        "<div class='related-posts'><p>Junk</p></div>",
        "<div style='display:none'>Junk</div>",
        "<div hidden>Junk</div>",
        "<form id='commentform'>Junk <textarea>Junk</textarea></form>",
        "<div role='navigation'>Junk</div>",
        "<ul><li><a href=/>Junk one</a><li><a href=/>Junk two</a><li><a href=/>Junk three</a></ul>",
        "<h2>See Junk</h2><ul><li><a href=/>Junk</a><li><a href=/>two</a><li><a href=/>x</a></ul>",
        "<p>© 2020 Junk</p>",
        "<button>Junk</button>",
        "<!-- Junk -->",
        "<svg><text>Junk</text></svg>",
    ],
)
def test_boilerplate_is_dropped(junk):
    body = f"{PROSE}<p>Let \\(y = 1\\).</p>"
    assert text_of(junk + body) == text_of(body) == text_of(body + junk)


@pytest.mark.parametrize(
    "kept",
    [
        "<aside>Note that \\(x = 1\\).</aside>",
        "<div class='widget'>Keep \\(x\\)</div>",
        "<div class='solution' style='display: none'>Hence \\(x = 2\\).</div>",
        "<header><h1>Keep</h1></header>",
        "<p>See <a href=/>one</a> and the others.</p>",
        "<ul><li><a href=/>Keep one</a> by an author<li><a href=/>two</a></ul>",
        "<ul><li><a name=a>Keep one<li>two<li>three</ul>",
        "<details><summary>Proof</summary>Clear.</details>",
    ],
)
def test_content_is_kept(kept):
    words = re.findall(r"\w+", re.sub("<[^>]*>", " ", kept))
    text = text_of(PROSE + kept + PROSE + "<p>\\(a\\) \\(b\\) \\(c\\) \\(d\\) \\(e\\)</p>")
    assert all(word in text for word in words)


def test_a_menus_name_around_everything_drops_nothing():
    page = f"<div class='sidebar-layout'>{PROSE}<p>\\(x\\)</p></div>"
    assert "even numbers" in text_of(page) and "$x$" in text_of(page)


def test_main_element_is_the_content():
    page = f"<div><p>Top line</p></div><main>{PROSE}</main><div><p>Bottom line</p></div>"
    assert text_of(page) == PROSE[3:-5]


# ---- Formulas in text ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, formulas",
    [
        ("costs $5 and $6", []),
        ("it is $5", []),
        ("if $x$ and $y_1$ then", ["x", "y_1"]),
        ("$n$-th, $2^{10}$.", ["n", "2^{10}"]),
        ("a \\$ b \\$", []),
        ("$latex \\pi r^2$", ["\\pi r^2"]),
        ("\\(a\\) \\( b \\)", ["a", "b"]),
        ("\\\\(a\\\\)", []),
        ("$$a$$ and $$b \\text{ if $c$}$$", ["a", "b \\text{ if $c$}"]),
        ("\\begin{align*}a\\\\b\\end{align*}", ["\\begin{align*}a\\\\b\\end{align*}"]),
        ("[latex]x[/latex] [tex]y[/tex]", ["x", "y"]),
        ("\\[ a \\\\[1ex] b \\]", ["a \\\\[1ex] b"]),
        ("\\(\\newcommand{\\R}{\\mathbb{R}}\\)", []),
        ("\\(\\newcommand{\\R}{\\mathbb{R}}\\R^n\\)", ["\\newcommand{\\R}{\\mathbb{R}}\\R^n"]),
        ("\\( and \\[ and $$ and $", []),
    ],
)
def test_delimiters(text, formulas):
    stash = Stash()
    Delimiters("", stash).mark(text)
    assert [
        part.strip("$") if "if $c" not in part else part[2:-2] for part in stash.parts
    ] == formulas


def test_dollars_of_pages_with_an_engine_are_formulas():
    stash = Stash()
    assert "$" in Delimiters("", stash).mark("take $a b$ now")
    assert "$" not in Delimiters("MathJax.js", stash).mark("take $a b$ now")


@pytest.mark.parametrize(
    "latex, expected",
    [
        ("$x$", ("x", False)),
        ("$$x$$", ("x", True)),
        ("\\[x\\]", ("x", True)),
        ("{\\displaystyle {\\frac {a}{b}}}", ("{\\frac {a}{b}}", False)),
        ("{\\displaystyle a}+{b}", ("{\\displaystyle a}+{b}", False)),
        ("% <![CDATA[\nx %]]>", ("x", False)),
        ("50\\% a % note\n+ b", ("50\\% a + b", False)),
        ("", ("", False)),
    ],
)
def test_clean(latex, expected):
    assert clean(latex) == expected


@pytest.mark.parametrize(
    "url, latex",
    [
        ("https://latex.codecogs.com/svg.image?\\large&space;x^2&plus;1", "x^2+1"),
        ("https://latex.codecogs.com/gif.latex?%5Cinline%20%5Cdpi%7B120%7D%20%5Calpha", "\\alpha"),
        ("//s0.wp.com/latex.php?latex=%5Cdisplaystyle+a%2Bb&bg=ffffff&fg=000000&s=0", "a+b"),
        ("https://www.zhihu.com/equation?tex=x%5En", "x^n"),
        ("http://chart.apis.google.com/chart?cht=tx&chl=a_1&chs=20", "a_1"),
        ("https://render.githubusercontent.com/render/math?math=e%5Ex&mode=inline", "e^x"),
        ("/cgi-bin/mimetex.cgi?\\pi", "\\pi"),
        ("https://example.org/latex.png", ""),
        ("https://example.org/photo.jpg?w=100", ""),
    ],
)
def test_addresses_of_images(url, latex):
    assert latex_of_url(url) == latex


# ---- Real pages ---------------------------------------------------------------------------------


def source_count(page):
    """Formulas in a page's source, counted without parsing it."""
    if "<mjx-container" in page.html:
        return page.html.count("<mjx-container")
    if "<main" in page.html:
        main = page.html[page.html.index("<main") : page.html.rindex("</main>")]
        return len(re.findall(r'class="[^"]*process-math', main))
    return len(re.findall(r'<(?:span|div) class="math ', page.html))


def test_real_pages(web_pages):
    """Found against counted in the source. Measured: all of MathJax's formulas, 99.4% of those
    between delimiters (the others stand in exercises that a script builds from code)."""
    found, counted = {}, {}
    for page in web_pages:
        if page.label != "math":
            continue
        count = extract(page.html, page.url).formulas
        expected = source_count(page)
        kind = "MathJax" if "<mjx-container" in page.html else "delimiters"
        found[kind] = found.get(kind, 0) + count
        counted[kind] = counted.get(kind, 0) + expected
        assert count >= 0.6 * expected, page.url
    assert found["MathJax"] == counted["MathJax"] > 20_000
    assert 0.99 * counted["delimiters"] < found["delimiters"] < 1.01 * counted["delimiters"]


def test_real_pages_without_formulas_get_none(web_pages):
    pages = [p for p in web_pages if p.label == "other" and "mjx-container" not in p.html]
    with_formulas = [p.url for p in pages if extract(p.html).formulas]
    assert len(with_formulas) < 0.02 * len(pages), with_formulas


def test_the_same_page_gives_the_same_text(web_pages):
    texts = [[extract(p.html).text for p in web_pages[:30]] for _ in range(2)]
    assert [zlib.crc32(t.encode()) for t in texts[0]] == [zlib.crc32(t.encode()) for t in texts[1]]
