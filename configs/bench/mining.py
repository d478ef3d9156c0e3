r"""Pages/s of the miner on one core, from compressed archives to files written.

    python launch/bench.py --config=configs/bench/mining.py
    python launch/bench.py --config=configs/bench/mining.py --config.data.path=FOLDER \
        --config.measure.datatrove=PYTHON

Pages are those of the WARC files in data.path, or else a generated web. They are written to one
WARC and one WET file, and in turns, round by round, are scored from each, those with many formulas
are extracted, and datatrove's pipeline runs on the same WARC file if measure.datatrove names the
Python of an environment that has it (docs/mining_speed.md). Two minutes, and with datatrove half a
minute a round more. Its classifier has the paper's shape, for which training needs 5 GB of memory.
"""

from ml_collections import ConfigDict

from dsmath_jax.mining.defaults import get_defaults


def get_config(arg=""):
    if arg:
        raise ValueError(f"the argument {arg!r} is unknown; there is none")
    defaults = get_defaults()
    c = ConfigDict()
    c.bench = "mining"
    c.xla_flags, c.distributed = "", False
    c.data = ConfigDict()
    c.data.path = ""  # a folder of WARC files; "": a generated web
    c.generated = ConfigDict({"pages": 3000, "seed": 0})
    c.classifier = defaults.classifier
    c.classifier.epochs = 1
    c.max_page_bytes = defaults.max_page_bytes
    c.measure = ConfigDict()
    c.measure.rounds = 3
    c.measure.formulas = 20  # of a page that is extracted, at least
    c.measure.core = -1  # the processor that all run on; -1: the last that there is
    c.measure.datatrove = ""  # the Python of an environment that holds datatrove
    return c
