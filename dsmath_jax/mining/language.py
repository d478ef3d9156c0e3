"""What language a page is in, as far as mining needs it: English, Chinese, or another."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

LANGUAGES = ("en", "zh", "other")
CHARACTERS = 4000  # of a text that are looked at

_HAN = ((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF))
_KANA_OR_HANGUL = ((0x3040, 0x30FF), (0xAC00, 0xD7AF))
_LATIN_WORD = re.compile(r"[A-Za-z]+")
_OTHER_LETTER = ((0x00C0, 0x024F), (0x0370, 0x07BF), (0x0900, 0x0E7F))
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
    codes = _codes(part)
    han, others, foreign = (_count(codes, of) for of in (_HAN, _KANA_OR_HANGUL, _OTHER_LETTER))
    if others > 0.1 * (han + others):
        return "other"
    if han > 0.2 * (han + len(words) + foreign):
        return "zh"
    return "other" if foreign > 0.5 * len(words) else _latin(words)


def _codes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def _count(codes: np.ndarray, ranges: Iterable[tuple[int, int]]) -> int:
    # Below the first character of a range the difference wraps around to a large number.
    return sum(int(np.count_nonzero(codes - np.uint32(a) <= b - a)) for a, b in ranges)


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
    han = _count(_codes(text), _HAN)
    return -(-(len(text) - han) // 4) + -(-3 * han // 4)
