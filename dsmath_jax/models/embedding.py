"""Looking tokens up in an embedding table that is split over the mesh."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from dsmath_jax.models.sharding import partition_spec


def embed_tokens(table: jax.Array, tokens: jax.Array, dtype: Any) -> jax.Array:
    """Rows of `table` [vocab, hidden_size] for tokens [batch, length], in `dtype`.

    Inside `jax.set_mesh` each device looks up its columns for the rows of all devices of axis fsdp
    and sends each its own (all-to-all), which moves activations and not the table; with axis tensor
    each looks up the tokens that it has, and they are added. The gradient goes back the same way
    and is added up in the table's own precision.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return table[tokens].astype(dtype)
    table_spec = partition_spec(("vocab", "embed"), table.shape, mesh)
    rows = partition_spec(("batch", "length"), tokens.shape, mesh)
    rows_split = bool(rows) and "fsdp" in (rows[0] or ()) and mesh.shape["fsdp"] > 1

    def one_device(table, tokens):
        columns_split = "fsdp" in table_spec
        if columns_split and rows_split:
            tokens = jax.lax.all_gather(tokens, "fsdp", axis=0, tiled=True)
        if "tensor" in table_spec:
            at = tokens - jax.lax.axis_index("tensor") * table.shape[0]
            here = (at >= 0) & (at < table.shape[0])
            x = jnp.where(here[..., None], table[jnp.where(here, at, 0)], 0.0)
            x = jax.lax.psum(x.astype(dtype), "tensor")
        else:
            x = table[tokens].astype(dtype)
        if columns_split and rows_split:
            return jax.lax.all_to_all(x, "fsdp", split_axis=0, concat_axis=2, tiled=True)
        if columns_split:
            return jax.lax.all_gather(x, "fsdp", axis=2, tiled=True)
        return x

    return jax.shard_map(one_device, in_specs=(table_spec, rows), out_specs=rows, check_vma=False)(
        table, tokens
    )
