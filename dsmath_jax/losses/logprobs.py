"""Log-probabilities of given tokens without ever holding [batch, length, vocab]."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp

DENSE_LIMIT = 2**24  # tokens x vocabulary up to which the logits are made at once (64 MB)
NUM_CHUNKS = 50  # otherwise, of the vocabulary: peak extra memory is about 1/25 of full logits


def token_logprobs(
    hidden: jax.Array,
    head: jax.Array,
    targets: jax.Array,
    temperature: float | jax.Array = 1.0,
    *,
    chunk: int | None = None,
) -> jax.Array:
    """log softmax(hidden @ head / temperature) at `targets`, over the full vocabulary.

    The one definition that trainer, reference and rollout share. Large inputs go through the
    vocabulary chunk by chunk, forward with a running log-sum-exp and backward with the chunk's
    logits made again.

    Args:
      hidden: [..., hidden_size], any float dtype; products accumulate in float32.
      head: [hidden_size, vocab].
      targets: [...] int, in [0, vocab).
      temperature: positive scalar, taken as a constant: no gradient goes to it.
      chunk: vocabulary columns at a time; by default all of them when the logits are small.

    Returns:
      [...] float32, differentiable in hidden and head.
    """
    vocab = head.shape[1]
    if chunk is None:
        dense = targets.size * vocab <= DENSE_LIMIT
        chunk = vocab if dense else max(512, 128 * math.ceil(vocab / NUM_CHUNKS / 128))
    inverse = jax.lax.stop_gradient(1.0 / jnp.asarray(temperature, jnp.float32))
    if chunk >= vocab:
        scores = jnp.matmul(hidden, head, preferred_element_type=jnp.float32) * inverse
        chosen = jnp.take_along_axis(scores, targets[..., None], axis=-1)[..., 0]
        return chosen - jax.nn.logsumexp(scores, axis=-1)
    flat = _chunked(hidden.reshape(-1, hidden.shape[-1]), head, targets.reshape(-1), inverse, chunk)
    return flat.reshape(targets.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _chunked(hidden, head, targets, inverse, chunk):
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
    normalizer = peak + jnp.log(total)
    return chosen - normalizer, (hidden, head, targets, inverse, normalizer)


def _backward(chunk, residuals, grad):
    hidden, head, targets, inverse, normalizer = residuals

    def body(carry, index):
        d_hidden, d_head = carry
        scores, columns, fresh, start = _chunk_scores(hidden, head, inverse, index, chunk)
        probs = jnp.where(fresh, jnp.exp(scores - normalizer[:, None]), 0.0)
        hit = (targets[:, None] - start == jnp.arange(chunk)) & fresh
        d_scores = (hit - probs) * (grad * inverse)[:, None]
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
