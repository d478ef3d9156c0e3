"""A row for each page of the archives: where it is and what its score is, in Parquet files."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

# url_hash: of its normal form. text_hash: of the text that was scored. tokens: an estimate.
# source: number of the input. offset, length: as in `pages.Page`.
ROWS = pa.schema(
    [
        ("url_hash", pa.uint64()),
        ("url", pa.string()),
        ("host", pa.dictionary(pa.int32(), pa.string())),
        ("language", pa.dictionary(pa.int32(), pa.string())),
        ("score", pa.float32()),
        ("tokens", pa.int32()),
        ("text_hash", pa.uint64()),
        ("source", pa.int32()),
        ("offset", pa.int64()),
        ("length", pa.int64()),
        ("date", pa.string()),
    ]
)
REJECTED = pa.schema(
    [("source", pa.int32()), ("offset", pa.int64()), ("url", pa.string()), ("reason", pa.string())]
)
ROW_GROUP = 65536


def write(rows: Iterable[dict[str, Any]] | pa.Table, schema: pa.Schema, path: pathlib.Path) -> int:
    """Writes rows, which fit into memory; the same rows give the same bytes.

    Returns:
      How many there are.
    """
    table = rows if isinstance(rows, pa.Table) else _table(list(rows), schema)
    pq.write_table(
        table, path, compression="zstd", row_group_size=ROW_GROUP, write_statistics=["url_hash"]
    )
    return table.num_rows


def _table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    columns = [pa.array([row[f.name] for row in rows], _plain(f.type)) for f in schema]
    arrays = [
        column.dictionary_encode() if pa.types.is_dictionary(f.type) else column
        for column, f in zip(columns, schema, strict=True)
    ]
    return pa.table(arrays, schema=schema)


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def read(path: pathlib.Path, columns: Sequence[str]) -> dict[str, Any]:
    """Columns of a file: numbers as numpy arrays, texts as lists."""
    table = pq.read_table(path, columns=list(columns))
    found: dict[str, Any] = {}
    for name in columns:
        column = table.column(name)
        kind = _plain(column.type)
        if pa.types.is_string(kind):
            found[name] = column.to_pylist()
        else:
            found[name] = np.asarray(column.to_numpy())
    return found
