"""Pages that hold a piece of an evaluation benchmark (DeepSeekMath 2.1).

The paper removes a page "containing a 10-gram text string that matches exactly with any sub-string
from the evaluation benchmarks", and for benchmark texts of 3 to 9 grams a page that holds the whole
text. A gram is a token of `normalize`: a word, a number, or a single Chinese character.

Of a text of 10 tokens or more, question or answer, every 10-gram counts that has a word in it: two
letters, or a Chinese character. Ten single letters and numbers are a short formula or a list, as in
`x_1, x_2, x_3, x_4, x_5`; they count where a text has nothing else, unless they are ten numbers at
equal steps. A shorter text counts as a whole and only if it is a question: answers so short are
`\\frac{1}{2}` or `all of the above`.
"""

from __future__ import annotations

import collections
import functools
import json
import os
import pathlib
import random
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from dsmath_jax.data.errors import InputError
from dsmath_jax.mining.benchmark_texts import Item
from dsmath_jax.mining.ngram_table import NgramTable, bit_filter, passing
from dsmath_jax.mining.normalize import Tokens, mix, ngram_hashes, one_longer, tokenize, words

NGRAM = 10
SHORTEST = 3
_SALT = mix(np.arange(NGRAM + 1, dtype=np.uint64))  # of the hashes of each length
_ARRAYS = ("hashes", "texts", "places", "filter")


@dataclass(frozen=True, slots=True)
class Hit:
    """A benchmark's text in a page: which, the n-gram found first, and the token it begins at."""

    benchmark: str
    item: str
    part: str
    ngram: str
    position: int


@dataclass(frozen=True)
class Index:
    """The n-grams of benchmarks.

    items: (benchmark, item, part) of each indexed text; words: its tokens with spaces between, all
    one after the other in UTF-8, ending at ends; long: 10-grams; short: whole texts of the lengths
    in sizes; starts: a filter of their first three tokens; left_out: number of texts that cannot
    be found, by reason.
    """

    items: list[tuple[str, str, str]]
    words: np.ndarray
    ends: np.ndarray
    long: NgramTable
    short: NgramTable
    sizes: tuple[int, ...]
    starts: np.ndarray
    left_out: dict[str, int]

    @classmethod
    def build(cls, items: Sequence[Item]) -> Index:
        """Indexes these texts. An n-gram that is often in a benchmark is kept once for it."""
        numbers: dict[str, int] = {}
        names: list[tuple[str, str, str]] = []
        lines: list[bytes] = []
        left_out = collections.Counter[str]()
        rows: dict[bool, list[list[np.ndarray]]] = {True: [], False: []}
        sizes, starts = set(), []
        for item in items:
            tokens = tokenize(item.text)
            place, reason = _indexed(item, tokens)
            if reason:
                left_out[reason] += 1
                continue
            size = min(len(tokens), NGRAM)
            ngrams = ngram_hashes(tokens.hashes, size)[place] ^ _SALT[size]
            benchmark = numbers.setdefault(item.benchmark, len(numbers))
            fill = functools.partial(np.full, len(ngrams), dtype=np.uint32)
            rows[size == NGRAM].append([ngrams, fill(len(names)), place, fill(benchmark)])
            names.append((item.benchmark, item.item, item.part))
            lines.append(" ".join(tokens.words()).encode("utf-8", "surrogatepass"))
            if size < NGRAM:
                sizes.add(size)
                starts.append(ngram_hashes(tokens.hashes, SHORTEST)[0])
        blob = np.frombuffer(b"".join(lines), np.uint8)
        ends = np.cumsum([len(line) for line in lines], dtype=np.int64)
        return cls(
            names,
            blob,
            ends,
            _first_of_each_benchmark(rows[True]),
            _first_of_each_benchmark(rows[False]),
            tuple(sorted(sizes)),
            bit_filter(np.array(starts, np.uint64)),
            dict(left_out),
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the index as a folder, which appears when it is complete."""
        partial = pathlib.Path(f"{os.fspath(path)}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        arrays = {"words": self.words, "ends": self.ends, "starts": self.starts}
        for name, table in (("long", self.long), ("short", self.short)):
            arrays |= {f"{name}_{part}": getattr(table, part) for part in _ARRAYS}
        for name, array in arrays.items():
            np.save(partial / f"{name}.npy", array)
        meta = {"items": self.items, "sizes": self.sizes, "left_out": self.left_out}
        (partial / "index.json").write_text(json.dumps(meta, ensure_ascii=False), "utf-8")
        shutil.rmtree(path, ignore_errors=True)
        partial.rename(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Index:
        """Opens a saved index; its arrays stay on disk, shared by all processes of a machine.

        Raises:
          InputError: there is none at this path.
        """
        folder = pathlib.Path(path)
        if not (folder / "index.json").is_file():
            raise InputError(f"{path} is no decontamination index: build it from benchmark files")
        meta = json.loads((folder / "index.json").read_text("utf-8"))

        def array(name: str) -> np.ndarray:
            return np.load(folder / f"{name}.npy", mmap_mode="r").view(np.ndarray)

        def table(name: str) -> NgramTable:
            return NgramTable(*(array(f"{name}_{part}") for part in _ARRAYS))

        return cls(
            [(benchmark, item, part) for benchmark, item, part in meta["items"]],
            array("words"),
            array("ends"),
            table("long"),
            table("short"),
            tuple(meta["sizes"]),
            array("starts"),
            meta["left_out"],
        )

    def find(self, page: str | Tokens) -> list[Hit]:
        """What a page holds of the benchmarks: one hit for each item, in the page's order.

        An n-gram that several items of a benchmark share names the first of them.
        """
        tokens = tokenize(page) if isinstance(page, str) else page
        hits: dict[tuple[str, str], Hit] = {}
        for match in self._matches(tokens).tolist():
            position, size, text, _ = match
            benchmark, item, part = self.items[text]
            if (benchmark, item) not in hits and self._same_words(tokens, *match):
                ngram = " ".join(tokens.words(position, position + size))
                hits[benchmark, item] = Hit(benchmark, item, part, ngram, position)
        return list(hits.values())

    def _matches(self, tokens: Tokens) -> np.ndarray:
        """The n-grams of a page whose hash is in the index, in the page's order.

        Returns:
          [matches, 4]: token of the page, number of tokens, text of the index, token of that text.
        """
        ngrams = tokens.hashes
        maybe = np.zeros(0, np.int64)  # where a short text may begin
        whole = [(maybe, ngrams[:0])]
        for size in range(2, min(NGRAM, len(tokens)) + 1):
            ngrams = one_longer(ngrams, tokens.hashes)
            if size == SHORTEST:
                maybe = passing(self.starts, ngrams)
            if size in self.sizes:
                maybe = maybe[maybe < len(ngrams)]
                whole.append((maybe, ngrams[maybe] ^ _SALT[size]))
        found = []
        positions, hashes = (np.concatenate(parts) for parts in zip(*whole, strict=True))
        row, entry = self.short.find(hashes)
        if len(row):
            size_of = np.repeat((0, *self.sizes)[: len(whole)], [len(part) for part, _ in whole])
            places = self.short.texts[entry], self.short.places[entry]
            found.append(np.stack([positions[row], size_of[row], *places], 1))
        if len(tokens) >= NGRAM:
            row, entry = self.long.find(ngrams ^ _SALT[NGRAM])
            if len(row):
                places = self.long.texts[entry], self.long.places[entry]
                found.append(np.stack([row, np.full(len(row), NGRAM), *places], 1))
        if not found:
            return np.zeros((0, 4), np.int64)
        matches = np.concatenate(found)
        return matches[np.argsort(matches[:, 0], kind="stable")]

    def _same_words(self, tokens: Tokens, position: int, size: int, text: int, place: int) -> bool:
        """Whether a match is one of words, and not of hashes alone."""
        found = tokens.words(position, position + size)
        return self._words(text)[place : place + size] == found

    def _words(self, text: int) -> list[str]:
        start = int(self.ends[text - 1]) if text else 0
        line = self.words[start : int(self.ends[text])].tobytes()
        return line.decode("utf-8", "surrogatepass").split(" ")


def _indexed(item: Item, tokens: Tokens) -> tuple[np.ndarray, str]:
    """At which tokens the indexed n-grams of a text begin, as uint32; and if at none, why."""
    none = np.zeros(0, np.uint32)
    if len(tokens) < SHORTEST:
        return none, f"fewer than {SHORTEST} tokens"
    if len(tokens) < NGRAM:
        whole = np.zeros(1, np.uint32)
        return (whole, "") if item.question else (none, f"answers under {NGRAM} tokens")
    text = tokens.words()
    is_word = [(len(w) > 1 and not w.isdecimal()) or w > "\u2e7f" for w in text]
    before = np.append(0, np.cumsum(is_word))
    places = np.flatnonzero(before[NGRAM:] > before[:-NGRAM])
    if not len(places):
        values = [float(w) if w.isdecimal() else np.nan for w in text]
        steps = np.diff(values)
        regular = np.append(0, np.cumsum(steps[1:] == steps[:-1]))  # NaN equals nothing
        places = np.flatnonzero(regular[NGRAM - 2 :] - regular[: 2 - NGRAM] < NGRAM - 2)
    return places.astype(np.uint32), "" if len(places) else "nothing but counting"


def _first_of_each_benchmark(rows: list[list[np.ndarray]]) -> NgramTable:
    columns = [np.concatenate(c) for c in zip(*rows, strict=True)] if rows else []
    hashes, texts, places, benchmarks = columns or [np.zeros(0, np.uint64)] * 4
    order = np.lexsort((places, texts, benchmarks, hashes))
    same = np.zeros(len(order), bool)
    for column in (hashes, benchmarks):
        column[:] = column[order]
    same[1:] = (hashes[1:] == hashes[:-1]) & (benchmarks[1:] == benchmarks[:-1])
    order = order[~same]
    return NgramTable.build(hashes[~same], texts[order], places[order])


@dataclass
class SelfTest:
    """What `self_test` found.

    texts: planted, each alone and inside a longer page, and found there; left_out: texts that the
    rule does not cover, by reason; clean_pages, removed: pages that hold no benchmark item, and how
    many of them the index would remove; ngrams: for which n-grams, with numbers of pages.
    """

    texts: int
    left_out: dict[str, int]
    clean_pages: int
    removed: int
    ngrams: dict[str, int] = field(default_factory=dict)

    @property
    def false_removal_rate(self) -> float:
        return self.removed / max(self.clean_pages, 1)


def self_test(
    index: Index, items: Sequence[Item], clean_pages: Iterable[str] | None = None
) -> SelfTest:
    """Plants every text that the rule covers, alone and inside a longer page, and finds it.

    Args:
      clean_pages: pages that hold no item, to tell how many the index removes all the same. By
        default made of the items' own words in random order.

    Raises:
      InputError: a text is not found, so the index is not of these items.
    """
    numbers = {name: i for i, name in enumerate(sorted({name for name, _, _ in index.items}))}
    benchmarks = np.array([numbers[name] for name, _, _ in index.items], np.int64)
    planted: list[tuple[Item, int]] = []
    missed: Item | None = None

    def is_found(item: Item, tokens: Tokens, matches: np.ndarray) -> bool:
        own = matches[benchmarks[matches[:, 2]] == numbers.get(item.benchmark, -1)]
        return any(index._same_words(tokens, *match) for match in own.tolist())

    for item in items:
        tokens = tokenize(item.text)
        if not _indexed(item, tokens)[1]:
            planted.append((item, len(tokens)))
            if missed is None and not is_found(item, tokens, index._matches(tokens)):
                missed = item
    for i in range(0, len(planted), _PLANTED):
        texts = planted[i : i + _PLANTED]
        page_tokens = tokenize("".join(_FILLER + item.text for item, _ in texts) + _FILLER)
        matches = index._matches(page_tokens)
        start = 0
        for item, size in texts:
            start += len(_FILLER.split())
            inside = (matches[:, 0] >= start) & (matches[:, :2].sum(1) <= start + size)
            start += size
            if missed is None and not is_found(item, page_tokens, matches[inside]):
                missed = item
    if missed is not None:
        raise InputError(
            f"the decontamination index does not find {missed.benchmark} item {missed.item} "
            f"({missed.part}): build the index again from the same benchmark files"
        )
    if clean_pages is None:
        clean_pages = shuffled_pages(items)
    report = SelfTest(len(planted), index.left_out, 0, 0)
    counts = collections.Counter[str]()
    for page in clean_pages:
        report.clean_pages += 1
        hits = index.find(page)
        report.removed += bool(hits)
        counts.update({hit.ngram for hit in hits})
    report.ngrams = dict(counts.most_common())
    return report


_PLANTED = 20  # texts a page
_FILLER = "\n" + " ".join(f"filler{chr(97 + i % 26)}{chr(97 + i // 26)}" for i in range(40)) + "\n"


def shuffled_pages(items: Sequence[Item], count: int = 200, length: int = 1000) -> Iterator[str]:
    """Pages that hold benchmark words, as often as the items do, but no item."""
    rng = random.Random(0)
    chosen = rng.sample(items, min(len(items), 5000))
    vocabulary = [word for item in chosen for word in words(item.text)]
    for _ in range(count if vocabulary else 0):
        yield " ".join(rng.choices(vocabulary, k=length))
