"""The paper's loop over a crawl of Common Crawl, with the paper's settings (2.1).

    python launch/mine.py --config=configs/mine_common_crawl.py
        --config.seed=openwebmath.jsonl --config.benchmarks='("benchmarks",)'
        --engine=ray --address=auto --workdir=/shared/mine     on a Ray cluster
    python launch/mine.py --config=configs/mine_common_crawl.py --config.crawl_files=2 ...    a try
    python launch/mine.py --config=configs/mine_common_crawl.py:smoke       anywhere, one minute

Needs a seed, JSONL of url and text (the paper: OpenWebMath), and the benchmarks' files; archives
are read over the network, in ranges. What a crawl costs: docs/mining_speed.md. The paper's crawl
had 40 billion pages after removal of duplicates; its four rounds gave 35.5 million pages, 120
billion tokens, of which the fourth found 98% taken by the third.

As in the paper: fastText of dimension 256, learning rate 0.1, word n-grams up to 3, minimum count
3, 3 epochs, 500,000 positives and negatives each; domains of which more than 10% was collected; the
top 40 billion tokens in the first iteration, 120 billion in the last. Not stated there and chosen
here: budgets by language, 2 million buckets, softmax, Chinese split into characters,
near-duplicates removed after the ranking and not before (fifty times fewer pages; docs/mining.md).
"""

from dsmath_jax.mining.defaults import get_defaults, with_argument


def get_config(arg=""):
    c = get_defaults()
    c.crawl = "https://data.commoncrawl.org/crawl-data/CC-MAIN-2024-10/warc.paths.gz"
    c.seed = "data/openwebmath.jsonl"
    c.benchmarks = ("data/benchmarks",)
    c.sampled_inputs = 200  # archives of about 30,000 pages, a tenth of which are drawn from
    c.sampled_share = 0.1
    c.budgets = {"en": (30 * 10**9, 90 * 10**9), "zh": (10 * 10**9, 30 * 10**9)}
    c.parts = 256
    c.domain_pages = 100
    c.group_pages = 50
    c.memory_gb = 8.0
    return with_argument(c, arg)
