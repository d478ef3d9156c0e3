"""Mines mathematical pages from web archives: the loop of DeepSeekMath 2.1, or one of its stages.

    python launch/mine.py --config=FILE[:smoke] [--config.FIELD=VALUE ...] [--workdir=DIR]

    python launch/mine.py --config=configs/mine_tiny.py
    python launch/mine.py --config=configs/mine_common_crawl.py --engine=ray --address=auto

After each iteration it stops for a person to decide in WORKDIR/annotate_iterN.csv which groups of
pages are mathematical (WORKDIR/annotate_iterN.html shows them); the same command then goes on.
--annotate=auto takes the suggestions instead. The same command also goes on where a killed run
was. WORKDIR/report.html says what was found; WORKDIR/corpus is the corpus, for --config.data.path
of launch/train.py, and WORKDIR/corpus_parquet the same as Parquet.

One or more stages alone, on what those before them left in WORKDIR:

    python launch/mine.py --config=FILE --workdir=DIR --stage=collect,extract --iteration=2

Stages: train, score, collect, extract, deduplicate, decontaminate, domains, samples, annotate,
grow, export; and corpora, which writes as many random pages and the seed as corpora, too, to train
on each (launch/compare.py). All fields, with their meaning: dsmath_jax/mining/defaults.py. How it
works: docs/mining.md. Exit status: 0 done, or waiting for a person; 1 the run failed; 2 something
in the command or its input is wrong.
"""

from absl import flags

from dsmath_jax.mining.command import main

flags.DEFINE_string("workdir", "", "Directory of the run; by default runs/NAME of the config file.")
flags.DEFINE_string("annotate", None, "csv: a person decides; auto: suggestions are taken.")
flags.DEFINE_string("engine", None, "local, or ray: who runs the shards.")
flags.DEFINE_string("address", None, "Of the Ray cluster; auto: the one that this machine is in.")
flags.DEFINE_string("stage", "", "These stages alone, separated by commas.")
flags.DEFINE_integer("iteration", 0, "Of which iteration, with --stage; by default the last.")

if __name__ == "__main__":
    main(__doc__)
