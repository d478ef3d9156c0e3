"""Records of Parquet files; needs pyarrow, of the extra `mining`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from dsmath_jax.data.errors import InputError


def row_groups(path: str, fields: Sequence[str], name: str) -> list[int]:
    """Bytes of text and more of each row group.

    Args:
      name: of the field of `config.data`, for messages.

    Raises:
      InputError: pyarrow is missing, or the file is not Parquet or lacks one of `fields`.
    """
    file = _open(path)
    columns = file.schema_arrow.names
    missing = [field for field in fields if field not in columns]
    if missing:
        raise InputError(
            f"config.data.{name}: {path} has no field {missing[0]!r} (fields here: "
            f"{', '.join(columns)}): set config.data.text_field, or question_field and "
            "solution_field"
        )
    groups = [file.metadata.row_group(n) for n in range(file.metadata.num_row_groups)]
    return [group.total_byte_size for group in groups]


def read_row_groups(
    path: str, fields: Sequence[str], start: int, end: int
) -> Iterator[dict[str, Any]]:
    """Records of the row groups `start` to `end`."""
    file = _open(path)
    for number in range(start, end):
        yield from file.read_row_group(number, columns=list(fields)).to_pylist()


def _open(path: str) -> Any:
    try:
        import pyarrow
        import pyarrow.parquet as pq
    except ImportError:
        raise InputError(
            f"{path} is Parquet, which needs an extra: pip install -e '.[mining]'"
        ) from None
    try:
        return pq.ParquetFile(path)
    except (pyarrow.ArrowInvalid, OSError) as e:
        raise InputError(f"{path} is not a readable Parquet file: {e}") from None
