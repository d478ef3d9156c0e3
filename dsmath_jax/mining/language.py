"""What language a page is in, as far as mining needs it: English, Chinese, or another."""

from __future__ import annotations

import re

LANGUAGES = ("en", "zh", "other")
CHARACTERS = 4000  # of a text that are looked at

_HAN_RUN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]+")
_KANA_OR_HANGUL = re.compile("[\u3040-\u30ff\uac00-\ud7af]")
_LATIN_WORD = re.compile(r"[A-Za-z]+")
_OTHER_LETTER = re.compile("[\u00c0-\u024f\u0370-\u05ff\u0600-\u07bf\u0900-\u0e7f]")
# The commonest words of English; a tenth of any English prose, and hardly any of other languages
# that share one or two of them ("in", "a").
_COMMON = frozenset(
    re.findall(
        r"\w+",
        "the of and to is that it for with as this be are from by at or which not can we if have "
        "has will you what how then when than these there where all one",
    )
)


def language(text: str) -> str:
    """ "zh" where a fifth of the letters are Chinese characters (and no Japanese or Korean ones),
    "en" where words are English, else "other"."""
    part = text[:CHARACTERS]
    words = [] if part.isspace() else _LATIN_WORD.findall(part)
    if part.isascii():
        return _latin(words)
    han = _han(part)
    others = len(_KANA_OR_HANGUL.findall(part))
    foreign = len(_OTHER_LETTER.findall(part))
    if others > 0.1 * (han + others):
        return "other"
    if han > 0.2 * (han + len(words) + foreign):
        return "zh"
    return "other" if foreign > 0.5 * len(words) else _latin(words)


def _han(text: str) -> int:
    return sum(map(len, _HAN_RUN.findall(text)))


def _latin(words: list[str]) -> str:
    if len(words) < 5:
        return "other"
    common = sum(map(_COMMON.__contains__, " ".join(words).lower().split(" ")))
    return "en" if common >= 0.08 * len(words) else "other"


def token_estimate(text: str) -> int:
    """About how many tokens a byte-level BPE as DeepSeek's makes of a text: a quarter of its
    characters, three quarters of the Chinese ones."""
    if text.isascii():
        return -(-len(text) // 4)
    han = _han(text)
    return -(-(len(text) - han) // 4) + -(-3 * han // 4)
