import random

import pytest

from dsmath_jax.mining.encoding import decode

TEXTS = {
    "zh": "设函数在区间上连续，证明存在一点使得等式成立。由归纳法可知，该数列单调递增。",
    "tw": "設函數在區間上連續，證明存在一點使得等式成立。由歸納法可知，該數列單調遞增。",
    "ja": "関数が連続であるとき、次の定理が成り立つことを証明しなさい。帰納法を用いる。",
    "ko": "함수가 구간에서 연속일 때 다음 정리가 성립함을 증명하시오. 수학적 귀납법을 사용한다.",
    "fr": "Soit une fonction continue à valeurs réelles. Démontrer que l’égalité est vérifiée.",
}
ENCODINGS = {
    "zh": ("gbk", "gb18030", "utf-8", "utf-16", "utf-16-le", "utf-16-be"),
    "tw": ("big5", "utf-8"),
    "ja": ("cp932", "euc_jp", "iso2022_jp", "utf-8"),
    "ko": ("euc_kr", "utf-8"),
    "fr": ("cp1252", "utf-8", "utf-8-sig"),
}
LABELS = (
    "",
    "utf-8",
    "GB2312",
    "gbk",
    "big5",
    "iso-8859-1",
    "Shift_JIS",
    "euc-jp",
    "euc-kr",
    "bogus",
)
PAIRS = [(language, e) for language, encodings in ENCODINGS.items() for e in encodings]


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("language, encoding", PAIRS)
def test_label_may_be_right_wrong_or_missing(language, encoding, label):
    page = (
        f"<html><head><title>{TEXTS[language][:12]}</title></head><p>{TEXTS[language]}</p></html>"
    )
    assert decode(page.encode(encoding), label) == page


@pytest.mark.parametrize("language, encoding", PAIRS)
def test_wrong_label_in_the_page(language, encoding):
    page = f'<meta charset="euc-kr"><p>{TEXTS[language]}</p>'
    assert decode(page.encode(encoding)) == page


def test_header_comes_before_the_page():
    page = '<meta charset="windows-1251"><p>Множество, функция'
    assert decode(page.encode("koi8-r"), "koi8-r") == page
    assert decode(page.encode("cp1251")) == page


def test_labels_are_those_of_the_standard():
    # "iso-8859-1" is windows-1252 there, "gb2312" GB18030, "euc-kr" windows-949.
    assert decode(b"<p>\x93a\x94 \x96 b", "ISO-8859-1") == "<p>“a” – b"
    assert decode(b"\x81", "latin1") == "\x81"
    rare = "设 𠀀 与 镕 同，的一是不了在人有我"
    assert decode(rare.encode("gb18030"), "gb2312") == rare
    assert decode(("각똠은 이다는에의가을를" * 3).encode("cp949"), "euc-kr").startswith("각똠은")


@pytest.mark.parametrize("encoding", ["utf-8", "gb18030", "big5hkscs", "cp932", "euc_jp"])
def test_a_page_cut_within_a_character(encoding):
    text = TEXTS["tw" if "big5" in encoding else "ja" if encoding[0] in "ce" else "zh"] * 3
    body = text.encode(encoding)
    whole = decode(body[:-1], "" if encoding == "utf-8" else encoding)
    assert whole[: len(text) - 2] == text[:-2]


def test_utf8_with_some_damage_stays_utf8():
    text = TEXTS["zh"] * 20
    body = bytearray(text.encode())
    body[300] = 0xFF
    assert decode(bytes(body), "gbk").count("\ufffd") <= 3
    assert decode(bytes(body)).endswith(TEXTS["zh"])


def test_short_text_trusts_the_label():
    # These bytes are "联通" in GBK, and by chance UTF-8 too.
    assert decode("联通".encode("gbk"), "gbk") == "联通"
    assert decode("é".encode(), "utf-8") == "é"


@pytest.mark.parametrize("seed", range(3))
def test_any_bytes_give_text(seed):
    rng = random.Random(seed)
    for size in (0, 1, 2, 3, 50, 3000):
        for label in ("", "utf-8", "gbk", "utf-16", "hex", "idna", "\ud800", "a" * 1000):
            assert isinstance(decode(rng.randbytes(size), label), str)


@pytest.mark.parametrize("encoding", ["gb18030", "big5hkscs"])
def test_real_pages_without_labels(web_pages, encoding):
    """Pages in Chinese, encoded anew: all come back."""
    count = 0
    for page in web_pages:
        text = page.html.replace("utf-8", "").replace("UTF-8", "")
        if page.language == "zh":
            body = text.encode(encoding, "xmlcharrefreplace")
            assert decode(body) == body.decode(encoding), page.url
            count += 1
    assert count > 100
