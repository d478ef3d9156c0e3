import pathlib
import time

import pytest

from dsmath_jax.mining.extract import extract
from dsmath_jax.mining.html_text import MAX_CHARACTERS, PageTooLarge, parse, visible_text

N = 100_000
BOMBS = {
    "div": "<div>" * N + "x",
    "closed div": "<div>" * N + "x" + "</div>" * N,
    "list": "<ul><li>" * N + "x",
    "table": "<table><tr><td>" * N + "x",
    "formatting": "<b><i><p></b>" * N + "x",
    "paragraphs": "<div><p>" * N + "x",
    "names that never close": "<div></span>" * N + "x",
    "mathml": "<math><mrow>" * N + "<mi>x",
    "attributes": "<p " + " ".join(f"a{i}=1" for i in range(N)) + ">x",
    "attributes with >": "<p " + " ".join(f'a{i}=">"' for i in range(N)) + ">x",
    "attributes without an end": "x<p " + " ".join(f"a{i}=1" for i in range(N)),
    "giant attribute": '<p a="' + "y" * 9_000_000 + '">x',
    "colspan": "<table>" + "<tr><td colspan=999999999 rowspan=999999999>x" * 1000,
    "nul": "<p>\0x\0</p>" * N,
    "surrogates": "\ud800<p>x\udfff" * N,
    "open comments": "x" + "<!--" * N,
    "open tags": "x" + "<a b='<a b=\"" * N + ">",
    "entities": "x" + "&amp;&#xfdd0;0&#xfdd2;&#xD800;&" * N,
    "dollars": "x" + "$a $$b \\( \\[ ` \\begin{align}" * N,
    "backslashes": "x" + "\\" * N * 10,
    "forged marks": "\ufdd1" + "0\ufdd2\ufdd0" * N + "x",
    "images": '<img class=latex alt="x">' * N,
    "mathjax": "x" + "<mjx-container>" * N,
    "scripts": "x" + "<sup>" * N,
    "asciimath": "<script>asciimath2jax</script>x`" + "(" * N + "`",
}


@pytest.mark.parametrize("name", BOMBS)
def test_hostile_pages_end_soon(name):
    start = time.process_time()
    text = visible_text(BOMBS[name])
    result = extract(BOMBS[name])
    assert time.process_time() - start < 15
    assert "x" in text or name in ("images", "mathml")
    assert isinstance(result.text, str)
    text.encode(), result.text.encode()


def test_pages_that_are_too_large_say_so():
    page = "x" * (MAX_CHARACTERS + 1)
    assert issubclass(PageTooLarge, ValueError)
    with pytest.raises(PageTooLarge, match="leave it out, or cut it"):
        visible_text(page)
    with pytest.raises(PageTooLarge, match=r"example\.org has"):
        extract(page, "example.org")


def test_deep_elements_are_left_out_and_their_text_stays():
    page = "<div>" * 40_000 + "deep" + "</div>" * 40_000 + "<p>after</p>"
    tree = parse(page)
    assert 400 < len(tree.css("div")) < 600
    assert tree.body.text() == "deepafter"


def test_flattening_leaves_ordinary_pages_alone():
    """Above the sizes from which tags are looked at, nothing changes where nothing is wrong."""
    part = (
        "<div class=\"a > b\" title='<p>'><p>one<br>two<ul><li>three<li>four</ul><i>five</i></div>"
    )
    small, large = parse(part), parse(part * 5000)
    assert large.body.html.count(small.body.inner_html) == 5000


def test_visible_text():
    page = (
        "<html><head><title>T</title><style>s</style><script>j</script></head><body>"
        "<p>one <b>two</b></p><noscript>n</noscript><p>三&nbsp;四</p><!-- c -->"
        "<template>t</template>"
        '<mjx-container><mjx-math data-latex="x^2"><mjx-mi>𝑥</mjx-mi></mjx-math>'
        "</mjx-container>"
    )
    assert visible_text(page).split() == ["T", "one", "two", "三", "四", "$x^2$"]
    assert visible_text("") == ""


def test_memory_stays(web_pages):
    """Passes over the same pages need no more memory than the first."""
    statm = pathlib.Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("memory of this process: no /proc/self/statm")

    def pages_in_memory(passes):
        for _ in range(passes):
            for page in web_pages[:60]:
                extract(page.html)
                visible_text(page.html)
        return int(statm.read_text().split()[1])

    first = pages_in_memory(2)
    assert pages_in_memory(6) < first * 1.05
