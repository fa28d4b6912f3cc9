"""Stores of older releases: reading one, and rewriting it in the format of today."""
