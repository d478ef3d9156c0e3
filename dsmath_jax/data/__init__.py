"""Tokenizers, prompt formats and data sources."""
