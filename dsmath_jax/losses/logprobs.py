"""Log-probabilities of given tokens without ever holding [batch, length, vocab]."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp

from dsmath_jax.losses.row_matmul import row_matmul

DENSE_LIMIT = 2**24  # tokens x vocabulary up to which the logits are made at once (64 MB)
NUM_CHUNKS = 100  # otherwise, of the vocabulary


def token_logprobs(
    hidden: jax.Array,
    head: jax.Array,
    targets: jax.Array,
    temperature: float | jax.Array = 1.0,
    *,
    chunk: int | None = None,
    vocab_axis: str | None = None,
) -> jax.Array:
    """log softmax(hidden @ head / temperature) at `targets`, over the full vocabulary.

    The one definition that trainer, reference and rollout share. Large inputs go through the
    vocabulary chunk by chunk, forward with a running log-sum-exp and backward with the chunk's
    logits made again. Beside a chunk's logits the backward pass holds the gradient of `hidden`,
    summed in float32: hidden_size / vocab of the full logits.

    Args:
      hidden: [..., hidden_size], any float dtype; products accumulate in float32.
      head: [hidden_size, vocab].
      targets: [...] int, in [0, vocab).
      temperature: positive scalar, taken as a constant: no gradient goes to it.
      chunk: vocabulary columns at a time; by default all of them when the logits are small.
      vocab_axis: inside `jax.shard_map`, the mesh axis that splits the vocabulary: `head` then
        holds this device's columns, while `hidden` and `targets` are whole.

    Returns:
      [...] float32, differentiable in hidden and head.
    """
    columns = head.shape[1]
    if chunk is None:
        dense = targets.size * columns <= DENSE_LIMIT
        chunk = columns if dense else max(512, 128 * math.ceil(columns / NUM_CHUNKS / 128))
    inverse = jax.lax.stop_gradient(1.0 / jnp.asarray(temperature, jnp.float32))
    if vocab_axis is not None:
        targets = targets - jax.lax.axis_index(vocab_axis) * columns
    if chunk >= columns:
        total, chosen = _dense(hidden, head, targets, inverse)
    else:
        flat = hidden.reshape(-1, hidden.shape[-1])
        total, chosen = _chunked(flat, head, targets.reshape(-1), inverse, chunk)
        total, chosen = total.reshape(targets.shape), chosen.reshape(targets.shape)
    if vocab_axis is not None:
        chosen = jax.lax.psum(chosen, vocab_axis)  # 0 where the target is another device's
        peak = jax.lax.pmax(jax.lax.stop_gradient(total), vocab_axis)
        total = peak + jnp.log(jax.lax.psum(jnp.exp(total - peak), vocab_axis))
    return chosen - total


@jax.custom_vjp
def _dense(hidden, head, targets, inverse):
    """As `_chunked`, with all scores at once. They keep their leading dimensions, so that where
    `hidden @ head` is computed beside, as decoding does, XLA computes it once. The backward pass is
    written out: the one that JAX derives adds the targets' gradients to zeros, one by one."""
    return _dense_forward(hidden, head, targets, inverse)[0]


def _dense_forward(hidden, head, targets, inverse):
    scores = row_matmul(hidden, head, jnp.float32) * inverse
    total = jax.nn.logsumexp(scores, axis=-1)
    at = jnp.clip(targets, 0, head.shape[1] - 1)
    chosen = jnp.take_along_axis(scores, at[..., None], axis=-1)[..., 0]
    chosen = jnp.where(at == targets, chosen, 0.0)
    return (total, chosen), (hidden, head, targets, inverse, scores, total)


def _dense_backward(residuals, grads):
    hidden, head, targets, inverse, scores, total = residuals
    d_total, d_chosen = (g[..., None] * inverse for g in grads)
    hit = targets[..., None] == jnp.arange(head.shape[1])
    d_scores = jnp.exp(scores - total[..., None]) * d_total + hit * d_chosen
    d_scores = d_scores.astype(hidden.dtype)
    d_hidden = row_matmul(d_scores, head.T, jnp.float32)
    rows = (x.reshape(-1, x.shape[-1]) for x in (hidden, d_scores))
    d_head = jnp.einsum("nh,nv->hv", *rows, preferred_element_type=jnp.float32)
    return d_hidden.astype(hidden.dtype), d_head.astype(head.dtype), None, None


_dense.defvjp(_dense_forward, _dense_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _chunked(hidden, head, targets, inverse, chunk):
    """hidden [tokens, size] -> (logsumexp of the scores, score of the target), each [tokens]; a
    target outside of the vocabulary has score 0."""
    return _forward(hidden, head, targets, inverse, chunk)[0]


def _chunk_scores(hidden, head, inverse, index, chunk):
    """Scores of the columns from `start`; the last chunk overlaps its neighbour, and the columns
    that the neighbour has are marked as not `fresh`."""
    vocab = head.shape[1]
    start = jnp.minimum(index * chunk, vocab - chunk)
    columns = jax.lax.dynamic_slice_in_dim(head, start, chunk, axis=1)
    scores = jnp.matmul(hidden, columns, preferred_element_type=jnp.float32) * inverse
    fresh = start + jnp.arange(chunk) >= index * chunk
    return scores, columns, fresh, start


def _forward(hidden, head, targets, inverse, chunk):
    def body(carry, index):
        peak, total, chosen = carry
        scores, _, fresh, start = _chunk_scores(hidden, head, inverse, index, chunk)
        scores = jnp.where(fresh, scores, -jnp.inf)
        new_peak = jnp.maximum(peak, scores.max(axis=-1))
        total = total * jnp.exp(peak - new_peak)
        total += jnp.exp(scores - new_peak[:, None]).sum(axis=-1)
        at = targets - start
        here = jnp.take_along_axis(scores, jnp.clip(at, 0, chunk - 1)[:, None], axis=-1)[:, 0]
        inside = (targets >= index * chunk) & (at < chunk)
        return (new_peak, total, jnp.where(inside, here, chosen)), None

    tokens = targets.shape[0]
    lowest = jnp.full(tokens, jnp.finfo(jnp.float32).min)
    carry = (lowest, jnp.zeros(tokens), jnp.zeros(tokens))
    indices = jnp.arange(-(-head.shape[1] // chunk))
    (peak, total, chosen), _ = jax.lax.scan(body, carry, indices)
    total = peak + jnp.log(total)
    return (total, chosen), (hidden, head, targets, inverse, total)


def _backward(chunk, residuals, grads):
    hidden, head, targets, inverse, total = residuals
    d_total, d_chosen = (g * inverse for g in grads)

    def body(carry, index):
        d_hidden, d_head = carry
        scores, columns, fresh, start = _chunk_scores(hidden, head, inverse, index, chunk)
        probs = jnp.where(fresh, jnp.exp(scores - total[:, None]), 0.0)
        hit = (targets[:, None] - start == jnp.arange(chunk)) & fresh
        d_scores = probs * d_total[:, None] + hit * d_chosen[:, None]
        d_scores = d_scores.astype(hidden.dtype)
        d_hidden += jnp.matmul(d_scores, columns.T, preferred_element_type=jnp.float32)
        d_columns = jnp.matmul(hidden.T, d_scores, preferred_element_type=jnp.float32)
        old = jax.lax.dynamic_slice_in_dim(d_head, start, chunk, axis=1)
        new = old + d_columns.astype(head.dtype)
        return (d_hidden, jax.lax.dynamic_update_slice_in_dim(d_head, new, start, axis=1)), None

    carry = (jnp.zeros(hidden.shape, jnp.float32), jnp.zeros_like(head))
    indices = jnp.arange(-(-head.shape[1] // chunk))
    (d_hidden, d_head), _ = jax.lax.scan(body, carry, indices)
    return d_hidden.astype(hidden.dtype), d_head, None, None


_chunked.defvjp(_forward, _backward)
