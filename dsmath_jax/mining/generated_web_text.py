"""Prose of the generated web: a small grammar for each style of page.

A style is a set of sentence patterns. In a pattern, "{noun}" stands for a word of the style's list
of that name, "{n}" for a number, and "{f}" for a formula. The styles "lecture", "forum" and
"encyclopedia" are those of the seed. The other mathematical styles share next to no words with
them, and many with pages on other subjects.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field

from dsmath_jax.mining.generated_web_formulas import Formula

SEED_STYLES = ("lecture", "forum", "encyclopedia")
NEW_STYLES = ("worksheet", "formal", "olympiad_zh", "notes_zh")
Sentence = list[str | Formula]


@dataclass(frozen=True)
class Style:
    """Patterns of sentences and titles with lists of words.

    `formulas` is the kind of formula ("algebra", "arithmetic", "" for none); `extra` is what such
    pages hold besides prose: "table", "code", "list" or "".
    """

    language: str
    patterns: tuple[str, ...]
    titles: tuple[str, ...]
    words: dict[str, tuple[str, ...]]
    formulas: str = ""
    extra: str = ""
    parts: dict[str, tuple[tuple[str, ...], ...]] = field(default_factory=dict)

    def sentence(self, rng: random.Random, formulas: list[Formula]) -> Sentence:
        return self._fill(_pick(rng, self._split("patterns")), rng, formulas)

    def title(self, rng: random.Random) -> str:
        return "".join(map(str, self._fill(_pick(rng, self._split("titles")), rng, [])))

    def _split(self, name: str) -> tuple[tuple[str, ...], ...]:
        if name not in self.parts:
            self.parts[name] = tuple(tuple(re.split(r"\{(\w+)\}", p)) for p in getattr(self, name))
        return self.parts[name]

    def _fill(
        self, parts: tuple[str, ...], rng: random.Random, formulas: list[Formula]
    ) -> Sentence:
        sentence: Sentence = [*parts]
        for i in range(1, len(parts), 2):
            name = parts[i]
            if name == "f":
                sentence[i] = _pick(rng, formulas)
            elif name == "n":
                sentence[i] = str(2 + int(rng.random() * 98))
            else:
                sentence[i] = _pick(rng, self.words[name])
        return sentence


def _pick(rng, choices):  # type: ignore[no-untyped-def]
    return choices[int(rng.random() * len(choices))]


def words(text: str) -> tuple[str, ...]:
    """The words of a list, which are separated by commas."""
    return tuple(part.strip() for part in text.split(","))
