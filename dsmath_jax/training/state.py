"""What a training run carries from step to step, and how it lies on the mesh."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dsmath_jax.models.config import ModelConfig
from dsmath_jax.models.parameters import param_specs
from dsmath_jax.models.sharding import shardings_of
from dsmath_jax.models.value_model import value_specs
from dsmath_jax.training.spikes import new_history


class TrainState(NamedTuple):
    """Everything that a kill must not lose, beside the data iterator and the configuration.

    step, bad_steps: int32 scalars.
    params: float32 master weights, nested as `param_specs`; with a critic (PPO) {"policy": such,
      "critic": nested as `value_specs`}.
    reference: frozen parameters of the reference policy (RL), else None.
    bad_steps: steps skipped in a row because loss or gradient was not finite.
    history: a `History` of losses and gradient norms, by which spikes are known.
    ahead: what was generated for the next step (RL, with `config.rl.ahead`), else None.
    """

    step: Any
    params: dict[str, Any]
    opt_state: Any
    bad_steps: Any
    reference: dict[str, Any] | None = None
    history: Any = None
    ahead: Any = None


def policy_of(params: dict[str, Any]) -> dict[str, Any]:
    """The policy's parameters of `TrainState.params`."""
    return params.get("policy", params)


def init_state(
    params: dict[str, Any],
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    config: ModelConfig,
    *,
    with_reference: bool = False,
) -> TrainState:
    """A state at step 0 around parameters that already lie on the mesh."""
    layout = abstract_state(
        config, optimizer, mesh, with_reference=with_reference, with_critic="critic" in params
    ).opt_state
    opt_shardings = jax.tree.map(lambda x: x.sharding, layout)
    opt_state = jax.jit(optimizer.init, out_shardings=opt_shardings)(params)
    everywhere = NamedSharding(mesh, PartitionSpec())
    step, bad_steps = (jax.device_put(jnp.zeros((), jnp.int32), everywhere) for _ in range(2))
    history = jax.jit(new_history, out_shardings=everywhere)()
    reference = jax.tree.map(jnp.copy, policy_of(params)) if with_reference else None
    return TrainState(step, params, opt_state, bad_steps, reference, history)


def abstract_state(
    config: ModelConfig,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    *,
    with_reference: bool = False,
    with_critic: bool = False,
) -> TrainState:
    """Shapes, dtypes and shardings of the state, with no array made."""
    everywhere = NamedSharding(mesh, PartitionSpec())
    specs = param_specs(config)
    if with_critic:
        specs = {"policy": specs, "critic": value_specs(config)}
    layouts = shardings_of(specs, mesh)
    params = jax.tree.map(
        lambda spec, layout: jax.ShapeDtypeStruct(spec.shape, jnp.float32, sharding=layout),
        specs,
        layouts,
    )
    scalar = jax.ShapeDtypeStruct((), jnp.int32, sharding=everywhere)
    opt_state = optax.tree.map_params(
        optimizer,
        lambda x, layout: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=layout),
        jax.eval_shape(optimizer.init, params),
        layouts,
        transform_non_params=lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere),
    )
    history = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere),
        jax.eval_shape(new_history),
    )
    reference = policy_of(params) if with_reference else None
    return TrainState(scalar, params, opt_state, scalar, reference, history)
