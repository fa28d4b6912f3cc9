"""Attention heads: pruning them, and what each writes into an answer. Imports ``inference``."""
