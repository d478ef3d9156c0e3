"""Records of a TFDS directory of array_record files; needs the extra `data`, no TensorFlow."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

from dsmath_jax.data.errors import InputError

HELDOUT_SPLITS = ("heldout", "validation", "test")


def choose_split(directory: str, split: str, name: str) -> tuple[str, int, int]:
    """(split, its records, their bytes): the one asked for; for "heldout" the first of
    HELDOUT_SPLITS that is there, or the only one.

    Args:
      name: of the field of `config.data`, for messages.

    Raises:
      InputError: there is none such, or the directory cannot be read.
    """
    splits = _builder(directory).info.splits
    wanted = HELDOUT_SPLITS if split == "heldout" else (split,)
    chosen = next((s for s in wanted if s in splits), None)
    if chosen is None and split == "heldout" and len(splits) == 1:
        chosen = next(iter(splits))
    if chosen is None:
        raise InputError(
            f"config.data.{name}: {directory} has the splits {', '.join(splits) or 'none'}, "
            f"and not {split!r}"
        )
    return chosen, splits[chosen].num_examples, splits[chosen].num_bytes


def read_records(
    directory: str, split: str, fields: tuple[str, ...], start: int, end: int
) -> Iterator[dict[str, Any]]:
    """Records `start` to `end`, texts as str.

    Raises:
      InputError: there is no field of one of the names `fields`.
    """
    for record in _open(directory, split, fields).__getitems__(range(start, end)):
        yield {k: _plain(v) for k, v in record.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    return value.item() if getattr(value, "ndim", None) == 0 else value


@functools.cache
def _builder(directory: str) -> Any:
    try:
        import tensorflow_datasets as tfds
    except ImportError:
        raise InputError(
            f"{directory} is a TFDS directory, which needs an extra: pip install -e '.[data]'"
        ) from None
    try:
        return tfds.builder_from_directory(directory)
    except Exception as e:  # it raises whatever its parsers raise
        raise InputError(f"{directory} is not a readable TFDS directory: {e}") from None


@functools.lru_cache(maxsize=4)
def _open(directory: str, split: str, fields: tuple[str, ...]) -> Any:
    builder = _builder(directory)
    missing = [f for f in fields if f not in builder.info.features]
    if missing:
        raise InputError(
            f"{directory} has no field {missing[0]!r} (fields here: "
            f"{', '.join(builder.info.features)}): set config.data.text_field, or question_field "
            "and solution_field"
        )
    try:
        return builder.as_data_source(split)
    except Exception as e:
        raise InputError(
            f"{directory} cannot be read without TensorFlow: write it with "
            f"file_format='array_record' ({e})"
        ) from None
