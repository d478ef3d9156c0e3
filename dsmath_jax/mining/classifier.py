"""The fastText classifier of mathematical pages (DeepSeekMath 2.1), trained and collapsed.

With two labels, p(math) is the logistic function of the mean over a text's features of
(o_math - o_other) . e_feature: one number a feature says all that its vector does. The collapsed
model keeps just that, 8 MB in place of 2 GB, and gives the same probabilities.
"""

from __future__ import annotations

import os
import pathlib
import tempfile
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from dsmath_jax.data.errors import InputError
from dsmath_jax.mining.fasttext_process import MATH, OTHER, open_fasttext, train_in_process


def train(
    positives: Iterable[str],
    negatives: Iterable[str],
    path: pathlib.Path,
    *,
    dim: int = 256,
    learning_rate: float = 0.1,
    word_ngrams: int = 3,
    min_count: int = 3,
    epochs: int = 3,
    buckets: int = 2_000_000,
    threads: int = 1,
    seed: int = 0,
) -> None:
    """Trains on texts as `normalize.for_classifier` gives them; the defaults are the paper's.

    Args:
      path: the model is saved there, the collapsed one beside it as `collapsed_path` says.
      buckets: rows for n-grams of words, which share them by hash.
      threads: more than 1 are faster, and give another model at each run.

    Raises:
      InputError: texts of one label are missing.
    """
    open_fasttext()
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, suffix=".txt") as file:
        counts = {}
        for label, texts in ((MATH, positives), (OTHER, negatives)):
            counts[label] = 0
            for text in texts:
                file.write(f"{label} {text}\n")
                counts[label] += 1
        if not all(counts.values()):
            missing = "mathematical" if not counts[MATH] else "other"
            raise InputError(f"the classifier's training set has no {missing} page: it needs both")
        file.flush()
        # The order of lines matters to the last epochs: mixed, as two labels one after the other
        # would end on one of them.
        _shuffle(pathlib.Path(file.name), seed)
        options = {
            "dim": dim,
            "lr": learning_rate,
            "wordNgrams": word_ngrams,
            "minCount": min_count,
            "epoch": epochs,
            "bucket": buckets,
            "thread": threads,
            "seed": seed,
            "verbose": 0,
        }
        train_in_process(pathlib.Path(file.name), path, options)
    collapse(path, collapsed_path(path))


def collapsed_path(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(f"{path.stem}_collapsed{path.suffix}")


def collapse(path: pathlib.Path, target: pathlib.Path) -> None:
    """Writes the model of dimension 1 that gives the probabilities of the one at `path`.

    Raises:
      InputError: it is not a classifier of the two labels by softmax.
    """
    fasttext = open_fasttext()
    model = _load(fasttext, path)
    labels = list(model.labels)
    if sorted(labels) != [MATH, OTHER] or model.f.getArgs().loss.name != "softmax":
        raise InputError(f"{path}: not a classifier of {MATH} and {OTHER} by softmax")
    math = labels.index(MATH)
    output = model.get_output_matrix()
    difference = (output[math] - output[1 - math]).astype(np.float64)
    scores = model.get_input_matrix() @ difference
    one_hot = np.zeros((2, 1), np.float32)
    one_hot[math] = 1.0
    model.set_matrices(scores.astype(np.float32)[:, None], one_hot)
    model.save_model(str(target))


class Scorer:
    """Probabilities that texts are mathematical.

    Args:
      path: a model, full or collapsed.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.model = _load(open_fasttext(), pathlib.Path(path))
        if sorted(self.model.labels) != [MATH, OTHER]:
            raise InputError(f"{path}: its labels are not {MATH} and {OTHER}")

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """[texts] float32, of texts as `normalize.for_classifier` gives them."""
        predict = self.model.f.predict
        found = np.empty(len(texts), np.float32)
        for i, text in enumerate(texts):
            found[i] = _math(predict(text + "\n", 2, 0.0, "strict"))
        return found


def _math(found: list[tuple[float, str]]) -> float:
    """p(math) of what the module predicts; its own rounding lets sums of two exceed 1 a little."""
    return min(1.0, {label: p for p, label in found}[MATH])


def _load(fasttext: Any, path: pathlib.Path) -> Any:
    if not path.is_file():
        raise InputError(f"{path}: there is no classifier here")
    try:
        return fasttext.load_model(str(path))
    except ValueError as e:
        raise InputError(f"{path}: not a fastText model: {e}") from None


def _shuffle(path: pathlib.Path, seed: int) -> None:
    """The lines of a file in a random order, by their places in it: the texts need not fit into
    memory."""
    starts = [0]
    with path.open("rb") as file:
        for line in file:
            starts.append(starts[-1] + len(line))
    order = np.random.default_rng(seed).permutation(len(starts) - 1)
    mixed = path.with_suffix(".mixed")
    with path.open("rb") as file, mixed.open("wb") as to:
        for i in order.tolist():
            file.seek(starts[i])
            to.write(file.read(starts[i + 1] - starts[i]))
    mixed.replace(path)
