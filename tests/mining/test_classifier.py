"""The classifier: collapsed exactly, the same at each run, and wrong builds refused."""

import os
import pathlib
import subprocess
import sys
import time
import types

import numpy as np
import pytest

from dsmath_jax.data.errors import InputError
from dsmath_jax.mining.classifier import Scorer, collapse, collapsed_path, train
from dsmath_jax.mining.fasttext_process import check_build, open_fasttext, train_in_process
from dsmath_jax.mining.quality import auc, held_out, measures
from tests.mining.process_trees import command, descendants

fasttext = pytest.importorskip("fasttext", reason="fastText: pip install -e '.[mining]'")

SMALL = {"dim": 16, "buckets": 2000, "learning_rate": 0.5, "epochs": 5, "min_count": 1}


def texts(random, count, first):
    return [
        " ".join(f"w{n}" for n in first + random.integers(0, 60, random.integers(5, 40)))
        for _ in range(count)
    ]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    random = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("model") / "model.bin"
    train(texts(random, 300, 0), texts(random, 300, 40), path, **SMALL)
    return path


def test_the_collapsed_model_gives_the_probabilities_of_the_full_one(model):
    random = np.random.default_rng(1)
    pages = [*texts(random, 100, 0), *texts(random, 100, 40), "", "never seen", "w1 " * 500]
    full, collapsed = Scorer(model)(pages), Scorer(collapsed_path(model))(pages)
    assert full.max() > 0.9 and full.min() < 0.1
    np.testing.assert_allclose(collapsed, full, atol=1e-5)
    assert collapsed_path(model).stat().st_size < model.stat().st_size / 8


def test_probabilities_are_those_of_the_matrices(model):
    # N-grams of words have hashed rows, which only the module knows: of a model without them.
    words = ["w3", "w50", "w7", "w51"]
    random = np.random.default_rng(0)
    path = model.with_name("words.bin")
    train(texts(random, 200, 0), texts(random, 200, 40), path, **(SMALL | {"word_ngrams": 1}))
    words_only = fasttext.load_model(str(path))
    rows = [words_only.get_word_id(w) for w in (*words, "</s>")]
    hidden = words_only.get_input_matrix()[rows].mean(axis=0)
    scores = dict(zip(words_only.labels, words_only.get_output_matrix() @ hidden, strict=True))
    expected = 1 / (1 + np.exp(scores["__label__other"] - scores["__label__math"]))
    assert Scorer(path)([" ".join(words)])[0] == pytest.approx(expected, abs=1e-4)


def test_training_again_gives_the_same_bytes(model, tmp_path):
    random = np.random.default_rng(0)
    again = tmp_path / "model.bin"
    train(texts(random, 300, 0), texts(random, 300, 40), again, **SMALL)
    assert again.read_bytes() == model.read_bytes()
    assert collapsed_path(again).read_bytes() == collapsed_path(model).read_bytes()


@pytest.mark.parametrize("empty", ["mathematical", "other"])
def test_one_label_is_refused(empty, tmp_path):
    pages = {"mathematical": ["a b"], "other": ["c d"]} | {empty: []}
    with pytest.raises(InputError, match=f"no {empty} page"):
        train(pages["mathematical"], pages["other"], tmp_path / "model.bin", **SMALL)


def test_what_is_no_classifier_is_refused(tmp_path):
    path = tmp_path / "model.bin"
    with pytest.raises(InputError, match="there is no classifier here"):
        Scorer(path)
    path.write_bytes(b"something else")
    with pytest.raises(InputError, match="not a fastText model"):
        Scorer(path)
    lines = tmp_path / "lines"
    lines.write_text("__label__a x y\n__label__b z w\n__label__c v\n" * 10)
    train_in_process(lines, path, {"dim": 2, "minCount": 1, "verbose": 0, "thread": 1})
    with pytest.raises(InputError, match="not a classifier of"):
        collapse(path, tmp_path / "collapsed.bin")


def test_builds_with_wrong_probabilities_are_refused(model, monkeypatch, tmp_path):
    class Wrong:  # both labels get the first one's probability
        def __init__(self, right):
            self.right, self.labels = right, right.labels
            self.f = types.SimpleNamespace(predict=self.predict)

        def predict(self, *arguments):
            found = self.right.f.predict(*arguments)
            return [(found[0][0], label) for _, label in found]

        def __getattr__(self, name):
            return getattr(self.right, name)

    small = fasttext.load_model(str(trained_small(tmp_path)))
    for wrap, fails in ((lambda x: x, False), (Wrong, True)):
        build = types.SimpleNamespace(train_supervised=lambda wrap=wrap, **_: wrap(small))
        if fails:
            with pytest.raises(ValueError, match="where the matrices say"):
                check_build(build)
        else:
            check_build(build)


def trained_small(folder):
    """The model that `check_build` trains."""
    lines, path = folder / "texts", folder / "small.bin"
    lines.write_text("__label__math a b c\n__label__other d e f\n" * 20)
    options = {"dim": 4, "epoch": 20, "lr": 0.5, "thread": 1, "verbose": 0, "bucket": 0}
    train_in_process(lines, path, options | {"minCount": 1})
    return path


def test_a_build_that_fails_is_refused_with_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "fasttext.py").write_text("def train_supervised(**options): raise ValueError('no')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.delenv("DSMATH_FASTTEXT", raising=False)
    with pytest.raises(InputError, match="install fasttext-numpy2"):
        open_fasttext()


def test_auc_is_the_share_of_pairs_in_order():
    random = np.random.default_rng(0)
    scores = random.integers(0, 20, 200) / 20
    labels = random.random(200) < 0.3
    pairs = [
        1.0 if p > n else 0.5 if p == n else 0.0 for p in scores[labels] for n in scores[~labels]
    ]
    assert auc(scores, labels) == pytest.approx(np.mean(pairs))
    assert np.isnan(auc(scores, np.zeros(200, bool)))


def test_measures_by_hand():
    scores = np.array([0.9, 0.8, 0.6, 0.4, 0.1])
    labels = np.array([True, False, True, True, False])
    found = measures(scores, labels, at=(2,))
    assert (found["precision"], found["recall"]) == (2 / 3, 2 / 3)
    assert found["p_at_2"] == 0.5 and found["auc"] == pytest.approx(4 / 6)


def test_hosts_are_held_out_by_their_names_alone():
    names = [f"host{n}.org" for n in range(1000)]
    out = [held_out(name, 0.2) for name in names]
    assert 150 < sum(out) < 250 and out == [held_out(name, 0.2) for name in names]


@pytest.mark.skipif(sys.platform != "linux", reason="ends with its parent: on Linux")
def test_training_ends_with_the_process_that_asked_for_it(tmp_path):
    program = (
        "import pathlib, sys\n"
        "from dsmath_jax.mining.classifier import train\n"
        "texts = ['a b c d'] * 1000\n"
        "path = pathlib.Path(sys.argv[1]) / 'model.bin'\n"
        "train(texts, texts, path, dim=16, buckets=100, epochs=100_000)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[2])}
    process = subprocess.Popen([sys.executable, "-c", program, tmp_path], env=environment)
    trains = [0]
    while not any(" train " in command(pid) for pid in trains) and process.poll() is None:
        time.sleep(0.1)
        trains = descendants(process.pid)
    assert any(" train " in command(pid) for pid in trains)
    process.kill()
    process.wait()
    end = time.monotonic() + 5
    while any(map(command, trains)) and time.monotonic() < end:
        time.sleep(0.1)
    assert not any(map(command, trains))
