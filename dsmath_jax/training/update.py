"""One optimizer step, the same for every stage: gradients, accumulation, clipping, safety."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from dsmath_jax.losses import token_logprobs
from dsmath_jax.models.sharding import constrain, partition_spec
from dsmath_jax.training.spikes import SpikeRule, judge, limits
from dsmath_jax.training.state import TrainState
from dsmath_jax.training.xla_flags import training_options

Batch = dict[str, jax.Array]
# (params, batch) -> (loss, (sums, peaks)): `sums` are (sum, count) pairs that must hold "loss", of
# which the mean is reported, or the sum where the count is 0; `peaks` are numbers of which the
# largest is reported.
LossFn = Callable[[dict[str, Any], Batch], tuple[jax.Array, tuple[dict, dict]]]


def sequence_logprobs(
    graph: nnx.GraphDef, params: dict[str, Any], batch: Batch, temperature: float = 1.0
) -> jax.Array:
    """[batch, length] float32: log-probability of each token given those before it in its segment
    (0 at a row's first token, which nothing predicts)."""
    model = nnx.merge(graph, params)
    hidden = model.hidden(
        batch["tokens"], batch.get("positions"), batch["segment_ids"], batch.get("prefix_ids")
    )
    targets = jnp.roll(batch["tokens"], -1, axis=1)
    logp = _split_logprobs(hidden, model.output_head(), targets, temperature)
    return jnp.roll(logp, 1, axis=1).at[:, 0].set(0.0)


def _split_logprobs(hidden, head, targets, temperature):
    """`token_logprobs` on a mesh: each device has its rows, and the columns of its part of axis
    tensor, which it gathers over fsdp once; the head's gradient is scattered back likewise."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return token_logprobs(hidden, head, targets, temperature)
    rows = partition_spec(("batch", "length"), targets.shape, mesh)
    columns = partition_spec(("embed", "vocab"), head.shape, mesh)

    def one_device(hidden, head, targets):
        if "fsdp" in columns:
            # The barrier keeps the gradient's reduce-scatter apart from its sum over micro-batches:
            # XLA:TPU (libtpu 0.0.42) fails when it moves the one out of the other's loop.
            head = jax.lax.optimization_barrier(head)
            head = jax.lax.all_gather(head, "fsdp", axis=0, tiled=True)
        vocab_axis = "tensor" if "tensor" in columns else None
        return token_logprobs(hidden, head, targets, temperature, vocab_axis=vocab_axis)

    return jax.shard_map(
        one_device, in_specs=(rows, columns, rows), out_specs=rows, check_vma=False
    )(hidden, head, targets)


def predicted_mask(batch: Batch) -> jax.Array:
    """`loss_mask` less the first token of each segment, which its own segment cannot predict."""
    segments = batch["segment_ids"]
    before = jnp.roll(segments, 1, axis=1).at[:, 0].set(0)
    return batch["loss_mask"] * ((segments == before) & (segments > 0))


def split_batch(batch: Batch, parts: int) -> Batch:
    """[batch, ...] -> [parts, batch / parts, ...]; part i takes rows i, i + parts, ..., so that
    every device keeps its own."""

    def split(x):
        x = x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1)
        return constrain(x, "layers", "batch", *["hidden"] * (x.ndim - 2))

    return jax.tree.map(split, batch)


def accumulate(loss_fn: LossFn, params: dict[str, Any], batch: Batch, micro_batches: int):
    """Gradient, sums and peaks over a batch done in `micro_batches` parts.

    Sums and counts add up before they are divided, so the parts give the gradient of the whole.
    """
    if micro_batches == 1:
        return _divided(*_gradient(loss_fn)(params, batch))
    return accumulate_parts(loss_fn, params, split_batch(batch, micro_batches), micro_batches)


def accumulate_parts(loss_fn: LossFn, params: dict[str, Any], parts: Batch, used: jax.Array | int):
    """`accumulate` over the first `used` of a batch's parts [parts, rows, ...]."""
    gradient = _gradient(loss_fn)

    def body(i, carry):
        part = jax.tree.map(lambda x: x[i], parts)
        grads, (sums, peaks) = gradient(params, part)
        added = jax.tree.map(jnp.add, carry[:2], (grads, sums))
        return (*added, jax.tree.map(jnp.maximum, carry[2], peaks))

    shapes = jax.eval_shape(gradient, params, jax.tree.map(lambda x: x[0], parts))
    grads, (sums, peaks) = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    peaks = jax.tree.map(lambda x: x - jnp.inf, peaks)
    grads, sums, peaks = jax.lax.fori_loop(0, used, body, (grads, sums, peaks))
    return _divided(grads, (sums, peaks))


def _gradient(loss_fn: LossFn):
    def total(params, part):
        _, (sums, peaks) = loss_fn(params, part)
        return sums["loss"][0], (sums, peaks)

    return jax.grad(total, has_aux=True)


def _divided(grads, measures):
    sums, peaks = measures
    count = jnp.maximum(sums["loss"][1], 1)
    return jax.tree.map(lambda g: g / count, grads), sums, peaks


def make_update(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    micro_batches: int = 1,
    rule: SpikeRule | None = None,
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]:
    """A compiled (state, batch) -> (state, metrics); the old state's memory is reused.

    A step whose loss or gradient is not finite, or a spike that `rule` skips, changes nothing but
    the counts (`step`, `bad_steps`, `history`). Without a rule no step is a spike.
    """

    def update(state: TrainState, batch: Batch):
        grads, sums, peaks = accumulate(loss_fn, state.params, batch, micro_batches)
        return apply_gradient(optimizer, state, grads, sums, peaks, rule)

    return jax.jit(update, donate_argnums=0, compiler_options=training_options())


def apply_gradient(
    optimizer: optax.GradientTransformation,
    state: TrainState,
    grads: dict[str, Any],
    sums: dict[str, Any],
    peaks: dict[str, Any],
    rule: SpikeRule | None = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """The optimizer's part of a step, from what `accumulate` gives: (state, metrics)."""
    norm = optax.tree.norm(grads)
    loss = sums["loss"][0] / jnp.maximum(sums["loss"][1], 1)
    finite = jnp.isfinite(norm) & jnp.isfinite(loss)
    metrics = {name: s / jnp.maximum(n, 1) for name, (s, n) in sums.items()}
    metrics |= peaks | {"grad_norm": norm}
    if rule is None:
        taken = finite
        history = state.history._replace(skipped=state.history.skipped + ~taken)
    else:
        spike, taken, history = judge(rule, state.history, loss, norm)
        loss_limit, norm_limit = limits(rule, state.history)
        metrics |= {"spikes": history.spikes, "spike/now": spike, "spike/skipped": ~taken}
        metrics |= {"spike/loss_limit": loss_limit, "spike/grad_norm_limit": norm_limit}
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    metrics |= update_ratios(updates, state.params, taken)
    params = optax.apply_updates(state.params, updates)
    params, opt_state = jax.tree.map(
        lambda new, old: jnp.where(taken, new, old),
        (params, opt_state),
        (state.params, state.opt_state),
    )
    bad_steps = jnp.where(finite, 0, state.bad_steps + 1)
    metrics |= {"skipped": history.skipped, "bad_steps": bad_steps}
    state = state._replace(
        step=state.step + 1,
        params=params,
        opt_state=opt_state,
        bad_steps=bad_steps,
        history=history,
    )
    return state, metrics


def update_ratios(
    updates: dict[str, Any], params: dict[str, Any], taken: jax.Array
) -> dict[str, jax.Array]:
    """`param_norm`, before the update; `update_ratio`, the update's norm over it; the largest such
    ratio of one layer's matrix as `update_ratio_max`. 0 where the step is not taken."""

    def squares(path, x):
        """Of each layer where layers are stacked, of the whole elsewhere."""
        stacked = any(key.key == "layers" for key in path)
        return jnp.sum(jnp.square(x.astype(jnp.float32)), axis=tuple(range(stacked, x.ndim)))

    ours, theirs = (jax.tree_util.tree_map_with_path(squares, x) for x in (updates, params))
    change, size = (
        jnp.sqrt(sum(jnp.sum(x) for x in jax.tree.leaves(part))) for part in (ours, theirs)
    )
    largest = [
        jnp.max(jnp.where(p > 0, u / jnp.where(p > 0, p, 1.0), 0.0))
        for u, p, x in zip(*map(jax.tree.leaves, (ours, theirs, params)), strict=True)
        if x.ndim - p.ndim >= 2  # norms and biases start at 1 or 0: their ratio says nothing
    ]
    ratios = {"update_ratio": change / size, "update_ratio_max": jnp.sqrt(jnp.stack(largest).max())}
    return {"param_norm": size} | {k: jnp.where(taken, v, 0.0) for k, v in ratios.items()}
