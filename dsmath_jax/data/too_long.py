"""Examples that have more tokens than a row: left out and listed, up to a share of all."""

from __future__ import annotations

import json
import logging
import os
import pathlib
import socket
from collections.abc import Callable

import numpy as np

from dsmath_jax.data.errors import InputError

log = logging.getLogger(__name__)


def indices_that_fit(
    lengths: np.ndarray,
    limit: int,
    text: Callable[[int], str],
    *,
    what: str,
    why: str,
    allowed: float,
    rejected: pathlib.Path | None,
) -> np.ndarray:
    """[kept] int64: the examples of at most `limit` tokens.

    Args:
      lengths: [examples], tokens of each.
      text: of an example by index, for people to recognise it by.
      what: "example" or "question".
      why: what the limit is and how to raise it, to follow "... has 312 tokens".
      allowed: the share of examples that may be too long (`config.data.max_rejected_share`).
      rejected: a file for those left out, one JSON object a line.

    Raises:
      InputError: more than that are, or all.
    """
    long = np.flatnonzero(lengths > limit)
    if not len(long):
        return np.arange(len(lengths))
    first = f"the {what} that starts {text(int(long[0]))[:60]!r} has {lengths[long[0]]} tokens{why}"
    if len(long) > allowed * len(lengths):
        raise InputError(
            f"{first}; {len(long)} of {len(lengths)} are too long, more than "
            f"config.data.max_rejected_share={allowed:g} allows"
        )
    if rejected is not None:
        rejected.parent.mkdir(parents=True, exist_ok=True)
        beside = rejected.with_name(f"{rejected.name}.{socket.gethostname()}.{os.getpid()}")
        with beside.open("w", encoding="utf-8") as file:
            for index in long.tolist():
                row = {"index": index, "tokens": int(lengths[index]), "starts": text(index)[:200]}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        beside.replace(rejected)
    log.warning(
        "%d of %d examples are left out, %s; see %s", len(long), len(lengths), first, rejected
    )
    return np.flatnonzero(lengths <= limit)
