"""Generation."""

from dsmath_jax.rollout.sampler import Sampler, Samples

__all__ = ["Sampler", "Samples"]
