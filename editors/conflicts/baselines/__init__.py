"""Baselines: other decoding methods for conflicts. Imports ``inference`` and ``heads``."""
