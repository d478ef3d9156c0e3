"""How fast one host makes batches, against what its chips need at 7B.

    python launch/bench.py --config=configs/bench/data.py
    python launch/bench.py --config=configs/bench/data.py --config.tokenizer=PATH/TO/deepseek-7b

Writes a corpus of generated text, tokenises it (that speed is a number too), and reads it back as
the five-part mixture of the 7B run in rows of 4096: any machine, two minutes. Results so far:
docs/results/data.md.
"""

from ml_collections import ConfigDict

from dsmath_jax.stages.defaults import get_defaults


def get_config(arg=""):
    if arg:
        raise ValueError(f"the argument {arg!r} is unknown; there is none")
    c = get_defaults("pretrain")
    c.bench = "data"
    c.model = "deepseek_7b"  # whose FLOPs say what a host needs
    c.length = 4096
    c.batch_size = 160  # a host's rows: of the 7B run's 2560 on 16 hosts
    c.measure = ConfigDict()
    c.measure.mfu = 0.6  # of the chips that are fed
    c.measure.megabytes = 40  # of text
    c.measure.batches = 20  # timed together, once a round
    c.measure.rounds = 5
    return c
