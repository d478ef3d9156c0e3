"""The paper's comparison of corpora (DeepSeekMath 2.2): the same model on each for the same tokens.

Each corpus is a run of the pretraining stage, and they differ in their data alone.
"""

from __future__ import annotations

import contextlib
import itertools
import pathlib
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator

from absl import flags
from ml_collections import ConfigDict

from dsmath_jax.data.corpus import wanted_fields
from dsmath_jax.data.errors import InputError
from dsmath_jax.data.sources import open_source, read_examples
from dsmath_jax.data.tokenizers import train_sentencepiece
from dsmath_jax.stages import command, corpora_report

TOKENIZER_CHARACTERS = 500_000  # of each corpus
EVALUATIONS = 10  # where config.eval.every does not say how many


def main(description: str) -> None:
    """The command line of launch/compare.py."""
    command.main(description, _run)


def _run(config: ConfigDict) -> None:
    from dsmath_jax.stages import host_checks

    workdir = command.run_directory(config)
    corpora = parse_sources(flags.FLAGS.corpora, "--corpora")
    heldout = parse_sources(flags.FLAGS.heldout, "--heldout")
    host_checks.require_same(config.to_dict() | {"corpora": corpora, "heldout": heldout})
    host_checks.require_shared(workdir, config.host_timeout)
    finished = compare(config, corpora, heldout, workdir)
    print(f"{'done' if finished else 'stopped'}: {workdir}/comparison.html", file=sys.stderr)


def parse_sources(text: str, flag: str) -> dict[str, dict[str, str]]:
    """{name: {"path", fields of `config.data`}} from NAME=PATH[:FIELD[+FIELD]], ...

    Raises:
      InputError: a part has another form, or a name is there twice.
    """
    found: dict[str, dict[str, str]] = {}
    for part in filter(None, text.split(",")):
        match = re.fullmatch(r"(\w+)=(.+?)(?::(\w+)(?:\+(\w+))?)?", part)
        if match is None:
            raise InputError(
                f"{flag}: {part!r} is not NAME=PATH, NAME=PATH:FIELD or NAME=PATH:QUESTION+SOLUTION"
            )
        name, path, first, second = match.groups()
        if name in found:
            raise InputError(f"{flag}: there are two of the name {name}")
        found[name] = {"path": path}
        if second:
            found[name] |= {"text_field": "", "question_field": first, "solution_field": second}
        elif first:
            found[name]["text_field"] = first
    return found


def compare(
    config: ConfigDict,
    corpora: dict[str, dict[str, str]],
    heldout: dict[str, dict[str, str]],
    workdir: pathlib.Path,
) -> bool:
    """Trains on each corpus in WORKDIR/NAME, then writes the report; goes on where it was.

    Args:
      config: of pretraining; what it says of data is replaced.
      corpora, heldout: as of `parse_sources`; the sets are added to those of `config.data.heldout`.

    Returns:
      Whether it ran to its end (False: a signal stopped it; what it did is saved).

    Raises:
      InputError: there are too few corpora or sets, or one cannot be read.
    """
    command.check_stage(config)
    if config.stage != "pretrain":
        raise InputError(f"config.stage={config.stage!r}: corpora are compared by pretraining")
    if len(corpora) < 2:
        raise InputError("--corpora: give two or more, as in --corpora=mined=DIR,random=DIR")
    for name in ("tokenizer", "token_cache"):
        if name in corpora:
            raise InputError(f"--corpora: {name} is the name of another folder in --workdir")
    if not (heldout or config.data.heldout):
        raise InputError("--heldout: give at least one set, as in --heldout=math=test.jsonl")
    configs = {name: _config_of(config, corpora[name], heldout, workdir) for name in corpora}

    # ---- One tokenizer, and all data before anything is trained ----------------------------------
    if not (config.tokenizer or config.init.checkpoint):
        _make_tokenizer(configs, workdir)
    sizes = {name: _size(name, c, workdir / name) for name, c in configs.items()}

    # ---- A run for each --------------------------------------------------------------------------
    for name, c in configs.items():
        print(f"---- {name}: {corpora[name]['path']}", file=sys.stderr, flush=True)
        finished = command.run_stages(c, workdir / name)
        corpora_report.write(workdir, c, corpora, sizes)
        if not finished:
            return False
    return True


def _size(name: str, config: ConfigDict, workdir: pathlib.Path) -> dict[str, int]:
    from dsmath_jax.stages import pretrain

    with _of_corpus(name):
        (rows,) = pretrain.open_data(config, workdir)[1].sources
    return {"tokens": rows.total, "documents": len(rows.documents)}


@contextlib.contextmanager
def _of_corpus(name: str) -> Iterator[None]:
    """Says of which corpus an error is."""
    try:
        yield
    except InputError as e:
        raise InputError(f"corpus {name}: {e}") from None


def _config_of(
    config: ConfigDict,
    corpus: dict[str, str],
    heldout: dict[str, dict[str, str]],
    workdir: pathlib.Path,
) -> ConfigDict:
    c = config.copy_and_resolve_references()
    with c.unlocked():
        c.data.text_field = c.data.text_field or "text"
        c.data.heldout.update({name: ConfigDict(entry) for name, entry in heldout.items()})
        for entry in c.data.heldout.values():  # the configuration's fields, and not the corpus's
            field = "solution_field" if "question_field" in entry else "text_field"
            entry[field] = entry.get(field, c.data[field])
        c.data.update(corpus)
        c.data.heldout_path, c.data.mixture = "", ConfigDict()
        c.eval.every = c.eval.every or max(1, c.steps // EVALUATIONS)
        if not (c.tokenizer or c.init.checkpoint):
            c.tokenizer = str(workdir / "tokenizer")
    return c


def _make_tokenizer(configs: dict[str, ConfigDict], workdir: pathlib.Path) -> None:
    """WORKDIR/tokenizer, trained on equal parts of all corpora; every process does the same, the
    first one writes."""
    import jax
    from jax.experimental import multihost_utils

    target = workdir / "tokenizer"
    if not target.is_dir():
        with tempfile.TemporaryDirectory() as folder:
            texts = itertools.chain.from_iterable(
                _first_texts(name, c) for name, c in configs.items()
            )
            vocab = next(iter(configs.values())).tokenizer_vocab
            try:
                tokenizer = train_sentencepiece(texts, folder, vocab_size=vocab)
            except ValueError as e:
                raise InputError(f"config.tokenizer_vocab: {e}") from None
        if jax.process_index() == 0:
            partial = workdir / ".tokenizer.partial"
            shutil.rmtree(partial, ignore_errors=True)
            tokenizer.save(partial)
            partial.replace(target)
    multihost_utils.sync_global_devices("the tokenizer is there")


def _first_texts(name: str, config: ConfigDict) -> Iterator[str]:
    left = TOKENIZER_CHARACTERS
    with _of_corpus(name):
        source = open_source(config.data.path, wanted_fields(config.data))
        for example in read_examples(source, config.data.max_rejected_share):
            for text in example.values():
                yield text[:left]
                left -= len(text)
                if left <= 0:
                    return
