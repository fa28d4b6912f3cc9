"""Attention heads: pruning them, and measuring their effects on answers. Imports ``inference``."""
