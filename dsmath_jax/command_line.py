"""What every command of launch/ that takes a configuration shares: its flags, its errors."""

from __future__ import annotations

import difflib
import functools
import logging
import os
import pathlib
import re
import runpy
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import ConfigDict, config_flags

from dsmath_jax.data.errors import InputError

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Python file with get_config(), as in configs/grpo_tiny.py:argument."
)


def main(description: str, run: Callable[[ConfigDict], None]) -> None:
    """Parses flags and calls `run` with the configuration; ends the process with status 2, and one
    line, where the input is wrong."""
    sys.modules["__main__"].__doc__ = description
    try:
        app.run(functools.partial(_start, run), flags_parser=_parse_flags)
    except InputError as e:
        end(2, e)


def end(status: int, error: Exception | str) -> NoReturn:
    """Ends the process with one line that says why."""
    print(f"error: {error}", file=sys.stderr, flush=True)
    os._exit(status)  # threads of a library must not hold the process up


def _start(run: Callable[[ConfigDict], None], argv: list[str]) -> None:
    absl_logging.set_verbosity(absl_logging.WARNING)
    absl_logging.get_absl_handler().setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    if len(argv) > 1:
        raise InputError(f"{argv[1]!r} is not a flag; flags start with --")
    run(_CONFIG.value)


def _parse_flags(argv: list[str]) -> list[str]:
    given = next((a for a in argv[1:] if re.match(r"--?config=", a)), None)
    if given is None and not any(re.match(r"--?(help|config$)", a) for a in argv[1:]):
        raise InputError("no configuration: add --config=configs/NAME.py (see --help)")
    path, _, argument = given.split("=", 1)[1].partition(":") if given else ("", "", "")
    if given and not pathlib.Path(path).is_file():
        raise InputError(f"--config: there is no file {path}")
    if path:
        try:
            runpy.run_path(path)["get_config"](argument)
        except (KeyError, ValueError) as e:
            raise InputError(f"--config={path}:{argument}: {e}") from None
    try:
        return flags.FLAGS([re.sub(r"^--?profile$", "--profile=next", a) for a in argv])
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as e:
        if not path:
            raise InputError(str(e)) from None
        config = runpy.run_path(path)["get_config"](argument)
        raise InputError(_flag_problem(argv, config) or str(e)) from None


def _flag_problem(argv: list[str], config: ConfigDict) -> str:
    """Names the first --config.FIELD=VALUE that has no such field or a value of another type."""
    fields = field_values(config)
    for argument in argv[1:]:
        match = re.match(r"--?config\.([\w.]+)=(.*)", argument, re.DOTALL)
        if match is None:
            continue
        name, value = match.groups()
        if name not in fields:
            nearest = difflib.get_close_matches(name, fields, n=1, cutoff=0.0)[0]
            return f"--config.{name}: there is no such field; did you mean --config.{nearest}?"
        kind = type(fields[name])
        try:
            kind(value)
        except (TypeError, ValueError):
            return f"--config.{name}={value}: it takes {kind.__name__}, as in {fields[name]!r}"
    return ""


def field_values(config: ConfigDict, prefix: str = "") -> dict[str, Any]:
    """All fields by dotted name."""
    values = {}
    for key, value in config.items():
        values[prefix + key] = value
        if isinstance(value, ConfigDict):
            values |= field_values(value, f"{prefix}{key}.")
    return values


def config_name() -> str:
    """FILE-ARGUMENT of --config=configs/FILE.py:ARGUMENT, to name what it makes."""
    path, _, argument = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")
    return "-".join(filter(None, (pathlib.Path(path).stem, argument)))
