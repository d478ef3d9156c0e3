"""Tokens by hand, in formulas and in Chinese, and against a regular expression; stable hashes."""

import random
import re
import unicodedata

import numpy as np
import pytest

from dsmath_jax.mining.normalize import (
    for_classifier,
    ngram_hashes,
    text_hash,
    tokenize,
    words,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" \n.,!", []),
        ("Janet’s ducks lay 16 eggs.", ["janet", "s", "ducks", "lay", "16", "eggs"]),
        ("It's 3.50 or 1,000", ["it", "s", "3", "50", "or", "1", "000"]),
        ("snake_case H2O 3rd", ["snake", "case", "h", "2", "o", "3", "rd"]),
        ("ÉCOLE straße Ελλάδα", ["école", "straße", "ελλάδα"]),
        ("设集合A＝｛1，2｝，则", ["设", "集", "合", "a", "1", "2", "则"]),
        ("１６颗蛋", ["16", "颗", "蛋"]),
        ("カタカナ・ひら 한국어", ["カ", "タ", "カ", "ナ", "ひ", "ら", "한국어"]),
        ("soft\u00adhyphen zero\u200bwidth", ["softhyphen", "zerowidth"]),
        ("𝑥 ∈ ℝ", ["x", "r"]),
        ("a\ud800b", ["a", "b"]),  # half of a surrogate pair
    ],
)
def test_words_by_hand(text, expected):
    assert words(text) == expected


@pytest.mark.parametrize(
    "formula", ["$x^2$", "$$ x ^ 2 $$", r"\(x^{2}\)", r"\[ x_2 \]", "x²", "x2", r"\left(x^2\right)"]
)
def test_a_formula_is_the_same_whatever_surrounds_it(formula):
    assert words(f"Let {formula}, then") == ["let", "x", "2", "then"]


def test_latex_commands_are_words_but_for_those_of_the_look():
    assert words(r"$\frac{1}{2} \leq \sqrt{\pi}$") == ["frac", "1", "2", "leq", "sqrt", "pi"]
    assert words(r"\dfrac12 \tfrac{1}{2}") == ["frac", "12", "frac", "1", "2"]
    assert words(r"5\text{ cm} \quad \mathrm{d}x \Big| \bigcup") == [
        *["5", "cm", "d", "x", "bigcup"]
    ]
    assert words("text left right") == ["text", "left", "right"]


def slow_words(text):
    """The same definition with Python's own tools, character by character."""
    text = unicodedata.normalize("NFKC", text).lower()
    han = "\u3005-\u3007\u3040-\u30fa\u30fc-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
    pattern = rf"[{han}]|[^\W\d_{han}]+|\d+"
    return re.findall(pattern, text)


def test_words_against_a_regular_expression():
    rng = random.Random(0)
    alphabet = "abcXYZ019 .,-_'\"$^{}\n\tàÉ数学集合はカ，。（）①②"
    for _ in range(2000):
        text = "".join(rng.choice(alphabet) for _ in range(rng.randint(0, 80)))
        assert words(text) == slow_words(text), repr(text)


def test_normal_words_stay_as_they_are():
    rng = random.Random(1)
    for _ in range(300):
        text = "".join(chr(rng.choice([rng.randrange(32, 0x3000), 0x20])) for _ in range(60))
        once = words(text)
        assert words(" ".join(once)) == once


def test_hashes_are_equal_just_where_words_are():
    rng = random.Random(2)
    text = " ".join(
        "".join(rng.choice("abc") for _ in range(rng.randint(1, 7))) for _ in range(9000)
    )
    tokens = tokenize(text)  # longer than a block
    by_word = {}
    for word, value in zip(tokens.words(), tokens.hashes.tolist(), strict=True):
        assert by_word.setdefault(word, value) == value
    assert len(set(by_word.values())) == len(by_word) > 1000
    assert np.array_equal(tokens.hashes, tokenize(text.upper().replace(" ", ", ")).hashes)


def test_hashes_do_not_depend_on_where_a_word_stands():
    long = "x" * 70_000  # more than a block
    tokens = tokenize(f"alpha {long} {'z ' * 40_000} alpha {long} 数 alpha")
    one, other = tokenize("alpha").hashes[0], tokenize(long).hashes[0]
    assert np.count_nonzero(tokens.hashes == one) == 3
    assert np.count_nonzero(tokens.hashes == other) == 2


def test_hashes_never_change():
    """An index that one version saved is read by others."""
    assert tokenize("two 数").hashes.tolist() == [
        18179665511011359729,
        2719252400751672633,
    ]


def test_ngram_hashes():
    hashes = tokenize("a b a b a c").hashes
    two = ngram_hashes(hashes, 2)
    assert len(two) == 5
    assert two[0] == two[2]
    assert two[1] == two[3]
    assert len(set(two.tolist())) == 3  # "a b", "b a" and "a c"
    assert len(ngram_hashes(hashes, 6)) == 1
    assert len(ngram_hashes(hashes, 7)) == 0
    assert len(ngram_hashes(hashes, 10)) == 0


def test_for_classifier():
    assert for_classifier("Hello,\n  World\t！") == "hello, world !"
    assert for_classifier("设集合A，求x²的值") == "设 集 合 a, 求 x2 的 值"
    assert for_classifier("") == ""
    assert for_classifier("a\ud800b\x85c\u2028d") == "ab c d"


def test_text_hash_knows_texts_but_not_white_space():
    assert text_hash("a b\n c") == text_hash(" a  b c ")
    assert text_hash("a b") != text_hash("A b")
    assert 0 <= text_hash("") < 2**64


CHARACTERS = (
    " \t\u3000\xa0\u2028\x1caB\u03a3\u0391\u0130\u4e2d\u6587\u3005\u30fc\u304b\uff0c\uff58"
    "\xe9e\u0301\ud800\U0001d45b1\u200b\ud55c\U00020000"
)


def test_the_classifiers_text_by_its_definition():
    """NFKC, a space before and after each East Asian character, lower case, single spaces."""
    single = re.compile(
        "[\u2e80-\u2fdf\u3005-\u3007\u3040-\u312f\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
        "\uf900-\ufaff\U00020000-\U0003ffff]"
    )
    draw = random.Random(0)
    for _ in range(5000):
        text = "".join(draw.choices(CHARACTERS, k=draw.randrange(14)))
        plain = unicodedata.normalize("NFKC", text.replace("\ud800", ""))
        assert for_classifier(text) == " ".join(single.sub(r" \g<0> ", plain).lower().split())
