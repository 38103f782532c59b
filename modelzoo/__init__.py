"""Declarative, config-driven training of GPT-2, GPT-J and GPT-NeoX style language models."""

__version__ = "0.1.0"
