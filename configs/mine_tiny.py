"""The miner's loop on a web made for it, in English and Chinese: two minutes on two CPU cores.

    python launch/mine.py --config=configs/mine_tiny.py --annotate=auto
    python launch/mine.py --config=configs/mine_tiny.py            a person decides, in a CSV file

3,000 pages of 40 hosts with mathematics in every form that pages write it in, mirrors,
near-duplicates, and pages with benchmark problems on them. Mathematical pages are labelled, so the
report shows precision and recall of the cut: expect recall to rise from the first iteration to the
second, for which pages of accepted URL groups have joined the seed.

The classifier's settings are not the paper's, which are for a million documents (they are those of
configs/mine_common_crawl.py): hundreds of documents need more epochs and less capacity.
"""

from dsmath_jax.mining.defaults import get_defaults, with_argument


def get_config(arg=""):
    c = get_defaults()
    c.generated.pages = 3000
    c.classifier.dim = 16
    c.classifier.buckets = 20_000
    c.classifier.epochs = 8
    c.classifier.min_count = 1
    c.budgets = {"en": (280_000, 410_000), "zh": (60_000, 120_000)}
    c.iterations = 4
    return with_argument(c, arg)
