"""Prints the table of docs/classifier.md: the classifier on real pages, held out by site and by page.

python docs/results/make_classifier.py --data DIR

DIR holds part-*.warc.gz and labels.jsonl (url, label, language).
"""

import argparse
import json
import pathlib
import tempfile

import numpy as np

from dsmath_jax.mining import classifier, quality, urls
from dsmath_jax.mining.archives import read_pages
from dsmath_jax.mining.normalize import for_classifier
from dsmath_jax.mining.pages import Page
from dsmath_jax.mining.score import text_of

PAPER = {}
SMALL = {"dim": 16, "buckets": 20_000, "epochs": 20, "learning_rate": 0.3, "min_count": 2}
AT = (20, 50)
FOLDS = 5


def read(folder):
    """Texts, labels, languages and hosts of the pages, each address once."""
    lines = (folder / "labels.jsonl").read_text(encoding="utf-8").splitlines()
    labels = {row["url"]: row for row in map(json.loads, lines)}
    found = {}
    for path in sorted(folder.glob("part-*.warc.gz")):
        for page in read_pages(str(path)):
            if isinstance(page, Page) and (text := text_of(page)):
                found[page.url] = for_classifier(text)
    rows = [(found[url], labels[url]) for url in sorted(found)]
    texts = [text for text, _ in rows]
    is_math = np.array([row["label"] == "math" for _, row in rows])
    languages = np.array([row["language"] for _, row in rows])
    hosts = np.array([urls.host(url) for url in sorted(found)])
    return texts, is_math, languages, hosts


def scores_of(out, texts, is_math, settings):
    """Scores of pages by a classifier that has seen all others."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.bin"
        chosen = [[texts[i] for i in np.flatnonzero(~out & label)] for label in (is_math, ~is_math)]
        classifier.train(*chosen, path, **settings)
        return classifier.Scorer(classifier.collapsed_path(path))(
            [texts[i] for i in np.flatnonzero(out)]
        )


def row(what, name, scores, is_math):
    m = quality.measures(scores, is_math, at=AT)
    values = [m["auc"], m["precision"], m["recall"], *(m[f"p_at_{k}"] for k in AT)]
    print(
        f"| {what} | {name} | {m['pages']} | {m['positives']} | "
        + " | ".join(f"{v:.3f}" for v in values)
        + " |",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    texts, is_math, languages, hosts = read(parser.parse_args().data)
    fold = np.array([urls.url_hash(f"https://fold/{i}") % FOLDS for i in range(len(texts))])
    print(
        "| held out | settings | pages | mathematical | AUC | precision | recall | "
        + " | ".join(f"P@{k}" for k in AT)
        + " |"
    )
    print("|---" * (7 + len(AT)) + "|")
    for name, settings in (("this size", SMALL), ("the paper's", PAPER)):
        for host in sorted(set(hosts[is_math])):
            # All of the site, and a fifth of the other pages, in the site's language.
            language = languages[hosts == host][0]
            out = (hosts == host) | ((fold == 0) & ~is_math & (languages == language))
            row(host, name, scores_of(out, texts, is_math, settings), is_math[out])
        scores = np.zeros(len(texts), np.float32)
        for i in range(FOLDS):
            scores[fold == i] = scores_of(fold == i, texts, is_math, settings)
        for language in ("en", "zh"):
            here = languages == language
            row(f"a fifth of the pages in turn, {language}", name, scores[here], is_math[here])


if __name__ == "__main__":
    main()
