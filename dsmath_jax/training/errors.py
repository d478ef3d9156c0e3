"""The error that ends a run which cannot usefully go on."""


class TrainingError(Exception):
    """One sentence says why, and what to try. Commands print it and exit with status 1."""
