"""Loss functions of arrays: jax and numpy only, usable from any JAX project.

Every loss takes float32 [batch, length] arrays and returns (loss, metrics), where metrics maps
names to (sum, count) pairs: adding the pairs of micro-batches gives the numbers of the whole batch.
"""

from dsmath_jax.losses.advantages import group_advantages
from dsmath_jax.losses.aggregation import sum_and_count
from dsmath_jax.losses.kl import kl_estimate
from dsmath_jax.losses.logprobs import token_logprobs
from dsmath_jax.losses.next_token import next_token_loss
from dsmath_jax.losses.policy import grpo_loss, importance_weights, policy_gradient_loss
from dsmath_jax.losses.ppo import gae, ppo_loss, value_loss

__all__ = [
    "gae",
    "group_advantages",
    "grpo_loss",
    "importance_weights",
    "kl_estimate",
    "next_token_loss",
    "policy_gradient_loss",
    "ppo_loss",
    "sum_and_count",
    "token_logprobs",
    "value_loss",
]
