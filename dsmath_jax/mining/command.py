"""The command line of launch/mine.py: the whole loop, or some stages of one iteration."""

from __future__ import annotations

import errno
import fcntl
import pathlib
import shutil
import sys
from typing import IO, Any

from absl import flags
from ml_collections import ConfigDict

from dsmath_jax import command_line
from dsmath_jax.data.errors import InputError

try:
    from dsmath_jax.mining import corpora, loop, report
    from dsmath_jax.mining.export import export
    from dsmath_jax.mining.generated_web import write_web
    from dsmath_jax.mining.iteration import corpus_files
    from dsmath_jax.mining.language import LANGUAGES
    from dsmath_jax.mining.run import Run, open_benchmarks, open_run, open_workdir, write_json
    from dsmath_jax.mining.shards import file_hash
except ModuleNotFoundError as e:
    command_line.end(2, f"mining needs {e.name}: pip install 'dsmath-jax[mining]'")

EXPORTS = ("export", "corpora")  # stages besides those of the loop


def main(description: str) -> None:
    """Mines as the parsed flags say; ends the process with its status."""
    command_line.main(description, _run)


def _run(config: ConfigDict) -> None:
    values = flags.FLAGS
    for name in ("annotate", "engine", "address"):
        if (given := getattr(values, name)) is not None:
            config[name] = given
    workdir = pathlib.Path(values.workdir or f"runs/{command_line.config_name()}")
    names = [name.strip() for name in values.stage.split(",") if name.strip()]
    known = (*loop.STAGES, *EXPORTS)
    for name in names:
        if name not in known:
            raise InputError(
                f"--stage={name}: there is no such stage; there are {', '.join(known)}"
            )
    if values.iteration < 0:
        raise InputError(f"--iteration={values.iteration}: iterations are counted from 1")
    mine(config, workdir, names, values.iteration)


def mine(config: ConfigDict, workdir: pathlib.Path, names: list[str], number: int) -> None:
    """The whole loop, or these stages of an iteration (0: the last that there is).

    Raises:
      InputError: something in the configuration, the inputs or on the disk is wrong.
    """
    try:
        _mine(config, workdir, names, number)
    except OSError as e:
        if e.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InputError(
                f"the disk of --workdir={workdir} is full: make room, and start the same command "
                "again, which goes on from here"
            ) from None
        if e.errno in (errno.EACCES, errno.EROFS):
            raise InputError(f"{e.filename} cannot be written to: {e.strerror}") from None
        raise


def _mine(config: ConfigDict, workdir: pathlib.Path, names: list[str], number: int) -> None:
    _check(config)
    open_workdir(workdir)
    lock = _lock(workdir)
    if config.generated.pages:
        _generate(config, workdir)
    run = open_run(config, workdir, say)
    write_json(workdir / "config.json", config.to_dict())
    if not names or {"decontaminate", "corpora"} & set(names):
        open_benchmarks(run)
    if names:
        number = number or max([1, *report.iterations(run)])
        loop.run_stages(run, [name for name in names if name not in EXPORTS], number)
        mined = _export(run, number) if set(EXPORTS) & set(names) else {}
        if "corpora" in names:
            corpora.write_others(run, number, mined)
    else:
        number, ended = loop.mine(run)
        _export(run, number)
        say(f"ended: {ended}")
        say(f"done: {report.write_report(run, number, ended)}")
    lock.close()


def _lock(workdir: pathlib.Path) -> IO[str]:
    """Open as long as this process works in the directory."""
    file = (workdir / ".lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(f"--workdir={workdir}: another run works in it") from None
    except OSError:
        say(f"{workdir} has no locks: start no other run in it")
    return file


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _check(config: ConfigDict) -> None:
    """Raises InputError where a field has a value that cannot be."""
    for name, values in (("annotate", ("csv", "auto")), ("engine", ("local", "ray"))):
        if config[name] not in values:
            raise InputError(f"{name}={config[name]!r}: choose one of {', '.join(values)}")
    shares = ("held_out_share", "heldout_share", "sampled_share", "suggested_share", "min_score")
    for name in (*shares, "domain_share", "max_rejected_share", "stop_overlap"):
        if not 0 <= config[name] <= 1:
            raise InputError(f"config.{name}={config[name]}: it is a share, from 0 to 1")
    for name in ("positives", "negatives", "iterations", "parts", "group_depth"):
        if config[name] < 1:
            raise InputError(f"config.{name}={config[name]}: it must be at least 1")
    for name, tokens in config.budgets.items():
        if name not in LANGUAGES:
            raise InputError(f"config.budgets.{name}: languages are {', '.join(LANGUAGES)}")
        if not tokens or any(not isinstance(n, int) or n < 1 for n in tokens):
            raise InputError(f"config.budgets.{name}={tokens}: give tokens, as in (1000000,)")


def _generate(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Makes the web that the run mines, and points the configuration to it."""
    made = config.generated
    folder = workdir / "web"
    marker = folder / "made.json"
    sources = sorted(pathlib.Path(__file__).parent.glob("generated_web*.py"))
    wanted = made.to_json() + " ".join(file_hash(path) for path in sources)
    if not marker.exists() or marker.read_text() != wanted:
        say(f"making a web of {made.pages:,} pages in {folder}")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_web(folder, seed=made.seed, pages=made.pages, files=made.files)
        marker.write_text(wanted)
    config.inputs = tuple(sorted(str(path) for path in folder.glob("*.warc.gz")))
    config.seed, config.labels = str(folder / "seed.jsonl"), str(folder / "truth.jsonl")
    config.benchmarks = (str(folder / "benchmarks"),)


def _export(run: Run, number: int) -> dict[str, Any]:
    files = corpus_files(run, number)
    share = run.config.heldout_share
    return export(files, run.workdir, iteration=number, heldout_share=share, say=run.say)
