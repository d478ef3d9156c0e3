"""The generated web: the same bytes everywhere, true to its truth, and worth a second iteration."""

import collections
import hashlib
import html
import json
import math
import pathlib
import random
import re
import subprocess
import sys
import urllib.parse

import pytest

from dsmath_jax.mining.archives import read_pages
from dsmath_jax.mining.generated_web import write_web
from dsmath_jax.mining.generated_web_formulas import FORMS, random_formula, render
from dsmath_jax.mining.pages import Counts

GIVEN = ["Prove that 7 < 8 & that nobody doubts it.", "求证：七小于八。"]


@pytest.fixture(scope="module")
def web(tmp_path_factory):
    """(what write_web gives, rows of the truth, pages in the same order)."""
    made = write_web(tmp_path_factory.mktemp("web"), pages=3000, benchmark_items=GIVEN)
    rows = read_rows(made.truth)
    pages = [page for path in made.archives for page in read_pages(path)]
    return made, rows, pages


def read_rows(path):
    return [json.loads(line) for line in pathlib.Path(path).read_text("utf-8").splitlines()]


def decode(page):
    found = re.search(rb'<meta charset="([\w-]+)"', page.body)
    return page.body.decode(page.charset or found.group(1).decode())


def visible(text):
    text = re.sub(r"<(script|style)[^>]*>.*?</\1>", " ", text, flags=re.S)
    return html.unescape(re.sub(r"<[^>]+>", " ", text))


def tokens(text):
    return re.findall(r"[a-z_]+|\d+|[\u4e00-\u9fff]", text.lower())


def shingles(words, n):
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}


def digest(folder):
    files = sorted(p for p in pathlib.Path(folder).rglob("*") if p.is_file())
    return hashlib.sha256(b"".join(p.read_bytes() for p in files)).hexdigest()


# ---- The same everywhere -----------------------------------------------------------------------


def test_bytes_depend_on_the_seed_alone(tmp_path):
    command = (
        "import sys; from dsmath_jax.mining.generated_web import write_web; "
        "write_web(sys.argv[1], seed=3, pages=120, files=2)"
    )
    for i, hash_seed in enumerate(["0", "77"]):
        subprocess.run(
            [sys.executable, "-c", command, str(tmp_path / str(i))],
            check=True,
            env={"PYTHONHASHSEED": hash_seed, "PYTHONPATH": ":".join(sys.path)},
        )
    write_web(tmp_path / "other", seed=4, pages=120, files=2)
    # Every machine and Python must give this; it changes with the words of the web.
    golden = "c730c954b52eef7a2e3a9c0e9f60db7a0de3c765a1649e405935b871e867adf2"
    assert digest(tmp_path / "0") == digest(tmp_path / "1") == golden
    assert digest(tmp_path / "other") != golden


# ---- Truth -------------------------------------------------------------------------------------


def test_the_truth_has_a_row_for_each_page(web):
    made, rows, pages = web
    assert [row["url"] for row in rows] == [page.url for page in pages]
    assert [row["file"] for row in rows] == [pathlib.Path(p.source).name for p in pages]
    assert made.pages == len(rows)
    assert 2900 < made.pages < 3100
    counts = Counts()
    for path in made.archives:
        list(read_pages(path, counts=counts))
    assert not counts.rejected
    assert counts.skipped["status"] > 20
    assert counts.skipped["not text"] > 10


def test_what_there_is(web):
    _, rows, pages = web
    labels = collections.Counter((row["label"], row["language"]) for row in rows)
    assert all(labels[label, lang] > 200 for label in ("math", "other") for lang in ("en", "zh"))
    assert labels["math", "en"] + labels["math", "zh"] < len(rows) / 2
    assert {row["form"] for row in rows} == {"", *FORMS}
    assert len({row["host"] for row in rows}) >= 30
    both = collections.defaultdict(set)
    for row in rows:
        both[row["host"]].add(row["label"])
        assert row["url"].split("://")[1].startswith(row["group"])
    assert sum(len(kinds) == 2 for kinds in both.values()) >= 6
    assert {page.charset for page in pages} >= {"utf-8", "gb18030", ""}
    assert sum(bool(row["duplicate_of"]) for row in rows) == 90
    assert sum(bool(row["mirror_of"]) for row in rows) > 50
    urls = collections.Counter(page.url for page in pages)
    assert sum(row["again"] for row in rows) == 30 == sum(n - 1 for n in urls.values())


def test_pages_of_each_charset_can_be_read(web):
    _, rows, pages = web
    for row, page in zip(rows, pages, strict=True):
        text = decode(page)
        assert text.rstrip().endswith("</html>")
        assert "�" not in text
        if row["language"] == "zh":
            assert "版权所有" in text


def test_formulas_are_on_their_pages_in_the_form_of_the_truth(web):
    _, rows, pages = web
    seen = collections.Counter()
    for row, page in zip(rows, pages, strict=True):
        text = decode(page)
        unescaped = html.unescape(text)
        for latex in row["formulas"]:
            if row["form"] in ("mathjax3", "mathml", "markup", "asciimath"):
                assert "\\frac" not in text  # these carry no LaTeX
            elif row["form"] == "codecogs":
                assert "?" + urllib.parse.quote(latex, safe="") + '"' in text
            elif row["form"] == "mathjax2":
                assert f">{latex}</script>" in text
            else:
                assert latex in unescaped
            seen[row["form"]] += 1
    assert all(seen[form] > 50 for form in FORMS)


MARKS = {
    "delimiters": "\\(",
    "mathjax2": '<script type="math/tex">',
    "mathjax3": "<mjx-assistive-mml",
    "katex": 'class="katex-html" aria-hidden="true"',
    "mathml": "<math xmlns",
    "annotated": '<annotation encoding="application/x-tex">',
    "wikipedia": "mwe-math-fallback-image-inline",
    "attribute": "data-latex=",
    "image": 'class="latex"',
    "codecogs": "latex.codecogs.com/svg.image?",
    "asciimath": "`",
    "markup": "",
}


def test_formulas_are_well_formed():
    import xml.etree.ElementTree

    assert set(MARKS) == set(FORMS)
    rng = random.Random(0)
    for i in range(500):
        formula = random_formula(rng, "algebra" if i % 2 else "arithmetic")
        assert formula.latex.count("{") == formula.latex.count("}")
        xml.etree.ElementTree.fromstring(f"<math>{formula.mathml}</math>")
        assert "".join(formula.markup.split("<")) != ""
        for form, mark in MARKS.items():
            assert mark in render(formula, form)
        page = render(formula, "mathml", True) + render(formula, "mathjax3", True)
        xml.etree.ElementTree.fromstring(f"<p>{page}</p>")
    with pytest.raises(ValueError, match="'tex' is unknown"):
        render(formula, "tex")


# ---- Copies ------------------------------------------------------------------------------------


def test_near_duplicates_are_near_and_other_pages_are_not(web):
    _, rows, pages = web
    words = {p.url: shingles(tokens(visible(decode(p))), 5) for p in pages}

    def alike(a, b):
        return len(words[a] & words[b]) / len(words[a] | words[b])

    near = [alike(r["url"], r["duplicate_of"]) for r in rows if r["duplicate_of"]]
    assert sum(near) / len(near) > 0.7
    assert min(near) > 0.3
    mirrors = [alike(r["url"], r["mirror_of"]) for r in rows if r["mirror_of"]]
    assert min(mirrors) > 0.85
    rng = random.Random(0)
    by_style = collections.defaultdict(list)
    for row in rows:
        if not (row["duplicate_of"] or row["mirror_of"] or row["again"]):
            by_style[row["style"]].append(row["url"])
    for urls in by_style.values():
        pairs = [rng.sample(urls, 2) for _ in range(100)]
        assert max(alike(a, b) for a, b in pairs) < 0.4


# ---- Seed and benchmarks -----------------------------------------------------------------------


def test_the_seed_is_half_in_the_web(web):
    made, rows, pages = web
    seed = read_rows(made.seed)
    assert len(seed) == 500
    truth = {row["url"]: row for row in rows}
    bodies = {page.url: tokens(visible(decode(page))) for page in pages}
    inside = [row for row in seed if row["url"] in truth]
    # Not every second page of these hosts may be there: the web has fewer than 500 in all.
    assert 200 <= len(inside) <= 250
    for row in seed:
        assert "$" in row["text"]
    for row in inside:
        assert truth[row["url"]]["label"] == "math"
        assert truth[row["url"]]["language"] == "en"
        words = tokens(re.sub(r"\$.*?\$", " ", row["text"]))
        assert len(set(words) & set(bodies[row["url"]])) > 0.9 * len(set(words))


def test_benchmark_items_are_where_the_truth_says_and_nowhere_else(web):
    made, rows, pages = web
    items = [item for path in made.benchmarks for item in read_rows(path)]
    assert len({item["id"] for item in items}) == len(items) == 102
    assert {i["question"] for i in items if i["id"].startswith("given")} == set(GIVEN)
    pages = [tokens(visible(decode(page))) for page in pages]
    grams = [shingles(words, 10) for words in pages]
    joined = ["/".join(words) for words in pages]
    planted = collections.Counter()
    for item in items:
        words = tokens(item["question"])
        holding = {i for i, row in enumerate(rows) if item["id"] in row["planted"]}
        planted[item["planted"], bool(holding)] += 1
        text = "/".join(words)
        found = {i for i, page in enumerate(joined) if f"/{text}/" in page}
        assert found == holding
        if not item["planted"]:  # no part of it is on any page without another item
            own = shingles(words, 10)
            assert not any(own & grams[i] for i, row in enumerate(rows) if not row["planted"])
    assert planted == {(True, True): 52, (False, False): 50}
    lengths = [len(tokens(item["question"])) for item in items]
    assert sum(3 <= n < 10 for n in lengths) > 10
    assert sum(n >= 13 for n in lengths) > 40
    assert all(row["label"] == "math" for row in rows if row["planted"])


def test_answers_of_items_are_right(web):
    made, _, _ = web
    checked = 0
    for path in made.benchmarks:
        for item in read_rows(path):
            numbers = [int(n) for n in re.findall(r"\d+", item["question"])]
            if "clocks" in item["question"]:
                a, b = numbers
                assert int(item["answer"]) == next(
                    n for n in range(max(a, b), a * b + 1) if n % a == n % b == 0
                )
            elif "gcd" in item["question"] or "公约数" in item["question"]:
                divisors = [d for d in range(1, 999) if not any(n % d for n in numbers)]
                assert int(item["answer"]) == divisors[-1]
            elif "squared" in item["question"]:
                assert int(item["answer"]) == numbers[0] ** 2 - numbers[1] ** 2
            elif "千米" in item["question"]:
                assert int(item["answer"]) == numbers[0] / (numbers[1] + numbers[2])
            else:
                continue
            checked += 1
    assert checked > 40


# ---- Two iterations ----------------------------------------------------------------------------


def bayes(positives, negatives):
    """The mean over a page's words of how much more often positives have the word."""
    counts = [
        collections.Counter(w for d in docs for w in set(d)) for docs in (positives, negatives)
    ]
    weight = {
        word: math.log((counts[0][word] + 0.5) / (len(positives) + 1))
        - math.log((counts[1][word] + 0.5) / (len(negatives) + 1))
        for word in counts[0] | counts[1]
    }
    return lambda words: sum(weight.get(w, 0.0) for w in words) / max(len(words), 1)


def test_a_second_iteration_finds_what_the_first_misses(web):
    """Naive Bayes in place of the classifier: the web itself has what the loop needs."""
    made, rows, pages = web
    truth = {row["url"]: row for row in rows}
    words = {page.url: tokens(visible(decode(page))) for page in pages}
    urls = sorted(words)
    math_urls = {url for url in urls if truth[url]["label"] == "math"}
    seed = read_rows(made.seed)
    positives = {row["url"]: words.get(row["url"], tokens(row["text"])) for row in seed}
    hosts = collections.Counter(truth[url]["host"] for url in urls)
    recall = []
    for keep in (0.21, 0.32):
        others = [url for url in random.Random(0).sample(urls, 1200) if url not in positives]
        score = bayes([*positives.values()], [words[url] for url in others])
        ranked = sorted(urls, key=lambda url: -score(words[url]))
        kept = set(ranked[: int(keep * len(urls))])
        recall.append(len(kept & math_urls) / len(math_urls))
        found = collections.Counter(truth[url]["host"] for url in kept)
        domains = {host for host in hosts if found[host] > 0.1 * hosts[host]}
        positives |= {u: words[u] for u in math_urls if truth[u]["host"] in domains}
    assert recall[0] < 0.75
    assert recall[1] > 0.97
    missed = {truth[url]["host"] for url in math_urls} - domains
    assert not missed
