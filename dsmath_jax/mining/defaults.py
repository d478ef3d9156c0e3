"""Every field of a mining configuration, with its meaning and a value that works on a laptop."""

from __future__ import annotations

from ml_collections import ConfigDict


def get_defaults() -> ConfigDict:
    c = ConfigDict()
    # ---- What is read ----
    c.inputs = ()  # archives: files, globs, directories or listings; local or any fsspec URL
    c.crawl = ""  # or a Common Crawl listing, warc.paths.gz or wet.paths.gz
    c.crawl_prefix = "https://data.commoncrawl.org/"  # or s3://commoncrawl/, or a mirror
    c.crawl_files = 0  # of the listing, the first ones (0: all)
    c.requests_per_second = 10.0  # of this machine to web servers and object stores (0: no limit)
    c.bytes_per_second = 0.0  # likewise
    c.generated = ConfigDict()  # or a web made for the run, with seed, benchmarks and labels
    c.generated.pages = 0
    c.generated.files = 4
    c.generated.seed = 0
    c.seed = ""  # JSONL of url and text: the first positives (the paper: OpenWebMath)
    c.benchmarks = ()  # files and folders of benchmarks whose texts no page may hold
    c.labels = ""  # JSONL of url and label ("math" or another), to measure the cut against
    c.max_page_bytes = 8 << 20
    c.max_rejected_share = 0.2  # of the records of all inputs, before the run stops

    # ---- Classifier (the paper's settings, for a million pages) ----
    c.positives = 500_000
    c.negatives = 500_000
    c.sampled_inputs = 0  # archives that negatives are drawn from (0: all)
    c.sampled_share = 1.0  # of their pages, by a hash of the address
    c.held_out_share = 0.1  # of hosts, on which the classifier is measured and never trained
    c.classify = True  # False: every page is taken; cleans a corpus that there is already
    c.classifier = ConfigDict()
    c.classifier.path = ""  # a model for the first iteration: then none is trained for it
    c.classifier.dim = 256
    c.classifier.learning_rate = 0.1
    c.classifier.word_ngrams = 3
    c.classifier.min_count = 3
    c.classifier.epochs = 3
    c.classifier.buckets = 2_000_000
    c.classifier.threads = 1  # more are faster, and give another model at each run
    c.classifier.seed = 0

    # ---- What is taken ----
    # Tokens of each language in the first iteration, the second, ...; the last holds for more.
    c.budgets = ConfigDict({"en": (1_000_000,), "zh": (1_000_000,)})
    c.min_score = 0.0  # of a page that may be taken (the paper: by rank alone)
    c.parts = 1  # of the search for near-duplicates: more need less memory each
    c.heldout_share = 0.02  # of the corpus' domains, which are its split "heldout"

    # ---- Iterations ----
    c.iterations = 4  # at most
    c.stop_overlap = 0.98  # of the pages taken that the iteration before took: then it ends
    c.annotate = "csv"  # a person decides in annotate_iterN.csv; "auto": suggestions are taken
    c.domain_share = 0.1  # more of a domain must have been collected to ask about its groups
    c.domain_pages = 10  # and it must have so many pages
    c.suggested_share = 0.25  # of a group that was collected, from which "yes" is suggested
    c.group_depth = 3  # folders of a path that tell groups apart
    c.group_pages = 5  # fewest of a group that is asked about

    # ---- Processes ----
    c.engine = "local"  # or "ray"
    c.address = ""  # of the Ray cluster; "": one is started on this machine
    c.workers = 0  # processes, with Ray shards at a time (0: as many as CPUs)
    c.stuck_seconds = 60.0  # at one page, before the page is left out
    c.memory_gb = 0.0  # of a process (0: no limit)
    return c


def with_argument(c: ConfigDict, argument: str) -> ConfigDict:
    """What comes after the file's name in --config=FILE:ARGUMENT: nothing, or "smoke" for the same
    configuration on a small generated web.

    Raises:
      ValueError: it is something else.
    """
    if argument not in ("", "smoke"):
        raise ValueError(f"the argument {argument!r} is unknown; the only one is ':smoke'")
    return _shrink(c) if argument else c


def _shrink(c: ConfigDict) -> ConfigDict:
    c.inputs, c.crawl, c.seed, c.benchmarks, c.labels = (), "", "", (), ""
    c.generated.pages, c.generated.files = 600, 2
    c.engine, c.address = "local", ""
    c.annotate = "auto"
    c.sampled_inputs, c.sampled_share = 0, 1.0
    c.classifier.dim, c.classifier.buckets, c.classifier.epochs = 16, 20_000, 5
    c.classifier.learning_rate, c.classifier.min_count = 0.1, 1
    c.budgets = ConfigDict({"en": (56_000, 82_000), "zh": (12_000, 24_000)})
    c.iterations = 2
    c.domain_pages = c.group_pages = 3
    return c
