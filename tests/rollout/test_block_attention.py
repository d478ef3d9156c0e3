"""Attention over blocks against plain float64 softmax over each slot's keys in order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsmath_jax.rollout.block_attention import attend, join, take
from dsmath_jax.rollout.cache import Stored

BLOCK, HEADS, DIM = 4, 4, 8
RNG = np.random.default_rng(0)


def dense(q, k, v):
    """q [heads, dim], k and v [keys, kv_heads, dim] -> [heads, dim]."""
    repeats = q.shape[0] // k.shape[1]
    k, v = (np.repeat(x.astype(np.float64), repeats, axis=1) for x in (k, v))
    scores = np.einsum("hd,shd->hs", q, k) * q.shape[-1] ** -0.5
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.einsum("hs,shd->hd", weights / weights.sum(axis=-1, keepdims=True), v)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_own_and_shared_blocks_together_are_one_softmax(kv_heads, scale):
    """Slots 0 and 2 share a prompt of 6 tokens, slot 1 has one of 3; own tokens: 5, 0 and 4."""
    q = (scale * RNG.normal(size=(3, HEADS, DIM))).astype(np.float32)
    shared_k, shared_v, own_k, own_v = RNG.normal(size=(4, 5, kv_heads, BLOCK, DIM)).astype("f")
    prompts = {0: ([3, 0], 6), 1: ([1], 3), 2: ([3, 0], 6)}
    owns = {0: ([4, 2], 5), 1: ([], 0), 2: ([0], 4)}
    members = np.array([[0, 2], [1, 0], [0, 0], [0, 2], [0, 0]])
    prompt_filled = np.array([2, 3, 0, 4, 0])
    prompt_table = np.array([[3 * 2, 0 * 2], [1 * 2, 99], [3 * 2 + 1, 0 * 2 + 1]])
    own_slot, own_filled = np.array([2, 0, 0, 0, 0]), np.array([4, 0, 1, 0, 4])
    own_table = np.array([[4, 2], [99, 99], [0, 99]])

    shared = [Stored(jnp.array(x), None) for x in (shared_k, shared_v)]
    own = [Stored(jnp.array(x), None) for x in (own_k, own_v)]

    @jax.jit
    def ours(q):
        def filled(count):
            return jnp.arange(BLOCK) < count[:, None]

        of_prompts = attend(q[members], *shared, filled(prompt_filled))
        of_own = attend(q[own_slot][:, None], *own, filled(own_filled))
        return join([take(of_prompts, prompt_table), take(of_own, own_table)])

    got = ours(q)
    for slot in range(3):
        keys, values = [], []
        for (blocks, count), k, v in (
            (prompts[slot], shared_k, shared_v),
            (owns[slot], own_k, own_v),
        ):
            for x, to in ((k, keys), (v, values)):
                flat = [x[b].swapaxes(0, 1) for b in blocks]
                to.append(np.concatenate([*flat, np.zeros((0, kv_heads, DIM))])[:count])
        expected = dense(q[slot], np.concatenate(keys), np.concatenate(values))
        np.testing.assert_allclose(got[slot], expected, atol=2e-5)
