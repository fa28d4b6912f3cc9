"""Edited models outside a store: in Python, and as folders that other programs load. Imports all
of ``editors``."""
