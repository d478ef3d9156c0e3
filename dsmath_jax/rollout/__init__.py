"""Generation."""

from dsmath_jax.rollout.sampler import Sampler, Samples, gather

__all__ = ["Sampler", "Samples", "gather"]
