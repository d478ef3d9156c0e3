"""Text as tokens: the one definition of a word that near-duplicates and decontamination share.

A token is a run of letters, a run of digits, or one Chinese or Japanese character. Case, width and
punctuation do not count, so a formula gives the same tokens whatever stands around it: `$x^2$`,
`\\(x^{2}\\)`, `x²` and `x_2` are all ["x", "2"]. Numbers are kept as they are written.
"""

from __future__ import annotations

import functools
import hashlib
import re
import sys
import unicodedata
from dataclasses import dataclass

import numpy as np

_SEPARATOR, _LETTER, _DIGIT, _CHARACTER = range(4)
_EAST_ASIAN = (  # written without spaces: each character is a token
    (0x2E80, 0x2FDF),  # radicals
    (0x3005, 0x3007),
    (0x3040, 0x312F),  # kana, bopomofo
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)
# Not seen on a page, yet within its words: soft hyphens, joiners, MathML's invisible operators.
_INVISIBLE = re.compile("[\xad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufe00-\ufe0f\ufeff]")
# LaTeX for the look of a formula only; it differs from page to page where the formula does not.
_LOOK = re.compile(
    r"\\(?:left|right|middle|bigg?[lr]?|limits|quad|qquad|displaystyle|textstyle|text|textrm"
    r"|textbf|textit|mbox|mathrm|mathbf|mathit|mathsf|boldsymbol|operatorname)(?![a-z])"
)
_FRACTION = re.compile(r"\\[dt]frac(?![a-z])")

_BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2**64
_NGRAM_BASE = np.uint64(0xD6E8FEB86659FD93)
_BLOCK = 1 << 16  # characters hashed at once


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of a text, as places in its normal form.

    text: normalised; starts, ends: [tokens] of each token in it; hashes: [tokens] uint64, the same
    on every machine and in every run.
    """

    text: str
    starts: np.ndarray
    ends: np.ndarray
    hashes: np.ndarray

    def __len__(self) -> int:
        return len(self.starts)

    def words(self, start: int = 0, stop: int | None = None) -> list[str]:
        spans = zip(self.starts[start:stop].tolist(), self.ends[start:stop].tolist(), strict=True)
        return [self.text[a:b] for a, b in spans]


def words(text: str) -> list[str]:
    """The tokens of a text: words in lower case, numbers, single Chinese characters."""
    return tokenize(text).words()


def tokenize(text: str) -> Tokens:
    """Tokens with their hashes, several times as fast as `words`."""
    text = _normal(text)
    if text.isascii():
        codes = np.frombuffer(text.encode("ascii"), np.uint8)
    else:
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    kinds = _kinds()[codes]
    new = np.empty(len(kinds), bool)
    new[:1] = True
    np.not_equal(kinds[1:], kinds[:-1], out=new[1:])
    new |= kinds == _CHARACTER
    edges = np.append(np.flatnonzero(new), len(kinds))
    real = kinds[edges[:-1]] != _SEPARATOR
    starts, ends = edges[:-1][real], edges[1:][real]
    return Tokens(text, starts, ends, _hashes(codes, starts, ends))


def ngram_hashes(hashes: np.ndarray, size: int) -> np.ndarray:
    """[tokens - size + 1] uint64: one hash for each run of `size` tokens."""
    ngrams = hashes
    for _ in range(size - 1):
        ngrams = one_longer(ngrams, hashes)
    return ngrams


def one_longer(ngrams: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    """Hashes of the runs that are one token longer than those of `ngrams`."""
    size = len(hashes) - len(ngrams) + 1
    return ngrams[:-1] * _NGRAM_BASE + hashes[size:]


def for_classifier(text: str) -> str:
    """The text as fastText reads it: one line in lower case, Chinese characters as single words."""
    text = text.encode("utf-8", "ignore").decode()  # half of a surrogate pair is no UTF-8
    if text.isascii():
        return " ".join(text.lower().split())
    text = unicodedata.normalize("NFKC", text)
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    kinds = _word_kinds()[codes]
    begins = kinds == _CHARACTER
    begins[1:] |= kinds[:-1] != _LETTER
    real = kinds != _SEPARATOR
    begins = begins[real]
    begins[:1] = False  # no space before the first word
    places = np.cumsum(begins) + np.arange(len(begins))
    spaced = np.full(len(begins) + np.count_nonzero(begins), ord(" "), np.uint32)
    spaced[places] = codes[real]
    return spaced.tobytes().decode("utf-32-le").lower()


def text_hash(text: str) -> int:
    """64 bits that are the same for texts that differ in white space at most."""
    plain = " ".join(text.split()).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(plain, digest_size=8).digest(), "little")


def mix(values: np.ndarray) -> np.ndarray:
    """A bijection of uint64 after which every bit depends on every bit (splitmix64's last step)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _normal(text: str) -> str:
    if not text.isascii():
        text = _INVISIBLE.sub("", unicodedata.normalize("NFKC", text))
    text = text.lower()
    if "\\" in text:
        text = _FRACTION.sub(r"\\frac", _LOOK.sub(" ", text))
    return text


def _hashes(codes: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """A polynomial in _BASE of each token's characters, from prefix sums of a block of tokens."""
    hashes = np.empty(len(starts), np.uint64)
    first = 0
    while first < len(starts):
        low = int(starts[first])
        last = max(int(np.searchsorted(ends, low + _BLOCK, side="right")), first + 1)
        high = int(ends[last - 1])
        powers, inverses = _powers(1 << (high - low).bit_length())
        sums = np.zeros(high - low + 1, np.uint64)
        np.cumsum(_characters()[codes[low:high]] * powers[: high - low], out=sums[1:])
        a, b = starts[first:last] - low, ends[first:last] - low
        hashes[first:last] = (sums[b] - sums[a]) * inverses[a]
        first = last
    return mix(hashes)


@functools.lru_cache(maxsize=32)
def _powers(count: int) -> tuple[np.ndarray, np.ndarray]:
    inverse = pow(_BASE, -1, 1 << 64)
    both = []
    for base in (_BASE, inverse):
        powers = np.full(count, base, np.uint64)
        powers[0] = 1
        both.append(np.cumprod(powers))
    return both[0], both[1]


@functools.cache
def _characters() -> np.ndarray:
    """A random number for each character, so that similar words have unlike hashes."""
    return mix(np.arange(1, sys.maxunicode + 2, dtype=np.uint64) * np.uint64(_BASE))


@functools.cache
def _word_kinds() -> np.ndarray:
    """What each character is for the classifier: white space, a word, or a part of one."""
    kinds = np.full(sys.maxunicode + 1, _LETTER, np.uint8)
    for low, high in _EAST_ASIAN:
        kinds[low : high + 1] = _CHARACTER
    spaces = [code for code in range(0x10000) if chr(code).isspace()]
    kinds[spaces] = _SEPARATOR
    return kinds


@functools.cache
def _kinds() -> np.ndarray:
    """What each character is for tokens."""
    kinds = np.full(sys.maxunicode + 1, _SEPARATOR, np.uint8)
    for code in range(sys.maxunicode + 1):
        category = unicodedata.category(chr(code))
        if category == "Nd":
            kinds[code] = _DIGIT
        elif category[0] in "LMN":
            kinds[code] = _LETTER
    for low, high in _EAST_ASIAN:
        part = kinds[low : high + 1]
        part[part == _LETTER] = _CHARACTER
    return kinds
