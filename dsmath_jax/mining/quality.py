"""How well scores tell mathematical pages from others, on pages of hosts never trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from dsmath_jax.data.errors import InputError
from dsmath_jax.mining import urls
from dsmath_jax.mining.jsonl_parquet import read_objects


def held_out(host: str, share: float, seed: int = 0) -> bool:
    """Whether a host's pages are kept from training: a function of its name."""
    digest = hashlib.blake2b(f"{seed}:{host}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64


def auc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Area under the ROC curve: the chance that a positive scores above a negative (ties half);
    NaN where one kind is missing.

    Args:
      scores, labels: [pages], labels bool.
    """
    positives, negatives = np.sort(scores[labels]), np.sort(scores[~labels])
    if not len(positives) or not len(negatives):
        return float("nan")
    below = np.searchsorted(negatives, positives, "left")
    equal = np.searchsorted(negatives, positives, "right") - below
    return float((below + 0.5 * equal).sum() / (len(positives) * len(negatives)))


def measures(
    scores: np.ndarray, labels: np.ndarray, threshold: float = 0.5, at: Sequence[int] = (100,)
) -> dict[str, float]:
    """pages, positives, AUC, precision and recall at a threshold, and "p_at_K": precision of the K
    highest scores (of ties, by their order; of all where there are fewer than K)."""
    found = precision_recall(scores >= threshold, labels) | {"auc": auc(scores, labels)}
    order = np.argsort(-scores, kind="stable")
    for k in at:
        found[f"p_at_{k}"] = float(labels[order[:k]].mean()) if len(order) else float("nan")
    return found


def precision_recall(chosen: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """pages, positives, precision and recall.

    Args:
      chosen, labels: [pages] bool.
    """
    right = int((chosen & labels).sum())
    return {
        "pages": len(labels),
        "positives": int(labels.sum()),
        "precision": right / max(1, int(chosen.sum())),
        "recall": right / max(1, int(labels.sum())),
    }


def read_labels(path: str) -> dict[int, bool]:
    """url_hash -> whether the page is mathematical.

    Args:
      path: JSONL of url and label ("math" or another).

    Raises:
      InputError: the file is missing or a line has no url and label.
    """
    labels = {}
    for number, row in read_objects(path, "config.labels"):
        url, label = row.get("url"), row.get("label")
        if not isinstance(url, str) or not isinstance(label, str):
            raise InputError(f"{path}, line {number}: not an object with url and label")
        labels[urls.url_hash(url)] = label == "math"
    return labels
