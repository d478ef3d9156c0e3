"""DeepSeekMath (arXiv 2402.03300) in JAX: from web archives to the results table."""

__version__ = "0.1.0"
