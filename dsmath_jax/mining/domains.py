"""Domains and URL-path groups: how much of each was collected, and what is worth annotating
(DeepSeekMath 2.1: domains of which more than 10% was collected are mathematical)."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from dsmath_jax.mining import urls

DEEPEST = 99  # folders of a path
MIXED = (0.05, 0.95)  # between these shares a group is neither collected nor left
APART = 0.2  # how far a part's share is from the whole's to be shown for itself


class Count(NamedTuple):
    """Pages of a domain or group: in all, collected, and the sum of their scores."""

    pages: int
    collected: int
    scores: float

    @property
    def share(self) -> float:
        return self.collected / self.pages

    @property
    def gain(self) -> int:
        """Pages that are not collected."""
        return self.pages - self.collected


def add(counts: Iterable[Mapping[str, Count]]) -> dict[str, Count]:
    """The sums over shards, by name in its order."""
    total: dict[str, list[float]] = defaultdict(lambda: [0, 0, 0.0])
    for part in counts:
        for name, count in part.items():
            for i, x in enumerate(count):
                total[name][i] += x
    return {n: Count(int(p), int(c), s) for n, (p, c, s) in sorted(total.items())}


def count(names: Iterable[str], collected: Iterable[bool], scores: Iterable[float]) -> dict:
    """name -> Count of pages."""
    return add(
        {n: Count(1, int(c), float(s))} for n, c, s in zip(names, collected, scores, strict=True)
    )


def mathematical(
    domains: Mapping[str, Count], share: float = 0.1, min_pages: int = 10
) -> list[str]:
    """Names of domains of which more than `share` was collected, the ones with the most pages to
    gain first."""
    found = [n for n, c in domains.items() if c.share > share and c.pages >= min_pages]
    return sorted(found, key=lambda n: (-domains[n].gain, n))


@dataclasses.dataclass(frozen=True)
class Group:
    """Pages of a domain whose paths begin alike.

    pattern: "example.org/a/#/*" is what lies in or below such folders (# for a number),
      "example.org/a/" what lies directly in one.
    pages: (url, whether collected, score), by URL.
    """

    pattern: str
    pages: tuple[tuple[str, bool, float], ...]

    @property
    def count(self) -> Count:
        return Count(
            len(self.pages),
            sum(collected for _, collected, _ in self.pages),
            sum(score for _, _, score in self.pages),
        )


def pattern_of(url: str, depth: int) -> str:
    """The group of a page by the first `depth` folders of its path; a page in fewer folders is in
    the group of just those. "" where there is no host."""
    host = urls.host(url)
    folders = [f for f in urls.path_group(url, DEEPEST).split("/") if f]
    if not host:
        return ""
    below = "/*" if len(folders) >= depth else "/"
    return "/".join([host, *folders[:depth]]) + below


def path_groups(
    pages: Sequence[tuple[str, bool, float]], max_depth: int = 3, min_pages: int = 5
) -> list[Group]:
    """The URL-path groups of a domain, by pattern. A group of which some is collected and some is
    not is divided by the next folder of its paths, down to `max_depth` folders, where there are
    parts of `min_pages` of which another share is collected than of the whole.

    Args:
      pages: (url, whether collected, score) of each page of the domain.
    """
    found = []
    for group in _by_depth(sorted(pages), 1):
        found += _divided(group, 1, max_depth, min_pages)
    return sorted(found, key=lambda group: group.pattern)


def _divided(group: Group, depth: int, max_depth: int, min_pages: int) -> list[Group]:
    count = group.count
    if depth >= max_depth or count.pages < 2 * min_pages or not MIXED[0] < count.share < MIXED[1]:
        return [group]
    parts = _by_depth(group.pages, depth + 1)
    large = [part for part in parts if part.count.pages >= min_pages]
    if not any(abs(part.count.share - count.share) > APART for part in large):
        return [group]
    return [g for part in parts for g in _divided(part, depth + 1, max_depth, min_pages)]


def _by_depth(pages: Sequence[tuple[str, bool, float]], depth: int) -> list[Group]:
    groups: dict[str, list] = defaultdict(list)
    for page in pages:
        groups[pattern_of(page[0], depth)].append(page)
    return [Group(pattern, tuple(of)) for pattern, of in groups.items()]


class Patterns:
    """Accepted patterns; `url in patterns` says whether a page is of one of their groups."""

    def __init__(self, patterns: Iterable[str]):
        self.depths: dict[str, set[int]] = defaultdict(set)
        self.patterns = frozenset(patterns)
        for pattern in self.patterns:
            folders = pattern.removesuffix("*").strip("/").count("/")
            self.depths[pattern.split("/", 1)[0]].add(folders + (not pattern.endswith("*")))

    def __contains__(self, url: str) -> bool:
        depths = self.depths.get(urls.host(url), ())
        return any(pattern_of(url, depth) in self.patterns for depth in depths)
