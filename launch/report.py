"""Prints runs side by side: losses, evaluation, speed, health, and how their settings differ.

    python launch/report.py RUN [RUN...] [--html=FILE]

    python launch/report.py runs/sft_tiny runs/sft_again --html=both.html

RUN is a run's directory (a run that still goes on, too); --html writes the same with the curves of
all runs over each other. Exit status: 0, or 2 when a RUN cannot be read.
"""

from dsmath_jax.training.compare import main

if __name__ == "__main__":
    main(__doc__)
