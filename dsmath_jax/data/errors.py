"""The error that a user's input causes."""


class InputError(Exception):
    """Something the user gave is wrong: one sentence names it and says what to do. Commands print
    it and exit with status 2."""
