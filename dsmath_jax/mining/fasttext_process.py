"""fastText in a process of its own, for training.

fastText's library initialises a tenth of its input matrix for each thread that trains, and leaves
what ten threads would have covered to what is in memory: noise, or NaN. In a process in which
glibc fills what it gives out with zeros it is zero, which for n-grams is as good a start: words,
the first rows, begin at random, and a run gives the same bytes as another.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

import numpy as np

from dsmath_jax.data.errors import InputError
from dsmath_jax.mining.workers import end_with_parent

MATH, OTHER = "__label__math", "__label__other"
ZEROS = {"MALLOC_PERTURB_": "255"}  # glibc: memory given out is filled with 255's complement
CHECKED = "DSMATH_FASTTEXT"  # set to the module's file once it is known to compute what it should


def train_in_process(lines: pathlib.Path, model: pathlib.Path, options: dict[str, Any]) -> None:
    """Trains on a file of lines as fastText has them, and saves the model.

    Raises:
      InputError: fastText fails.
    """
    _run("train", str(lines), str(model), json.dumps(options))


def open_fasttext() -> Any:
    """The module `fasttext`, of a build whose probabilities are right.

    Raises:
      InputError: it is not installed, or gives wrong probabilities.
    """
    try:
        import fasttext
    except ImportError:
        raise InputError("mining needs fastText: pip install 'dsmath-jax[mining]'") from None
    if os.environ.get(CHECKED) != fasttext.__file__:
        _run("check")
        os.environ[CHECKED] = fasttext.__file__
    return fasttext


def check_build(fasttext: Any) -> None:
    """Compares a small model's probabilities with those that its matrices say.

    Several packages install a module of this name, some of which give both labels one probability.

    Raises:
      ValueError: they differ.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "texts"
        path.write_text(f"{MATH} a b c\n{OTHER} d e f\n" * 20)
        options = {"dim": 4, "epoch": 20, "lr": 0.5, "thread": 1, "verbose": 0, "bucket": 0}
        model = fasttext.train_supervised(input=str(path), minCount=1, **options)
    words, inputs = model.get_words(), model.get_input_matrix()
    output = dict(zip(model.labels, model.get_output_matrix(), strict=True))
    for text in ("a b", "d", "a d e"):
        hidden = inputs[[words.index(w) for w in (*text.split(), "</s>")]].mean(axis=0)
        expected = 1 / (1 + np.exp((output[OTHER] - output[MATH]) @ hidden))
        found = dict((label, p) for p, label in model.f.predict(text + "\n", 2, 0.0, "strict"))
        if abs(found[MATH] - expected) > 1e-3 or abs(found[OTHER] + found[MATH] - 1) > 1e-3:
            raise ValueError(f"probabilities {found} where the matrices say {expected:.3f}")


def _run(*arguments: str) -> None:
    command = [sys.executable, "-m", "dsmath_jax.mining.fasttext_process", str(os.getpid())]
    root = str(pathlib.Path(__file__).parents[2])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | ZEROS | {"PYTHONPATH": path}
    ended = subprocess.run(
        [*command, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    if ended.returncode:
        last = (ended.stderr.strip().splitlines() or [f"status {ended.returncode}"])[-1]
        if arguments[0] == "check":
            raise InputError(
                f"this build of fastText does not compute what it should ({last}); install "
                "fasttext-numpy2==0.10.4, and no other package that brings a module fasttext"
            )
        raise InputError(f"fastText cannot train this classifier: {last}")


def _main(parent: str, what: str, *arguments: str) -> None:
    end_with_parent(int(parent))
    import fasttext

    if what == "check":
        check_build(fasttext)
        return
    lines, model, options = arguments
    fasttext.train_supervised(input=lines, **json.loads(options)).save_model(model)


if __name__ == "__main__":
    _main(*sys.argv[1:])
