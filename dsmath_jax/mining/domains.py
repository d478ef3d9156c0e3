"""Domains and URL-path groups: how much of each was collected, and what is worth annotating
(DeepSeekMath 2.1: domains of which more than 10% was collected are mathematical).

Everything is counted, and the counts of shards add up, so that no list of all pages is needed.
"""

from __future__ import annotations

import dataclasses
import heapq
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from dsmath_jax.mining import urls

DEEPEST = 99  # folders of a path
MIXED = (0.05, 0.95)  # between these shares a group is neither collected nor left
APART = 0.2  # how far a part's share is from the whole's to be shown for itself
SAMPLES = 5  # of a group's pages that are not collected
MERGED = 8  # groups of one pattern at a time


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


class Sample(NamedTuple):
    """A page that is not collected; order: which are shown, those with the least."""

    order: int
    url: str
    source: int
    offset: int
    length: int


class Page(NamedTuple):
    collected: bool
    score: float
    sample: Sample


@dataclasses.dataclass(frozen=True)
class Group:
    """Pages of a domain whose paths begin alike.

    pattern: "example.org/a/#/*" is what lies in or below such folders (# for a number),
      "example.org/a/" what lies directly in one.
    depth: how many folders tell it from others. parent: pattern of the group of one folder fewer.
    """

    depth: int
    pattern: str
    parent: str
    count: Count
    samples: tuple[Sample, ...] = ()


def pattern_of(url: str, depth: int) -> str:
    """The group of a page by the first `depth` folders of its path; a page in fewer folders is in
    the group of just those. "" where there is no host."""
    host = urls.host(url)
    folders = [f for f in urls.path_group(url, DEEPEST).split("/") if f]
    if not host:
        return ""
    below = "/*" if len(folders) >= depth else "/"
    return "/".join([host, *folders[:depth]]) + below


def count_groups(pages: Iterable[Page], max_depth: int = 3) -> list[Group]:
    """The groups of all depths from 1 to `max_depth`, of pages of any domains."""
    return add_groups(_groups_of(page, max_depth) for page in pages)


def _groups_of(page: Page, max_depth: int) -> Iterable[Group]:
    parent = ""
    count = Count(1, int(page.collected), page.score)
    samples = () if page.collected else (page.sample,)
    for depth in range(1, max_depth + 1):
        pattern = pattern_of(page.sample.url, depth)
        if pattern:
            yield Group(depth, pattern, parent, count, samples)
        parent = pattern


def add_groups(parts: Iterable[Iterable[Group]]) -> list[Group]:
    """The sums over shards, by depth and pattern in their order."""
    found: dict[tuple[int, str], list[Group]] = defaultdict(list)
    for part in parts:
        for group in part:
            key = group.depth, group.pattern
            found[key].append(group)
            if len(found[key]) == MERGED:  # so that few are in memory
                found[key] = [_sum(found[key])]
    return [_sum(found[key]) for key in sorted(found)]


def _sum(groups: Sequence[Group]) -> Group:
    pages, collected, scores = (
        sum(column) for column in zip(*(g.count for g in groups), strict=True)
    )
    samples = heapq.nsmallest(SAMPLES, {sample for g in groups for sample in g.samples})
    count = Count(pages, collected, scores)
    return dataclasses.replace(groups[0], count=count, samples=tuple(samples))


def to_ask(groups: Iterable[Group], max_depth: int = 3, min_pages: int = 5) -> list[Group]:
    """Which groups to ask about, by pattern; each page is in one of them. A group of which some is
    collected and some is not is divided by the next folder of its paths, down to `max_depth`
    folders, where there are parts of `min_pages` of which another share is collected than of the
    whole.

    Args:
      groups: of `count_groups`, of all depths.
    """
    parts: dict[tuple[int, str], list[Group]] = defaultdict(list)
    for group in groups:
        parts[group.depth - 1, group.parent].append(group)

    def divided(group: Group) -> list[Group]:
        count = group.count
        is_mixed = MIXED[0] < count.share < MIXED[1]
        if group.depth >= max_depth or count.pages < 2 * min_pages or not is_mixed:
            return [group]
        inner = parts[group.depth, group.pattern]
        large = [part for part in inner if part.count.pages >= min_pages]
        if not any(abs(part.count.share - count.share) > APART for part in large):
            return [group]
        return [g for part in inner for g in divided(part)]

    found = [g for group in parts[0, ""] for g in divided(group)]
    return sorted(found, key=lambda group: group.pattern)


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
