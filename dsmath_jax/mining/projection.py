"""What a crawl would cost: core-hours and bytes, from what the stages of a run took."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

# A crawl of Common Crawl has about 2.7 billion pages in 90,000 WARC files; DeepSeekMath 2.1 mined
# 40 billion pages without duplicates.
SIZES = {"one crawl": 2_700_000_000, "40 billion pages": 40_000_000_000}
EVERY_PAGE = ("score", "collect", "domains")  # other stages see only the pages that are taken


@dataclasses.dataclass(frozen=True)
class Stage:
    """Pages that a stage has seen, seconds of one process, bytes of files."""

    pages: int
    seconds: float
    read: int = 0
    written: int = 0


@dataclasses.dataclass(frozen=True)
class Cost:
    pages: int
    core_hours: float
    read: int  # bytes
    written: int


def measured(counts: Mapping[str, Any]) -> Stage | None:
    """Of what shards counted in sum (`Run.do`); None where it is of no pages."""
    if not counts.get("pages") or not counts.get("seconds"):
        return None
    read, written = counts.get("bytes_stored", 0), counts.get("bytes_written", 0)
    return Stage(counts["pages"], counts["seconds"], read, written)


def projected(stages: Mapping[str, Stage | None], pages: int, taken: float) -> dict[str, Cost]:
    """The cost of each stage and of all ("total"), with cost in proportion to pages.

    Args:
      stages: "score", "collect" and others by name; one that is None is left out.
      pages: of the archives.
      taken: the share of them that the ranking takes, which is all that other stages see.
    """
    costs = {}
    for name, stage in stages.items():
        if stage is not None:
            seen = pages * (1.0 if name in EVERY_PAGE else taken)
            scale = seen / stage.pages
            costs[name] = Cost(
                round(seen),
                scale * stage.seconds / 3600,
                round(scale * stage.read),
                round(scale * stage.written),
            )
    costs["total"] = Cost(
        pages,
        sum(cost.core_hours for cost in costs.values()),
        sum(cost.read for cost in costs.values()),
        sum(cost.written for cost in costs.values()),
    )
    return costs
